//! `svclb list flows`.

use std::path::Path;

use serde::Serialize;
use svclb_common::config::Config;
use svclb_common::conntrack::State;
use svclb_common::schema::{Backend, BackendRef, Bucket, Details, Plain};

use super::{Row, endpoint, protocol};
use crate::clock::Clock;
use crate::model::FamilyAddress;
use crate::tables::TableError;
use crate::tables::bpf::pinned_array;

/// A flow that is not over.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct FlowRow {
    protocol: &'static str,
    client: String,
    frontend: String,
    backend: String,
    state: &'static str,
    /// The address of this node that the backend sees instead of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    masquerade: Option<String>,
    /// Number of the Service port, unless the backend is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<u32>,
    idle_seconds: u64,
    /// It stands in the second table, as its place in the first was taken.
    spilled: bool,
}

impl Row for FlowRow {
    const HEADERS: &'static [&'static str] =
        &["protocol", "client", "frontend", "backend", "masquerade", "state", "idle"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.protocol.to_owned(),
            self.client.clone(),
            self.frontend.clone(),
            self.backend.clone(),
            self.masquerade.clone().unwrap_or_default(),
            self.state.to_owned(),
            format!("{} s", self.idle_seconds),
        ]
    }
}

pub(super) fn rows<A: FamilyAddress>(pins: &Path, config: &Config, clock: &Clock) -> Result<Vec<FlowRow>, TableError>
where
    Bucket<A>: Plain,
    Details<A>: Plain,
    Backend<A>: Plain,
{
    let backends: Vec<Backend<A>> = pinned_array(pins, &format!("BACKENDS{}", A::FAMILY.suffix()), false)?;
    let service_of = |backend: BackendRef| {
        let known = backends.get(backend.number() as usize);
        known.filter(|known| known.generation == backend.generation()).map(|known| known.service)
    };
    let mut rows = Vec::new();
    for (flows, details, spilled) in [("FLOWS", "FLOW_DETAILS", false), ("SPILL", "SPILL_DETAILS", true)] {
        let name = |name: &str| format!("{name}{}", A::FAMILY.suffix());
        // The lock belongs to the bucket; details that changed in between only concern the masquerade.
        let buckets: Vec<Bucket<A>> = pinned_array(pins, &name(flows), true)?;
        let details: Vec<Details<A>> = pinned_array(pins, &name(details), false)?;
        for (bucket, details) in buckets.iter().zip(&details) {
            for (way, detail) in bucket.body.ways.iter().zip(&details.ways) {
                let meta = way.meta();
                let idle = clock.ticks_since(way.seen);
                if way.meta == 0 || idle > config.timeout(meta.state()) {
                    continue;
                }
                // Details are of masqueraded flows alone; others leave what was there.
                let masqueraded = meta.is_masqueraded() && detail.masquerade_port.get() != 0;
                rows.push(FlowRow {
                    protocol: protocol(meta.protocol()),
                    client: endpoint(way.client, way.client_port),
                    frontend: endpoint(way.frontend, way.frontend_port),
                    backend: endpoint(way.backend, way.backend_port),
                    state: state_name(meta.state()),
                    masquerade: masqueraded.then(|| endpoint(detail.masquerade, detail.masquerade_port)),
                    service: service_of(way.backend_ref),
                    idle_seconds: clock.seconds(idle),
                    spilled,
                });
            }
        }
    }
    Ok(rows)
}

fn state_name(state: State) -> &'static str {
    State::ALL.iter().find(|(known, _, _)| *known == state).map_or("unknown", |(_, name, _)| name)
}
