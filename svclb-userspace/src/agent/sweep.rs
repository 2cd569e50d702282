//! Removing affinity entries that are past their timeout.
//!
//! The packet path takes no notice of them, but they take up room that new clients want. Without the agent the
//! table fills up, and clients beyond its size have no affinity (counted as `affinity_full`); nothing else
//! suffers.

use anyhow::Result;
use aya::maps::{HashMap, MapData};
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::schema::{Affinity, AffinityKey, Plain};

use crate::bpf::load::{LoadError, Object};
use crate::bpf::pod::Pod;
use crate::clock::Clock;
use crate::model::FamilyAddress;
use crate::plan::Content;

type AffinityMap<A> = HashMap<MapData, Pod<AffinityKey<A>>, Pod<Affinity>>;

/// The affinity tables of both families.
pub struct Sweep {
    v4: AffinityMap<Addr4>,
    v6: AffinityMap<Addr6>,
}

impl Sweep {
    /// Takes the tables out of a loaded object.
    pub fn take(object: &mut Object) -> Result<Self, LoadError> {
        Ok(Self { v4: object.take_hash("AFFINITY4")?, v6: object.take_hash("AFFINITY6")? })
    }

    /// Removes what is past its timeout; how many that were.
    pub fn run(&mut self, v4: &Content<Addr4>, v6: &Content<Addr6>) -> Result<usize> {
        let clock = Clock::read()?;
        Ok(remove_old(&mut self.v4, v4, &clock)? + remove_old(&mut self.v6, v6, &clock)?)
    }
}

/// An entry that a packet renews between the look at it and its removal is lost: its client is sent to a backend
/// picked afresh, as it would have been a moment earlier.
fn remove_old<A: FamilyAddress>(map: &mut AffinityMap<A>, content: &Content<A>, clock: &Clock) -> Result<usize>
where
    AffinityKey<A>: Plain,
{
    // The packet path may remove nothing here, but new entries may come while the map is walked.
    let old: Vec<_> = map
        .iter()
        .map_while(Result::ok)
        .filter(|(key, entry)| {
            let timeout = content.service(key.0.service).affinity_seconds;
            clock.seconds(clock.ticks_since(entry.0.seen)) > u64::from(timeout)
        })
        .map(|(key, _)| key)
        .collect();
    for key in &old {
        map.remove(key)?;
    }
    Ok(old.len())
}
