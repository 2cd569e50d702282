//! SCTP: what is particular to it. Everything else it shares with TCP and UDP in `packet_paths`.

use std::net::SocketAddr;
use svclb_common::datapath::Attachment;
use svclb_common::service::scope;
use svclb_common::verdict::{Action, Counter};
use svclb_tests::packet::sctp::INITIATE_TAG;
use svclb_tests::packet::sctp::kind::{
    ABORT, COOKIE_ACK, COOKIE_ECHO, DATA, HEARTBEAT, HEARTBEAT_ACK, INIT, INIT_ACK, SACK, SHUTDOWN, SHUTDOWN_ACK,
    SHUTDOWN_COMPLETE,
};
use svclb_tests::packet::{self, Frame, SCTP_TAG, sctp};
use svclb_tests::world::host::{HostPacket, Summed};
use svclb_tests::world::{BackendSpec, Hook, Machine, NODE4, NODE6, Port, Scene, ServiceSpec, World};

/// IP protocol number.
const SCTP: u8 = 132;

/// The addresses of one family.
struct Net {
    client: SocketAddr,
    outside: SocketAddr,
    cluster: SocketAddr,
    node_port: SocketAddr,
    backend: SocketAddr,
    other: SocketAddr,
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

/// Runs a test in both worlds, for both families. The Service has `backend` alone.
fn everywhere(test: impl Fn(&mut World, &mut Scene, &Net)) {
    let nets = [
        Net {
            client: at("10.244.1.5:40000"),
            outside: at("198.51.100.10:50000"),
            cluster: at("10.96.0.10:3868"),
            node_port: SocketAddr::new(NODE4.into(), 30080),
            backend: at("10.244.2.7:8080"),
            other: at("10.244.2.8:8080"),
        },
        Net {
            client: at("[fd00:10:244:1::5]:40000"),
            outside: at("[2001:db8:2::10]:50000"),
            cluster: at("[fd00:10:96::10]:3868"),
            node_port: SocketAddr::new(NODE6.into(), 30080),
            backend: at("[fd00:10:244:2::7]:8080"),
            other: at("[fd00:10:244:2::8]:8080"),
        },
    ];
    for net in &nets {
        World::each(|world| {
            let mut scene = Scene::default();
            scene.add(world, &service(net, &[net.backend]));
            test(world, &mut scene, net);
        });
    }
}

fn service(net: &Net, backends: &[SocketAddr]) -> ServiceSpec {
    ServiceSpec {
        protocol: SCTP,
        frontends: vec![(net.cluster, scope::CLUSTER), (net.node_port, scope::NODE_PORT)],
        backends: backends.iter().map(|at| BackendSpec { endpoint: *at, local: false }).collect(),
        flags: 0,
        affinity: 0,
        ranges: Vec::new(),
    }
}

/// `backend` serves no more, `other` does.
fn replace_backend(world: &mut World, scene: &mut Scene, net: &Net) {
    scene.drop_backends(world, net.cluster.is_ipv6(), 0, 1);
    scene.write(world, &service(net, &[net.other]), 0, 1, 0);
}

fn state(world: &World) -> u16 {
    let flows = world.flows();
    let line = flows.first().expect("there is a flow");
    let meta = line.split("meta: ").nth(1).expect("it has a meta");
    meta.split(',').next().and_then(|meta| meta.parse::<u16>().ok()).expect("a number") >> 2 & 15
}

/// The client sends these chunks to the frontend, and they go to the backend.
#[track_caller]
fn goes(world: &mut World, net: &Net, kinds: &[u8]) {
    let seen = world.ingress(Port::Pod, &sctp(net.client, net.cluster).chunks(kinds).bytes());
    let seen = seen.translated(&[Counter::RequestTranslated]);
    assert_eq!((seen.source, seen.destination), (net.client, net.backend));
    let message = seen.sctp.expect("it is SCTP");
    assert_eq!(message.chunks.iter().map(|chunk| chunk.kind).collect::<Vec<_>>(), kinds);
    assert_eq!(message.tag, SCTP_TAG, "the tag stays");
}

/// The backend answers with these chunks, and they come from the frontend.
#[track_caller]
fn comes(world: &mut World, net: &Net, kinds: &[u8]) {
    let seen = world.egress(Port::Pod, &sctp(net.backend, net.client).chunks(kinds).bytes());
    let seen = seen.translated(&[Counter::ReplyTranslated]);
    assert_eq!((seen.source, seen.destination), (net.cluster, net.client));
}

/// An association is set up.
#[track_caller]
fn associate(world: &mut World, net: &Net) {
    let init = world.ingress(Port::Pod, &sctp(net.client, net.cluster).syn().bytes());
    init.translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
    comes(world, net, &[INIT_ACK]);
    goes(world, net, &[COOKIE_ECHO, DATA]);
    comes(world, net, &[COOKIE_ACK, SACK]);
}

#[test]
fn every_chunk_of_an_association_is_translated_and_moves_its_state() {
    everywhere(|world, _, net| {
        associate(world, net);
        assert_eq!(state(world), 10, "associated");
        for kinds in [&[DATA][..], &[SACK, DATA, DATA], &[HEARTBEAT], &[HEARTBEAT_ACK]] {
            goes(world, net, kinds);
            comes(world, net, kinds);
        }
        world.wait(200);
        goes(world, net, &[HEARTBEAT]);
        assert_eq!(state(world), 10, "associated");
        goes(world, net, &[SACK, SHUTDOWN]);
        assert_eq!(state(world), 11, "shutting down");
        comes(world, net, &[SHUTDOWN_ACK]);
        assert_eq!(state(world), 12, "acknowledged");
        goes(world, net, &[SHUTDOWN_COMPLETE]);
        assert_eq!(state(world), 5, "closed");
        world.wait(11);
        world.egress(Port::Pod, &sctp(net.backend, net.client).bytes()).passed(Counter::NoService);
    });
}

#[test]
fn an_abort_of_either_side_ends_an_association() {
    everywhere(|world, _, net| {
        associate(world, net);
        comes(world, net, &[ABORT]);
        assert_eq!(state(world), 5, "closed");
        comes(world, net, &[DATA]);
        assert_eq!(state(world), 10, "who speaks on is alive");
        goes(world, net, &[ABORT]);
        assert_eq!(state(world), 5, "closed");
    });
}

#[test]
fn half_open_associations_are_forgotten_soon() {
    everywhere(|world, _, net| {
        let init = sctp(net.client, net.cluster).syn().bytes();
        world.ingress(Port::Pod, &init).translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
        world.wait(4);
        let answer = sctp(net.backend, net.client).chunks(&[INIT_ACK]).bytes();
        world.egress(Port::Pod, &answer).passed(Counter::NoService);
    });
}

#[test]
fn a_client_that_begins_again_keeps_its_backend_while_that_serves() {
    everywhere(|world, scene, net| {
        associate(world, net);
        scene.write(world, &service(net, &[net.backend, net.other]), 0, 0, 0);
        for port in 0..20 {
            world.seed(port);
            let init = world.ingress(Port::Pod, &sctp(net.client, net.cluster).syn().bytes());
            assert_eq!(init.translated(&[Counter::RequestTranslated]).destination, net.backend);
        }
        replace_backend(world, scene, net);
        let init = world.ingress(Port::Pod, &sctp(net.client, net.cluster).syn().bytes());
        let seen = init.translated(&[Counter::RequestTranslated, Counter::FlowRepicked]);
        assert_eq!(seen.destination, net.other);
    });
}

#[test]
fn a_client_that_begins_again_keeps_its_masquerade_port() {
    everywhere(|world, _, net| {
        let mut ours = None;
        for _ in 0..3 {
            let init = world.ingress(Port::Uplink, &sctp(net.outside, net.node_port).syn().bytes());
            let sent = packet::read(&world.egress(Port::Uplink, &init.bytes).bytes).source;
            assert_eq!(*ours.get_or_insert(sent), sent);
        }
    });
}

#[test]
fn an_association_whose_backend_is_gone_is_aborted_until_its_client_begins_again() {
    everywhere(|world, scene, net| {
        associate(world, net);
        replace_backend(world, scene, net);
        for kinds in [&[DATA][..], &[HEARTBEAT], &[SHUTDOWN], &[COOKIE_ECHO]] {
            let answer = world.ingress(Port::Pod, &sctp(net.client, net.cluster).chunks(kinds).bytes());
            let seen = answer.refused(Counter::RefusedStaleAssociation);
            assert_eq!((seen.source, seen.destination), (net.cluster, net.client), "in the name of the frontend");
            let message = seen.sctp.expect("it is SCTP");
            assert_eq!(message.tag, SCTP_TAG, "the client's own tag, sent back");
            assert_eq!(message.chunks.iter().map(|chunk| (chunk.kind, chunk.flags)).collect::<Vec<_>>(), [(ABORT, 1)]);
        }
        let abort = sctp(net.client, net.cluster).chunks(&[ABORT]).bytes();
        world.ingress(Port::Pod, &abort).dropped(Counter::NotAnswered);
        let init = world.ingress(Port::Pod, &sctp(net.client, net.cluster).syn().bytes());
        let seen = init.translated(&[Counter::RequestTranslated, Counter::FlowRepicked]);
        assert_eq!(seen.destination, net.other);
    });
}

#[test]
fn what_nobody_serves_is_aborted_with_the_tag_that_init_asks_for_or_else_the_one_that_came() {
    everywhere(|world, _, net| {
        let unknown = SocketAddr::new(net.cluster.ip(), 1);
        for (kinds, tag, expected) in [
            (&[INIT][..], 0, (INITIATE_TAG, 0)),
            (&[INIT], SCTP_TAG, (SCTP_TAG, 1)),
            (&[DATA], 7, (7, 1)),
            (&[COOKIE_ECHO, DATA], 8, (8, 1)),
        ] {
            let request = sctp(net.client, unknown).chunks(kinds).tag(tag).bytes();
            let seen = world.ingress(Port::Pod, &request).refused(Counter::RefusedUnknownPort);
            assert_eq!((seen.source, seen.destination), (unknown, net.client));
            let message = seen.sctp.expect("it is SCTP");
            let abort = message.chunk(ABORT).expect("it is an ABORT");
            assert_eq!((message.tag, abort.flags), expected, "{kinds:?} with tag {tag}");
            assert_eq!(message.chunks.len(), 1);
        }
    });
}

#[test]
fn what_comes_out_of_the_blue_goes_to_a_backend_that_aborts_it() {
    everywhere(|world, _, net| {
        let data = world.ingress(Port::Pod, &sctp(net.client, net.cluster).bytes());
        data.translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
        comes(world, net, &[ABORT]);
        world.wait(11);
        world.egress(Port::Pod, &sctp(net.backend, net.client).bytes()).passed(Counter::NoService);
    });
}

#[test]
fn an_end_without_a_flow_begins_none() {
    everywhere(|world, _, net| {
        for kind in [ABORT, SHUTDOWN_COMPLETE] {
            let packet = sctp(net.client, net.cluster).chunks(&[kind]).bytes();
            world.ingress(Port::Pod, &packet).passed(Counter::ResetWithoutFlow);
        }
        assert!(world.flows().is_empty());
    });
}

#[test]
fn an_init_with_a_tag_is_no_init() {
    everywhere(|world, scene, net| {
        associate(world, net);
        replace_backend(world, scene, net);
        let forged = sctp(net.client, net.cluster).chunks(&[INIT]).bytes();
        world.ingress(Port::Pod, &forged).refused(Counter::RefusedStaleAssociation);
    });
}

#[test]
fn packets_of_every_size_have_a_right_checksum_after_ports_changed_and_an_unchanged_one_if_none_did() {
    everywhere(|world, scene, net| {
        let mut same = service(net, &[SocketAddr::new(net.backend.ip(), 5000)]);
        same.frontends = vec![(SocketAddr::new(net.cluster.ip(), 5000), scope::CLUSTER)];
        scene.add(world, &same);
        associate(world, net);
        for length in (0..1400).step_by(23) {
            let data = sctp(net.client, net.cluster).payload(length).bytes();
            world.ingress(Port::Pod, &data).translated(&[Counter::RequestTranslated]);
        }
        let before = sctp(net.client, same.frontends[0].0).syn().bytes();
        let after = world.ingress(Port::Pod, &before).bytes;
        let header = if net.client.is_ipv6() { 54 } else { 34 };
        assert_eq!(packet::read(&after).destination.port(), 5000);
        assert_eq!(after[header..], before[header..], "nothing of the SCTP packet changes");
    });
}

#[test]
fn a_packet_without_a_whole_header_is_malformed() {
    everywhere(|world, _, net| {
        let mut short = sctp(net.client, net.cluster).chunks(&[SACK]).bytes();
        if net.client.is_ipv6() {
            short[18..20].copy_from_slice(&8u16.to_be_bytes());
        } else {
            short[16..18].copy_from_slice(&28u16.to_be_bytes());
        }
        world.ingress(Port::Pod, &short).passed(Counter::Malformed);
    });
}

#[test]
fn a_masquerade_entry_follows_the_state_of_its_flow() {
    everywhere(|world, _, net| {
        let ask = |world: &mut World, frame: Frame| {
            let request = world.ingress(Port::Uplink, &frame.bytes());
            packet::read(&world.egress(Port::Uplink, &request.bytes).bytes).source
        };
        let ours = ask(world, sctp(net.outside, net.node_port).syn());
        let reply = |world: &mut World, kinds: &[u8]| {
            let reply = world.ingress(Port::Uplink, &sctp(net.backend, ours).chunks(kinds).bytes());
            reply.translated(&[Counter::ReplyUnmasqueraded]);
            world.egress(Port::Uplink, &reply.bytes).translated(&[Counter::ReplyTranslated]);
        };
        reply(world, &[INIT_ACK]);
        ask(world, sctp(net.outside, net.node_port).chunks(&[COOKIE_ECHO]));
        reply(world, &[COOKIE_ACK]);
        // All within an instant, then silence for longer than half-open associations have.
        world.wait(30);
        reply(world, &[HEARTBEAT]);
    });
}

/// Runs a packet whose checksum is left to the device through ingress on the host (the kernel's test runs make no such
/// packets), then does what the device does: computes the CRC from where the SCTP header of the request stood.
fn left_to_the_device(world: &World, request: Vec<u8>) -> Vec<u8> {
    let Machine::Host(env) = &world.machine else { panic!("a world on the host") };
    let l4 = if request[12] == 0x86 { 54 } else { 34 };
    let mut request = request;
    request[l4 + 8..l4 + 12].fill(0);
    let mut packet = HostPacket {
        bytes: request.clone(),
        summed: Summed::Partial,
        segment: 0,
        device: 1,
        mark: 0,
        copies: Vec::new(),
    };
    let action = env.run(Hook::Ingress, &mut packet, Attachment::ETHERNET);
    assert_eq!(action, Action::Back);
    let crc = packet::sctp::checksum(&packet.bytes[l4..]);
    packet.bytes[l4 + 8..l4 + 12].copy_from_slice(&crc);
    packet.bytes
}

#[test]
fn answers_to_packets_whose_checksum_is_left_to_the_device_come_out_right() {
    everywhere(|world, scene, net| {
        if !matches!(world.machine, Machine::Host(_)) {
            return;
        }
        associate(world, net);
        replace_backend(world, scene, net);
        let aborted = left_to_the_device(world, sctp(net.client, net.cluster).bytes());
        assert!(packet::read(&aborted).sctp.expect("it is SCTP").has(ABORT));
        let unknown = SocketAddr::new(net.cluster.ip(), 1);
        for kinds in [&[INIT][..], &[SHUTDOWN_ACK], &[COOKIE_ECHO], &[SACK, DATA, DATA]] {
            let request = sctp(net.client, unknown).chunks(kinds).tag(0).bytes();
            let seen = packet::read(&left_to_the_device(world, request));
            assert!(seen.sctp.expect("it is SCTP").has(ABORT), "{kinds:?}");
        }
    });
}

#[test]
fn a_checksum_that_is_left_to_the_device_stays_0_and_one_that_happens_to_be_0_does_not() {
    everywhere(|world, _, net| {
        let Machine::Host(env) = &world.machine else { return };
        let l4 = if net.client.is_ipv6() { 54 } else { 34 };
        let request = sctp(net.client, net.cluster).syn().bytes();
        for (summed, expected) in [(Summed::Partial, true), (Summed::Whole, false)] {
            let mut bytes = request.clone();
            bytes[l4 + 8..l4 + 12].fill(0);
            let mut packet = HostPacket { bytes, summed, segment: 0, device: 1, mark: 0, copies: Vec::new() };
            assert_eq!(env.run(Hook::Ingress, &mut packet, Attachment::ETHERNET), Action::Next);
            assert_ne!(packet.bytes[14..], request[14..], "it is translated");
            assert_eq!(packet.bytes[l4 + 8..l4 + 12] == [0; 4], expected, "{summed:?}");
        }
    });
}
