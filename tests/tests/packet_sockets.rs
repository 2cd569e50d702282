//! What becomes of the sockets of the node's own processes: the decisions, on the host. The kernel has no way to run
//! these programs on a call that nobody makes; `netns_socket_lb.rs` has real processes.

use std::net::{IpAddr, SocketAddr};

use svclb_common::addr::{Addr4, Addr6, Be16, Endpoint};
use svclb_common::config::flag as config_flag;
use svclb_common::datapath::socket::{Decision, Socket};
use svclb_common::service::{flag, scope};
use svclb_common::verdict::{Counter, DropReason};
use svclb_common::wire::protocol::{SCTP, TCP, UDP};
use svclb_tests::world::host::{HostEnv, Of};
use svclb_tests::world::{BackendSpec, Machine, NODE4, NODE6, SECOND, Scene, ServiceSpec, World};

const NAMESPACE: u64 = 4711;

fn socket(protocol: u8) -> Socket {
    Socket { namespace: NAMESPACE, cookie: 1 << 40 | 7, protocol }
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

fn end4(text: &str) -> Endpoint<Addr4> {
    let to = at(text);
    let IpAddr::V4(ip) = to.ip() else { panic!("{text} is IPv4") };
    Endpoint::new(ip.into(), Be16::new(to.port()))
}

fn end6(text: &str) -> Endpoint<Addr6> {
    let to = at(text);
    let IpAddr::V6(ip) = to.ip() else { panic!("{text} is IPv6") };
    Endpoint::new(ip.into(), Be16::new(to.port()))
}

fn spec(protocol: u8, frontends: &[(&str, u8)], backends: &[(&str, bool)]) -> ServiceSpec {
    ServiceSpec {
        protocol,
        frontends: frontends.iter().map(|(frontend, role)| (at(frontend), *role)).collect(),
        backends: backends.iter().map(|(end, local)| BackendSpec { endpoint: at(end), local: *local }).collect(),
        flags: 0,
        affinity: 0,
        ranges: Vec::new(),
    }
}

/// A node with these Services, whose processes are served.
fn node(specs: &[ServiceSpec]) -> (Scene, World) {
    let mut world = World::host();
    world.configure(|config| {
        config.namespace = NAMESPACE;
        (config.node4, config.node6) = (NODE4.into(), NODE6.into());
    });
    let mut scene = Scene::default();
    for spec in specs {
        scene.add(&mut world, spec);
    }
    (scene, world)
}

fn env(world: &World) -> &HostEnv {
    let Machine::Host(env) = &world.machine else { panic!("a world on the host") };
    env
}

/// What moved while `act` ran, by name.
#[track_caller]
fn counting<T>(world: &World, counters: &[Counter], act: impl FnOnce(&HostEnv) -> T) -> T {
    let before = world.counters();
    let result = act(env(world));
    let after = world.counters();
    for counter in Counter::ALL {
        let (moved, wanted) = (after[*counter as usize] - before[*counter as usize], counters.contains(counter));
        assert_eq!(moved, u64::from(wanted), "{}", counter.label());
    }
    result
}

/// Connects, and asks for the peer.
#[track_caller]
fn goes<A: Of>(world: &World, protocol: u8, to: Endpoint<A>, backend: Endpoint<A>, shown: Endpoint<A>) {
    let decision = counting(world, &[Counter::SocketTranslated], |env| env.connect(&socket(protocol), to));
    assert_eq!(decision, Decision::Translate(backend));
    let peer = counting(world, &[Counter::SocketPeerTranslated], |env| env.peer(&socket(protocol), backend));
    assert_eq!(peer, Some(shown));
    let other = Socket { cookie: 1, ..socket(protocol) };
    assert_eq!(counting(world, &[], |env| env.peer(&other, backend)), None, "another socket's peer is what it is");
}

#[test]
fn a_connection_goes_to_a_backend_and_shows_the_frontend() {
    for protocol in [TCP, UDP] {
        let four = spec(protocol, &[("10.96.0.10:80", scope::CLUSTER)], &[("10.244.1.7:8080", false)]);
        let six = spec(protocol, &[("[fd00:10:96::10]:80", scope::CLUSTER)], &[("[fd00::7]:8080", true)]);
        let (_, world) = node(&[four, six]);
        let frontend = end4("10.96.0.10:80");
        goes(&world, protocol, frontend, end4("10.244.1.7:8080"), frontend);
        let frontend = end6("[fd00:10:96::10]:80");
        goes(&world, protocol, frontend, end6("[fd00::7]:8080"), frontend);
    }
}

#[test]
fn a_node_port_is_served_on_every_loopback_address() {
    let four = spec(TCP, &[("127.0.0.1:30080", scope::NODE_PORT)], &[("10.244.1.7:8080", false)]);
    let six = spec(TCP, &[("[::1]:30080", scope::NODE_PORT)], &[("[fd00::7]:8080", false)]);
    let (_, world) = node(&[four, six]);
    let backend = end4("10.244.1.7:8080");
    for own in ["127.0.0.1:30080", "127.1.2.3:30080"] {
        goes(&world, TCP, end4(own), backend, end4(own));
    }
    goes(&world, TCP, end4("0.0.0.0:30080"), backend, end4("127.0.0.1:30080"));
    goes(&world, TCP, end6("[::1]:30080"), end6("[fd00::7]:8080"), end6("[::1]:30080"));
    goes(&world, TCP, end6("[::]:30080"), end6("[fd00::7]:8080"), end6("[::1]:30080"));
    let other = counting(&world, &[], |env| env.connect(&socket(TCP), end4("127.0.0.1:22")));
    assert_eq!(other, Decision::Pass);
}

#[test]
fn others_are_left_alone() {
    let (_, world) = node(&[spec(TCP, &[("10.96.0.10:80", scope::CLUSTER)], &[("10.244.1.7:8080", false)])]);
    let frontend = end4("10.96.0.10:80");
    for stranger in [Socket { namespace: 1, ..socket(TCP) }, socket(SCTP)] {
        assert_eq!(counting(&world, &[], |env| env.connect(&stranger, frontend)), Decision::Pass);
        assert_eq!(counting(&world, &[], |env| env.send(&stranger, frontend)), Decision::Pass);
    }
    let elsewhere = counting(&world, &[], |env| env.connect(&socket(TCP), end4("198.51.100.1:443")));
    assert_eq!(elsewhere, Decision::Pass);
}

#[test]
fn what_nobody_serves_is_refused_and_what_a_policy_forbids_is_dropped() {
    let empty = spec(TCP, &[("10.96.0.11:80", scope::CLUSTER)], &[]);
    let mut inner = spec(TCP, &[("10.96.0.12:80", scope::CLUSTER)], &[("10.244.2.7:8080", false)]);
    inner.flags = flag::INTERNAL_LOCAL;
    let (_, world) = node(&[empty, inner]);
    for (to, counter, wanted) in [
        ("10.96.0.11:80", Counter::RefusedSocket, Decision::Refuse),
        ("10.96.0.11:81", Counter::RefusedSocket, Decision::Refuse),
        ("10.96.0.12:80", Counter::NoLocalEndpoint, Decision::Drop(DropReason::NoLocalEndpoint)),
    ] {
        assert_eq!(counting(&world, &[counter], |env| env.connect(&socket(TCP), end4(to))), wanted, "{to}");
    }
}

#[test]
fn a_process_of_the_node_is_local_traffic() {
    let mut outer = spec(TCP, &[("192.0.2.11:30080", scope::NODE_PORT)], &[("10.244.2.7:8080", false)]);
    outer.flags = flag::EXTERNAL_LOCAL;
    let (_, mut world) = node(&[outer]);
    let frontend = end4("192.0.2.11:30080");
    goes(&world, TCP, frontend, end4("10.244.2.7:8080"), frontend);
    // Also where the node's address is outside the cluster's prefixes.
    world.configure(|config| config.flags |= config_flag::CLUSTER_CIDRS4);
    goes(&world, TCP, frontend, end4("10.244.2.7:8080"), frontend);
}

#[test]
fn source_ranges_look_at_the_nodes_address() {
    let mut guarded = spec(TCP, &[("203.0.113.7:80", scope::LOAD_BALANCER)], &[("10.244.1.7:8080", false)]);
    guarded.flags = flag::SOURCE_RANGES;
    guarded.ranges = vec![(24, "192.0.2.0".parse().expect("a network"))];
    let (_, mut world) = node(&[guarded]);
    let frontend = end4("203.0.113.7:80");
    goes(&world, TCP, frontend, end4("10.244.1.7:8080"), frontend);
    world.configure(|config| config.node4 = "198.51.100.1".parse::<std::net::Ipv4Addr>().expect("an address").into());
    let outside = counting(&world, &[Counter::SourceRange], |env| env.connect(&socket(TCP), frontend));
    assert_eq!(outside, Decision::Drop(DropReason::SourceRange));
}

/// Endpoints among which a pick at random would not be the same often.
const MANY: [(&str, bool); 8] = [
    ("10.244.1.1:8080", false),
    ("10.244.1.2:8080", false),
    ("10.244.1.3:8080", false),
    ("10.244.1.4:8080", false),
    ("10.244.1.5:8080", false),
    ("10.244.1.6:8080", false),
    ("10.244.1.7:8080", false),
    ("10.244.1.8:8080", false),
];

#[test]
fn session_affinity_holds_for_all_processes_together() {
    let mut sticky = spec(TCP, &[("10.96.0.10:80", scope::CLUSTER)], &MANY);
    sticky.affinity = 10;
    let (_, world) = node(&[sticky]);
    let frontend = end4("10.96.0.10:80");
    let first = counting(&world, &[Counter::SocketTranslated], |env| env.connect(&socket(TCP), frontend));
    for cookie in 0..20 {
        let other = Socket { cookie, ..socket(TCP) };
        let counters = [Counter::SocketTranslated, Counter::AffinityUsed];
        assert_eq!(counting(&world, &counters, |env| env.connect(&other, frontend)), first);
    }
}

#[test]
fn session_affinity_of_processes_ends_with_its_timeout_and_with_its_endpoint() {
    for protocol in [TCP, UDP] {
        let mut sticky = spec(protocol, &[("10.96.0.10:80", scope::CLUSTER)], &MANY);
        sticky.affinity = 10;
        let (mut scene, mut world) = node(&[sticky.clone()]);
        let frontend = end4("10.96.0.10:80");
        let mut cookie = 0;
        let mut connect = |world: &World, used: bool| {
            cookie += 1;
            let counters: &[Counter] =
                if used { &[Counter::SocketTranslated, Counter::AffinityUsed] } else { &[Counter::SocketTranslated] };
            counting(world, counters, |env| env.connect(&Socket { cookie, ..socket(protocol) }, frontend))
        };
        let first = connect(&world, false);
        let mut now = 0;
        for _ in 0..3 {
            now += 10 * SECOND;
            env(&world).now.set(now);
            assert_eq!(connect(&world, true), first, "each new socket renews it");
        }
        env(&world).now.set(now + 10 * SECOND + 1);
        let second = connect(&world, false);
        assert_eq!(connect(&world, true), second);
        let Decision::Translate(gone) = second else { panic!("{second:?}") };
        scene.drop_backends(&mut world, false, 0, 8);
        sticky.backends.retain(|backend| end4(&backend.endpoint.to_string()) != gone);
        assert_eq!(sticky.backends.len(), 7);
        scene.write(&mut world, &sticky, 0, 8, 0);
        let third = connect(&world, false);
        assert_ne!(third, second, "its endpoint serves no more");
        assert_eq!(connect(&world, true), third);
    }
}

#[test]
fn session_affinity_of_processes_keeps_to_the_endpoints_of_the_policy() {
    let frontends = [("10.96.0.10:80", scope::CLUSTER), ("192.0.2.11:30080", scope::NODE_PORT)];
    let backends = [("10.244.1.7:1", true), ("10.244.2.7:2", false)];
    let mut sticky = spec(TCP, &frontends, &backends);
    (sticky.affinity, sticky.flags) = (10, flag::INTERNAL_LOCAL | flag::EXTERNAL_LOCAL);
    let (_, world) = node(&[sticky]);
    let (cluster, node_port) = (end4("10.96.0.10:80"), end4("192.0.2.11:30080"));
    let local = Decision::Translate(end4("10.244.1.7:1"));
    let mut cookie = 0;
    // A process of the node reaches all endpoints by a node port, whatever externalTrafficPolicy says.
    let remote = loop {
        cookie += 1;
        assert!(cookie < 200, "chance never picks the other endpoint");
        env(&world).now.set(cookie as u32 * 11 * SECOND);
        let to = env(&world).connect(&Socket { cookie, ..socket(TCP) }, node_port);
        if to != local {
            break to;
        }
    };
    let again = [Counter::SocketTranslated, Counter::AffinityUsed];
    assert_eq!(counting(&world, &again, |env| env.connect(&socket(TCP), node_port)), remote);
    assert_eq!(counting(&world, &again[..1], |env| env.connect(&socket(TCP), cluster)), local);
    assert_eq!(counting(&world, &again, |env| env.connect(&socket(TCP), node_port)), local, "which may serve it, too");
}

#[test]
fn datagrams_stay_with_a_backend_while_it_serves_and_they_follow_each_other() {
    let (scene, mut world) = node(&[spec(UDP, &[("10.96.0.10:53", scope::CLUSTER)], &MANY)]);
    let frontend = end4("10.96.0.10:53");
    let send = |world: &World| {
        let sent = counting(world, &[Counter::SocketTranslated], |env| env.send(&socket(UDP), frontend));
        let Decision::Translate(backend) = sent else { panic!("{sent:?}") };
        let peer = counting(world, &[Counter::SocketPeerTranslated], |env| env.peer(&socket(UDP), backend));
        assert_eq!(peer, Some(frontend));
        backend
    };
    let first = send(&world);
    let mut now = 0;
    // Renewed by use: each pause is below the timeout, all of them together are far above.
    for _ in 0..10 {
        now += 100 * SECOND;
        env(&world).now.set(now);
        assert_eq!(send(&world), first);
    }
    let idle = |world: &World, seconds: u32, now: &mut u32| {
        *now += seconds * SECOND;
        env(world).now.set(*now);
        send(world)
    };
    let after_pauses = (0..20).map(|_| idle(&world, 121, &mut now)).collect::<Vec<_>>();
    assert!(after_pauses.iter().any(|backend| *backend != first), "after a pause chance picks");
    scene.drop_backends(&mut world, false, 0, 8);
    let gone = env(&world).send(&socket(UDP), frontend);
    assert_eq!(gone, Decision::Drop(DropReason::Inconsistent), "no datagram goes to a backend that is gone");
}
