//! Every path of a packet through the two hooks, on the host and in the kernel, in both families.

use std::net::SocketAddr;
use svclb_common::config::{Ports, Prefix, flag as config_flag};
use svclb_common::service::{flag, scope};
use svclb_common::verdict::Counter;
use svclb_tests::packet::{self, Frame, tcp, udp};
use svclb_tests::world::{BRIDGE_MAC, BackendSpec, Net, Port, Scene, ServiceSpec, World};

#[test]
fn a_request_to_a_cluster_ip_gets_a_backend_and_its_reply_the_frontend() {
    Net::everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        let request = world.ingress(Port::Pod, &frame(net.client, net.cluster).bytes());
        let seen = request.translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
        assert_eq!((seen.source, seen.destination), (net.client, net.remote), "only the destination changes");
        world.egress(Port::Uplink, &request.bytes).passed(Counter::NoService);

        let reply = frame(net.remote, net.client).answer().bytes();
        world.ingress(Port::Uplink, &reply).passed(Counter::NoService);
        let seen = world.egress(Port::Pod, &reply).translated(&[Counter::ReplyTranslated]);
        assert_eq!((seen.source, seen.destination), (net.cluster, net.client), "only the source changes");
    });
}

#[test]
fn a_node_port_with_a_remote_backend_is_dnat_then_masquerade() {
    Net::everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        let request = world.ingress(Port::Uplink, &frame(net.outside, net.node_port).bytes());
        request.translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
        let routed = world.egress(Port::Uplink, &request.bytes);
        let seen = routed.translated(&[Counter::RequestMasqueraded, Counter::MasqueradeAllocated]);
        assert_eq!((seen.source.ip(), seen.destination), (net.node, net.remote));
        assert_eq!(seen.source.port(), net.outside.port(), "the client's port is kept when it is free");

        let reply = world.ingress(Port::Uplink, &frame(net.remote, seen.source).answer().bytes());
        let back = reply.translated(&[Counter::ReplyUnmasqueraded]);
        assert_eq!((back.source, back.destination), (net.remote, net.outside), "only the destination changes");
        let seen = world.egress(Port::Uplink, &reply.bytes).translated(&[Counter::ReplyTranslated]);
        assert_eq!((seen.source, seen.destination), (net.node_port, net.outside));
    });
}

#[test]
fn two_clients_with_one_port_get_two_masquerade_ports() {
    Net::everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        let mut other = net.outside;
        other.set_ip(net.client.ip());
        let mut ports = Vec::new();
        for client in [net.outside, other] {
            let request = world.ingress(Port::Uplink, &frame(client, net.node_port).bytes());
            let routed = world.egress(Port::Uplink, &request.bytes);
            ports.push(packet::read(&routed.bytes).source.port());
        }
        assert_ne!(ports[0], ports[1], "replies could not be told apart");
        for (client, port) in [net.outside, other].into_iter().zip(ports) {
            let reply = frame(net.remote, SocketAddr::new(net.node, port)).answer().bytes();
            let seen = world.ingress(Port::Uplink, &reply).translated(&[Counter::ReplyUnmasqueraded]);
            assert_eq!(seen.destination, client);
        }
    });
}

#[test]
fn a_masquerade_port_is_none_that_a_socket_of_the_node_may_be_given() {
    Net::everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        let ours = |world: &mut World, client: SocketAddr| {
            let request = world.ingress(Port::Uplink, &frame(client, net.node_port).bytes());
            let routed = world.egress(Port::Uplink, &request.bytes);
            routed.translated(&[Counter::RequestMasqueraded, Counter::MasqueradeAllocated]).source.port()
        };
        world.configure(|config| config.own_ports = Ports { first: 2000, last: 65_000 });
        for n in 0..20 {
            let port = ours(world, SocketAddr::new(net.outside.ip(), 40_000 + n));
            assert!((1024..2000).contains(&port) || port > 65_000, "{port} is a port of the node's sockets");
        }
        let kept = ours(world, SocketAddr::new(net.outside.ip(), 65_111));
        assert_eq!(kept, 65_111, "a client's port outside of the range is kept");
        world.configure(|config| config.own_ports = Ports { first: 1024, last: 65_535 });
        ours(world, SocketAddr::new(net.outside.ip(), 40_100));
    });
}

#[test]
fn a_pod_that_reaches_itself_sees_the_node() {
    Net::everywhere(|world, net, frame, protocol| {
        let mut spec = net.service(protocol);
        let pod = SocketAddr::new(net.client.ip(), 8080);
        spec.backends = vec![BackendSpec { endpoint: pod, local: true }];
        Scene::default().add(world, &spec);
        let request = world.ingress(Port::Pod, &frame(net.client, net.cluster).bytes());
        request.translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
        let seen = world
            .egress(Port::Pod, &request.bytes)
            .translated(&[Counter::RequestMasqueraded, Counter::MasqueradeAllocated]);
        assert_eq!((seen.source.ip(), seen.destination), (net.node, pod));
        let reply = world.ingress(Port::Pod, &frame(pod, seen.source).answer().bytes());
        reply.translated(&[Counter::ReplyUnmasqueraded]);
        let seen = world.egress(Port::Pod, &reply.bytes).translated(&[Counter::ReplyTranslated]);
        assert_eq!((seen.source, seen.destination), (net.cluster, net.client));
    });
}

#[test]
fn a_service_without_endpoints_refuses_and_so_does_an_unknown_port() {
    Net::everywhere(|world, net, frame, protocol| {
        let mut spec = net.service(protocol);
        spec.backends.clear();
        Scene::default().add(world, &spec);
        for frontend in [net.cluster, net.node_port, net.load_balancer] {
            let answer = world.ingress(Port::Pod, &frame(net.client, frontend).bytes());
            let seen = answer.refused(Counter::RefusedNoEndpoint);
            assert_eq!(seen.destination.ip(), net.client.ip(), "the answer goes to the client");
            assert_eq!(seen.source.ip(), frontend.ip(), "in the name of the frontend");
            assert_eq!(seen.flags.map(|flags| flags.rst), (protocol == 6).then_some(true));
            assert_eq!(seen.sctp.is_some(), protocol == 132, "an ABORT");
            let quoted = (protocol == 17).then_some((net.client, frontend));
            assert_eq!(seen.quoted, quoted, "an ICMP error quotes the packet");
        }
        let unknown = SocketAddr::new(net.cluster.ip(), 81);
        world.ingress(Port::Pod, &frame(net.client, unknown).bytes()).refused(Counter::RefusedUnknownPort);
        let ssh = SocketAddr::new(net.node, 22);
        world.ingress(Port::Uplink, &frame(net.outside, ssh).bytes()).passed(Counter::NoService);
        let other = SocketAddr::new(net.load_balancer.ip(), 22);
        world.ingress(Port::Uplink, &frame(net.outside, other).bytes()).passed(Counter::NoService);
        assert!(world.flows().is_empty(), "a refused packet leaves no flow");
    });
}

#[test]
fn local_policies_use_endpoints_of_this_node_and_keep_the_client() {
    Net::everywhere(|world, net, frame, protocol| {
        let mut spec = net.service(protocol);
        spec.flags = flag::EXTERNAL_LOCAL | flag::INTERNAL_LOCAL;
        let mut scene = Scene::default();
        let number = scene.add(world, &spec);
        let from_outside = |frontend| frame(net.outside, frontend).bytes();
        world.ingress(Port::Uplink, &from_outside(net.node_port)).dropped(Counter::NoLocalEndpoint);
        world.ingress(Port::Pod, &frame(net.client, net.cluster).bytes()).dropped(Counter::NoLocalEndpoint);

        spec.backends.push(BackendSpec { endpoint: net.local, local: true });
        scene.write(world, &spec, number, 10, 0);
        let request = world.ingress(Port::Uplink, &from_outside(net.node_port));
        let seen = request.translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
        assert_eq!((seen.source, seen.destination), (net.outside, net.local));
        world.egress(Port::Pod, &request.bytes).passed(Counter::NoService);
        let seen = world
            .egress(Port::Uplink, &frame(net.local, net.outside).answer().bytes())
            .translated(&[Counter::ReplyTranslated]);
        assert_eq!(seen.source, net.node_port);
        let seen = world
            .ingress(Port::Pod, &frame(net.client, net.cluster).bytes())
            .translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
        assert_eq!(seen.destination, net.local);
    });
}

#[test]
fn local_traffic_counts_as_having_passed_the_load_balancer() {
    Net::everywhere(|world, net, frame, protocol| {
        let mut spec = net.service(protocol);
        spec.flags = flag::EXTERNAL_LOCAL;
        Scene::default().add(world, &spec);
        let request = world.ingress(Port::Pod, &frame(net.client, net.node_port).bytes());
        let seen = request.translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
        assert_eq!(seen.destination, net.remote);
        world.egress(Port::Uplink, &request.bytes).passed(Counter::NoService);
    });
}

#[test]
fn a_pod_of_another_node_is_a_client_as_those_outside() {
    Net::everywhere(|world, net, frame, protocol| {
        let mut spec = net.service(protocol);
        spec.flags = flag::EXTERNAL_LOCAL;
        Scene::default().add(world, &spec);
        world.configure(|config| {
            // Every address is in them.
            config.flags |= config_flag::CLUSTER_CIDRS4 | config_flag::CLUSTER_CIDRS6;
            config.cluster_cidrs4[0] = Prefix::default();
            config.cluster_cidrs6[0] = Prefix::default();
        });
        let request = frame(net.client, net.node_port).bytes();
        world.ingress(Port::Uplink, &request).dropped(Counter::NoLocalEndpoint);
        let seen = world.ingress(Port::Pod, &request).translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
        assert_eq!(seen.destination, net.remote);
    });
}

#[test]
fn where_devices_tell_what_is_local_the_others_are_masqueraded() {
    Net::everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        world.configure(|config| config.flags |= config_flag::LOCAL_BY_DEVICE);
        let request = frame(net.client, net.cluster).bytes();
        let inside = world.ingress(Port::Pod, &request);
        inside.translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
        world.egress(Port::Uplink, &inside.bytes).passed(Counter::NoService);
        let other = SocketAddr::new(net.client.ip(), 40_001);
        let inside = world.ingress(Port::Uplink, &frame(other, net.cluster).bytes());
        inside.translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
        let seen = world
            .egress(Port::Uplink, &inside.bytes)
            .translated(&[Counter::RequestMasqueraded, Counter::MasqueradeAllocated]);
        assert_eq!(seen.source.ip(), net.node);
    });
}

#[test]
fn source_ranges_guard_load_balancer_addresses_alone() {
    Net::everywhere(|world, net, frame, protocol| {
        let mut spec = net.service(protocol);
        spec.flags = flag::SOURCE_RANGES;
        let network = if net.outside.is_ipv6() { "2001:db8:2::" } else { "198.51.100.0" };
        let length = if net.outside.is_ipv6() { 48 } else { 24 };
        spec.ranges = vec![(length, network.parse().expect("an address"))];
        Scene::default().add(world, &spec);
        let created = [Counter::RequestTranslated, Counter::FlowCreated];
        world.ingress(Port::Uplink, &frame(net.outside, net.load_balancer).bytes()).translated(&created);
        world.ingress(Port::Pod, &frame(net.client, net.load_balancer).bytes()).dropped(Counter::SourceRange);
        let mut other = net.client;
        other.set_port(40001);
        world.ingress(Port::Pod, &frame(other, net.node_port).bytes()).translated(&created);
    });
}

/// What becomes of a flow's next packet.
#[derive(Clone, Copy)]
enum Next {
    /// It goes where the one before went.
    Same,
    /// It goes to who serves now.
    Other,
    /// Nobody serves it.
    Refused,
}

/// What happens to the backend of a flow, and to its next packet of UDP and of TCP. What kube-proxy has to look for
/// in the connection tracking table and to delete picks again by itself.
const CHANGES: &[(&str, Next, Next)] = &[
    ("it goes on serving", Next::Same, Next::Same),
    ("another one serves beside it", Next::Same, Next::Same),
    ("it serves on another port", Next::Other, Next::Same),
    ("another one serves in its place", Next::Other, Next::Same),
    ("nobody serves", Next::Refused, Next::Same),
];

#[test]
fn a_udp_flow_leaves_a_backend_that_is_gone_with_the_next_packet_and_tcp_stays() {
    Net::everywhere(|world, net, frame, protocol| {
        let other_port = SocketAddr::new(net.remote.ip(), 9090);
        let frontends = [net.cluster, net.load_balancer, net.node_port];
        for (at, frontend) in frontends.into_iter().enumerate() {
            for (number, (change, udp_next, tcp_next)) in CHANGES.iter().enumerate() {
                let mut scene = Scene::default();
                let mut spec = net.service(protocol);
                scene.write_at(world, &spec, 0, 0, 0);
                let mut client = net.client;
                client.set_port(30_000 + (at * CHANGES.len() + number) as u16);
                world.ingress(Port::Pod, &frame(client, frontend).bytes());
                let backend = |endpoint| BackendSpec { endpoint, local: false };
                let (first, others) = match *change {
                    "it goes on serving" => (0, vec![net.remote]),
                    "another one serves beside it" => (0, vec![net.remote, net.local]),
                    "it serves on another port" => (1, vec![other_port]),
                    "another one serves in its place" => (1, vec![net.local]),
                    _ => (1, vec![]),
                };
                if first > 0 {
                    scene.drop_backends(world, net.cluster.is_ipv6(), 0, 1);
                }
                spec.backends = others.iter().copied().map(backend).collect();
                scene.write_at(world, &spec, 0, first, 0);
                let packet = if protocol == 6 { tcp(client, frontend) } else { frame(client, frontend) };
                let outcome = world.ingress(Port::Pod, &packet.bytes());
                match if protocol == 6 { tcp_next } else { udp_next } {
                    Next::Same => {
                        let seen = outcome.translated(&[Counter::RequestTranslated]);
                        assert_eq!(seen.destination, net.remote, "{change}");
                    }
                    Next::Other => {
                        let seen = outcome.translated(&[Counter::RequestTranslated, Counter::FlowRepicked]);
                        assert_eq!(seen.destination, others[0], "{change}");
                    }
                    Next::Refused => drop(outcome.refused(Counter::RefusedNoEndpoint)),
                }
            }
        }
    });
}

#[test]
fn a_flow_from_before_its_service_is_translated_with_the_next_packet_and_other_ports_are_left_alone() {
    Net::everywhere(|world, net, frame, protocol| {
        let packet = frame(net.outside, net.load_balancer).bytes();
        world.ingress(Port::Uplink, &packet).passed(Counter::NoService);
        Scene::default().add(world, &net.service(protocol));
        let counters = [Counter::RequestTranslated, Counter::FlowCreated];
        assert_eq!(world.ingress(Port::Uplink, &packet).translated(&counters).destination, net.remote);
        let other = SocketAddr::new(net.load_balancer.ip(), 3000);
        world.ingress(Port::Uplink, &frame(net.outside, other).bytes()).passed(Counter::NoService);
    });
}

#[test]
fn a_udp_flow_of_a_backend_whose_number_has_a_new_owner_is_picked_again() {
    Net::everywhere(|world, net, frame, protocol| {
        if protocol == 6 {
            return;
        }
        let mut scene = Scene::default();
        let mut spec = net.service(protocol);
        let number = scene.add(world, &spec);
        world.ingress(Port::Pod, &frame(net.client, net.cluster).bytes());
        spec.backends = vec![BackendSpec { endpoint: net.local, local: true }];
        scene.write(world, &spec, number, 0, 1);
        let seen = world
            .ingress(Port::Pod, &frame(net.client, net.cluster).bytes())
            .translated(&[Counter::RequestTranslated, Counter::FlowRepicked]);
        assert_eq!(seen.destination, net.local);
    });
}

#[test]
fn a_new_syn_keeps_a_live_backend_and_replaces_a_closed_flow() {
    Net::everywhere(|world, net, frame, protocol| {
        if protocol != 6 {
            return;
        }
        Scene::default().add(world, &net.service(protocol));
        let syn = frame(net.client, net.cluster).bytes();
        world.ingress(Port::Pod, &syn).translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
        world.ingress(Port::Pod, &syn).translated(&[Counter::RequestTranslated]);
        let reply = |frame: Frame| frame.bytes();
        world.egress(Port::Pod, &reply(tcp(net.remote, net.client).syn_ack())).translated(&[Counter::ReplyTranslated]);
        world.ingress(Port::Pod, &syn).translated(&[Counter::RequestTranslated]);
        world.egress(Port::Pod, &reply(tcp(net.remote, net.client).fin())).translated(&[Counter::ReplyTranslated]);
        world.ingress(Port::Pod, &tcp(net.client, net.cluster).fin().bytes()).translated(&[Counter::RequestTranslated]);
        world.ingress(Port::Pod, &syn).translated(&[Counter::RequestTranslated, Counter::FlowReplaced]);
    });
}

#[test]
fn idle_flows_end_with_the_timeout_of_their_state() {
    Net::everywhere(|world, net, frame, protocol| {
        if protocol == 132 {
            return; // it has more states
        }
        Scene::default().add(world, &net.service(protocol));
        let packet = frame(net.client, net.cluster).bytes();
        let reply = if protocol == 6 { tcp(net.remote, net.client).syn_ack() } else { udp(net.remote, net.client) };
        world.ingress(Port::Pod, &packet);
        world.wait(if protocol == 6 { 61 } else { 31 });
        world.egress(Port::Pod, &reply.bytes()).passed(Counter::NoService);
        world.ingress(Port::Pod, &packet).translated(&[Counter::RequestTranslated, Counter::FlowReplaced]);
        world.egress(Port::Pod, &reply.bytes()).translated(&[Counter::ReplyTranslated]);
        world.wait(if protocol == 6 { 86_399 } else { 119 });
        world.egress(Port::Pod, &reply.bytes()).translated(&[Counter::ReplyTranslated]);
    });
}

#[test]
fn a_masqueraded_flow_that_is_idle_after_its_first_answer_still_gets_replies() {
    Net::everywhere(|world, net, frame, protocol| {
        if protocol == 132 {
            return; // an association is set up by more packets
        }
        Scene::default().add(world, &net.service(protocol));
        let request = world.ingress(Port::Uplink, &frame(net.outside, net.node_port).bytes());
        let ours = packet::read(&world.egress(Port::Uplink, &request.bytes).bytes).source;
        let reply = frame(net.remote, ours).answer().bytes();
        for seconds in [0, 100] {
            // Longer than an unanswered flow is kept.
            world.wait(seconds);
            let inside = world.ingress(Port::Uplink, &reply);
            inside.translated(&[Counter::ReplyUnmasqueraded]);
            world.egress(Port::Uplink, &inside.bytes).translated(&[Counter::ReplyTranslated]);
        }
    });
}

#[test]
fn one_client_port_cannot_reach_one_backend_through_two_frontends() {
    Net::everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        world.ingress(Port::Pod, &frame(net.client, net.cluster).bytes());
        world.ingress(Port::Pod, &frame(net.client, net.load_balancer).bytes()).dropped(Counter::TupleTaken);
    });
}

#[test]
fn one_client_port_cannot_reach_one_backend_twice_where_its_flows_stand_in_two_buckets() {
    World::each(|world| {
        for net in Net::both() {
            let frontend = |n: u16| SocketAddr::new(net.cluster.ip(), 100 + n);
            let service = |n: u16, port: u16| ServiceSpec {
                frontends: vec![(frontend(n), scope::CLUSTER)],
                backends: vec![BackendSpec { endpoint: SocketAddr::new(net.remote.ip(), port), local: false }],
                ..net.service(17)
            };
            let mut scene = Scene::default();
            // The last two have one backend.
            let numbers: Vec<u32> = (0..9).map(|n| scene.add(world, &service(n, 8000 + n.min(7)))).collect();
            let ask = |world: &mut World, n: u16| world.ingress(Port::Pod, &udp(net.client, frontend(n)).bytes());
            ask(world, 0);
            world.wait(20);
            for n in 1..7 {
                ask(world, n).translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
            }
            ask(world, 7).translated(&[Counter::RequestTranslated, Counter::FlowCreated, Counter::FlowSpilled]);
            // The first one is over: there is room beside the others, but the one with this backend stands elsewhere.
            world.wait(15);
            ask(world, 8).dropped(Counter::TupleTaken);
            // That one is to get a backend that one of the others has.
            scene.drop_backends(world, net.client.is_ipv6(), numbers[7], 1);
            scene.write(world, &service(7, 8001), numbers[7], 20, 0);
            ask(world, 7).dropped(Counter::TupleTaken);
        }
    });
}

#[test]
fn a_flow_that_is_over_does_not_hide_a_later_one_of_the_same_client_and_backend() {
    Net::everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        // Many clients, as it depends on the hash of each where its flows stand.
        for port in 1..60 {
            let client = SocketAddr::new(net.client.ip(), port);
            world.ingress(Port::Pod, &frame(client, net.cluster).bytes());
        }
        world.wait(100_000);
        for port in 1..60 {
            let client = SocketAddr::new(net.client.ip(), port);
            let request = world.ingress(Port::Pod, &frame(client, net.load_balancer).bytes());
            request.translated(&[Counter::RequestTranslated, Counter::FlowCreated]);
            let reply = world.egress(Port::Pod, &frame(net.remote, client).answer().bytes());
            assert_eq!(reply.translated(&[Counter::ReplyTranslated]).source, net.load_balancer);
        }
    });
}

#[test]
fn replies_between_bridge_ports_are_lifted_to_the_ip_stack() {
    Net::everywhere(|world, net, frame, protocol| {
        let mut spec = net.service(protocol);
        spec.backends = vec![BackendSpec { endpoint: net.local, local: true }];
        Scene::default().add(world, &spec);
        world.ingress(Port::BridgePort, &frame(net.client, net.cluster).bytes());
        let reply = world.ingress(Port::BridgePort, &frame(net.local, net.client).answer().bytes());
        let seen = reply.translated(&[Counter::ReplyLifted]);
        assert_eq!((seen.source, seen.destination), (net.local, net.client), "addresses stay");
        assert_eq!(seen.to_mac, BRIDGE_MAC);
    });
}

#[test]
fn options_vlan_tags_and_absent_checksums_are_parsed_and_kept() {
    Net::everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        for (port, shape) in [
            (1, (|frame: Frame| frame.options()) as fn(Frame) -> Frame),
            (2, |frame| frame.vlan(7)),
            (3, |frame| frame.vlan(7).vlan(8).options()),
            (4, |frame| frame.without_checksum()),
            (5, |frame| frame.payload(1399)),
        ] {
            if port == 4 && (protocol != 17 || net.client.is_ipv6()) {
                continue;
            }
            let client = SocketAddr::new(net.client.ip(), port);
            let outcome = world.ingress(Port::Pod, &shape(frame(client, net.cluster)).bytes());
            assert_eq!(outcome.translated(&[Counter::RequestTranslated, Counter::FlowCreated]).destination, net.remote);
            let reply = shape(frame(net.remote, client).answer()).bytes();
            let seen = world.egress(Port::Pod, &reply).translated(&[Counter::ReplyTranslated]);
            assert_eq!(seen.source, net.cluster);
        }
    });
}

#[test]
fn a_reset_without_a_flow_begins_none() {
    Net::everywhere(|world, net, _, protocol| {
        if protocol == 6 {
            Scene::default().add(world, &net.service(protocol));
            let reset = tcp(net.client, net.cluster).rst().bytes();
            world.ingress(Port::Pod, &reset).passed(Counter::ResetWithoutFlow);
        }
    });
}

#[test]
fn a_full_flow_table_refuses_new_flows_and_keeps_the_old() {
    Net::everywhere(|world, net, frame, protocol| {
        Scene::default().add(world, &net.service(protocol));
        let ask = |world: &mut World, port: u16| {
            let client = SocketAddr::new(net.client.ip(), port);
            world.ingress(Port::Pod, &frame(client, net.cluster).bytes())
        };
        let (mut kept, mut refused, mut spilled) = (Vec::new(), 0, 0);
        for port in 1..2000 {
            let outcome = ask(world, port);
            spilled += outcome.moved.get("flow_spilled").copied().unwrap_or(0);
            if outcome.moved.contains_key("drop_flow_table_full") {
                refused += 1;
            } else {
                kept.push(port);
            }
        }
        assert!(refused > 0 && spilled > 0 && kept.len() > 500, "{refused} refused, {spilled} spilled");
        for port in &kept {
            ask(world, *port).translated(&[Counter::RequestTranslated]);
        }
        world.wait(100_000);
        let outcome = ask(world, 5000);
        assert!(outcome.moved.contains_key("flow_created"), "old flows make room: {outcome:?}");
    });
}
