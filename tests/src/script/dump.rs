//! Tables as text, without numbers: what each frontend leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use svclb_common::schema::{Backend, Service, ServiceKey, ServiceRef};
use svclb_common::service::{backend_state, flag, scope};
use svclb_userspace::ids::Range;
use svclb_userspace::model::FamilyAddress;
use svclb_userspace::plan::Content;

/// One line a frontend, ordered by address. A backend that serves and is in no list of its Service port
/// stands behind `keeps`.
pub(super) fn dump<A: FamilyAddress>(content: &Content<A>) -> String {
    let mut lines = BTreeMap::new();
    for (key, found) in &content.frontends {
        let address: IpAddr = key.address.into();
        let line = match found.scope {
            scope::CLUSTER_ADDRESS => format!("{address} other ports are refused\n"),
            scope::OTHER_ADDRESS => format!("{address} answers echo requests\n"),
            _ => frontend(content, key, *found),
        };
        lines.insert((address, key.port.get(), key.protocol), line);
    }
    lines.into_values().collect()
}

fn frontend<A: FamilyAddress>(content: &Content<A>, key: &ServiceKey<A>, found: ServiceRef) -> String {
    let record = content.service(found.number);
    assert_ne!(record.before, 0, "{key:?} leads to a record that was never written");
    assert_eq!(record.before, record.after, "{key:?} leads to a record in the middle of a write");
    let protocol = match key.protocol {
        6 => "TCP",
        17 => "UDP",
        _ => "SCTP",
    };
    let kind = match found.scope {
        scope::CLUSTER => "cluster",
        scope::NODE_PORT => "node port",
        scope::LOAD_BALANCER => "load balancer",
        _ => "external",
    };
    let mut words = vec![format!("{}/{protocol} {kind}", SocketAddr::new(key.address.into(), key.port.get()))];
    let cluster = list(content, found.number, Range { first: record.cluster_first, count: record.cluster_count });
    let local = list(content, found.number, Range { first: record.local_first, count: record.local_count });
    let listed: BTreeSet<&SocketAddr> = cluster.iter().chain(&local).collect();
    let serving = content.backends.iter().filter(|own| own.service == found.number);
    let serving = serving.filter(|own| own.state == backend_state::SERVING).map(socket);
    let mut kept: Vec<SocketAddr> = serving.filter(|own| !listed.contains(own)).collect();
    kept.sort_unstable();
    words.push(format!("-> {}", names(&cluster)));
    if uses_local(&record) || !local.is_empty() {
        words.push(format!("local {}", names(&local)));
    }
    if !kept.is_empty() {
        words.push(format!("keeps {}", names(&kept)));
    }
    let policies = [
        (record.flags & flag::INTERNAL_LOCAL != 0, "internal=Local"),
        (record.flags & flag::EXTERNAL_LOCAL != 0, "external=Local"),
        (record.flags & flag::HAS_ENDPOINTS == 0, "refused"),
        (record.flags & flag::CUT != 0, "cut"),
    ];
    for (_, word) in policies.into_iter().filter(|(set, _)| *set) {
        words.push(word.to_owned());
    }
    if record.affinity_seconds != 0 {
        words.push(format!("affinity={}s", record.affinity_seconds));
    }
    if record.flags & flag::SOURCE_RANGES != 0 && found.scope == scope::LOAD_BALANCER {
        let ranges = content.source_ranges.get(&found.number).into_iter().flatten();
        let texts: Vec<String> = ranges
            .map(|(length, address)| {
                let address: IpAddr = (*address).into();
                format!("{address}/{length}")
            })
            .collect();
        words.push(format!("from {}", texts.join(",")));
    }
    words.join(" ") + "\n"
}

const fn uses_local(record: &Service) -> bool {
    record.flags & (flag::INTERNAL_LOCAL | flag::EXTERNAL_LOCAL) != 0
}

fn socket<A: FamilyAddress>(backend: &Backend<A>) -> SocketAddr {
    SocketAddr::new(backend.address.into(), backend.port.get())
}

fn list<A: FamilyAddress>(content: &Content<A>, service: u32, range: Range) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for reference in content.list(range) {
        let backend = content.backend(reference.number());
        assert_eq!(backend.generation, reference.generation(), "a slot names another generation");
        assert_eq!(backend.state, backend_state::SERVING, "a slot names a backend that is gone");
        assert_eq!(backend.service, service, "a slot names a backend of another Service port");
        found.push(socket(&backend));
    }
    found.sort_unstable();
    found
}

fn names(list: &[SocketAddr]) -> String {
    if list.is_empty() {
        return "nobody".to_owned();
    }
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
