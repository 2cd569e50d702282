//! `svclb list services`.

use std::path::Path;

use serde::Serialize;
use svclb_common::schema::{Backend, FrontendBucket, Plain, ServiceKey, SourceRange};
use svclb_common::service::{flag, scope};

use super::{Row, endpoint, protocol};
use crate::ids::Range;
use crate::model::FamilyAddress;
use crate::plan::Content;
use crate::tables::TableError;
use crate::tables::bpf::read_pinned;

/// A frontend and what it leads to.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceRow {
    address: String,
    protocol: &'static str,
    kind: &'static str,
    number: u32,
    /// Endpoints for clients anywhere.
    endpoints: Vec<String>,
    /// Endpoints of this node, where a policy asks for them.
    local_endpoints: Vec<String>,
    internal_traffic_policy: &'static str,
    external_traffic_policy: &'static str,
    affinity_seconds: u32,
    /// What becomes of TCP connections: `drain` or `cut`.
    when_backend_goes: &'static str,
    source_ranges: Vec<String>,
}

impl Row for ServiceRow {
    const HEADERS: &'static [&'static str] =
        &["address", "protocol", "kind", "number", "endpoints", "local", "policy", "affinity", "gone", "sources"];

    fn cells(&self) -> Vec<String> {
        let policy = match (self.internal_traffic_policy, self.external_traffic_policy) {
            ("Local", "Local") => "local",
            ("Local", _) => "internal local",
            (_, "Local") => "external local",
            _ => "",
        };
        let affinity = if self.affinity_seconds == 0 { String::new() } else { format!("{} s", self.affinity_seconds) };
        vec![
            self.address.clone(),
            self.protocol.to_owned(),
            self.kind.to_owned(),
            self.number.to_string(),
            self.endpoints.len().to_string(),
            self.local_endpoints.len().to_string(),
            policy.to_owned(),
            affinity,
            self.when_backend_goes.to_owned(),
            self.source_ranges.join(","),
        ]
    }
}

pub(super) fn rows<A: FamilyAddress>(pins: &Path) -> Result<Vec<ServiceRow>, TableError>
where
    FrontendBucket<A>: Plain,
    Backend<A>: Plain,
    SourceRange<A>: Plain,
{
    let content = read_pinned::<A>(pins)?;
    let mut frontends: Vec<_> = content.frontends.iter().filter(|(_, found)| !scope::is_mark(found.scope)).collect();
    frontends.sort_by_key(|(key, _)| {
        let address: std::net::IpAddr = key.address.into();
        (address, key.port.get(), key.protocol)
    });
    let row = |(key, found): (&ServiceKey<A>, &svclb_common::schema::ServiceRef)| {
        let record = content.service(found.number);
        let policy = |flag: u32| if record.flags & flag == 0 { "Cluster" } else { "Local" };
        let ranges = content.source_ranges.get(&found.number).into_iter().flatten();
        let filtered = record.flags & flag::SOURCE_RANGES != 0 && found.scope == scope::LOAD_BALANCER;
        ServiceRow {
            address: endpoint(key.address, key.port),
            protocol: protocol(key.protocol),
            kind: kind(found.scope),
            number: found.number,
            endpoints: list(&content, Range { first: record.cluster_first, count: record.cluster_count }),
            local_endpoints: list(&content, Range { first: record.local_first, count: record.local_count }),
            internal_traffic_policy: policy(flag::INTERNAL_LOCAL),
            external_traffic_policy: policy(flag::EXTERNAL_LOCAL),
            affinity_seconds: record.affinity_seconds,
            when_backend_goes: if record.flags & flag::CUT == 0 { "drain" } else { "cut" },
            source_ranges: ranges
                .filter(|_| filtered)
                .map(|(length, address)| {
                    let address: std::net::IpAddr = (*address).into();
                    format!("{address}/{length}")
                })
                .collect(),
        }
    };
    Ok(frontends.into_iter().map(row).collect())
}

fn list<A: FamilyAddress>(content: &Content<A>, range: Range) -> Vec<String> {
    let backends = content.list(range).iter().map(|backend| content.backend(backend.number()));
    backends.map(|backend| endpoint(backend.address, backend.port)).collect()
}

const fn kind(number: u8) -> &'static str {
    match number {
        scope::CLUSTER => "ClusterIP",
        scope::NODE_PORT => "NodePort",
        scope::LOAD_BALANCER => "LoadBalancer",
        scope::EXTERNAL => "ExternalIP",
        _ => "unknown",
    }
}
