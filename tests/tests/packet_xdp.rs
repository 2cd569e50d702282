//! Frames of direct flows at XDP, on the host and in the kernel, in both families.

use std::net::SocketAddr;
use svclb_common::config::flag as config_flag;
use svclb_common::route::{Route, reach};
use svclb_common::schema::Device;
use svclb_common::service::{device_flag, flag, role};
use svclb_common::verdict::Counter;
use svclb_tests::packet::{self, MAC_B, tcp, udp};
use svclb_tests::world::kernel::DEVICE;
use svclb_tests::world::{BackendSpec, Net, Opening, Port, SENT_ACROSS, SENT_OUT, Scene, World};

/// Index of another device that leads out of the node, which can send frames, and of one that cannot.
const ABLE: u32 = 2;
const UNABLE: u32 = 3;
/// Hardware address of the next hop.
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0, 0x21];

fn by(device: u32) -> Route {
    Route { reach: reach::KNOWN, device, macs: [NEXT_HOP, MAC_B], ..Route::default() }
}

/// A node in direct mode, with all others behind the device by which frames come.
fn direct(world: &mut World, net: &Net) {
    world.configure(|config| config.flags |= config_flag::DIRECT | config_flag::DIRECT_FLOWS);
    for (device, more) in [(DEVICE, 0), (ABLE, device_flag::XDP), (UNABLE, 0)] {
        world
            .add_device(device, &Device { role: role::NODE, flags: device_flag::ETHERNET | more, ..Device::default() });
    }
    for end in [net.remote, net.outside] {
        world.route(end.ip(), &by(DEVICE));
    }
}

/// A node that has one flow, from outside to a node port and on to a pod of another node.
struct Flow {
    /// What the client sends next.
    request: Vec<u8>,
    /// What the backend answers.
    reply: Vec<u8>,
    /// Of the node, towards the backend.
    ours: SocketAddr,
}

impl Flow {
    fn new(world: &mut World, net: &Net, frame: Opening, protocol: u8) -> Self {
        direct(world, net);
        Scene::default().add(world, &net.service(protocol));
        let request = world.ingress(Port::Uplink, &frame(net.outside, net.node_port).bytes());
        let made = [Counter::FlowCreated, Counter::MasqueradeAllocated, Counter::RequestForwarded];
        let (seen, _) = request.forwarded(&made);
        let reply = frame(net.remote, seen.source).answer().bytes();
        world.ingress(Port::Uplink, &reply).forwarded(&[Counter::ReplyForwarded]);
        let further = if protocol == 6 { tcp } else { frame };
        Self {
            request: further(net.outside, net.node_port).bytes(),
            reply: further(net.remote, seen.source).bytes(),
            ours: seen.source,
        }
    }
}

fn everywhere(test: impl Fn(&mut World, &Net, &Flow, Opening)) {
    Net::everywhere(|world, net, frame, protocol| {
        // SCTP is left to tc.
        if protocol != 132 {
            let flow = Flow::new(world, net, frame, protocol);
            test(world, net, &flow, if protocol == 6 { tcp } else { frame });
        }
    });
}

#[test]
fn frames_of_a_known_flow_are_translated_whole_and_sent_out_again_in_both_directions() {
    everywhere(|world, net, flow, _| {
        let request = world.frame(&flow.request);
        let (seen, _) = request.sent_by_xdp(SENT_OUT);
        assert_eq!((seen.source, seen.destination), (flow.ours, net.remote));
        assert_eq!(request.bytes[..12], [NEXT_HOP, MAC_B].concat());
        let reply = world.frame(&flow.reply);
        let (seen, _) = reply.sent_by_xdp(SENT_OUT);
        assert_eq!((seen.source, seen.destination), (net.node_port, net.outside));
        let hops = if net.node.is_ipv4() { 14 + 8 } else { 14 + 7 };
        assert_eq!(reply.bytes[hops], flow.reply[hops] - 1, "a hop is taken");
    });
}

#[test]
fn xdp_makes_of_a_frame_what_tc_makes_of_it() {
    everywhere(|world, _, flow, _| {
        for frame in [&flow.request, &flow.reply] {
            let at_tc = world.ingress(Port::Uplink, frame);
            let at_xdp = world.frame(frame);
            // The next hop's address is written by the kernel where it knows one, or by the hook.
            assert_eq!(at_tc.bytes[12..], at_xdp.bytes[12..]);
        }
    });
}

#[test]
fn datagrams_without_a_checksum_are_sent_on_without_one() {
    World::each(|world| {
        let [net, _] = Net::both();
        let flow = Flow::new(world, &net, udp, 17);
        let request = world.frame(&udp(net.outside, net.node_port).without_checksum().bytes());
        request.sent_by_xdp(SENT_OUT);
        assert_eq!(request.bytes[14 + 20 + 6..14 + 20 + 8], [0, 0]);
        world.frame(&flow.request).sent_by_xdp(SENT_OUT);
    });
}

#[test]
fn another_device_is_used_if_it_can_send_frames() {
    everywhere(|world, net, flow, _| {
        world.route(net.remote.ip(), &by(ABLE));
        let (_, onward) = world.frame(&flow.request).sent_by_xdp(SENT_ACROSS);
        assert_eq!(onward.device, ABLE);
        for route in [by(UNABLE), by(99)] {
            world.route(net.remote.ip(), &route);
            world.frame(&flow.request).left_to_tc();
        }
    });
}

#[test]
fn what_is_no_packet_of_a_direct_flow_is_left_to_tc() {
    everywhere(|world, net, flow, next| {
        let stranger = SocketAddr::new(net.outside.ip(), 50_001);
        world.frame(&next(stranger, net.node_port).bytes()).left_to_tc();
        world.frame(&next(net.outside, net.remote).bytes()).left_to_tc();
        world.frame(&next(net.remote, stranger).bytes()).left_to_tc();
        // A new connection from the same port.
        world.frame(&tcp(net.outside, net.node_port).syn().bytes()).left_to_tc();
        // Direct flows may not even exist.
        world.configure(|config| config.flags &= !config_flag::DIRECT_FLOWS);
        world.frame(&flow.request).left_to_tc();
    });
}

#[test]
fn flows_that_keep_their_side_of_the_stack_are_left_to_tc() {
    Net::everywhere(|world, net, frame, protocol| {
        direct(world, net);
        Scene::default().add(world, &net.service(protocol));
        world.configure(|config| config.flags &= !config_flag::DIRECT);
        let opening = frame(net.outside, net.node_port).bytes();
        world.ingress(Port::Uplink, &opening).translated(&[Counter::FlowCreated, Counter::RequestTranslated]);
        let next = if protocol == 6 { tcp } else { frame };
        world.frame(&next(net.outside, net.node_port).bytes()).left_to_tc();
    });
}

#[test]
fn flows_that_keep_their_source_are_left_to_tc() {
    Net::everywhere(|world, net, frame, protocol| {
        direct(world, net);
        world.route(net.local.ip(), &by(ABLE));
        let mut spec = net.service(protocol);
        spec.backends = vec![BackendSpec { endpoint: net.local, local: true }];
        spec.flags = flag::EXTERNAL_LOCAL;
        Scene::default().add(world, &spec);
        let opening = frame(net.outside, net.node_port).bytes();
        world.ingress(Port::Uplink, &opening).forwarded(&[Counter::FlowCreated, Counter::RequestForwarded]);
        let next = if protocol == 6 { tcp } else { frame };
        world.frame(&next(net.outside, net.node_port).bytes()).left_to_tc();
    });
}

#[test]
fn what_takes_more_than_a_plain_header_is_left_to_tc() {
    everywhere(|world, net, flow, next| {
        let plain = next(net.outside, net.node_port);
        world.frame(&plain.clone().options().bytes()).left_to_tc();
        world.frame(&plain.clone().vlan(7).bytes()).left_to_tc();
        let mut bytes = flow.request.clone();
        packet::set_hops(&mut bytes, 1);
        world.frame(&bytes).left_to_tc();
        // A frame for somebody else, one that is cut short.
        let mut bytes = flow.request.clone();
        bytes[5] ^= 1;
        world.frame(&bytes).left_to_tc();
        world.frame(&flow.request[..14 + 24]).left_to_tc();
        world.frame(&flow.request).sent_by_xdp(SENT_OUT);
    });
}

#[test]
fn a_checksum_that_a_device_is_to_complete_is_left_to_tc() {
    everywhere(|world, net, flow, _| {
        let (l4, v6) = if net.node.is_ipv4() { (34, false) } else { (54, true) };
        let mut bytes = flow.request.clone();
        let protocol = bytes[if v6 { 14 + 6 } else { 14 + 9 }];
        let addresses = if v6 { 14 + 8..54 } else { 14 + 12..34 };
        let length = (bytes.len() - l4) as u32;
        let mut sum = u32::from(protocol) + length;
        for pair in bytes[addresses].chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let at = l4 + if protocol == 6 { 16 } else { 6 };
        bytes[at..at + 2].copy_from_slice(&(sum as u16).to_be_bytes());
        world.frame(&bytes).left_to_tc();
    });
}

#[test]
fn a_way_that_is_closed_or_not_known_is_left_to_tc() {
    everywhere(|world, net, flow, _| {
        for reach in [reach::STACK, reach::ASKED, reach::TOO_LONG] {
            for (to, frame) in [(net.remote, &flow.request), (net.outside, &flow.reply)] {
                world.route(to.ip(), &Route { reach, ..by(DEVICE) });
                world.frame(frame).left_to_tc();
                world.route(to.ip(), &by(DEVICE));
                world.frame(frame).sent_by_xdp(SENT_OUT);
            }
        }
    });
}

#[test]
fn a_masquerade_lives_on_by_frames_alone() {
    everywhere(|world, _, flow, _| {
        // An hour, of which no timeout of an idle flow is more than a part.
        for _ in 0..60 {
            world.wait_ticks(59 * 15 + 1);
            for frame in [&flow.request, &flow.reply] {
                if world.chance().0 % 128 != 0 {
                    world.frame(frame).sent_by_xdp(SENT_OUT);
                }
            }
        }
    });
}

#[test]
fn one_tick_in_128_is_left_to_tc_so_that_neighbours_are_confirmed() {
    everywhere(|world, _, flow, _| {
        let mut left = 0;
        for _ in 0..256 {
            world.wait_ticks(1);
            let seen = world.frame(&flow.request);
            if seen.moved.is_empty() {
                seen.left_to_tc();
                left += 1;
            } else {
                seen.sent_by_xdp(SENT_OUT);
            }
        }
        assert_eq!(left, 2);
    });
}

#[test]
fn a_udp_flow_whose_backend_goes_is_left_to_tc_which_picks_another() {
    World::each(|world| {
        for net in Net::both() {
            direct(world, &net);
            let mut spec = net.service(17);
            let other = SocketAddr::new(net.remote.ip(), 9090);
            spec.backends.push(BackendSpec { endpoint: other, local: false });
            let mut scene = Scene::default();
            scene.add(world, &spec);
            let bytes = udp(net.outside, net.node_port).bytes();
            let made = [Counter::FlowCreated, Counter::MasqueradeAllocated, Counter::RequestForwarded];
            let (seen, _) = world.ingress(Port::Uplink, &bytes).forwarded(&made);
            world.frame(&bytes).sent_by_xdp(SENT_OUT);
            let gone = u32::from(seen.destination == other);
            scene.drop_backends(world, net.node.is_ipv6(), gone, 1);
            world.frame(&bytes).left_to_tc();
        }
    });
}
