//! Small worlds of Services for the tests of plans.

use std::time::Duration;

use svclb_common::addr::{Addr4, Be16};
use svclb_common::config::Config;
use svclb_common::schema::ServiceKey;
use svclb_common::service::{backend_flag, flag, scope};

use super::safety::Wanted;
use crate::desired::{PortTables, Target};
use crate::model::{PortKey, Protocol, ServiceName};
use crate::plan::Planner;
use crate::tables::fake::{FakeTables, config};
use crate::tables::faulty::{Fault, FaultyTables};
use crate::tables::{Report, Tables, run};

/// The key of port number `index`; a few Services with two ports each.
pub(super) fn key(index: u8) -> PortKey {
    let service = ServiceName::new("default", format!("service-{}", index / 2));
    let (port, protocol) = if index.is_multiple_of(2) { ("a", Protocol::Tcp) } else { ("b", Protocol::Udp) };
    PortKey::new(service, port, protocol)
}

/// An endpoint by number.
pub(super) fn target(number: u8) -> Target<Addr4> {
    Target { address: Addr4::from(std::net::Ipv4Addr::new(10, 244, 0, number)), port: Be16::new(8080) }
}

/// A frontend by number, shared by all ports of a protocol, so that several may want it.
pub(super) fn frontend(number: u8, protocol: Protocol) -> ServiceKey<Addr4> {
    let address = Addr4::from(std::net::Ipv4Addr::new(10, 96, 0, number));
    ServiceKey::new(address, Be16::new(80), protocol.number())
}

/// Tables of a port: frontends as (number, scope), endpoints as (number, lists), source ranges by number.
pub(super) fn tables(
    protocol: Protocol,
    frontends: &[(u8, u8)],
    endpoints: &[(u8, u8)],
    ranges: &[u8],
    affinity_seconds: u32,
) -> PortTables<Addr4> {
    let mut flags = 0;
    if !endpoints.is_empty() {
        flags |= flag::HAS_ENDPOINTS;
    }
    if !ranges.is_empty() {
        flags |= flag::SOURCE_RANGES;
    }
    let mut source_ranges: Vec<_> = ranges.iter().map(|number| (target(*number).address, 24)).collect();
    source_ranges.sort_unstable();
    source_ranges.dedup();
    let mut keys: std::collections::BTreeMap<_, _> =
        frontends.iter().map(|(number, scope)| (frontend(*number, protocol), *scope)).collect();
    let cluster: Vec<_> =
        keys.iter().filter(|(_, scope)| **scope == scope::CLUSTER).map(|(key, _)| key.address).collect();
    keys.extend(cluster.into_iter().map(|address| (ServiceKey::whole(address), scope::CLUSTER_ADDRESS)));
    PortTables {
        frontends: keys.into_iter().collect(),
        flags,
        affinity_seconds,
        backends: endpoints.iter().map(|(number, lists)| (target(*number), *lists)).collect(),
        source_ranges,
    }
}

/// A planner and what it should have brought about.
pub(super) struct Agent {
    pub(super) planner: Planner<Addr4>,
    pub(super) config: Config,
    pub(super) wanted: Wanted,
    pub(super) now: Duration,
}

impl Agent {
    /// An agent that starts on tables of which it must adopt what is there, wanting `wanted`.
    pub(super) fn start(tables: &FakeTables<Addr4>, wanted: &Wanted, now: Duration) -> Self {
        let config = config(&tables.limits);
        let content = tables.read().expect("memory can be read");
        let mut planner = Planner::new(content, config, &tables.limits);
        for (key, tables) in wanted {
            planner.want(key, Some(tables.clone()));
        }
        planner.adopt(now);
        Self { planner, config, wanted: wanted.clone(), now }
    }

    /// Wants other tables for a port.
    pub(super) fn want(&mut self, key: &PortKey, tables: Option<PortTables<Addr4>>) {
        self.planner.want(key, tables.clone());
        match tables {
            Some(tables) => self.wanted.insert(key.clone(), tables),
            None => self.wanted.remove(key),
        };
    }

    /// Runs the plans, one second later.
    pub(super) fn run(&mut self, tables: &mut impl Tables<Addr4>) -> Report {
        self.now += Duration::from_secs(1);
        run(&mut self.planner, tables, self.now)
    }
}

/// Both lists.
pub(super) const BOTH: u8 = backend_flag::IN_CLUSTER | backend_flag::IN_LOCAL;

#[test]
fn a_frontend_that_moves_to_another_service_is_never_away() {
    let mut fake = FakeTables::new(FakeTables::<Addr4>::SMALL);
    let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
    agent.want(&key(0), Some(tables(Protocol::Tcp, &[(1, scope::CLUSTER)], &[(1, BOTH)], &[], 0)));
    assert!(agent.run(&mut fake).failures.is_empty());
    let first = fake.content.frontends[&frontend(1, Protocol::Tcp)];
    agent.want(&key(0), None);
    agent.want(&key(2), Some(tables(Protocol::Tcp, &[(1, scope::CLUSTER)], &[(2, BOTH)], &[], 0)));
    assert!(agent.run(&mut fake).failures.is_empty());
    let second = fake.content.frontends[&frontend(1, Protocol::Tcp)];
    assert_ne!(first.number, second.number, "another Service has another number");
    assert_eq!(agent.planner.number(&key(0)), None);
}

#[test]
fn an_endpoint_that_comes_back_has_its_number_and_generation() {
    let mut fake = FakeTables::new(FakeTables::<Addr4>::SMALL);
    let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
    let with = |endpoints: &[(u8, u8)]| Some(tables(Protocol::Udp, &[(1, scope::CLUSTER)], endpoints, &[], 0));
    agent.want(&key(1), with(&[(1, BOTH), (2, BOTH)]));
    agent.run(&mut fake);
    let before = fake.content.backends.clone();
    agent.want(&key(1), with(&[(1, BOTH), (3, BOTH)]));
    agent.run(&mut fake);
    agent.want(&key(1), with(&[(1, BOTH), (2, BOTH)]));
    agent.run(&mut fake);
    let again = fake.content.backends.iter().filter(|backend| backend.address == target(2).address);
    let again: Vec<_> = again.collect();
    assert_eq!(again.len(), 1);
    assert!(before.contains(again[0]), "{again:?} is not among {before:?}");
}

#[test]
fn a_number_for_another_owner_has_another_generation() {
    let mut fake = FakeTables::new(FakeTables::<Addr4>::SMALL);
    fake.limits.backends = 2;
    let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
    let with = |endpoint| Some(tables(Protocol::Udp, &[(1, scope::CLUSTER)], &[(endpoint, BOTH)], &[], 0));
    agent.want(&key(1), with(1));
    assert!(agent.run(&mut fake).failures.is_empty());
    agent.want(&key(1), None);
    assert!(agent.run(&mut fake).failures.is_empty());
    agent.want(&key(1), with(2));
    let report = agent.run(&mut fake);
    assert_eq!(report.failures.len(), 1, "the only number rests for five seconds: {report:?}");
    agent.now += crate::ids::GRACE;
    assert!(agent.run(&mut fake).failures.is_empty());
    assert_eq!(fake.content.backend(1).generation, 1);
    assert_eq!(fake.content.backend(1).address, target(2).address);
}

#[test]
fn a_port_for_which_there_is_no_room_leaves_the_others_alone() {
    let mut fake = FakeTables::new(FakeTables::<Addr4>::SMALL);
    fake.limits.slots = 3;
    let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
    let large = [(1, 1), (2, 1), (3, 1), (4, 1)];
    agent.want(&key(0), Some(tables(Protocol::Tcp, &[(1, scope::CLUSTER)], &large, &[], 0)));
    agent.want(&key(1), Some(tables(Protocol::Udp, &[(2, scope::CLUSTER)], &[(1, 1)], &[], 0)));
    let report = agent.run(&mut fake);
    let refused: Vec<_> = report.failures.iter().map(|(port, failure)| (port.clone(), failure.to_string())).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].0, Some(key(0)));
    assert!(refused[0].1.starts_with("SLOTS is full"), "{refused:?}");
    let seen = super::safety::see(&fake.content);
    assert_eq!(seen.keys().collect::<Vec<_>>(), [&frontend(2, Protocol::Udp)]);
    agent.want(&key(0), Some(tables(Protocol::Tcp, &[(1, scope::CLUSTER)], &large[..2], &[], 0)));
    assert!(agent.run(&mut fake).failures.is_empty(), "it fits as soon as it is smaller");
}

#[test]
fn a_restart_changes_nothing() {
    let mut fake = FakeTables::new(FakeTables::<Addr4>::SMALL);
    let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
    agent.want(
        &key(0),
        Some(tables(Protocol::Tcp, &[(1, scope::CLUSTER), (9, scope::NODE_PORT)], &[(1, BOTH)], &[], 0)),
    );
    agent.want(&key(1), Some(tables(Protocol::Udp, &[(1, scope::CLUSTER)], &[(1, BOTH), (2, 1)], &[], 7)));
    agent.want(&key(3), Some(tables(Protocol::Udp, &[(2, scope::LOAD_BALANCER)], &[], &[4, 5], 0)));
    agent.run(&mut fake);
    let before = fake.clone();
    let mut again = Agent::start(&fake, &agent.wanted, Duration::ZERO);
    let report = again.run(&mut fake);
    assert_eq!((report.writes, report.failures.len()), (0, 0));
    assert_eq!(before.content, fake.content);
}

#[test]
fn an_agent_removes_what_another_left_that_nobody_wants() {
    let mut fake = FakeTables::new(FakeTables::<Addr4>::SMALL);
    let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
    agent.want(&key(0), Some(tables(Protocol::Tcp, &[(1, scope::CLUSTER)], &[(1, BOTH)], &[7], 0)));
    agent.run(&mut fake);
    let mut again = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
    assert!(again.run(&mut fake).failures.is_empty());
    assert!(fake.content.frontends.is_empty());
    assert!(fake.content.source_ranges.is_empty());
    assert!(fake.content.backends.iter().all(|backend| backend.state == 0));
    assert!(again.planner.is_settled());
}

#[test]
fn the_idle_half_of_the_interest_bitmaps_holds_what_is_there() {
    let mut fake = FakeTables::new(FakeTables::<Addr4>::SMALL);
    let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
    agent.want(&key(0), Some(tables(Protocol::Tcp, &[(1, scope::CLUSTER)], &[(1, BOTH)], &[], 0)));
    agent.want(&key(2), Some(tables(Protocol::Tcp, &[(2, scope::NODE_PORT)], &[(2, BOTH)], &[], 0)));
    agent.run(&mut fake);
    agent.want(&key(2), None);
    agent.run(&mut fake);
    let halves = |fake: &FakeTables<Addr4>| {
        let words = &fake.content.interest_frontends;
        let (first, second) = words.split_at(words.len() / 2);
        (first.to_vec(), second.to_vec())
    };
    crate::tables::write_idle_half(&mut agent.planner, &mut fake, agent.now).expect("memory can be written");
    let (first, second) = halves(&fake);
    assert_eq!(first, second, "what went a moment ago may still have flows");
    agent.now += crate::plan::interest::KEPT + Duration::from_secs(1);
    crate::tables::write_idle_half(&mut agent.planner, &mut fake, agent.now).expect("memory can be written");
    let (first, second) = halves(&fake);
    let bits = |words: &[u64]| words.iter().map(|word| word.count_ones()).sum::<u32>();
    assert_eq!((bits(&first), bits(&second)), (2, 1));
}

#[test]
fn an_agent_does_not_give_a_service_the_number_of_another_whose_frontend_it_got() {
    let mut fake = FakeTables::new(FakeTables::<Addr4>::SMALL);
    let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
    agent.want(
        &key(2),
        Some(tables(Protocol::Tcp, &[(1, scope::CLUSTER), (9, scope::NODE_PORT)], &[(1, BOTH), (2, BOTH)], &[], 0)),
    );
    agent.run(&mut fake);
    let number = agent.planner.number(&key(2)).expect("it has one");
    let references = fake.content.backends.clone();
    // While no agent is there, the node port goes to a Service that comes first by its name.
    let wanted = Wanted::from([
        (key(0), tables(Protocol::Tcp, &[(9, scope::NODE_PORT)], &[(3, BOTH)], &[], 0)),
        (key(2), tables(Protocol::Tcp, &[(1, scope::CLUSTER)], &[(1, BOTH), (2, BOTH)], &[], 0)),
    ]);
    let mut heir = Agent::start(&fake, &wanted, Duration::ZERO);
    assert!(heir.run(&mut fake).failures.is_empty());
    assert_eq!(heir.planner.number(&key(2)), Some(number));
    assert_eq!(fake.content.backends[..references.len()], references, "its flows go on");
}

#[test]
fn an_endpoint_that_a_dead_agent_left_halfway_does_not_free_the_number_of_the_same_endpoint() {
    let mut fake = FakeTables::new(FakeTables::<Addr4>::SMALL);
    let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
    let wanted = tables(Protocol::Tcp, &[(1, scope::CLUSTER)], &[(1, BOTH)], &[], 0);
    agent.want(&key(0), Some(wanted.clone()));
    // Interest and endpoint are written, the record is not.
    let mut tables = FaultyTables::new(fake, Fault::From(4));
    agent.run(&mut tables);
    fake = tables.inner;
    assert!(fake.content.backends.iter().any(|backend| backend.state == 1) && fake.content.services.is_empty());
    let mut heir = Agent::start(&fake, &Wanted::from([(key(0), wanted)]), Duration::ZERO);
    assert!(heir.run(&mut fake).failures.is_empty());
    assert_eq!(heir.planner.used(), (1, 1, 2), "one Service port, one endpoint, two lists");
}

#[test]
fn an_agent_does_not_give_a_service_that_gets_no_frontend_the_number_of_the_one_that_has_it() {
    let mut fake = FakeTables::new(FakeTables::<Addr4>::SMALL);
    let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
    let with = |endpoints: &[(u8, u8)]| tables(Protocol::Tcp, &[(1, scope::CLUSTER)], endpoints, &[], 0);
    agent.want(&key(0), Some(with(&[(1, BOTH), (2, BOTH), (3, BOTH)])));
    agent.want(&key(2), Some(with(&[])));
    agent.run(&mut fake);
    let number = agent.planner.number(&key(0));
    // Both want one cluster IP, and most endpoints went over while no agent was there.
    let wanted = Wanted::from([(key(0), with(&[(1, BOTH)])), (key(2), with(&[(2, BOTH), (3, BOTH)]))]);
    let heir = Agent::start(&fake, &wanted, Duration::ZERO);
    assert_eq!(heir.planner.number(&key(0)), number);
}

#[test]
fn the_idle_half_of_the_interest_bitmaps_holds_what_could_not_be_removed() {
    let mut fake = FakeTables::new(FakeTables::<Addr4>::SMALL);
    let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
    agent.want(&key(0), Some(tables(Protocol::Tcp, &[(1, scope::CLUSTER)], &[(1, BOTH)], &[], 0)));
    agent.run(&mut fake);
    agent.want(&key(0), Some(tables(Protocol::Tcp, &[(1, scope::CLUSTER)], &[], &[], 0)));
    let mut faulty = FaultyTables::new(fake, Fault::From(0));
    assert!(!agent.run(&mut faulty).failures.is_empty());
    fake = faulty.inner;
    crate::tables::write_idle_half(&mut agent.planner, &mut fake, agent.now).expect("memory can be written");
    let words = &fake.content.interest_backends;
    let (first, second) = words.split_at(words.len() / 2);
    assert_eq!(first, second, "the list still names the endpoint");
}
