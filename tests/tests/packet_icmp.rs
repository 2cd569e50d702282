//! ICMP errors about translated packets, on the host and in the kernel, in both families: in the end an error quotes,
//! byte for byte, what its receiver has sent, however little of it.

use std::net::{IpAddr, SocketAddr};
use svclb_common::config::flag as config_flag;
use svclb_common::service::{flag, scope};
use svclb_common::verdict::Counter;
use svclb_tests::packet::{self, Frame, Problem, Seen, error, tcp};
use svclb_tests::world::{BackendSpec, Net, Port, Scene, ServiceSpec, World};

/// How a client reaches a backend.
#[derive(Clone, Debug)]
struct Path {
    name: &'static str,
    client: SocketAddr,
    frontend: SocketAddr,
    /// Where the backend is.
    backend: BackendSpec,
    /// The device that requests enter by, and the one that they leave by.
    devices: (Port, Port),
    masqueraded: bool,
    /// Flags of the Service.
    flags: u32,
}

/// The address that a Service is to have as an external IP.
fn external_ip(net: &Net) -> SocketAddr {
    let ip = if net.client.is_ipv6() { "2001:db8:8::8" } else { "203.0.113.8" };
    SocketAddr::new(ip.parse().expect("an address"), 80)
}

/// Every kind of path: who asks, what is asked, where the backend is, whether the client is seen.
fn paths(net: &Net) -> Vec<Path> {
    let remote = BackendSpec { endpoint: net.remote, local: false };
    let local = BackendSpec { endpoint: net.local, local: true };
    let itself = BackendSpec { endpoint: SocketAddr::new(net.client.ip(), 8080), local: true };
    let inside = |name, backend, devices, masqueraded| Path {
        name,
        client: net.client,
        frontend: net.cluster,
        backend,
        devices,
        masqueraded,
        flags: 0,
    };
    let outside = |name, frontend, backend: BackendSpec, flags| Path {
        name,
        client: net.outside,
        frontend,
        backend,
        devices: (Port::Uplink, if backend.local { Port::Pod } else { Port::Uplink }),
        masqueraded: flags == 0,
        flags,
    };
    vec![
        inside("pod to cluster IP, pod of another node", remote, (Port::Pod, Port::Uplink), false),
        inside("pod to cluster IP, pod of this node", local, (Port::Pod, Port::Pod), false),
        inside("pod to cluster IP, itself", itself, (Port::Pod, Port::Pod), true),
        outside("node port, pod of another node", net.node_port, remote, 0),
        outside("node port, pod of this node", net.node_port, local, 0),
        outside("node port, policy Local", net.node_port, local, flag::EXTERNAL_LOCAL),
        outside("load balancer, pod of another node", net.load_balancer, remote, 0),
        outside("load balancer, policy Local", net.load_balancer, local, flag::EXTERNAL_LOCAL),
        outside("external IP, pod of another node", external_ip(net), remote, 0),
    ]
}

/// A packet at three places: as its sender has sent it, inside the node, and as it leaves. Requests go from the client's
/// side to the backend's, replies the other way.
#[derive(Debug)]
struct Stages {
    request: [Vec<u8>; 3],
    reply: [Vec<u8>; 3],
}

type Shape = fn(Frame) -> Frame;

/// Sends a request and its answer through the node.
fn walk(world: &mut World, path: &Path, request: &Frame, answer: impl Fn(SocketAddr, SocketAddr) -> Frame) -> Stages {
    let (near, far) = path.devices;
    let sent = request.bytes();
    let inside = world.ingress(near, &sent).bytes;
    let left = world.egress(far, &inside).bytes;
    let request = [sent, inside, left];
    let Seen { source, destination, .. } = packet::read(&request[2]);
    assert_eq!(destination, path.backend.endpoint, "{}", path.name);
    let sent = answer(destination, source).bytes();
    let inside = world.ingress(far, &sent).bytes;
    let left = world.egress(near, &inside).bytes;
    let reply = [sent, inside, left];
    let Seen { source, destination, .. } = packet::read(&reply[2]);
    assert_eq!((source, destination), (path.frontend, path.client), "{}", path.name);
    Stages { request, reply }
}

/// Bytes of the IP header and what belongs to it.
fn header(bytes: &[u8]) -> usize {
    match bytes[14] >> 4 {
        4 => usize::from(bytes[14] & 15) * 4,
        _ if bytes[20] == 60 => 48,
        _ => 40,
    }
}

/// What an error quotes, behind its own headers.
fn quotation(bytes: &[u8]) -> &[u8] {
    &bytes[14 + if bytes[14] >> 4 == 4 { 20 } else { 40 } + 8..]
}

#[track_caller]
fn quotes(bytes: &[u8], sent: &[u8], words: &str) {
    let quoted = quotation(bytes);
    assert!(quoted.len() >= 28, "{words}: {} bytes are quoted", quoted.len());
    assert_eq!(quoted, &sent[14..14 + quoted.len()], "{words}: not what its receiver has sent");
}

/// A router that is neither end of a flow.
fn router(net: &Net) -> IpAddr {
    (if net.client.is_ipv6() { "2001:db8:1::1" } else { "192.0.2.1" }).parse().expect("an address")
}

fn service(path: &Path, net: &Net, protocol: u8) -> ServiceSpec {
    let mut spec = net.service(protocol);
    spec.frontends.push((external_ip(net), scope::EXTERNAL));
    spec.backends = vec![path.backend];
    spec.flags = path.flags;
    spec
}

/// What UDP may be in IPv4.
const WITHOUT_CHECKSUM: &str = "without a checksum";

/// Runs a test with every path, family and protocol, and with headers of every shape.
fn everywhere(test: impl Fn(&mut World, &Net, &Path, &Stages, &str)) {
    let shapes: [(&str, Shape); 4] = [
        ("plain", |frame| frame),
        ("options or extension headers", |frame| frame.options()),
        ("a whole packet's payload", |frame| frame.payload(1372)),
        (WITHOUT_CHECKSUM, |frame| frame.without_checksum()),
    ];
    Net::everywhere(|world, net, frame, protocol| {
        for (number, path) in paths(net).into_iter().enumerate() {
            Scene::default().write_at(world, &service(&path, net, protocol), 0, 0, 0);
            for (shape_number, (shape, make)) in shapes.into_iter().enumerate() {
                if shape == WITHOUT_CHECKSUM && (protocol != 17 || net.client.is_ipv6()) {
                    continue;
                }
                let port = 20_000 + (number * 10 + shape_number) as u16;
                let path = Path { client: SocketAddr::new(path.client.ip(), port), ..path.clone() };
                let answer = |from, to| make(frame(from, to).answer());
                let stages = walk(world, &path, &make(frame(path.client, path.frontend)), answer);
                test(world, net, &path, &stages, &format!("{}, {protocol}, {shape}", path.name));
            }
        }
    });
}

/// Every error there is with as little of the packet as RFC 792 asks for, and one with as much as RFC 1812 and RFC 4443
/// do.
fn errors(about: &[u8]) -> impl Iterator<Item = (Problem, usize)> {
    let header = header(about);
    let little = Problem::ALL.into_iter().map(move |problem| (problem, header + 8));
    little.chain([20, 548, 1232].map(move |quoted| (Problem::TooBig, header + quoted)))
}

#[test]
fn an_error_about_a_request_reaches_the_client_as_one_about_what_it_sent() {
    everywhere(|world, net, path, Stages { request: [sent, _, left], .. }, words| {
        let (near, far) = path.devices;
        let ours = packet::read(left).source.ip();
        for (problem, quoted) in errors(left) {
            for from in [router(net), path.backend.endpoint.ip()] {
                let inside = world.ingress(far, &error(problem, (from, ours), left, quoted));
                if path.masqueraded {
                    let seen = inside.translated(&[Counter::IcmpTranslated]);
                    assert_eq!((seen.source.ip(), seen.destination.ip()), (from, path.client.ip()), "{words}");
                } else {
                    inside.passed(Counter::NoService);
                }
                let outside = world.egress(near, &inside.bytes);
                let seen = outside.translated(&[Counter::IcmpTranslated]);
                let is_end = from == path.backend.endpoint.ip();
                let source = if path.masqueraded || is_end { path.frontend.ip() } else { from };
                assert_eq!((seen.source.ip(), seen.destination.ip()), (source, path.client.ip()), "{words}");
                quotes(&outside.bytes, sent, words);
            }
        }
    });
}

#[test]
fn an_error_of_the_node_itself_about_a_request_quotes_what_the_client_sent() {
    everywhere(|world, net, path, Stages { request: [sent, inside, _], .. }, words| {
        for (problem, quoted) in errors(inside) {
            let about = error(problem, (net.node, path.client.ip()), inside, quoted);
            let outside = world.egress(path.devices.0, &about);
            let seen = outside.translated(&[Counter::IcmpTranslated]);
            let source = if path.masqueraded { path.frontend.ip() } else { net.node };
            assert_eq!((seen.source.ip(), seen.destination.ip()), (source, path.client.ip()), "{words}");
            quotes(&outside.bytes, sent, words);
        }
    });
}

#[test]
fn an_error_about_a_reply_reaches_the_backend_as_one_about_what_it_sent() {
    everywhere(|world, net, path, Stages { reply: [sent, inside, left], .. }, words| {
        let (near, far) = path.devices;
        let ours = packet::read(sent).destination.ip();
        for (problem, quoted) in errors(left) {
            for from in [router(net), path.client.ip()] {
                let entered = world.ingress(near, &error(problem, (from, path.frontend.ip()), left, quoted));
                let seen = entered.translated(&[Counter::IcmpTranslated]);
                assert_eq!((seen.source.ip(), seen.destination.ip()), (from, path.backend.endpoint.ip()), "{words}");
                quotes(&entered.bytes, inside, words);
                let outside = world.egress(far, &entered.bytes);
                if path.masqueraded {
                    // Whoever complains: behind this node a strict reverse path filter knows the node alone.
                    let seen = outside.translated(&[Counter::IcmpTranslated]);
                    assert_eq!(
                        (seen.source.ip(), seen.destination.ip()),
                        (ours, path.backend.endpoint.ip()),
                        "{words}"
                    );
                } else {
                    outside.passed(Counter::NoService);
                }
                quotes(&outside.bytes, sent, words);
            }
        }
    });
}

#[test]
fn an_error_of_the_node_itself_about_a_reply_quotes_what_the_backend_sent() {
    everywhere(|world, net, path, Stages { reply: [sent, inside, _], .. }, words| {
        for (problem, quoted) in errors(inside) {
            let backend = path.backend.endpoint.ip();
            let outside = world.egress(path.devices.1, &error(problem, (net.node, backend), inside, quoted));
            if path.masqueraded {
                let seen = outside.translated(&[Counter::IcmpTranslated]);
                assert_eq!(seen.source.ip(), packet::read(sent).destination.ip(), "{words}");
            } else {
                outside.passed(Counter::NoService);
            }
            quotes(&outside.bytes, sent, words);
        }
    });
}

#[test]
fn an_error_about_a_flow_that_is_unknown_passes_untouched() {
    everywhere(|world, net, path, Stages { request: [.., left], reply: [.., reply] }, _| {
        let (near, far) = path.devices;
        // The same packets from or to a port that nobody has used.
        let other_port = |bytes: &[u8], at: usize| {
            let mut bytes = bytes.to_vec();
            let port = 14 + header(&bytes) + at;
            bytes[port..port + 2].copy_from_slice(&9999u16.to_be_bytes());
            bytes
        };
        let (request, reply) = (other_port(left, 0), other_port(reply, 2));
        for problem in Problem::ALL {
            let about = error(problem, (router(net), packet::read(left).source.ip()), &request, 548);
            world.ingress(far, &about).passed(Counter::NoService);
            world.egress(near, &about).passed(Counter::NoService);
            let about = error(problem, (router(net), path.frontend.ip()), &reply, 548);
            world.ingress(near, &about).passed(Counter::IcmpWithoutFlow);
        }
    });
}

#[test]
fn an_error_about_a_flow_in_the_place_of_a_masqueraded_one_says_nothing_of_that_one() {
    World::each(|world| {
        for net in Net::both() {
            let path = paths(&net).swap_remove(0);
            let (near, far) = path.devices;
            Scene::default().add(world, &service(&path, &net, 6));
            let request = tcp(path.client, path.frontend).syn();
            world.configure(|config| config.flags |= config_flag::MASQUERADE_ALL);
            let before = walk(world, &path, &request, |from, to| tcp(from, to).rst()).request;
            assert_eq!(packet::read(&before[2]).source.ip(), net.node, "the flow before is masqueraded");
            world.configure(|config| config.flags &= !config_flag::MASQUERADE_ALL);
            let Stages { request, reply } = walk(world, &path, &request, |from, to| tcp(from, to).syn_ack());
            assert_eq!(packet::read(&request[2]).source, path.client, "this one keeps its source");
            let about = error(Problem::PortUnreachable, (path.client.ip(), path.frontend.ip()), &reply[2], 548);
            let entered = world.ingress(near, &about);
            entered.translated(&[Counter::IcmpTranslated]);
            world.egress(far, &entered.bytes).passed(Counter::NoService);
        }
    });
}

#[test]
fn an_error_that_quotes_no_ports_passes_untouched() {
    everywhere(|world, net, path, Stages { request: [.., left], .. }, _| {
        let about = error(Problem::TooBig, (router(net), packet::read(left).source.ip()), left, header(left) + 3);
        for trailer in [0, 20] {
            // What a device puts behind a packet is no part of it.
            let about = [about.as_slice(), &left[left.len() - trailer..]].concat();
            world.ingress(path.devices.1, &about).passed(Counter::Malformed);
            world.egress(path.devices.0, &about).passed(Counter::Malformed);
        }
    });
}

#[test]
fn what_is_behind_a_short_quotation_in_the_frame_counts_for_no_checksum() {
    everywhere(|world, net, path, Stages { request: [sent, inside, _], .. }, words| {
        let quoted = header(inside) + 8;
        let about = error(Problem::TooBig, (net.node, path.client.ip()), inside, quoted);
        let trailer = [0xa5; 40];
        let outside = world.egress(path.devices.0, &[about.as_slice(), &trailer].concat());
        outside.translated(&[Counter::IcmpTranslated]);
        let (message, behind) = outside.bytes.split_at(about.len());
        quotes(message, sent, words);
        assert_eq!(behind, trailer, "{words}");
    });
}
