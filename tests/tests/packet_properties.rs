//! What holds for any packet and any address.

use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use svclb_common::addr::{Addr4, Addr6, Address, Be16, Endpoint};
use svclb_common::checksum;
use svclb_common::conntrack::{Direction, State, next};
use svclb_common::crc32c;
use svclb_common::datapath::Attachment;
use svclb_common::parse::{self, Headers, Network};
use svclb_common::rewrite::{Side, rewrite};
use svclb_common::service::scope;
use svclb_tests::packet::{self, Frame, sctp, tcp, udp};
use svclb_tests::world::host::{HostEnv, HostPacket, Summed};
use svclb_tests::world::{BackendSpec, Hook, Machine, Port, SIZES, Scene, ServiceSpec, World, config};

const ATTACHMENTS: [Attachment; 5] = [
    Attachment::ETHERNET,
    Attachment::BARE_IP,
    Attachment::STACKED,
    Attachment::STACKED_BARE_IP,
    Attachment::BRIDGE_PORT,
];

fn packet_of(bytes: Vec<u8>, summed: Summed) -> HostPacket {
    HostPacket { bytes, summed, segment: 0, device: 1, mark: 0, copies: Vec::new() }
}

fn endpoint(v6: bool) -> BoxedStrategy<SocketAddr> {
    if v6 {
        (any::<[u8; 16]>(), any::<u16>())
            .prop_map(|(ip, port)| SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)), port))
            .boxed()
    } else {
        (any::<[u8; 4]>(), any::<u16>())
            .prop_map(|(ip, port)| SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port))
            .boxed()
    }
}

/// Two ends and a third one of the same family.
fn ends() -> impl Strategy<Value = (SocketAddr, SocketAddr, SocketAddr)> {
    any::<bool>().prop_flat_map(|v6| (endpoint(v6), endpoint(v6), endpoint(v6)))
}

/// Rewrites one end and reads what came out.
fn rewritten<A: Network>(packet: &mut HostPacket, side: Side, to: Endpoint<A>) -> Option<()> {
    let mut headers = Headers::<A>::default();
    parse::headers(packet, 14, &mut headers).ok()?;
    rewrite(packet, &headers, side, &to)
}

fn to<A: Address + From<I>, I>(ip: I, port: u16) -> Endpoint<A> {
    Endpoint::new(A::from(ip), Be16::new(port))
}

fn change(packet: &mut HostPacket, side: Side, end: SocketAddr) -> Option<()> {
    match end {
        SocketAddr::V4(end) => rewritten(packet, side, to::<Addr4, _>(*end.ip(), end.port())),
        SocketAddr::V6(end) => rewritten(packet, side, to::<Addr6, _>(*end.ip(), end.port())),
    }
}

/// IP protocol number.
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

fn protocol() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![TCP, UDP, SCTP])
}

/// Where the transport header stands.
fn transport_at(bytes: &[u8]) -> usize {
    14 + if bytes[12] == 0x86 { 40 } else { usize::from(bytes[14] & 15) * 4 }
}

/// Where the transport checksum stands, if the packet has one, and how long it is.
fn checksum_of(bytes: &[u8], protocol: u8) -> std::ops::Range<usize> {
    let (offset, length) = match protocol {
        TCP => (16, 2),
        UDP => (6, 2),
        _ => (8, 4),
    };
    let at = transport_at(bytes) + offset;
    at..at + length
}

proptest! {
    #[test]
    fn no_bytes_make_the_datapath_panic(bytes in vec(any::<u8>(), 0..200), which in 0usize..5) {
        let env = HostEnv::new(config(), &SIZES);
        for hook in Hook::ALL {
            env.run(hook, &mut packet_of(bytes.clone(), Summed::Whole), ATTACHMENTS[which]);
        }
    }

    #[test]
    fn no_damage_to_a_good_packet_makes_the_datapath_panic(
        (client, _, _) in ends(),
        protocol in protocol(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in any::<prop::sample::Index>(),
        which in 0usize..5,
    ) {
        let mut world = World::host();
        let (frontend, backend) = pair_of(client);
        Scene::default().add(&mut world, &service(frontend, backend, protocol));
        let mut bytes = frame(protocol, client, frontend).bytes();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(length.index(bytes.len()) + 1);
        let Machine::Host(env) = &world.machine else { panic!("a world on the host") };
        for hook in Hook::ALL {
            env.run(hook, &mut packet_of(bytes.clone(), Summed::Whole), ATTACHMENTS[which]);
        }
    }

    #[test]
    fn a_rewritten_packet_has_right_checksums_and_rewriting_back_gives_the_same_bytes(
        (source, destination, other) in ends(),
        protocol in protocol(),
        at_source: bool,
        payload in 0usize..1400,
    ) {
        let original = frame(protocol, source, destination).payload(payload).bytes();
        let side = if at_source { Side::Source } else { Side::Destination };
        let mut packet = packet_of(original.clone(), Summed::Whole);
        change(&mut packet, side, other).expect("the packet can be written");
        let seen = packet::read(&packet.bytes);
        let expected = if at_source { (other, destination) } else { (source, other) };
        prop_assert_eq!((seen.source, seen.destination), expected);
        change(&mut packet, side, if at_source { source } else { destination }).expect("the packet can be written");
        // In one's complement there are two zeros; a checksum may come back as the other one.
        let at = checksum_of(&original, protocol);
        let zero = |bytes: &[u8]| bytes[at.clone()] == [0, 0] || bytes[at.clone()] == [0xff, 0xff];
        if !(zero(&original) && zero(&packet.bytes)) {
            prop_assert_eq!(&packet.bytes[at.clone()], &original[at.clone()]);
        }
        packet.bytes[at.clone()].copy_from_slice(&original[at]);
        let at = 14 + 10; // the IPv4 header checksum has two zeros as well
        if source.is_ipv4() && packet.bytes[at..at + 2] == [0xff, 0xff] {
            packet.bytes[at..at + 2].copy_from_slice(&original[at..at + 2]);
        }
        prop_assert_eq!(packet.bytes, original);
    }

    #[test]
    fn a_checksum_left_to_the_device_still_comes_out_right(
        (source, destination, other) in ends(),
        protocol in protocol(),
        payload in 0usize..300,
    ) {
        // What the stack hands over: the field holds the sum of the pseudo header alone, 0 where there is none.
        let mut bytes = frame(protocol, source, destination).payload(payload).bytes();
        let (at, l4) = (checksum_of(&bytes, protocol), transport_at(&bytes));
        let pseudo = pseudo_header(source.ip(), destination.ip(), protocol, bytes.len() - l4);
        let pseudo = checksum::fold16(pseudo).to_ne_bytes();
        bytes[at.clone()].copy_from_slice(if protocol == SCTP { &[0; 4] } else { &pseudo });
        let mut packet = packet_of(bytes, Summed::Partial);
        change(&mut packet, Side::Destination, other).expect("the packet can be written");
        // What the device does.
        let sum = !checksum::fold16(checksum::sum(&packet.bytes[l4..]));
        let sum = if protocol == UDP && sum == 0 { 0xffff } else { sum };
        let (sum, crc) = (sum.to_ne_bytes(), packet::sctp::checksum(&packet.bytes[l4..]));
        packet.bytes[at].copy_from_slice(if protocol == SCTP { &crc } else { &sum });
        prop_assert_eq!(packet::read(&packet.bytes).destination, other);
    }

    #[test]
    fn updating_a_checksum_equals_computing_it_anew(words in vec(any::<u16>(), 1..40), at: prop::sample::Index, new: u16) {
        let bytes = |words: &[u16]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
        let before = !checksum::fold16(checksum::sum(&bytes(&words)));
        let at = at.index(words.len());
        let difference = checksum::difference(u32::from(words[at]), u32::from(new));
        let mut changed = words;
        changed[at] = new;
        let anew = !checksum::fold16(checksum::sum(&bytes(&changed)));
        let updated = checksum::update(before, difference);
        // The two zeros of one's complement.
        prop_assert!(updated == anew || (updated ^ anew == 0xffff && [updated, anew].contains(&0)));
    }

    #[test]
    fn an_updated_crc_equals_one_computed_anew(
        message in vec(any::<u8>(), 12..1500),
        at: prop::sample::Index,
        new: [u8; 2],
    ) {
        // Any two bytes but those of the checksum itself.
        let at = at.index(message.len() - 1);
        prop_assume!(at + 2 <= 8 || at >= 12);
        let field = |bytes: &[u8]| Be16(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        let mut changed = message.clone();
        changed[at..at + 2].copy_from_slice(&new);
        let difference = crc32c::difference(field(&message), field(&changed), (message.len() - at) as u32);
        let before = u32::from_le_bytes(packet::sctp::checksum(&message));
        prop_assert_eq!(before ^ difference, u32::from_le_bytes(packet::sctp::checksum(&changed)));
    }

    #[test]
    fn an_association_is_never_in_a_state_of_tcp_but_closed(steps in vec((any::<bool>(), any::<u8>()), 0..20)) {
        let mut state = State::first(SCTP, steps.first().map_or(0, |(_, signal)| *signal));
        for (reply, signal) in steps {
            let direction = if reply { Direction::Reply } else { Direction::Original };
            state = next(state, SCTP, direction, signal);
            prop_assert!(state >= State::COOKIE_WAIT || state == State::CLOSED, "{:?}", state);
        }
    }

    #[test]
    fn states_only_go_where_packets_lead(steps in vec((any::<bool>(), any::<u8>()), 0..20)) {
        let mut state = State::first(6, 2);
        for (reply, flags) in steps {
            let direction = if reply { Direction::Reply } else { Direction::Original };
            let after = next(state, 6, direction, flags);
            prop_assert!(after <= State::CLOSED, "TCP is never in a state of UDP");
            if flags & 4 != 0 {
                prop_assert_eq!(after, State::CLOSED);
            }
            if after == State::SYN_SENT {
                prop_assert!(!reply && state == State::SYN_SENT, "nobody goes back to the start");
            }
            state = after;
        }
    }
}

fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u32 {
    let mut bytes = Vec::new();
    for ip in [source, destination] {
        match ip {
            IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
        }
    }
    bytes.extend_from_slice(&(length as u32).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, protocol]);
    checksum::sum(&bytes)
}

fn frame(protocol: u8, from: SocketAddr, to: SocketAddr) -> Frame {
    match protocol {
        TCP => tcp(from, to).syn(),
        UDP => udp(from, to),
        _ => sctp(from, to),
    }
}

/// A frontend and a backend of a client's family.
fn pair_of(client: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (frontend, backend) = if client.is_ipv6() {
        ("[fd00:10:96::10]:80", "[fd00:10:244:2::7]:8080")
    } else {
        ("10.96.0.10:80", "10.244.2.7:8080")
    };
    (frontend.parse().expect("an endpoint"), backend.parse().expect("an endpoint"))
}

fn service(frontend: SocketAddr, backend: SocketAddr, protocol: u8) -> ServiceSpec {
    ServiceSpec {
        protocol,
        frontends: vec![(frontend, scope::LOAD_BALANCER)],
        backends: vec![BackendSpec { endpoint: backend, local: false }],
        flags: 0,
        affinity: 0,
        ranges: Vec::new(),
    }
}

#[test]
fn masquerade_ports_towards_one_backend_are_never_shared() {
    let mut world = World::host();
    let client = |n: u16| SocketAddr::new(Ipv4Addr::new(198, 51, (n >> 8) as u8, n as u8).into(), 50_000);
    let (frontend, backend) = pair_of(client(0));
    Scene::default().add(&mut world, &service(frontend, backend, 17));
    let mut ports = HashSet::new();
    for n in 0..200 {
        let request = world.ingress(Port::Uplink, &udp(client(n), frontend).bytes());
        let sent = world.egress(Port::Uplink, &request.bytes);
        let ours = packet::read(&sent.bytes).source;
        assert!(ports.insert(ours), "{ours} was given out twice");
        let again = world.egress(Port::Uplink, &request.bytes);
        assert_eq!(packet::read(&again.bytes).source, ours, "a flow keeps its port");
    }
}
