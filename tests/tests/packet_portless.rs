//! What is sent to a Service's address and to no port of it, and to addresses that only Services may have, on the host
//! and in the kernel, in both families.

use std::net::{IpAddr, SocketAddr};

use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::{Config, Prefix, flag};
use svclb_common::service::scope;
use svclb_common::verdict::Counter;
use svclb_tests::packet::sctp::INITIATE_TAG;
use svclb_tests::packet::sctp::kind::ABORT;
use svclb_tests::packet::{self, echo, gre, sctp, udp};
use svclb_tests::world::{BackendSpec, NODE4, NODE6, Port, Scene, ServiceSpec, World};

/// The addresses of one family.
struct Net {
    client: IpAddr,
    cluster: IpAddr,
    load_balancer: IpAddr,
    node: IpAddr,
    backend: IpAddr,
    /// In the prefix of the cluster IPs, and no Service's.
    nobody: IpAddr,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Runs a test in both worlds with a Service in both families.
fn everywhere(test: impl Fn(&mut World, &Net)) {
    let nets = [
        Net {
            client: ip("10.244.1.5"),
            cluster: ip("10.96.0.10"),
            load_balancer: ip("203.0.113.7"),
            node: NODE4.into(),
            backend: ip("10.244.2.7"),
            nobody: ip("10.96.200.1"),
        },
        Net {
            client: ip("fd00:10:244:1::5"),
            cluster: ip("fd00:10:96::10"),
            load_balancer: ip("2001:db8:7::7"),
            node: NODE6.into(),
            backend: ip("fd00:10:244:2::7"),
            nobody: ip("fd00:10:96::ffff"),
        },
    ];
    World::each(|world| {
        let mut scene = Scene::default();
        for net in &nets {
            let at = |address: IpAddr, port| SocketAddr::new(address, port);
            let spec = ServiceSpec {
                protocol: 17,
                frontends: vec![
                    (at(net.cluster, 53), scope::CLUSTER),
                    (at(net.load_balancer, 53), scope::LOAD_BALANCER),
                    (at(net.node, 30053), scope::NODE_PORT),
                ],
                backends: vec![BackendSpec { endpoint: at(net.backend, 53), local: false }],
                flags: 0,
                affinity: 0,
                ranges: Vec::new(),
            };
            scene.add(world, &spec);
            test(world, net);
        }
    });
}

/// Cluster IPs come from 10.96.0.0/16 and `fd00:10:96::/112`.
fn with_service_cidrs(config: &mut Config) {
    let four =
        [Addr4::from(std::net::Ipv4Addr::new(10, 96, 0, 0)), Addr4::from(std::net::Ipv4Addr::new(255, 255, 0, 0))];
    let six = ["fd00:10:96::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:0"];
    let six = six.map(|text| Addr6::from(text.parse::<std::net::Ipv6Addr>().expect("an address")));
    config.service_cidrs = [1, 1];
    config.service_cidrs4[0] = Prefix { network: four[0], mask: four[1] };
    config.service_cidrs6[0] = Prefix { network: six[0], mask: six[1] };
}

#[test]
fn an_echo_request_to_a_cluster_ip_is_refused_and_to_other_addresses_passes() {
    everywhere(|world, net| {
        let request = echo(net.client, net.cluster, false);
        let refused = world.ingress(Port::Pod, &request).refused(Counter::RefusedUnknownPort);
        assert_eq!((refused.source.ip(), refused.destination.ip()), (net.cluster, net.client));
        for other in [net.load_balancer, net.node, net.backend, net.nobody] {
            world.ingress(Port::Pod, &echo(net.client, other, false)).passed(Counter::NoService);
        }
    });
}

#[test]
fn with_ping_services_an_echo_request_to_a_service_is_answered() {
    everywhere(|world, net| {
        world.configure(|config| config.flags |= flag::PING_SERVICES);
        for address in [net.cluster, net.load_balancer] {
            let answered = world.ingress(Port::Pod, &echo(net.client, address, false));
            answered.answered(Counter::PingAnswered);
            let mut reply = echo(address, net.client, true);
            reply[..12].rotate_left(6);
            if net.client.is_ipv4() {
                // The answer is a packet of its own: not to be fragmented, without an identification.
                assert_eq!(answered.bytes[20..22], [0x40, 0]);
                reply[18..26].copy_from_slice(&answered.bytes[18..26]);
            }
            assert_eq!(answered.bytes, reply, "the whole reply");
        }
        for other in [net.node, net.backend, net.nobody] {
            world.ingress(Port::Pod, &echo(net.client, other, false)).passed(Counter::NoService);
        }
    });
}

#[test]
fn what_is_no_question_is_never_answered() {
    everywhere(|world, net| {
        world.configure(|config| config.flags |= flag::PING_SERVICES);
        world.ingress(Port::Pod, &echo(net.client, net.cluster, true)).passed(Counter::NoService);
        let mut odd = echo(net.client, net.cluster, false);
        odd[if net.client.is_ipv4() { 35 } else { 55 }] = 1;
        world.ingress(Port::Pod, &odd).passed(Counter::NoService);
        let unknown = udp(SocketAddr::new(net.cluster, 9), SocketAddr::new(net.client, 9)).bytes();
        let error = packet::port_unreachable(net.client, net.cluster, &unknown, 1000);
        world.ingress(Port::Pod, &error).passed(Counter::IcmpWithoutFlow);
    });
}

#[test]
fn another_protocol_to_a_cluster_ip_is_refused_and_to_other_addresses_passes() {
    everywhere(|world, net| {
        let refused = world.ingress(Port::Pod, &gre(net.client, net.cluster)).refused(Counter::RefusedUnknownPort);
        assert_eq!((refused.source.ip(), refused.destination.ip()), (net.cluster, net.client));
        for other in [net.load_balancer, net.node, net.backend, net.nobody] {
            world.ingress(Port::Pod, &gre(net.client, other)).passed(Counter::OtherProtocol);
        }
    });
}

#[test]
fn what_nobody_has_translated_does_not_leave_the_node_for_an_address_of_services() {
    everywhere(|world, net| {
        let datagram = |to| udp(SocketAddr::new(net.client, 4000), SocketAddr::new(to, 9)).bytes();
        world.configure(|config| config.service_cidrs = [0, 0]);
        world.egress(Port::Uplink, &datagram(net.nobody)).passed(Counter::NoService);
        world.configure(with_service_cidrs);
        for packet in [datagram(net.nobody), echo(net.client, net.nobody, false), gre(net.client, net.nobody)] {
            world.egress(Port::Uplink, &packet).dropped(Counter::NobodysAddress);
        }
        // Another proxy of the node, or a pod that has the address, may still take it on.
        world.ingress(Port::Pod, &datagram(net.nobody)).passed(Counter::NoService);
        world.egress(Port::Pod, &datagram(net.nobody)).passed(Counter::NoService);
        world.egress(Port::Bridge, &datagram(net.nobody)).passed(Counter::NoService);
        // Outside of the prefixes nothing is dropped.
        world.egress(Port::Uplink, &datagram(net.load_balancer)).passed(Counter::NoService);
        world.egress(Port::Uplink, &datagram(net.node)).passed(Counter::NoService);
    });
}

#[test]
fn sctp_of_the_nodes_own_processes_to_a_cluster_ip_is_aborted_where_it_would_leave() {
    everywhere(|world, net| {
        let own = SocketAddr::new(net.node, 40_000);
        let frontend = SocketAddr::new(net.cluster, 2905);
        let init = sctp(own, frontend).syn().bytes();
        for configure in [(|config| config.service_cidrs = [0, 0]) as fn(&mut Config), with_service_cidrs] {
            world.configure(configure);
            let seen = world.egress(Port::Uplink, &init).refused(Counter::RefusedOwnAssociation);
            assert_eq!((seen.source, seen.destination), (frontend, own));
            let message = seen.sctp.expect("it is SCTP");
            assert_eq!((message.tag, message.has(ABORT)), (INITIATE_TAG, true));
        }
        let abort = sctp(own, frontend).chunks(&[ABORT]).bytes();
        world.egress(Port::Uplink, &abort).dropped(Counter::NotAnswered);
        let to_nobody = sctp(own, SocketAddr::new(net.nobody, 2905)).syn().bytes();
        world.egress(Port::Uplink, &to_nobody).dropped(Counter::NobodysAddress);
        // A load balancer leads it back to a node, and a pod may have any address.
        let balanced = sctp(own, SocketAddr::new(net.load_balancer, 2905)).syn().bytes();
        world.egress(Port::Uplink, &balanced).passed(Counter::NoService);
        world.egress(Port::Pod, &init).passed(Counter::NoService);
    });
}
