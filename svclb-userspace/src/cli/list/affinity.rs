//! `svclb list affinity`.

use std::net::IpAddr;
use std::path::Path;

use aya::maps::{HashMap, MapData};
use serde::Serialize;
use svclb_common::schema::{Affinity, AffinityKey, Backend, FrontendBucket, Plain, SourceRange};

use super::{Row, endpoint};
use crate::bpf::pod::Pod;
use crate::clock::Clock;
use crate::model::FamilyAddress;
use crate::tables::TableError;
use crate::tables::bpf::{pinned, read_pinned};

/// A client that is kept at an endpoint.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct AffinityRow {
    service: u32,
    client: IpAddr,
    backend: String,
    /// Seconds since its last new connection.
    idle_seconds: u64,
    /// Seconds that it may be idle.
    timeout_seconds: u32,
}

impl Row for AffinityRow {
    const HEADERS: &'static [&'static str] = &["service", "client", "backend", "idle", "timeout"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.service.to_string(),
            self.client.to_string(),
            self.backend.clone(),
            format!("{} s", self.idle_seconds),
            format!("{} s", self.timeout_seconds),
        ]
    }
}

/// Entries that still count: not too old, and their endpoint serves.
pub(super) fn rows<A: FamilyAddress>(pins: &Path, clock: &Clock) -> Result<Vec<AffinityRow>, TableError>
where
    FrontendBucket<A>: Plain,
    Backend<A>: Plain,
    AffinityKey<A>: Plain,
    SourceRange<A>: Plain,
{
    let content = read_pinned::<A>(pins)?;
    let name = format!("AFFINITY{}", A::FAMILY.suffix());
    let map: HashMap<MapData, Pod<AffinityKey<A>>, Pod<Affinity>> = pinned(pins, &name)?;
    let mut rows = Vec::new();
    // An entry that goes while the map is read ends the list early; that is all that can go wrong.
    for (Pod(key), Pod(value)) in map.iter().map_while(Result::ok) {
        let timeout_seconds = content.service(key.service).affinity_seconds;
        let idle_seconds = clock.seconds(clock.ticks_since(value.seen));
        let backend = content.backend(value.backend.number());
        let serves = backend.generation == value.backend.generation() && backend.state != 0;
        if serves && idle_seconds <= u64::from(timeout_seconds) {
            rows.push(AffinityRow {
                service: key.service,
                client: key.client.into(),
                backend: endpoint(backend.address, backend.port),
                idle_seconds,
                timeout_seconds,
            });
        }
    }
    rows.sort_by_key(|row| (row.service, row.client));
    Ok(rows)
}
