//! TCP connections whose backend goes: they go on, or are cut where their Service asks for it.

use std::net::SocketAddr;

use svclb_common::datapath::Attachment;
use svclb_common::service::{flag, scope};
use svclb_common::verdict::Counter;
use svclb_common::{checksum, config};
use svclb_tests::packet::{self, Flags, Frame, MAC_A, MAC_B, Seen, tcp};
use svclb_tests::world::host::{HostPacket, Summed};
use svclb_tests::world::{BackendSpec, Hook, Machine, NEXT, Net, Port, SENT_BACK, Scene, ServiceSpec, World};

const TCP: u8 = 6;

/// Sequence and acknowledgement number of [`tcp`].
const NUMBERS: (u32, u32) = (1000, 2000);

/// Runs a test in both worlds, for both families. The Service asks for its connections to be cut.
fn everywhere(test: impl Fn(&mut World, &mut Scene, &Net)) {
    for net in Net::both() {
        World::each(|world| {
            world.configure(|config| config.flags |= config::flag::CUT);
            let mut scene = Scene::default();
            scene.add(world, &service(&net, flag::CUT));
            test(world, &mut scene, &net);
        });
    }
}

fn service(net: &Net, flags: u32) -> ServiceSpec {
    ServiceSpec { flags, ..net.service(TCP) }
}

/// The only backend serves no more.
fn lose_backend(world: &mut World, scene: &Scene, net: &Net) {
    scene.drop_backends(world, net.cluster.is_ipv6(), 0, 1);
}

/// A pod's connection to the cluster IP is open.
fn open(world: &mut World, net: &Net) {
    let syn = world.ingress(Port::Pod, &tcp(net.client, net.cluster).syn().bytes());
    syn.translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
    let answer = world.egress(Port::Pod, &tcp(net.remote, net.client).syn_ack().bytes());
    answer.translated(&[Counter::ReplyTranslated]);
    assert_eq!(state(world), "1", "established");
}

/// The connection of a client outside to the node port is open; from which end the backend sees it coming.
fn open_masqueraded(world: &mut World, net: &Net) -> SocketAddr {
    let syn = world.ingress(Port::Uplink, &tcp(net.outside, net.node_port).syn().bytes());
    syn.translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
    let ours = world.egress(Port::Uplink, &syn.bytes);
    let ours = ours.translated(&[Counter::RequestMasqueraded, Counter::MasqueradeAllocated]).source;
    let answer = world.ingress(Port::Uplink, &tcp(net.remote, ours).syn_ack().bytes());
    answer.translated(&[Counter::ReplyUnmasqueraded]);
    world.egress(Port::Uplink, &answer.bytes).translated(&[Counter::ReplyTranslated]);
    ours
}

/// The state of the only flow, as a number.
fn state(world: &World) -> String {
    let flows = world.flows();
    assert_eq!(flows.len(), 1, "{flows:?}");
    let meta = flows[0].split("meta: ").nth(1).and_then(|rest| rest.split(',').next()).expect("it has a meta");
    (meta.parse::<u16>().expect("a number") >> 2 & 15).to_string()
}

const CLOSED: &str = "5";

/// A reset with these ends and numbers, whether or not it acknowledges.
#[track_caller]
fn assert_reset(bytes: &[u8], ends: (SocketAddr, SocketAddr), sequence: u32, acknowledges: Option<u32>) -> Seen {
    let seen = packet::read(bytes);
    assert_eq!((seen.source, seen.destination), ends);
    assert_eq!(seen.flags, Some(Flags { rst: true, ack: acknowledges.is_some(), ..Flags::default() }));
    assert_eq!(seen.numbers, Some((sequence, acknowledges.unwrap_or(0))));
    let network = if ends.0.is_ipv4() { 20 } else { 40 };
    assert_eq!(bytes.len(), 14 + network + 20, "there is nothing behind the header");
    seen
}

#[test]
fn the_clients_next_packet_resets_both_sides() {
    everywhere(|world, scene, net| {
        open(world, net);
        lose_backend(world, scene, net);
        let [entering, back] =
            world.ingress(Port::Pod, &tcp(net.client, net.cluster).payload(700).bytes()).cut(SENT_BACK);
        // Where the backend goes on reading, and where the client does.
        assert_reset(&entering, (net.client, net.cluster), NUMBERS.0, Some(NUMBERS.1));
        assert_reset(&back, (net.cluster, net.client), NUMBERS.1, None);
        assert_eq!(entering[..12], [MAC_B, MAC_A].concat(), "it enters as the packet did");
        assert_eq!(back[..12], [MAC_A, MAC_B].concat(), "it goes back to where the packet came from");
        assert_eq!(state(world), CLOSED);
        let entered = world.ingress(Port::Pod, &entering);
        entered.translated(&[Counter::RequestTranslated]);
        assert_reset(&entered.bytes, (net.client, net.remote), NUMBERS.0, Some(NUMBERS.1));
    });
}

#[test]
fn the_backends_next_packet_resets_both_sides() {
    everywhere(|world, scene, net| {
        open(world, net);
        lose_backend(world, scene, net);
        let [entering, on] = world.egress(Port::Pod, &tcp(net.remote, net.client).payload(700).bytes()).cut(NEXT);
        assert_reset(&on, (net.cluster, net.client), NUMBERS.0, Some(NUMBERS.1));
        assert_reset(&entering, (net.client, net.cluster), NUMBERS.1, None);
        assert_eq!(on[..12], [MAC_B, MAC_A].concat(), "it leaves as the packet did");
        assert_eq!(entering[..12], [MAC_A, MAC_B].concat(), "it enters as if the client had sent it");
        assert_eq!(state(world), CLOSED);
        let entered = world.ingress(Port::Pod, &entering);
        entered.translated(&[Counter::RequestTranslated]);
        assert_reset(&entered.bytes, (net.client, net.remote), NUMBERS.1, None);
    });
}

#[test]
fn a_masqueraded_connection_is_cut_by_either_side() {
    everywhere(|world, scene, net| {
        let ours = open_masqueraded(world, net);
        lose_backend(world, scene, net);
        // The client speaks.
        let cut = world.ingress(Port::Uplink, &tcp(net.outside, net.node_port).bytes());
        let [entering, back] = cut.cut(SENT_BACK);
        assert_reset(&back, (net.node_port, net.outside), NUMBERS.1, None);
        let entered = world.ingress(Port::Uplink, &entering);
        entered.translated(&[Counter::RequestTranslated]);
        let left = world.egress(Port::Uplink, &entered.bytes);
        left.translated(&[Counter::RequestMasqueraded]);
        assert_reset(&left.bytes, (ours, net.remote), NUMBERS.0, Some(NUMBERS.1));
        // The backend speaks on.
        let reply = world.ingress(Port::Uplink, &tcp(net.remote, ours).bytes());
        reply.translated(&[Counter::ReplyUnmasqueraded]);
        let [entering, on] = world.egress(Port::Uplink, &reply.bytes).cut(NEXT);
        assert_reset(&on, (net.node_port, net.outside), NUMBERS.0, Some(NUMBERS.1));
        let entered = world.ingress(Port::Uplink, &entering);
        entered.translated(&[Counter::RequestTranslated]);
        let left = world.egress(Port::Uplink, &entered.bytes);
        left.translated(&[Counter::RequestMasqueraded]);
        assert_reset(&left.bytes, (ours, net.remote), NUMBERS.1, None);
    });
}

#[test]
fn a_pod_that_reaches_itself_is_cut_on_both_sides() {
    everywhere(|world, scene, net| {
        let own = SocketAddr::new(net.client.ip(), 8080);
        let backends = vec![BackendSpec { endpoint: own, local: true }];
        scene.write(world, &ServiceSpec { backends, ..service(net, flag::CUT) }, 0, 0, 1);
        let syn = world.ingress(Port::Pod, &tcp(net.client, net.cluster).syn().bytes());
        syn.translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
        let ours = world.egress(Port::Pod, &syn.bytes);
        let ours = ours.translated(&[Counter::RequestMasqueraded, Counter::MasqueradeAllocated]).source;
        lose_backend(world, scene, net);
        let reply = world.ingress(Port::Pod, &tcp(own, ours).bytes());
        reply.translated(&[Counter::ReplyUnmasqueraded]);
        let [entering, on] = world.egress(Port::Pod, &reply.bytes).cut(NEXT);
        assert_reset(&on, (net.cluster, net.client), NUMBERS.0, Some(NUMBERS.1));
        let entered = world.ingress(Port::Pod, &entering);
        entered.translated(&[Counter::RequestTranslated]);
        let left = world.egress(Port::Pod, &entered.bytes);
        left.translated(&[Counter::RequestMasqueraded]);
        assert_reset(&left.bytes, (ours, own), NUMBERS.1, None);
    });
}

/// A packet of the client, and where the reset that goes on in its place begins.
fn beginnings(net: &Net) -> [(Frame, u32); 4] {
    let packet = tcp(net.client, net.cluster);
    [
        (packet.clone().payload(1), NUMBERS.0),
        (packet.clone().fin().payload(0), NUMBERS.0),
        (packet.clone().syn_ack(), NUMBERS.0),
        (packet.payload(0), NUMBERS.0 + 1),
    ]
}

#[test]
fn a_keepalive_is_answered_where_the_receiver_goes_on_reading() {
    everywhere(|world, scene, net| {
        open(world, net);
        lose_backend(world, scene, net);
        for (frame, sequence) in beginnings(net) {
            let [entering, _] = world.ingress(Port::Pod, &frame.bytes()).cut(SENT_BACK);
            assert_reset(&entering, (net.client, net.cluster), sequence, Some(NUMBERS.1));
        }
    });
}

#[test]
fn who_did_not_take_its_reset_is_reset_again_until_the_flow_is_forgotten() {
    everywhere(|world, scene, net| {
        open(world, net);
        lose_backend(world, scene, net);
        for _ in 0..3 {
            world.ingress(Port::Pod, &tcp(net.client, net.cluster).bytes()).cut(SENT_BACK);
            world.egress(Port::Pod, &tcp(net.remote, net.client).bytes()).cut(NEXT);
            world.wait(9);
            assert_eq!(state(world), CLOSED);
        }
        world.wait(2);
        world.egress(Port::Pod, &tcp(net.remote, net.client).bytes()).passed(Counter::NoService);
    });
}

#[test]
fn a_reset_is_not_answered_by_one() {
    everywhere(|world, scene, net| {
        open(world, net);
        lose_backend(world, scene, net);
        let reset = world.ingress(Port::Pod, &tcp(net.client, net.cluster).rst().bytes());
        assert_eq!(reset.translated(&[Counter::RequestTranslated]).destination, net.remote);
        let reset = world.egress(Port::Pod, &tcp(net.remote, net.client).rst().bytes());
        assert_eq!(reset.translated(&[Counter::ReplyTranslated]).source, net.cluster);
    });
}

#[test]
fn a_connection_that_both_sides_have_closed_is_left_alone() {
    everywhere(|world, scene, net| {
        open(world, net);
        let fin = world.ingress(Port::Pod, &tcp(net.client, net.cluster).fin().bytes());
        fin.translated(&[Counter::RequestTranslated]);
        let fin = world.egress(Port::Pod, &tcp(net.remote, net.client).fin().bytes());
        fin.translated(&[Counter::ReplyTranslated]);
        lose_backend(world, scene, net);
        let last = world.ingress(Port::Pod, &tcp(net.client, net.cluster).payload(0).bytes());
        assert_eq!(last.translated(&[Counter::RequestTranslated]).destination, net.remote);
    });
}

#[test]
fn a_client_that_was_cut_begins_again_with_another_backend() {
    everywhere(|world, scene, net| {
        open(world, net);
        lose_backend(world, scene, net);
        world.ingress(Port::Pod, &tcp(net.client, net.cluster).bytes()).cut(SENT_BACK);
        let backends = vec![BackendSpec { endpoint: net.local, local: true }];
        scene.write(world, &ServiceSpec { backends, ..service(net, flag::CUT) }, 0, 1, 0);
        let syn = world.ingress(Port::Pod, &tcp(net.client, net.cluster).syn().bytes());
        assert_eq!(syn.translated(&[Counter::RequestTranslated, Counter::FlowReplaced]).destination, net.local);
        let request = world.ingress(Port::Pod, &tcp(net.client, net.cluster).bytes());
        assert_eq!(request.translated(&[Counter::RequestTranslated]).destination, net.local);
    });
}

#[test]
fn a_connection_is_cut_although_its_backends_number_has_another_owner() {
    everywhere(|world, scene, net| {
        open(world, net);
        let other = ServiceSpec {
            frontends: vec![(net.load_balancer, scope::LOAD_BALANCER)],
            backends: vec![BackendSpec { endpoint: net.local, local: true }],
            ..service(net, 0)
        };
        scene.write(world, &other, 1, 0, 1);
        world.ingress(Port::Pod, &tcp(net.client, net.cluster).bytes()).cut(SENT_BACK);
    });
}

#[test]
fn a_connection_to_a_backend_that_serves_goes_on() {
    everywhere(|world, _, net| {
        open(world, net);
        let request = world.ingress(Port::Pod, &tcp(net.client, net.cluster).bytes());
        assert_eq!(request.translated(&[Counter::RequestTranslated]).destination, net.remote);
        let reply = world.egress(Port::Pod, &tcp(net.remote, net.client).bytes());
        assert_eq!(reply.translated(&[Counter::ReplyTranslated]).source, net.cluster);
    });
}

#[test]
fn the_choice_changes_while_a_connection_lives() {
    everywhere(|world, scene, net| {
        let write = |world: &mut World, scene: &mut Scene, flags| {
            scene.write(world, &service(net, flags), 0, 0, 0);
            lose_backend(world, scene, net);
        };
        let request = tcp(net.client, net.cluster).bytes();
        let reply = tcp(net.remote, net.client).bytes();
        write(world, scene, 0);
        scene.write(world, &service(net, 0), 0, 0, 0);
        open(world, net);
        write(world, scene, 0);
        world.ingress(Port::Pod, &request).translated(&[Counter::RequestTranslated]);
        world.egress(Port::Pod, &reply).translated(&[Counter::ReplyTranslated]);
        write(world, scene, flag::CUT);
        world.egress(Port::Pod, &reply).cut(NEXT);
        world.ingress(Port::Pod, &request).cut(SENT_BACK);
        write(world, scene, 0);
        world.ingress(Port::Pod, &request).translated(&[Counter::RequestTranslated]);
        // Where no Service asks for it, nothing is looked at.
        write(world, scene, flag::CUT);
        world.configure(|config| config.flags = 0);
        world.ingress(Port::Pod, &request).translated(&[Counter::RequestTranslated]);
        world.egress(Port::Pod, &reply).translated(&[Counter::ReplyTranslated]);
    });
}

#[test]
fn only_connections_of_the_service_that_asks_are_cut_where_two_share_a_backend() {
    everywhere(|world, scene, net| {
        let draining = ServiceSpec { frontends: vec![(net.load_balancer, scope::LOAD_BALANCER)], ..service(net, 0) };
        scene.write(world, &draining, 1, 1, 0);
        let other = SocketAddr::new(net.client.ip(), 40_001);
        open(world, net);
        let syn = world.ingress(Port::Pod, &tcp(other, net.load_balancer).syn().bytes());
        syn.translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
        scene.drop_backends(world, net.cluster.is_ipv6(), 0, 2);
        world.ingress(Port::Pod, &tcp(net.client, net.cluster).bytes()).cut(SENT_BACK);
        world.ingress(Port::Pod, &tcp(other, net.load_balancer).bytes()).translated(&[Counter::RequestTranslated]);
        world.egress(Port::Pod, &tcp(net.remote, other).bytes()).translated(&[Counter::ReplyTranslated]);
        world.egress(Port::Pod, &tcp(net.remote, net.client).bytes()).cut(NEXT);
    });
}

#[test]
fn a_connection_whose_frontend_is_nobodys_any_more_goes_on() {
    everywhere(|world, scene, net| {
        open(world, net);
        lose_backend(world, scene, net);
        // The record of a Service that is deleted is empty.
        scene.write(world, &ServiceSpec { backends: Vec::new(), ..service(net, 0) }, 0, 0, 0);
        world.ingress(Port::Pod, &tcp(net.client, net.cluster).bytes()).translated(&[Counter::RequestTranslated]);
    });
}

#[test]
fn packets_with_options_and_tags_are_cut_too() {
    everywhere(|world, scene, net| {
        open(world, net);
        lose_backend(world, scene, net);
        let packet = tcp(net.client, net.cluster).vlan(7).options().bytes();
        let [entering, back] = world.ingress(Port::Pod, &packet).cut(SENT_BACK);
        let (entering, back) = (packet::read(&entering), packet::read(&back));
        assert_eq!((entering.source, entering.destination), (net.client, net.cluster));
        assert_eq!((back.source, back.destination), (net.cluster, net.client));
        assert_eq!((entering.numbers, back.numbers), (Some(NUMBERS), Some((NUMBERS.1, 0))));
    });
}

/// What a device makes of a packet whose TCP checksum is left to it: the field holds the sum of the pseudo header.
fn completed(net: &Net, mut bytes: Vec<u8>) -> Vec<u8> {
    let l4 = if net.client.is_ipv4() { 34 } else { 54 };
    let sum = !checksum::fold16(checksum::sum(&bytes[l4..]));
    bytes[l4 + 16..l4 + 18].copy_from_slice(&sum.to_ne_bytes());
    bytes
}

#[test]
fn both_resets_are_right_whatever_a_device_has_done_or_will_do_about_the_checksum() {
    everywhere(|world, scene, net| {
        open(world, net);
        lose_backend(world, scene, net);
        let Machine::Host(env) = &world.machine else { return };
        for (hook, frame) in
            [(Hook::Ingress, tcp(net.client, net.cluster)), (Hook::Egress, tcp(net.remote, net.client))]
        {
            let whole = frame.payload(700).bytes();
            let packet = |summed| HostPacket {
                bytes: whole.clone(),
                summed,
                segment: 1000,
                device: 1,
                mark: 0,
                copies: Vec::new(),
            };
            let mut partial = packet(Summed::Partial);
            env.run(hook, &mut partial, Attachment::ETHERNET);
            let [entering, leaving] = [&partial.copies[0], &partial.bytes].map(|bytes| completed(net, bytes.clone()));
            assert_eq!(packet::read(&entering).destination, net.cluster);
            assert_eq!(packet::read(&leaving).destination, net.client);
            let mut complete = packet(Summed::Complete(checksum::sum(&whole[14..])));
            env.run(hook, &mut complete, Attachment::ETHERNET);
            let Summed::Complete(sum) = complete.summed else { panic!("there is a sum of the whole packet") };
            let right = checksum::sum(&complete.bytes[14..]);
            assert!(checksum::is_zero(checksum::difference(right, sum)), "{sum:#x} should be {right:#x}");
        }
    });
}

#[test]
fn the_number_of_cuts_is_limited_as_that_of_refusals() {
    everywhere(|world, scene, net| {
        open(world, net);
        lose_backend(world, scene, net);
        world.configure(|config| config.refusals = 0);
        world.ingress(Port::Pod, &tcp(net.client, net.cluster).bytes()).dropped(Counter::RefusalLimited);
        world.egress(Port::Pod, &tcp(net.remote, net.client).bytes()).dropped(Counter::RefusalLimited);
        assert_eq!(state(world), "1", "it is cut when there are resets again");
    });
}
