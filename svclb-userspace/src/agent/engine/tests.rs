//! However the present state was reached, the tables show it: the engine after any history of events,
//! with synchronizations and lists in between, equals a new one that is told the end of it alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::schema::ServiceKey;

use super::{Engine, NodeSettings};
use crate::desired::node_ports::Entry;
use crate::model::{
    Endpoint, Event, Family, Hints, Kind, Node, Protocol, Service, ServiceKind, ServiceName, ServicePort, Slice,
    SliceName, SlicePort,
};
use crate::plan::tests::safety::{Seen, see};
use crate::tables::fake::{FakeTables, config};

type Fake = Engine<FakeTables<Addr4>, FakeTables<Addr6>>;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Service(Service),
    ServiceGone(u8),
    Slice(Slice),
    SliceGone(u8),
    Node(Option<Node>),
    Addresses(u8),
    Sync,
    /// A list of this kind, told anew in whole.
    Relist(Kind),
    /// A list that is broken off after it began.
    BrokenList(Kind),
}

/// What is, after some steps.
#[derive(Default)]
struct World {
    services: BTreeMap<ServiceName, Service>,
    slices: BTreeMap<SliceName, Slice>,
    node: Option<Node>,
    addresses: Vec<IpAddr>,
}

fn service_name(number: u8) -> ServiceName {
    ServiceName::new("default", format!("service-{number}"))
}

fn slice_name(number: u8) -> SliceName {
    SliceName { namespace: "default".into(), name: format!("slice-{number}").into() }
}

fn ip(c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, c, d))
}

fn service() -> impl Strategy<Value = Service> {
    let policies = (any::<bool>(), any::<bool>(), proptest::option::of(1..3u32));
    let addresses = (1..4u8, vec(1..4u8, 0..2), vec(1..4u8, 0..2), vec(0..3u8, 0..2));
    let ports = vec((0..2u8, any::<bool>(), 0..3u16), 1..3);
    (0..4u8, addresses, policies, ports).prop_map(|(number, addresses, policies, ports)| {
        let (cluster, external, ingress, ranges) = addresses;
        let mut seen = Vec::new();
        let port = |(name, udp, node_port): (u8, bool, u16)| {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let fresh = !seen.contains(&(name, protocol));
            seen.push((name, protocol));
            let node_port = if node_port == 0 { 0 } else { 30_000 + node_port };
            let port = ServicePort { name: name.to_string().into(), protocol, port: 80 + u16::from(name), node_port };
            fresh.then_some(port)
        };
        Service {
            name: service_name(number),
            kind: ServiceKind::LoadBalancer,
            families: [true, false],
            cluster_ips: [Some(ip(96, cluster)), None],
            external_ips: external.into_iter().map(|own| ip(97, own)).collect(),
            ingress_ips: ingress.into_iter().map(|own| ip(98, own)).collect(),
            source_ranges: ranges
                .into_iter()
                .map(|own| format!("10.9.{own}.0/24").parse().expect("a prefix"))
                .collect(),
            internal_local: policies.0,
            external_local: policies.1,
            health_check_port: policies.1.then_some(31_000),
            affinity_seconds: policies.2,
            ports: ports.into_iter().filter_map(port).collect(),
        }
    })
}

fn slice() -> impl Strategy<Value = Slice> {
    let endpoint = (1..6u8, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), 0..3u8);
    let endpoint = endpoint.prop_map(|(number, ready, serving, terminating, local, zone)| Endpoint {
        address: ip(200, number),
        ready,
        serving,
        terminating,
        node: Some(if local { "n1" } else { "n2" }.into()),
        hints: Hints::of(if zone == 0 { vec![] } else { vec![zone.to_string().into()] }, vec![]),
    });
    let ports = vec((0..2u8, any::<bool>()), 1..3);
    (0..4u8, 0..4u8, ports, vec(endpoint, 0..4)).prop_map(|(number, owner, ports, endpoints)| Slice {
        name: slice_name(number),
        service: service_name(owner),
        family: Family::V4,
        ports: ports
            .into_iter()
            .map(|(name, udp)| SlicePort {
                name: name.to_string().into(),
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                port: 8080,
            })
            .collect(),
        endpoints,
        changed: None,
    })
}

fn node() -> impl Strategy<Value = Option<Node>> {
    let node = (0..3u8, 1..3u8).prop_map(|(zone, address)| Node {
        addresses: vec![ip(1, address)],
        zone: (zone != 0).then(|| zone.to_string().into()),
        pod_cidrs: Vec::new(),
        leaving: false,
    });
    proptest::option::of(node)
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(Kind::Service), Just(Kind::Slice), Just(Kind::Node)];
    prop_oneof![
        6 => service().prop_map(Step::Service),
        2 => (0..4u8).prop_map(Step::ServiceGone),
        6 => slice().prop_map(Step::Slice),
        2 => (0..4u8).prop_map(Step::SliceGone),
        1 => node().prop_map(Step::Node),
        1 => (1..4u8).prop_map(Step::Addresses),
        6 => Just(Step::Sync),
        1 => kind.clone().prop_map(Step::Relist),
        1 => kind.prop_map(Step::BrokenList),
    ]
}

fn engine() -> Fake {
    let limits = FakeTables::<Addr4>::SMALL;
    let settings = NodeSettings {
        name: "n1".into(),
        node_ports: vec![Entry::Primary],
        external_ip_cidrs: vec!["10.0.97.0/31".parse().expect("a prefix")],
        loopback_node_ports: false,
    };
    Engine::new(settings, &config(&limits), FakeTables::new(limits), FakeTables::new(limits)).expect("memory")
}

impl World {
    /// Does a step in the world and tells the engine of it.
    fn apply(&mut self, step: Step, engine: &mut Fake, now: Duration) {
        match step {
            Step::Service(service) => {
                self.services.insert(service.name.clone(), service.clone());
                engine.apply(Event::ServiceApplied(Arc::new(service)));
            }
            Step::ServiceGone(number) => {
                self.services.remove(&service_name(number));
                engine.apply(Event::ServiceDeleted(service_name(number)));
            }
            Step::Slice(slice) => {
                self.slices.insert(slice.name.clone(), slice.clone());
                engine.apply(Event::SliceApplied(Arc::new(slice)));
            }
            Step::SliceGone(number) => {
                self.slices.remove(&slice_name(number));
                engine.apply(Event::SliceDeleted(slice_name(number)));
            }
            Step::Node(node) => {
                self.node.clone_from(&node);
                engine.apply(node.map_or(Event::NodeDeleted, Event::NodeApplied));
            }
            Step::Addresses(number) => {
                self.addresses = vec![ip(1, number), ip(2, number)];
                engine.set_host_addresses(self.addresses.clone());
            }
            Step::Sync => {
                let report = engine.sync(now);
                assert!(report.failures.is_empty(), "{:?}", report.failures);
            }
            Step::Relist(kind) => {
                engine.apply(Event::ListStarted(kind));
                self.tell(kind, engine);
                engine.apply(Event::Listed(kind));
            }
            Step::BrokenList(kind) => {
                engine.apply(Event::ListStarted(kind));
                engine.apply(Event::ListStarted(kind));
                self.tell(kind, engine);
                engine.apply(Event::Listed(kind));
            }
        }
    }

    fn tell(&self, kind: Kind, engine: &mut Fake) {
        match kind {
            Kind::Service => {
                let all = self.services.values().cloned();
                all.for_each(|service| engine.apply(Event::ServiceApplied(Arc::new(service))));
            }
            Kind::Slice => {
                let all = self.slices.values().cloned();
                all.for_each(|slice| engine.apply(Event::SliceApplied(Arc::new(slice))));
            }
            Kind::Node => engine.apply(self.node.clone().map_or(Event::NodeDeleted, Event::NodeApplied)),
        }
    }

    /// What a new engine makes of the world.
    fn fresh(&self) -> BTreeMap<ServiceKey<Addr4>, Seen> {
        let mut engine = engine();
        engine.set_host_addresses(self.addresses.clone());
        for kind in Kind::REQUIRED {
            engine.apply(Event::ListStarted(kind));
            self.tell(kind, &mut engine);
            engine.apply(Event::Listed(kind));
        }
        assert!(engine.sync(Duration::ZERO).failures.is_empty());
        see(&engine.families().0.tables().content)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_tables_show_the_present_whatever_the_past(steps in vec(step(), 1..40)) {
        let mut engine = engine();
        let mut world = World::default();
        for kind in Kind::REQUIRED {
            engine.apply(Event::Listed(kind));
        }
        for (number, step) in steps.into_iter().enumerate() {
            // Ten seconds apart, so that freed numbers are there again.
            world.apply(step, &mut engine, Duration::from_secs(10 * number as u64));
        }
        let report = engine.sync(Duration::from_hours(1));
        prop_assert!(report.failures.is_empty(), "{:?}", report.failures);
        prop_assert!(engine.is_settled());
        prop_assert_eq!(see(&engine.families().0.tables().content), world.fresh());
        prop_assert!(engine.check_drift().expect("memory").is_empty());
    }
}
