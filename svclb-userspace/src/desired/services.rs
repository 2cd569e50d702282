//! One Service in, the tables of its ports out.

use svclb_common::service::flag;

use super::traffic_policy::{Policy, categorize};
use super::{Place, PortTables, affinity, endpoints, frontends, source_ranges};
use crate::model::{FamilyAddress, PortKey, Protocol, Service, ServiceKind, Slice, WhenBackendGoes};

/// The tables of every port of a Service in one family; none if it does not serve the family.
pub fn tables<'a, A: FamilyAddress>(
    service: &Service,
    slices: &(impl Iterator<Item = &'a Slice> + Clone),
    place: &Place,
) -> Vec<(PortKey, PortTables<A>)> {
    if !service.families[A::FAMILY.index()] {
        return Vec::new();
    }
    let ranges = source_ranges::ranges::<A>(service, &place.node_addresses);
    // A policy for external traffic only exists where the API admits one.
    let external_local =
        service.external_local && (service.kind != ServiceKind::ClusterIp || !service.external_ips.is_empty());
    let mut tables = Vec::with_capacity(service.ports.len());
    for port in &service.ports {
        let policy = Policy {
            internal_local: service.internal_local,
            external_local,
            external: frontends::is_external::<A>(service, port, place),
        };
        let merged = endpoints::endpoints::<A>(port, slices.clone());
        let known: Vec<_> = merged.values().copied().collect();
        let lists = categorize(&known, policy, &place.node_name, place.zone.as_deref());
        let serving = merged
            .iter()
            .zip(&lists.of_endpoint)
            .filter(|((_, endpoint), _)| endpoint.ready || endpoint.serving)
            .map(|((target, _), lists)| (*target, *lists));
        let flags = [
            (policy.internal_local, flag::INTERNAL_LOCAL),
            (policy.external_local, flag::EXTERNAL_LOCAL),
            (ranges.is_some(), flag::SOURCE_RANGES),
            (lists.any, flag::HAS_ENDPOINTS),
            (service.when_backend_goes == WhenBackendGoes::Cut && port.protocol == Protocol::Tcp, flag::CUT),
        ];
        let key = PortKey::new(service.name.clone(), port.name.clone(), port.protocol);
        tables.push((
            key,
            PortTables {
                frontends: frontends::frontends(service, port, place),
                flags: flags.iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag),
                affinity_seconds: affinity::seconds(service),
                backends: serving.collect(),
                source_ranges: ranges.clone().unwrap_or_default(),
            },
        ));
    }
    tables
}
