//! Direct flows: both halves of the translation at the first hook, on the host and in the kernel, in both families.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use svclb_common::config::{Prefix, flag as config_flag};
use svclb_common::route::{Route, reach};
use svclb_common::schema::Device;
use svclb_common::service::{device_flag, flag, role};
use svclb_common::verdict::Counter;
use svclb_tests::packet::fragments::{Cut, join};
use svclb_tests::packet::{self, MAC_A, MAC_B, tcp, udp};
use svclb_tests::world::{
    BRIDGE_MAC, BackendSpec, NODE4, NODE6, Net, Opening, Port, SENT_BACK, Scene, ServiceSpec, World,
};

/// Index of the device that leads out of the node, and of the one of the pod behind which endpoints are.
const WIRE: u32 = 2;
const POD: u32 = 3;
/// Hardware addresses of a neighbour and of the device that leads to it.
const NEIGHBOUR: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0x21], [2, 0, 0, 0, 0, 0x22]];

/// A way out of a device, to a neighbour that is known.
fn by(device: u32) -> Route {
    Route { reach: reach::KNOWN, device, macs: NEIGHBOUR, ..Route::default() }
}

fn device(role: u8, flags: u32) -> Device {
    Device { role, flags, masquerade4: NODE4.into(), masquerade6: NODE6.into(), ..Device::default() }
}

/// A node in direct mode, which knows the way to all ends.
fn direct(world: &mut World, net: &Net) {
    let given = config_flag::CLUSTER_CIDRS4 | config_flag::CLUSTER_CIDRS6;
    world.configure(|config| {
        config.flags = config.flags & !given | config_flag::DIRECT | config_flag::DIRECT_FLOWS;
        config.cluster_cidrs4 = svclb_tests::world::config().cluster_cidrs4;
        config.cluster_cidrs6 = svclb_tests::world::config().cluster_cidrs6;
    });
    world.add_device(WIRE, &device(role::NODE, device_flag::ETHERNET));
    world.add_device(POD, &device(role::POD, device_flag::ETHERNET | device_flag::PEER));
    for (end, device) in [(net.remote, WIRE), (net.outside, WIRE), (net.local, POD), (net.client, POD)] {
        world.route(end.ip(), &by(device));
    }
}

/// Pods have addresses in prefixes that were given.
fn with_cluster_cidrs(world: &mut World) {
    world.configure(|config| {
        let (four, mask4) = (Ipv4Addr::new(10, 244, 0, 0), Ipv4Addr::new(255, 255, 0, 0));
        let (six, mask6) = (Ipv6Addr::from(0xfd00_0010_0244 << 80), Ipv6Addr::from(0xffff_ffff_ffff << 80));
        config.cluster_cidrs4[0] = Prefix { network: four.into(), mask: mask4.into() };
        config.cluster_cidrs6[0] = Prefix { network: six.into(), mask: mask6.into() };
        config.flags |= config_flag::CLUSTER_CIDRS4 | config_flag::CLUSTER_CIDRS6;
    });
}

/// A Service whose endpoint is on this node.
fn local_service(net: &Net, protocol: u8) -> ServiceSpec {
    let mut spec = net.service(protocol);
    spec.backends = vec![BackendSpec { endpoint: net.local, local: true }];
    spec
}

fn everywhere(test: impl Fn(&mut World, &Net, Opening, u8)) {
    Net::everywhere(|world, net, frame, protocol| {
        direct(world, net);
        test(world, net, frame, protocol);
    });
}

const MADE: &[Counter] = &[Counter::FlowCreated, Counter::RequestForwarded];
const MADE_WITH_PORT: &[Counter] = &[Counter::FlowCreated, Counter::MasqueradeAllocated, Counter::RequestForwarded];

#[test]
fn a_node_port_with_a_remote_backend_is_translated_whole_and_sent_on_in_both_directions() {
    everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        let request = world.ingress(Port::Uplink, &frame(net.outside, net.node_port).bytes());
        let (seen, onward) = request.forwarded(MADE_WITH_PORT);
        assert_eq!((seen.source, seen.destination), (SocketAddr::new(net.node, net.outside.port()), net.remote));
        assert_eq!((onward.device, onward.into_pod), (WIRE, 0));

        let reply = world.ingress(Port::Uplink, &frame(net.remote, seen.source).answer().bytes());
        let (seen, onward) = reply.forwarded(&[Counter::ReplyForwarded]);
        assert_eq!((seen.source, seen.destination, onward.device), (net.node_port, net.outside, WIRE));

        let again = world.ingress(Port::Uplink, &tcp_or(frame, protocol)(net.outside, net.node_port).bytes());
        let (seen, _) = again.forwarded(&[Counter::RequestForwarded]);
        assert_eq!(seen.source, SocketAddr::new(net.node, net.outside.port()), "the port stays");
    });
}

/// A packet of a conversation that goes on.
fn tcp_or(frame: Opening, protocol: u8) -> Opening {
    if protocol == 6 { tcp } else { frame }
}

#[test]
fn one_hop_is_taken_and_no_more() {
    everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        let bytes = frame(net.outside, net.node_port).bytes();
        let hops = |bytes: &[u8]| if net.node.is_ipv4() { bytes[14 + 8] } else { bytes[14 + 7] };
        let request = world.ingress(Port::Uplink, &bytes);
        assert_eq!(hops(&request.bytes), hops(&bytes) - 1);
    });
}

#[test]
fn a_pod_of_this_node_is_given_the_packet_past_the_queue_of_its_device() {
    everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &local_service(net, protocol));
        let request = world.ingress(Port::Pod, &frame(net.client, net.cluster).bytes());
        let (seen, onward) = request.forwarded(MADE);
        assert_eq!((seen.source, seen.destination), (net.client, net.local), "a local client keeps its address");
        assert_eq!((onward.device, onward.into_pod), (POD, 1));
        assert_eq!(request.bytes[..12], NEIGHBOUR.concat(), "with the pod's address as receiver");

        let reply = world.ingress(Port::Pod, &frame(net.local, net.client).answer().bytes());
        let (seen, onward) = reply.forwarded(&[Counter::ReplyForwarded]);
        assert_eq!((seen.source, seen.destination), (net.cluster, net.client));
        assert_eq!((onward.device, onward.into_pod), (POD, 1));
    });
}

#[test]
fn a_pod_whose_address_is_not_known_yet_is_asked_for_it_by_the_kernel() {
    everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &local_service(net, protocol));
        world.route(net.local.ip(), &Route { reach: reach::ASKED, macs: [[0; 6]; 2], ..by(POD) });
        let request = world.ingress(Port::Pod, &frame(net.client, net.cluster).bytes());
        let (_, onward) = request.forwarded(MADE);
        assert_eq!((onward.device, onward.into_pod), (POD, 0));
        assert_eq!(request.bytes[..12], [MAC_B, MAC_A].concat());
    });
}

#[test]
fn clients_outside_are_kept_where_the_policy_is_local() {
    everywhere(|world, net, frame, protocol| {
        let mut spec = local_service(net, protocol);
        spec.flags = flag::EXTERNAL_LOCAL;
        Scene::default().add(world, &spec);
        let request = world.ingress(Port::Uplink, &frame(net.outside, net.node_port).bytes());
        let (seen, onward) = request.forwarded(MADE);
        assert_eq!((seen.source, seen.destination, onward.device), (net.outside, net.local, POD));
        let reply = world.ingress(Port::Pod, &frame(net.local, net.outside).answer().bytes());
        let (seen, onward) = reply.forwarded(&[Counter::ReplyForwarded]);
        assert_eq!((seen.source, seen.destination, onward.device), (net.node_port, net.outside, WIRE));
    });
}

#[test]
fn a_pod_that_reaches_itself_is_sent_its_own_packet() {
    everywhere(|world, net, frame, protocol| {
        let mut spec = net.service(protocol);
        let pod = SocketAddr::new(net.client.ip(), 8080);
        spec.backends = vec![BackendSpec { endpoint: pod, local: true }];
        Scene::default().add(world, &spec);
        let request = world.ingress(Port::Pod, &frame(net.client, net.cluster).bytes());
        let (seen, _) = request.forwarded(MADE_WITH_PORT);
        assert_eq!((seen.source.ip(), seen.destination), (net.node, pod));
        let reply = world.ingress(Port::Pod, &frame(pod, seen.source).answer().bytes());
        let (seen, onward) = reply.forwarded(&[Counter::ReplyForwarded]);
        assert_eq!((seen.source, seen.destination, onward.device), (net.cluster, net.client, POD));
    });
}

#[test]
fn what_the_node_itself_serves_and_what_has_no_route_is_no_direct_flow() {
    everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        // The second is a device without hooks.
        for (port, way) in [(50_000, Route::default()), (50_001, by(99))] {
            let client = SocketAddr::new(net.outside.ip(), port);
            world.route(net.remote.ip(), &way);
            let request = world.ingress(Port::Uplink, &frame(client, net.node_port).bytes());
            request.translated(&[Counter::FlowCreated, Counter::RequestTranslated]);
            // It stays what it is when there is a way.
            world.route(net.remote.ip(), &by(WIRE));
            let again = world.ingress(Port::Uplink, &tcp_or(frame, protocol)(client, net.node_port).bytes());
            again.translated(&[Counter::RequestTranslated]);
        }
    });
}

#[test]
fn a_pods_own_address_leaves_the_node_directly_for_other_pods_alone() {
    everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        let request = world.ingress(Port::Pod, &frame(net.client, net.cluster).bytes());
        request.translated(&[Counter::FlowCreated, Counter::RequestTranslated]);
        with_cluster_cidrs(world);
        let client = SocketAddr::new(net.client.ip(), 40_001);
        let request = world.ingress(Port::Pod, &frame(client, net.cluster).bytes());
        let (seen, onward) = request.forwarded(MADE);
        assert_eq!((seen.source, seen.destination, onward.device), (client, net.remote, WIRE));
        let reply = world.ingress(Port::Uplink, &frame(net.remote, client).answer().bytes());
        let (seen, onward) = reply.forwarded(&[Counter::ReplyForwarded]);
        assert_eq!((seen.source, seen.destination, onward.device), (net.cluster, client, POD));
    });
}

#[test]
fn what_only_the_stack_can_deal_with_is_left_to_it_half_translated() {
    everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        let opening = frame(net.outside, net.node_port);
        world.ingress(Port::Uplink, &opening.bytes()).forwarded(MADE_WITH_PORT);
        let next = tcp_or(frame, protocol)(net.outside, net.node_port);
        let left = &[Counter::DirectToStack, Counter::RequestTranslated];
        let halves = |world: &mut World, bytes: &[u8]| {
            let half = world.ingress(Port::Uplink, bytes);
            let seen = half.translated(left);
            assert_eq!((seen.source, seen.destination), (net.outside, net.remote), "the destination alone changes");
            let seen = world.egress(Port::Uplink, &half.bytes).translated(&[Counter::RequestMasqueraded]);
            assert_eq!(seen.source, SocketAddr::new(net.node, net.outside.port()), "and it leaves as the others did");
        };
        // The last hop.
        let mut bytes = next.bytes();
        packet::set_hops(&mut bytes, 1);
        halves(world, &bytes);
        // IP options, extension headers.
        halves(world, &next.clone().options().bytes());
        // A frame for somebody else, that came all the same.
        let mut bytes = next.bytes();
        bytes[5] ^= 1;
        halves(world, &bytes);
        // Too long; no route.
        for way in [Route { reach: reach::TOO_LONG, ..by(WIRE) }, Route::default()] {
            world.route(net.remote.ip(), &way);
            halves(world, &next.bytes());
        }
        // Replies as well.
        let ours = SocketAddr::new(net.node, net.outside.port());
        world.route(net.outside.ip(), &Route { reach: reach::TOO_LONG, ..by(WIRE) });
        let half = world.ingress(Port::Uplink, &frame(net.remote, ours).answer().bytes());
        let seen = half.translated(&[Counter::DirectToStack, Counter::ReplyUnmasqueraded]);
        assert_eq!((seen.source, seen.destination), (net.remote, net.outside));
        let seen = world.egress(Port::Uplink, &half.bytes).translated(&[Counter::ReplyTranslated]);
        assert_eq!(seen.source, net.node_port);
    });
}

#[test]
fn replies_between_bridge_ports_are_sent_on_and_those_left_to_the_stack_are_lifted() {
    everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &local_service(net, protocol));
        let mut opening = frame(net.client, net.cluster).bytes();
        opening[..6].copy_from_slice(&BRIDGE_MAC);
        world.ingress(Port::BridgePort, &opening).forwarded(MADE);
        let reply = frame(net.local, net.client).answer().bytes();
        let (seen, _) = world.ingress(Port::BridgePort, &reply).forwarded(&[Counter::ReplyForwarded]);
        assert_eq!((seen.source, seen.destination), (net.cluster, net.client));
        world.route(net.client.ip(), &Route { reach: reach::TOO_LONG, ..by(POD) });
        let lifted = world.ingress(Port::BridgePort, &reply);
        lifted.translated(&[Counter::DirectToStack, Counter::ReplyLifted]);
        assert_eq!(lifted.bytes[..6], BRIDGE_MAC);
    });
}

#[test]
fn flows_keep_their_side_when_the_mode_changes() {
    everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        world.ingress(Port::Uplink, &frame(net.outside, net.node_port).bytes()).forwarded(MADE_WITH_PORT);
        world.configure(|config| config.flags &= !config_flag::DIRECT);
        let next = tcp_or(frame, protocol);
        world.ingress(Port::Uplink, &next(net.outside, net.node_port).bytes()).forwarded(&[Counter::RequestForwarded]);
        let ours = SocketAddr::new(net.node, net.outside.port());
        let reply = world.ingress(Port::Uplink, &frame(net.remote, ours).answer().bytes());
        reply.forwarded(&[Counter::ReplyForwarded]);
        let other = SocketAddr::new(net.outside.ip(), 50_001);
        let request = world.ingress(Port::Uplink, &frame(other, net.node_port).bytes());
        request.translated(&[Counter::FlowCreated, Counter::RequestTranslated]);
        world.configure(|config| config.flags |= config_flag::DIRECT);
        let request = world.ingress(Port::Uplink, &next(other, net.node_port).bytes());
        request.translated(&[Counter::RequestTranslated]);
    });
}

#[test]
fn frames_with_a_vlan_tag_are_left_to_the_device_of_the_vlan() {
    everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        world.ingress(Port::Uplink, &frame(net.outside, net.node_port).vlan(7).bytes()).passed(Counter::Tagged);
        assert!(world.flows().is_empty());
    });
}

#[test]
fn a_udp_flow_whose_backend_goes_is_sent_on_to_another() {
    World::each(|world| {
        for net in Net::both() {
            direct(world, &net);
            let mut spec = net.service(17);
            spec.backends.push(BackendSpec { endpoint: net.local, local: true });
            let mut scene = Scene::default();
            scene.add(world, &spec);
            let request = world.ingress(Port::Uplink, &udp(net.outside, net.node_port).bytes());
            let (seen, _) = request.forwarded(MADE_WITH_PORT);
            let gone = u32::from(seen.destination == net.local);
            scene.drop_backends(world, net.node.is_ipv6(), gone, 1);
            let again = world.ingress(Port::Uplink, &udp(net.outside, net.node_port).bytes());
            let counters = [Counter::FlowRepicked, Counter::MasqueradeAllocated, Counter::RequestForwarded];
            let (seen, onward) = again.forwarded(&counters);
            let (other, device) = if gone == 0 { (net.local, POD) } else { (net.remote, WIRE) };
            assert_eq!((seen.destination, onward.device), (other, device));
            world.wait(86_400);
        }
    });
}

#[test]
fn fragments_are_sent_on_as_their_first_one_was() {
    World::each(|world| {
        for net in Net::both() {
            direct(world, &net);
            Scene::default().add(world, &net.service(17));
            let datagram = udp(net.outside, net.node_port).payload(2000).bytes();
            let mut sent = Vec::new();
            for (at, fragment) in Cut::pieces(800).of(&datagram).iter().enumerate() {
                let counters = if at == 0 { MADE_WITH_PORT } else { &[Counter::FragmentTranslated] };
                let (bytes, onward) = world.ingress(Port::Uplink, fragment).sent_on(counters);
                assert_eq!(onward.device, WIRE);
                sent.push(bytes);
            }
            let seen = packet::read(&join(&sent));
            let ours = SocketAddr::new(net.node, net.outside.port());
            assert_eq!((seen.source, seen.destination), (ours, net.remote));
            let reply = Cut::pieces(800).of(&udp(net.remote, ours).payload(2000).bytes());
            world.ingress(Port::Uplink, &reply[0]).sent_on(&[Counter::ReplyForwarded]);
            world.route(net.outside.ip(), &Route::default());
            world.ingress(Port::Uplink, &reply[1]).dropped(Counter::FragmentOfDropped);
        }
    });
}

#[test]
fn a_backend_that_speaks_on_a_connection_that_is_cut_is_reset_where_it_enters() {
    World::each(|world| {
        for net in Net::both() {
            direct(world, &net);
            world.configure(|config| config.flags |= config_flag::CUT);
            let mut scene = Scene::default();
            let mut spec = net.service(6);
            spec.flags = flag::CUT;
            scene.add(world, &spec);
            let syn = world.ingress(Port::Uplink, &tcp(net.outside, net.node_port).syn().bytes());
            let (seen, _) = syn.forwarded(MADE_WITH_PORT);
            let answer = tcp(net.remote, seen.source).syn_ack().bytes();
            world.ingress(Port::Uplink, &answer).forwarded(&[Counter::ReplyForwarded]);
            scene.drop_backends(world, net.node.is_ipv6(), 0, 1);
            let data = world.ingress(Port::Uplink, &tcp(net.remote, seen.source).payload(700).bytes());
            let [enters, back] = data.cut(SENT_BACK);
            let (enters, back) = (packet::read(&enters), packet::read(&back));
            assert_eq!((enters.source, enters.destination), (net.remote, seen.source), "as if the backend had sent it");
            assert_eq!((back.source, back.destination), (seen.source, net.remote), "in the name it knows");
            assert!(enters.flags.is_some_and(|flags| flags.rst) && back.flags.is_some_and(|flags| flags.rst));
            // The reset that entered goes on to the client, as a reply does.
            let reset = world.ingress(Port::Uplink, &tcp(net.remote, seen.source).rst().bytes());
            let (reset, _) = reset.forwarded(&[Counter::ReplyForwarded]);
            assert_eq!((reset.source, reset.destination), (net.node_port, net.outside));
        }
    });
}

#[test]
fn icmp_errors_about_direct_flows_go_through_the_stack_in_two_halves() {
    everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        let request = world.ingress(Port::Uplink, &frame(net.outside, net.node_port).bytes());
        let (seen, _) = request.forwarded(MADE_WITH_PORT);
        let error = packet::port_unreachable(net.remote.ip(), seen.source.ip(), &request.bytes, 1000);
        let half = world.ingress(Port::Uplink, &error);
        half.translated(&[Counter::IcmpTranslated]);
        let seen = world.egress(Port::Uplink, &half.bytes).translated(&[Counter::IcmpTranslated]);
        assert_eq!((seen.source.ip(), seen.destination.ip()), (net.node, net.outside.ip()));
        assert_eq!(seen.quoted, Some((net.outside, net.node_port)), "the client finds its own packet in it");
    });
}
