//! 10,000 Services with 3 endpoints each on the kernel's maps: how much is written, and how long it takes.
//! The figures are printed (`--nocapture`); only what does not depend on the machine is checked.
#![cfg(feature = "kernel")]
#![expect(clippy::print_stderr, reason = "the figures are for people")]

mod script_pins;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use script_pins::Pins;
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::Sizes;
use svclb_userspace::agent::engine::{Engine, NodeSettings};
use svclb_userspace::model::{
    Endpoint, Event, Family, Kind, Protocol, Service, ServiceKind, ServiceName, ServicePort, Slice, SliceName,
    SlicePort, WhenBackendGoes,
};
use svclb_userspace::tables::bpf::BpfTables;

const SERVICES: u32 = 10_000;
const CHANGES: u32 = 500;

/// Address number `index` of a /16.
fn ip(first: u8, second: u8, index: u32) -> IpAddr {
    let [_, _, c, d] = index.to_be_bytes();
    Ipv4Addr::new(first, second, c, d).into()
}

fn service(index: u32) -> Event {
    Event::ServiceApplied(Arc::new(Service {
        name: ServiceName::new("default", format!("service-{index}")),
        kind: ServiceKind::ClusterIp,
        families: [true, false],
        cluster_ips: [Some(ip(10, 96, index)), None],
        external_ips: vec![],
        ingress_ips: vec![],
        source_ranges: vec![],
        internal_local: false,
        external_local: false,
        health_check_port: None,
        affinity_seconds: None,
        when_backend_goes: WhenBackendGoes::Drain,
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 }],
    }))
}

fn slice(index: u32, third: IpAddr) -> Event {
    let endpoint = |address| Endpoint {
        address,
        ready: true,
        serving: true,
        terminating: false,
        node: Some("n2".into()),
        hints: None,
    };
    Event::SliceApplied(Arc::new(Slice {
        name: SliceName { namespace: "default".into(), name: format!("service-{index}-abc").into() },
        service: ServiceName::new("default", format!("service-{index}")),
        family: Family::V4,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        changed: None,
        endpoints: [ip(10, 200, index), ip(10, 201, index), third].map(endpoint).into(),
    }))
}

fn engine(pins: &Pins) -> Engine<BpfTables<Addr4>, BpfTables<Addr6>> {
    let (config, v4, v6) = pins.load(Sizes::for_memory(0));
    let settings = NodeSettings { name: "n1".into(), ..NodeSettings::default() };
    Engine::new(settings, &config, v4, v6).expect("the maps can be read")
}

fn fill(engine: &mut Engine<BpfTables<Addr4>, BpfTables<Addr6>>) {
    for index in 0..SERVICES {
        engine.apply(service(index));
        engine.apply(slice(index, ip(10, 202, index)));
    }
    for kind in Kind::REQUIRED {
        engine.apply(Event::Listed(kind));
    }
}

#[test]
fn ten_thousand_services_are_written_once_and_a_change_touches_one() {
    let pins = Pins::new("scale");
    let mut first = engine(&pins);
    fill(&mut first);
    let began = Instant::now();
    let report = first.sync(Duration::from_secs(1));
    eprintln!("{SERVICES} Services: {} writes in {:?}", report.writes, began.elapsed());
    assert!(report.failures.is_empty() && first.is_settled(), "{:?}", report.failures);

    let mut times = Vec::new();
    for change in 0..CHANGES {
        let index = change * (SERVICES / CHANGES);
        let began = Instant::now();
        first.apply(slice(index, ip(10, 203, index)));
        let report = first.sync(Duration::from_secs(10 + u64::from(change)));
        times.push(began.elapsed());
        assert_eq!(report.services, 1);
        // At most one interest bit, the new backend, the slots, the record, the old backend.
        assert!((4..=5).contains(&report.writes) && report.failures.is_empty(), "{report:?}");
    }
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 100];
    eprintln!("one endpoint changed, event to map: median {:?}, p99 {:?}", at(50), at(99));

    drop(first);
    let mut again = engine(&pins);
    fill(&mut again);
    for change in 0..CHANGES {
        let index = change * (SERVICES / CHANGES);
        again.apply(slice(index, ip(10, 203, index)));
    }
    let began = Instant::now();
    let report = again.sync(Duration::from_secs(1));
    eprintln!("a restart: {} writes, {:?}", report.writes, began.elapsed());
    assert_eq!(report.writes, 0);
    assert!(again.check_drift().expect("the maps can be read").is_empty());
}
