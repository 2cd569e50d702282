//! Host and kernel agree byte for byte: what becomes of a packet, the packet itself, the flow tables and the
//! counters, on packets from a generator that reaches every verdict and every drop reason.
//!
//! `SVCLB_AGREEMENT_PACKETS` sets the number of packets (default 10,000; the long form is 200,000), and
//! `SVCLB_AGREEMENT_SEED` the seed, which a failure prints.
#![cfg(feature = "kernel")]
#![expect(clippy::print_stdout, reason = "the table of what was reached is a result")]

use std::collections::BTreeMap;
use std::env;
use std::net::{IpAddr, SocketAddr};
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::{Prefix, flag as config_flag};
use svclb_common::route::{Route, reach};
use svclb_common::schema::Device;
use svclb_common::service::{device_flag, flag, role, scope};
use svclb_common::verdict::Counter;
use svclb_tests::packet::fragments::Cut;
use svclb_tests::packet::{self, Frame, sctp, tcp, udp};
use svclb_tests::world::{BackendSpec, NODE4, NODE6, Outcome, Port, Scene, ServiceSpec, World};

/// Counters that the generator cannot reach: each needs another CPU or a broken kernel at the right moment.
const UNREACHABLE: &[Counter] = &[
    Counter::Marked,
    Counter::RefusalFailed,
    Counter::Unwritable,
    // Sockets have no packets.
    Counter::SocketTranslated,
    Counter::SocketPeerTranslated,
    Counter::RefusedSocket,
    // Frames before tc.
    Counter::XdpForwarded,
];

/// IP protocol number.
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// A small generator of random numbers (SplitMix64, Steele et al. 2014), so that a seed says all.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// The two worlds, side by side.
struct Pair {
    host: World,
    kernel: World,
    scenes: [Scene; 2],
    reached: BTreeMap<&'static str, u64>,
    /// Clients and frontends of late, to meet again.
    recent: Vec<(SocketAddr, SocketAddr)>,
}

impl Pair {
    fn both(&mut self, mut act: impl FnMut(&mut World, &mut Scene)) {
        act(&mut self.host, &mut self.scenes[0]);
        act(&mut self.kernel, &mut self.scenes[1]);
    }

    fn run(&mut self, ingress: bool, port: Port, bytes: &[u8]) -> Outcome {
        let run = |world: &mut World| if ingress { world.ingress(port, bytes) } else { world.egress(port, bytes) };
        let (host, kernel) = (run(&mut self.host), run(&mut self.kernel));
        let where_to = if ingress { "ingress" } else { "egress" };
        assert_eq!(
            host,
            kernel,
            "host (left) and kernel (right) differ at {where_to} of {port:?} on {}",
            packet::describe(bytes)
        );
        for (counter, n) in &host.moved {
            *self.reached.entry(counter).or_default() += n;
        }
        host
    }
}

fn endpoint(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}

/// Services of all kinds, for one family and one protocol.
fn services(v6: bool, protocol: u8) -> Vec<ServiceSpec> {
    let (prefix, pods, node): (&str, [&str; 3], IpAddr) = if v6 {
        ("fd00:10:96::", ["fd00:10:244:1::7", "fd00:10:244:2::7", "fd00:10:244:1::5"], NODE6.into())
    } else {
        ("10.96.0.", ["10.244.1.7", "10.244.2.7", "10.244.1.5"], NODE4.into())
    };
    let offset = match protocol {
        TCP => 0,
        UDP => 100,
        _ => 200,
    };
    let cluster = |n: u16| endpoint(&format!("{prefix}{n}"), 80);
    let outside = |n: u16| endpoint(&if v6 { format!("2001:db8:7::{n}") } else { format!("203.0.113.{n}") }, 80);
    let backend = |pod: usize, port: u16| BackendSpec { endpoint: endpoint(pods[pod], port), local: pod != 1 };
    let spec = |n: u16, backends: Vec<BackendSpec>, flags: u32, affinity: u32| ServiceSpec {
        protocol,
        frontends: vec![
            (cluster(n), scope::CLUSTER),
            (SocketAddr::new(node, 30_000 + offset + n), scope::NODE_PORT),
            (outside(n), scope::LOAD_BALANCER),
            (outside(n + 20), scope::EXTERNAL),
        ],
        backends,
        flags,
        affinity,
        ranges: Vec::new(),
    };
    let cut = if protocol == TCP { flag::CUT } else { 0 };
    let network = if v6 { "2001:db8:2::" } else { "198.51.100.0" };
    let mut guarded = spec(4, vec![backend(1, 8004)], flag::SOURCE_RANGES, 0);
    guarded.ranges = vec![(if v6 { 48 } else { 24 }, network.parse().expect("an address"))];
    vec![
        spec(1, vec![backend(0, 8001), backend(1, 8001), backend(2, 8001)], 0, 0),
        spec(2, Vec::new(), 0, 0),
        spec(3, vec![backend(1, 8003)], flag::INTERNAL_LOCAL | flag::EXTERNAL_LOCAL, 0),
        guarded,
        spec(5, (0..8).map(|n| backend(n % 2, 8050 + n as u16)).collect(), cut, 60),
        spec(6, vec![backend(2, 8006)], 0, 0),
    ]
}

fn client(dice: &mut Dice, v6: bool) -> SocketAddr {
    let hosts: &[&str] = if v6 {
        &["fd00:10:244:1::5", "2001:db8:2::10", "2001:db8:3::33", "fd00:10:244:2::9"]
    } else {
        &["10.244.1.5", "198.51.100.10", "192.0.2.77", "10.244.2.9"]
    };
    // Few clients, so that flows meet again; now and then a new one, or one that nobody may answer.
    let port = if dice.one_in(2) { 1 + dice.below(60_000) as u16 } else { 1000 + dice.below(30) as u16 };
    match dice.below(12) {
        0 => endpoint(if v6 { "ff02::9" } else { "224.0.0.9" }, port),
        1..4 => {
            let n = 1 + dice.below(250);
            endpoint(&if v6 { format!("fd00:10:244:9::{n}") } else { format!("10.244.9.{n}") }, port)
        }
        _ => endpoint(dice.of(hosts), port),
    }
}

/// A packet of a protocol that is part of something that goes on already.
fn make(protocol: u8, from: SocketAddr, to: SocketAddr) -> Frame {
    match protocol {
        TCP => tcp(from, to),
        UDP => udp(from, to),
        _ => sctp(from, to),
    }
}

fn shape(dice: &mut Dice, mut frame: Frame, protocol: u8) -> Frame {
    match protocol {
        TCP => {
            frame = match dice.below(8) {
                0..4 => frame.syn(),
                4 => frame.fin(),
                5 => frame.rst(),
                _ => frame,
            }
        }
        UDP => {
            if dice.one_in(6) {
                frame = frame.without_checksum();
            }
        }
        _ => {
            frame = match dice.below(8) {
                0..4 => frame.syn(),
                4 => frame,
                _ => {
                    let kinds: Vec<u8> = (0..=dice.below(6)).map(|_| dice.below(16) as u8).collect();
                    frame.chunks(&kinds)
                }
            }
        }
    }
    if dice.one_in(8) {
        frame = frame.options();
    }
    if dice.one_in(10) {
        frame = frame.vlan(dice.below(4000) as u16 + 1);
    }
    if dice.one_in(6) {
        frame = frame.payload(dice.below(1400));
    }
    frame
}

/// Damages a packet, or turns it into something that is passed by name.
fn damage(dice: &mut Dice, bytes: &mut Vec<u8>, v6: bool) {
    match dice.below(6) {
        // The kernel runs no program on less than a network header.
        0 => {
            let least = if v6 { 54 } else { 34 };
            bytes.truncate(least + dice.below(bytes.len() - least));
        }
        1 => bytes[12..14].copy_from_slice(&[0x08, 0x06]),
        2 if v6 => bytes[20] = 44,
        2 => bytes[20] |= 0x20,
        3 => bytes[if v6 { 20 } else { 23 }] = SCTP,
        4 => bytes[if v6 { 20 } else { 23 }] = 47,
        _ => {
            let at = 14 + dice.below(bytes.len() - 14);
            bytes[at] = dice.next() as u8;
        }
    }
}

/// A datagram in fragments, of which one may come too early.
fn pieces(dice: &mut Dice, frame: Frame) -> Vec<Vec<u8>> {
    let options = dice.one_in(4);
    let frame = frame.payload(dice.of(&[60, 300]));
    let frame = if options { frame.options() } else { frame };
    // Few names, so that one is met again; now and then less than a transport header.
    let (id, size) = (dice.below(3) as u16, dice.of(&[8, 16, 64, 64, 64, 64]));
    let mut pieces = Cut { id, size, behind_options: options && dice.one_in(2) }.of(&frame.bytes());
    pieces.truncate(4);
    if dice.one_in(3) {
        pieces.rotate_left(1);
    }
    pieces
}

/// Sends fragments through both hooks.
fn send_pieces(pair: &mut Pair, pieces: &[Vec<u8>], (enters, leaves): (Port, Port)) {
    for piece in pieces {
        let sent = pair.run(true, enters, piece);
        if sent.action == svclb_tests::world::NEXT {
            pair.run(false, leaves, &sent.bytes);
        }
    }
}

/// One packet and what follows from it.
fn step(pair: &mut Pair, dice: &mut Dice) {
    let v6 = dice.one_in(2);
    let protocol = dice.of(&[TCP, UDP, SCTP]);
    let specs = services(v6, protocol);
    let spec = &specs[dice.below(specs.len())];
    let mut frontend = spec.frontends[dice.below(spec.frontends.len())].0;
    if dice.one_in(12) {
        frontend.set_port(81);
    }
    let mut from = client(dice, v6);
    let known: Vec<_> = pair.recent.iter().filter(|(client, _)| client.is_ipv6() == v6).copied().collect();
    if !known.is_empty() && dice.one_in(2) {
        (from, frontend) = dice.of(&known);
        if dice.one_in(2) {
            frontend = spec.frontends[dice.below(spec.frontends.len())].0;
        }
    } else {
        pair.recent.push((from, frontend));
        if pair.recent.len() > 24 {
            pair.recent.remove(0);
        }
    }
    let port = dice.of(&[Port::Pod, Port::Uplink, Port::BridgePort]);
    let frame = make(protocol, from, frontend);
    if dice.one_in(5) {
        let leaves = dice.of(&[Port::Uplink, Port::Uplink, Port::Pod, Port::Unnumbered]);
        let pieces = pieces(dice, frame);
        send_pieces(pair, &pieces, (port, leaves));
        return;
    }
    let mut bytes = shape(dice, frame, protocol).bytes();
    if dice.one_in(8) {
        damage(dice, &mut bytes, v6);
        let ingress = dice.one_in(2);
        pair.run(ingress, port, &bytes);
        return;
    }
    let request = pair.run(true, port, &bytes);
    if request.moved.contains_key("request_forwarded") {
        let seen = packet::read(&request.bytes);
        for _ in 0..2 {
            let by = dice.of(&[Port::Uplink, Port::Pod, Port::BridgePort]);
            pair.run(true, by, &make(protocol, seen.destination, seen.source).answer().bytes());
        }
        return;
    }
    if !request.moved.contains_key("request_translated") {
        return;
    }
    let by = dice.of(&[Port::Uplink, Port::Uplink, Port::Pod, Port::Unnumbered]);
    let out = pair.run(false, by, &request.bytes);
    if out.action != svclb_tests::world::NEXT {
        return;
    }
    let sent = packet::read(&out.bytes);
    if dice.one_in(3) {
        answer(pair, dice, &sent, protocol);
    }
    if dice.one_in(6) {
        complain(pair, dice, &sent, &out.bytes, (from, frontend, protocol));
    }
}

/// The backend answers.
fn answer(pair: &mut Pair, dice: &mut Dice, sent: &packet::Seen, protocol: u8) {
    let frame = make(protocol, sent.destination, sent.source);
    let by = dice.of(&[Port::Uplink, Port::BridgePort, Port::Pod]);
    if dice.one_in(3) {
        let pieces = pieces(dice, frame);
        send_pieces(pair, &pieces, (by, Port::Uplink));
        return;
    }
    let frame = if protocol != UDP && dice.one_in(2) { frame.answer() } else { shape(dice, frame, protocol) };
    let reply = pair.run(true, by, &frame.bytes());
    if reply.action == svclb_tests::world::NEXT {
        pair.run(false, Port::Uplink, &reply.bytes);
    }
}

/// The backend's side complains about the request, or the client about a reply.
fn complain(
    pair: &mut Pair,
    dice: &mut Dice,
    sent: &packet::Seen,
    request: &[u8],
    (from, frontend, protocol): (SocketAddr, SocketAddr, u8),
) {
    // Only packets whose network header stands right behind the Ethernet header are quoted here.
    if request[12..14] == [0x81, 0x00] {
        return;
    }
    let quoted = dice.of(&[48, 28, 1000]);
    let error = if dice.one_in(2) {
        packet::port_unreachable(sent.destination.ip(), sent.source.ip(), request, quoted)
    } else {
        packet::port_unreachable(from.ip(), frontend.ip(), &make(protocol, frontend, from).bytes(), quoted)
    };
    let inside = pair.run(true, Port::Uplink, &error);
    pair.run(false, Port::Uplink, &inside.bytes);
}

/// A packet without ports, to an address of a Service or near one.
fn portless(pair: &mut Pair, dice: &mut Dice) {
    let v6 = dice.one_in(2);
    let (from, specs) = (client(dice, v6).ip(), services(v6, 17));
    let (frontend, _) = specs[dice.below(specs.len())].frontends[dice.below(4)];
    let to = if dice.one_in(2) {
        endpoint(if v6 { "fd00:10:96::ffff" } else { "10.96.0.255" }, 0).ip()
    } else {
        frontend.ip()
    };
    let bytes = match dice.below(4) {
        0 => packet::gre(from, to),
        1 => udp(SocketAddr::new(from, 9), SocketAddr::new(to, 9)).bytes(),
        _ => packet::echo(from, to, dice.one_in(8)),
    };
    pair.run(dice.one_in(2), dice.of(&[Port::Pod, Port::Uplink, Port::BridgePort, Port::Bridge]), &bytes);
    if dice.one_in(3) {
        // A process of the node asks for a Service by SCTP.
        let own = if v6 { NODE6.into() } else { NODE4.into() };
        let (cluster, _) = services(v6, SCTP)[0].frontends[0];
        pair.run(false, Port::Uplink, &sctp(SocketAddr::new(own, 40_000), cluster).syn().bytes());
    }
}

/// Direct mode comes or goes, and ways to clients and endpoints change.
fn roads(pair: &mut Pair, dice: &mut Dice) {
    let both = config_flag::DIRECT | config_flag::DIRECT_FLOWS;
    let flags = dice.of(&[0, config_flag::DIRECT_FLOWS, both, both, both, both]);
    pair.both(|world, _| world.configure(|config| config.flags = config.flags & !both | flags));
    for device in [role::NODE, role::POD] {
        let flags = device_flag::ETHERNET | if device == role::POD { device_flag::PEER } else { 0 };
        let numbered = (NODE4.into(), NODE6.into());
        let record =
            Device { role: device, flags, masquerade4: numbered.0, masquerade6: numbered.1, ..Device::default() };
        pair.both(|world, _| world.add_device(u32::from(device) + 1, &record));
    }
    let ends = ["10.244.1.7", "10.244.2.7", "10.244.1.5", "198.51.100.10", "192.0.2.77", "10.244.2.9"];
    let ends6 = ["fd00:10:244:1::7", "fd00:10:244:2::7", "fd00:10:244:1::5", "2001:db8:2::10", "2001:db8:3::33"];
    for end in ends.iter().chain(&ends6) {
        let reach = dice.of(&[reach::KNOWN, reach::KNOWN, reach::ASKED, reach::ASKED, reach::TOO_LONG, reach::STACK]);
        // Of the last one nothing is known.
        let device = dice.of(&[2, 2, 3, 3, 4]);
        let way = Route { reach, device, macs: [[2, 0, 0, 0, 0, 7]; 2], ..Route::default() };
        pair.both(|world, _| world.route(end.parse().expect("an address"), &way));
    }
}

/// Something changes around the packets.
fn change(pair: &mut Pair, dice: &mut Dice) {
    match dice.below(28) {
        0 => {
            let seconds = dice.of(&[1, 5, 20, 61, 121]);
            pair.both(|world, _| world.wait(seconds));
        }
        1..4 => {
            let flags =
                [0, config_flag::CUT, config_flag::CUT | config_flag::MASQUERADE_ALL, config_flag::LOCAL_BY_DEVICE]
                    .map(|flag| if dice.one_in(2) { flag | config_flag::PING_SERVICES } else { flag });
            let (flags, cidrs) = (dice.of(&flags), dice.below(2) as u32);
            pair.both(|world, _| {
                world.configure(|config| {
                    config.flags = flags;
                    config.service_cidrs = [cidrs, cidrs];
                });
            });
        }
        4 | 5 => {
            let refusals = dice.of(&[1_000_000, 1_000_000, 0]);
            pair.both(|world, _| world.configure(|config| config.refusals = refusals));
        }
        6..9 => roads(pair, dice),
        _ => {
            // Endpoints go and come back, half of the time as numbers of another owner.
            let (v6, protocol) = (dice.one_in(2), dice.of(&[UDP, SCTP]));
            let n = dice.of(&[0, 0, 4, 4, 4, 1, 2, 3, 5]);
            let (generation, gone, count) = (dice.below(2) as u16, dice.one_in(2), dice.of(&[2, 4, 4, 8]));
            pair.both(|world, scene| {
                let (base, first) = base(protocol);
                let spec = &services(v6, protocol)[n];
                if gone {
                    scene.drop_backends(world, v6, first + n as u32 * 10, count);
                } else {
                    scene.write_at(world, spec, base + n as u32, first + n as u32 * 10, generation);
                }
            });
        }
    }
}

/// A flow that loses what it had, its endpoint, or in TCP its connection; then both sides send again. And a client that
/// reaches the only endpoint of a Service in two ways.
fn afresh(pair: &mut Pair, dice: &mut Dice) {
    let v6 = dice.one_in(2);
    let from = client(dice, v6);
    for protocol in [TCP, UDP, SCTP] {
        let spec = &services(v6, protocol)[4];
        let (number, first) = base(protocol);
        let request = make(protocol, from, spec.frontends[0].0);
        let begin = if protocol == UDP { request.clone() } else { request.clone().syn() }.bytes();
        let sent = pair.run(true, Port::Pod, &begin);
        if !sent.moved.contains_key("request_translated") {
            continue;
        }
        let backend = packet::read(&sent.bytes).destination;
        pair.run(true, Port::BridgePort, &make(protocol, backend, from).answer().bytes());
        let gone = u32::from(backend.port() - 8050);
        pair.both(|world, scene| scene.drop_backends(world, v6, first + 40 + gone, 1));
        for again in [request.bytes(), begin] {
            pair.run(false, Port::Pod, &make(protocol, backend, from).bytes());
            pair.run(true, Port::Pod, &again);
        }
        pair.both(|world, scene| scene.write_at(world, spec, number + 4, first + 40, 0));
    }
    for (frontend, _) in &services(v6, 17)[5].frontends[..2] {
        pair.run(true, Port::Pod, &udp(from, *frontend).bytes());
    }
    let frontend = services(v6, 6)[0].frontends[0].0;
    let never_sent = tcp(frontend, SocketAddr::new(from.ip(), 7)).bytes();
    pair.run(true, Port::Uplink, &packet::port_unreachable(from.ip(), frontend.ip(), &never_sent, 1000));
    let syn = tcp(from, frontend).syn().bytes();
    let sent = pair.run(true, Port::Pod, &syn);
    if sent.moved.contains_key("request_translated") {
        let reset = tcp(packet::read(&sent.bytes).destination, from).rst().bytes();
        pair.run(false, Port::Pod, &reset);
        pair.run(true, Port::Pod, &syn);
    }
}

/// First Service number and first backend number of a protocol, in each family.
fn base(protocol: u8) -> (u32, u32) {
    match protocol {
        TCP => (0, 0),
        UDP => (10, 100),
        _ => (20, 180),
    }
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn host_and_kernel_agree_byte_for_byte() {
    let packets = number("SVCLB_AGREEMENT_PACKETS", 10_000);
    let seed = number("SVCLB_AGREEMENT_SEED", 0x5bc1b);
    println!("SVCLB_AGREEMENT_SEED={seed} SVCLB_AGREEMENT_PACKETS={packets}");
    let mut pair = Pair {
        host: World::host(),
        kernel: World::kernel(),
        scenes: [Scene::default(), Scene::default()],
        reached: BTreeMap::new(),
        recent: Vec::new(),
    };
    pair.both(|world, scene| {
        world.configure(|config| {
            // The prefixes of the cluster IPs: 10.96.0.0/16 and fd00:10:96::/112. How many count, changes.
            config.service_cidrs4[0] = Prefix {
                network: Addr4(u32::from_ne_bytes([10, 96, 0, 0])),
                mask: Addr4(u32::from_ne_bytes([255, 255, 0, 0])),
            };
            let network = [0xfd00_0010_u32.to_be(), 0x0096_0000_u32.to_be(), 0, 0];
            let mask = [u32::MAX, u32::MAX, u32::MAX, 0xffff_0000_u32.to_be()];
            config.service_cidrs6[0] = Prefix { network: Addr6(network), mask: Addr6(mask) };
            config.flags = config_flag::CUT;
        });
        for v6 in [false, true] {
            for protocol in [TCP, UDP, SCTP] {
                let (number, first) = base(protocol);
                for (n, spec) in services(v6, protocol).iter().enumerate() {
                    scene.write_at(world, spec, number + n as u32, first + n as u32 * 10, 0);
                }
            }
        }
    });
    let mut dice = Dice(seed);
    for n in 0..packets {
        if dice.one_in(15) {
            change(&mut pair, &mut dice);
        }
        if dice.one_in(25) {
            afresh(&mut pair, &mut dice);
        }
        if dice.one_in(6) {
            portless(&mut pair, &mut dice);
        }
        step(&mut pair, &mut dice);
        if n % 1000 == 0 {
            assert_eq!(pair.host.flows(), pair.kernel.flows(), "the flow tables differ after {n} packets");
        }
    }
    assert_eq!(pair.host.flows(), pair.kernel.flows(), "the flow tables differ");
    let least = packets / 200;
    let mut missed = Vec::new();
    println!("{:<28} {:>8}", "counter", "reached");
    for counter in Counter::ALL {
        let reached = pair.reached.get(counter.label()).copied().unwrap_or(0);
        println!("{:<28} {reached:>8}", counter.label());
        if reached < least && !UNREACHABLE.contains(counter) {
            missed.push(format!("{} {reached}", counter.label()));
        }
    }
    assert!(missed.is_empty(), "the generator reached these less than {least} times: {missed:?}");
}
