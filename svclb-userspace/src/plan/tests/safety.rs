//! What must hold for the tables at every moment, and the check of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use svclb_common::addr::Addr4;
use svclb_common::config::Config;
use svclb_common::schema::{BackendRef, ServiceKey};
use svclb_common::service::{backend_flag, backend_state, flag, scope};

use crate::desired::{PortTables, Target};
use crate::ids::Range;
use crate::model::PortKey;
use crate::plan::interest::Member;
use crate::plan::{Bitmap, Content};

/// What some ports wanted before a plan and want after it.
pub(super) type Wanted = BTreeMap<PortKey, PortTables<Addr4>>;

/// A port as a packet meets it: what a frontend leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) scope: u8,
    pub(super) flags: u32,
    pub(super) affinity_seconds: u32,
    pub(super) cluster: BTreeSet<Target<Addr4>>,
    pub(super) local: BTreeSet<Target<Addr4>>,
    pub(super) source_ranges: BTreeSet<(u8, Addr4)>,
}

/// Follows every frontend to its endpoints as the kernel does. Panics where a packet would be dropped
/// for inconsistent tables.
pub(super) fn see(content: &Content<Addr4>) -> BTreeMap<ServiceKey<Addr4>, Seen> {
    let mut seen = BTreeMap::new();
    for (key, found) in &content.frontends {
        if scope::is_mark(found.scope) {
            continue;
        }
        let record = content.service(found.number);
        assert_ne!(record.before, 0, "{key:?} names service {} that was never written", found.number);
        assert_eq!(record.before, record.after);
        let list = |first, count| -> BTreeSet<_> {
            let list = content.list(Range { first, count });
            assert_eq!(list.len(), count as usize, "slots beyond the end");
            list.iter().map(|backend| follow(content, found.number, *backend)).collect()
        };
        let own = Seen {
            scope: found.scope,
            flags: record.flags,
            affinity_seconds: record.affinity_seconds,
            cluster: list(record.cluster_first, record.cluster_count),
            local: list(record.local_first, record.local_count),
            source_ranges: content.source_ranges.get(&found.number).cloned().unwrap_or_default(),
        };
        seen.insert(*key, own);
    }
    seen
}

fn follow(content: &Content<Addr4>, service: u32, reference: BackendRef) -> Target<Addr4> {
    let backend = content.backend(reference.number());
    assert_eq!(backend.state, backend_state::SERVING, "a list names backend {} that is gone", reference.number());
    assert_eq!(backend.generation, reference.generation(), "a list names another generation");
    assert_eq!(backend.service, service, "a list names a backend of another service");
    Target { address: backend.address, port: backend.port }
}

/// What the tables show once `wanted` is in them.
pub(super) fn expected(wanted: &Wanted) -> BTreeMap<ServiceKey<Addr4>, Seen> {
    let mut owners: BTreeMap<ServiceKey<Addr4>, (u8, &PortKey)> = BTreeMap::new();
    for (port, tables) in wanted {
        for (key, scope) in &tables.frontends {
            let claim = (*scope, port);
            owners.entry(*key).and_modify(|best| *best = (*best).min(claim)).or_insert(claim);
        }
    }
    let mut seen = BTreeMap::new();
    for (key, (scope, port)) in owners {
        if scope::is_mark(scope) {
            continue;
        }
        seen.insert(key, seen_of(scope, &wanted[port]));
    }
    seen
}

fn seen_of(scope: u8, tables: &PortTables<Addr4>) -> Seen {
    Seen {
        scope,
        flags: tables.flags,
        affinity_seconds: tables.affinity_seconds,
        cluster: tables.list(backend_flag::IN_CLUSTER).copied().collect(),
        local: tables.list(backend_flag::IN_LOCAL).copied().collect(),
        source_ranges: tables.source_ranges.iter().map(|(address, length)| (*length, *address)).collect(),
    }
}

/// Checks tables in the middle of a plan that leads from `old` to `new`: every frontend shows what some
/// port that wants it, before or after, wanted, in whole; nobody is without endpoints who has some
/// before and after (but where a port loses the frontend to another and changes itself); no client is
/// admitted that neither side admits.
pub(super) fn check_between(content: &Content<Addr4>, config: &Config, old: &Wanted, new: &Wanted) {
    let (before, after) = (expected(old), expected(new));
    let seen = see(content);
    check_interest(content, config, old, new);
    for (key, own) in &seen {
        let sides: Vec<&Seen> = [before.get(key), after.get(key)].into_iter().flatten().collect();
        let claimants: BTreeSet<&PortKey> = [old, new]
            .into_iter()
            .flatten()
            .filter(|(_, tables)| tables.frontends.contains_key(key))
            .map(|(port, _)| port)
            .collect();
        let wanted_by: Vec<Seen> = [old, new]
            .into_iter()
            .flat_map(|side| claimants.iter().filter_map(|port| side.get(*port)))
            .map(|tables| seen_of(own.scope, tables))
            .collect();
        assert!(!wanted_by.is_empty(), "{key:?} is there and nobody wants it");
        let known = |list: fn(&Seen) -> &BTreeSet<Target<Addr4>>, own: &Seen| {
            let emptied = list(own).is_empty() && own.flags == 0;
            emptied || wanted_by.iter().any(|wanted| list(wanted) == list(own))
        };
        assert!(known(|seen| &seen.cluster, own), "{key:?} leads to endpoints that nobody wants: {own:?}");
        assert!(known(|seen| &seen.local, own), "{key:?} leads to endpoints that nobody wants: {own:?}");
        let stays = claimants.iter().all(|port| {
            !new.contains_key(*port)
                || claimants.len() == 1
                || old.get(*port) == new.get(*port)
                || !old.contains_key(*port)
        });
        if stays && sides.len() == 2 && sides.iter().all(|side| !side.cluster.is_empty()) {
            assert!(!own.cluster.is_empty(), "{key:?} is without endpoints in between");
        }
        if own.scope == scope::LOAD_BALANCER && own.flags & flag::SOURCE_RANGES != 0 {
            let admitted: BTreeSet<_> = wanted_by.iter().flat_map(|side| &side.source_ranges).collect();
            assert!(own.source_ranges.iter().all(|range| admitted.contains(range)));
            assert!(
                wanted_by.iter().any(|side| side.source_ranges.is_subset(&own.source_ranges)),
                "{key:?} shuts out clients that it admits before and after"
            );
        }
    }
    for key in before.keys().filter(|key| after.contains_key(*key)) {
        assert!(seen.contains_key(key), "{key:?} is not there in between");
    }
}

/// Every frontend and every serving backend has its bit.
fn check_interest(content: &Content<Addr4>, config: &Config, old: &Wanted, new: &Wanted) {
    let is_set = |member: &Member<Addr4>| {
        let (bitmap, word, bit) = member.place(config, false);
        let words = match bitmap {
            Bitmap::Frontends => &content.interest_frontends,
            Bitmap::Backends => &content.interest_backends,
        };
        words[word as usize] & bit != 0
    };
    for (key, found) in &content.frontends {
        assert!(is_set(&Member::Frontend(*key, found.scope)), "{key:?} has no interest bit");
    }
    let mut protocols: HashMap<Target<Addr4>, BTreeSet<u8>> = HashMap::new();
    for (port, tables) in old.iter().chain(new) {
        for target in tables.backends.keys() {
            protocols.entry(*target).or_default().insert(port.protocol.number());
        }
    }
    for backend in content.backends.iter().filter(|backend| backend.state == backend_state::SERVING) {
        let target = Target { address: backend.address, port: backend.port };
        let any =
            protocols.get(&target).into_iter().flatten().any(|protocol| is_set(&Member::Backend(target, *protocol)));
        assert!(any, "{target:?} serves and has no interest bit");
    }
}
