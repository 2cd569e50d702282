//! What becomes of a datagram in fragments, on the host and in the kernel, in both families.

use std::net::SocketAddr;
use svclb_common::checksum;
use svclb_common::datapath::Attachment;
use svclb_common::service::flag;
use svclb_common::verdict::{Action, Counter};
use svclb_tests::packet::fragments::{Cut, join};
use svclb_tests::packet::{self, Flags, Frame, Seen, tcp, udp};
use svclb_tests::world::host::{HostPacket, Summed};
use svclb_tests::world::{self, BRIDGE_MAC, BackendSpec, MARK, Machine, Net, Outcome, Port, Scene, World};

/// Bytes of the datagrams here.
const LENGTH: usize = 2000;
/// Where they are cut, as the payload of most networks is.
const CUT: Cut = Cut::pieces(800);

/// Runs a test in both worlds, for both families.
fn everywhere(test: impl Fn(&mut World, &Net)) {
    World::each(|world| Net::both().iter().for_each(|net| test(world, net)));
}

/// A datagram that is too long for one packet.
fn long(from: SocketAddr, to: SocketAddr) -> Frame {
    udp(from, to).payload(LENGTH)
}

/// A hook: [`World::ingress`] or [`World::egress`].
type Hook = fn(&mut World, Port, &[u8]) -> Outcome;

/// Sends fragments through a hook: of the first exactly the counters `first` move, of each other exactly `others`. What
/// comes out, put together and read.
#[track_caller]
fn send(
    world: &mut World,
    (hook, port): (Hook, Port),
    fragments: &[Vec<u8>],
    first: &[Counter],
    others: Counter,
) -> (Vec<Vec<u8>>, Seen) {
    let mut out = Vec::new();
    for (at, fragment) in fragments.iter().enumerate() {
        let outcome = hook(world, port, fragment);
        out.push(if at == 0 { outcome.rewritten(first) } else { outcome.rewritten(&[others]) });
    }
    let seen = packet::read(&join(&out));
    (out, seen)
}

/// What moves when a flow's first datagram comes.
const NEW: &[Counter] = &[Counter::RequestTranslated, Counter::FlowCreated];

#[test]
fn fragments_of_a_request_go_to_one_backend_and_those_of_its_reply_come_from_the_frontend() {
    everywhere(|world, net| {
        let mut spec = net.service(17);
        spec.backends.push(BackendSpec { endpoint: net.local, local: true });
        Scene::default().add(world, &spec);
        // Several clients, since with one they might go to one backend by chance.
        for port in 1000..1010 {
            let client = SocketAddr::new(net.client.ip(), port);
            let request = CUT.named(port).of(&long(client, net.cluster).bytes());
            assert_eq!(request.len(), 3);
            let (request, seen) = send(world, (World::ingress, Port::Pod), &request, NEW, Counter::FragmentTranslated);
            assert!([net.remote, net.local].contains(&seen.destination));
            assert_eq!(seen.source, client, "only the destination changes");
            world.egress(Port::Uplink, &request[0]).passed(Counter::NoService);
            world.egress(Port::Uplink, &request[1]).passed(Counter::Fragment);

            let reply = CUT.named(port).of(&long(seen.destination, client).bytes());
            world.ingress(Port::Uplink, &reply[0]).passed(Counter::NoService);
            world.ingress(Port::Uplink, &reply[1]).passed(Counter::Fragment);
            let translated = &[Counter::ReplyTranslated];
            let (_, seen) = send(world, (World::egress, Port::Pod), &reply, translated, Counter::FragmentTranslated);
            assert_eq!((seen.source, seen.destination), (net.cluster, client), "only the source changes");
        }
    });
}

#[test]
fn fragments_to_a_node_port_are_dnat_then_masquerade_and_the_reply_finds_back() {
    everywhere(|world, net| {
        Scene::default().add(world, &net.service(17));
        let request = CUT.of(&long(net.outside, net.node_port).bytes());
        let (request, _) = send(world, (World::ingress, Port::Uplink), &request, NEW, Counter::FragmentTranslated);
        let masqueraded = &[Counter::RequestMasqueraded, Counter::MasqueradeAllocated];
        let (_, sent) = send(world, (World::egress, Port::Uplink), &request, masqueraded, Counter::FragmentTranslated);
        assert_eq!((sent.source.ip(), sent.destination), (net.node, net.remote));

        let reply = CUT.of(&long(net.remote, sent.source).bytes());
        let unmasqueraded = &[Counter::ReplyUnmasqueraded];
        let (reply, back) =
            send(world, (World::ingress, Port::Uplink), &reply, unmasqueraded, Counter::FragmentTranslated);
        assert_eq!((back.source, back.destination), (net.remote, net.outside), "only the destination changes");
        let translated = &[Counter::ReplyTranslated];
        let (_, seen) = send(world, (World::egress, Port::Uplink), &reply, translated, Counter::FragmentTranslated);
        assert_eq!((seen.source, seen.destination), (net.node_port, net.outside));
    });
}

#[test]
fn fragments_of_a_pod_that_reaches_itself_bear_the_address_of_the_node() {
    everywhere(|world, net| {
        let mut spec = net.service(17);
        let pod = SocketAddr::new(net.client.ip(), 8080);
        spec.backends = vec![BackendSpec { endpoint: pod, local: true }];
        Scene::default().add(world, &spec);
        let request = CUT.of(&long(net.client, net.cluster).bytes());
        let (request, _) = send(world, (World::ingress, Port::Pod), &request, NEW, Counter::FragmentTranslated);
        let masqueraded = &[Counter::RequestMasqueraded, Counter::MasqueradeAllocated];
        let (_, sent) = send(world, (World::egress, Port::Pod), &request, masqueraded, Counter::FragmentTranslated);
        assert_eq!((sent.source.ip(), sent.destination), (net.node, pod));
        let reply = CUT.of(&long(pod, sent.source).bytes());
        let unmasqueraded = &[Counter::ReplyUnmasqueraded];
        let (reply, _) = send(world, (World::ingress, Port::Pod), &reply, unmasqueraded, Counter::FragmentTranslated);
        let translated = &[Counter::ReplyTranslated];
        let (_, seen) = send(world, (World::egress, Port::Pod), &reply, translated, Counter::FragmentTranslated);
        assert_eq!((seen.source, seen.destination), (net.cluster, net.client));
    });
}

#[test]
fn fragments_of_a_reply_between_bridge_ports_are_lifted_to_the_ip_stack() {
    everywhere(|world, net| {
        let mut spec = net.service(17);
        spec.backends = vec![BackendSpec { endpoint: net.local, local: true }];
        Scene::default().add(world, &spec);
        world.ingress(Port::BridgePort, &udp(net.client, net.cluster).bytes());
        let reply = CUT.of(&long(net.local, net.client).bytes());
        let lifted = &[Counter::ReplyLifted];
        let (lifted, seen) =
            send(world, (World::ingress, Port::BridgePort), &reply, lifted, Counter::FragmentTranslated);
        assert_eq!((seen.source, seen.destination), (net.local, net.client), "addresses stay");
        for fragment in &lifted {
            assert_eq!(fragment[..6], BRIDGE_MAC);
        }
        let translated = &[Counter::ReplyTranslated];
        let (_, seen) =
            send(world, (World::egress, Port::BridgePort), &lifted, translated, Counter::FragmentTranslated);
        assert_eq!(seen.source, net.cluster, "egress remembers for itself");
    });
}

#[test]
fn fragments_of_tcp_are_translated_as_those_of_udp() {
    everywhere(|world, net| {
        Scene::default().add(world, &net.service(6));
        world.ingress(Port::Pod, &tcp(net.client, net.cluster).syn().bytes()).translated(NEW);
        let data = CUT.of(&tcp(net.client, net.cluster).payload(LENGTH).bytes());
        let (_, seen) =
            send(world, (World::ingress, Port::Pod), &data, &[Counter::RequestTranslated], Counter::FragmentTranslated);
        assert_eq!((seen.source, seen.destination), (net.client, net.remote));
    });
}

#[test]
fn options_and_extension_headers_on_either_side_of_the_fragment_header_are_looked_through() {
    everywhere(|world, net| {
        Scene::default().add(world, &net.service(17));
        for (port, behind_options) in [(1000, false), (1001, true)] {
            let client = SocketAddr::new(net.client.ip(), port);
            let request = Cut { behind_options, ..CUT.named(port) }.of(&long(client, net.cluster).options().bytes());
            let (_, seen) = send(world, (World::ingress, Port::Pod), &request, NEW, Counter::FragmentTranslated);
            assert_eq!((seen.source, seen.destination), (client, net.remote));
        }
    });
}

#[test]
fn a_packet_with_a_fragment_header_that_is_whole_is_processed_as_whole() {
    World::each(|world| {
        let net = &Net::both()[1];
        Scene::default().add(world, &net.service(17));
        let atomic = Cut::pieces(4096).of(&long(net.client, net.cluster).bytes());
        assert_eq!((atomic.len(), atomic[0][20]), (1, 44));
        let request = world.ingress(Port::Pod, &atomic[0]).rewritten(NEW);
        assert_eq!(packet::read(&join(&[request])).destination, net.remote);
        // Nothing is remembered of it.
        let rest = &CUT.of(&long(net.client, net.cluster).bytes())[1];
        world.ingress(Port::Pod, rest).dropped(Counter::FragmentBeforeFirst);
    });
}

#[test]
fn a_fragment_before_its_first_one_is_dropped_where_the_address_tells_and_passes_elsewhere() {
    everywhere(|world, net| {
        Scene::default().add(world, &net.service(17));
        let second = |from, to| CUT.of(&long(from, to).bytes()).swap_remove(1);
        world.ingress(Port::Pod, &second(net.client, net.cluster)).dropped(Counter::FragmentBeforeFirst);
        world.ingress(Port::Uplink, &second(net.outside, net.node_port)).passed(Counter::Fragment);
        world.ingress(Port::Uplink, &second(net.outside, net.load_balancer)).dropped(Counter::FragmentBeforeFirst);
        world.ingress(Port::Uplink, &second(net.remote, net.client)).passed(Counter::Fragment);
        world.egress(Port::Pod, &second(net.remote, net.client)).passed(Counter::Fragment);
        world.egress(Port::Pod, &second(net.client, net.cluster)).passed(Counter::Fragment);
    });
}

#[test]
fn fragments_to_an_address_of_services_that_are_no_services_pass_behind_the_first_one() {
    everywhere(|world, net| {
        Scene::default().add(world, &net.service(17));
        let other = SocketAddr::new(net.load_balancer.ip(), 53);
        let datagram = CUT.of(&long(net.outside, other).bytes());
        world.ingress(Port::Uplink, &datagram[1]).dropped(Counter::FragmentBeforeFirst);
        world.ingress(Port::Uplink, &datagram[0]).passed(Counter::NoService);
        world.ingress(Port::Uplink, &datagram[1]).passed(Counter::Fragment);
        world.ingress(Port::Uplink, &datagram[2]).passed(Counter::Fragment);
        // Under the same name, a Service's datagram.
        let datagram = CUT.of(&long(net.outside, net.load_balancer).bytes());
        let (_, seen) = send(world, (World::ingress, Port::Uplink), &datagram, NEW, Counter::FragmentTranslated);
        assert_eq!(seen.destination, net.remote);
    });
}

#[test]
fn a_first_fragment_whose_extension_headers_go_on_in_the_next_one_is_dropped_if_it_may_be_a_services() {
    World::each(|world| {
        let net = &Net::both()[1];
        Scene::default().add(world, &net.service(17));
        let nobody = SocketAddr::new(net.local.ip(), 53);
        for (to, concerned) in [(net.cluster, true), (nobody, false)] {
            let whole = long(net.client, to).options().bytes();
            let headers = 14 + 40;
            let mut options = whole[headers..headers + 8].to_vec();
            // They are said to have 16 bytes.
            options[1] = 1;
            let first = CUT.fragment(&whole[..headers], 0, true, &options);
            let outcome = world.ingress(Port::Pod, &first);
            if concerned {
                outcome.dropped(Counter::FragmentedHeader);
            } else {
                outcome.passed(Counter::NoService);
            }
        }
    });
}

#[test]
fn foreign_fragments_pass_untouched() {
    everywhere(|world, net| {
        Scene::default().add(world, &net.service(17));
        let nobody = SocketAddr::new(net.local.ip(), 53);
        let datagram = CUT.of(&long(net.client, nobody).bytes());
        for hook in [World::ingress, World::egress] {
            hook(world, Port::Pod, &datagram[0]).passed(Counter::NoService);
            hook(world, Port::Pod, &datagram[1]).passed(Counter::Fragment);
            hook(world, Port::Pod, &datagram[2]).passed(Counter::Fragment);
        }
        // Another protocol, to a cluster IP: nobody's, as a whole packet is.
        let mut other = CUT.of(&long(net.client, net.cluster).bytes());
        for fragment in &mut other {
            let at = if net.client.is_ipv6() { 54 } else { 23 };
            fragment[at] = 47;
            world.ingress(Port::Pod, fragment).passed(Counter::Fragment);
        }
    });
}

#[test]
fn what_was_remembered_ends_with_the_timeout_of_reassembly() {
    everywhere(|world, net| {
        Scene::default().add(world, &net.service(17));
        let seconds = if net.client.is_ipv6() { 60 } else { 30 };
        let request = CUT.of(&long(net.client, net.cluster).bytes());
        world.ingress(Port::Pod, &request[0]).rewritten(NEW);
        world.wait(seconds);
        world.ingress(Port::Pod, &request[1]).rewritten(&[Counter::FragmentTranslated]);
        world.wait(1);
        world.ingress(Port::Pod, &request[2]).dropped(Counter::FragmentBeforeFirst);
    });
}

#[test]
fn a_name_that_is_used_again_means_the_later_datagram() {
    everywhere(|world, net| {
        let mut spec = net.service(17);
        let other = SocketAddr::new(net.node, 30081);
        Scene::default().add(world, &spec);
        let mut second = net.service(17);
        second.frontends = vec![(other, spec.frontends.swap_remove(1).1)];
        second.backends = vec![BackendSpec { endpoint: net.local, local: true }];
        let mut scene = Scene::default();
        scene.write_at(world, &second, 5, 50, 0);

        let first = CUT.of(&long(net.outside, net.node_port).bytes());
        send(world, (World::ingress, Port::Uplink), &first, NEW, Counter::FragmentTranslated);
        let again = CUT.of(&long(net.outside, other).bytes());
        let (_, seen) = send(world, (World::ingress, Port::Uplink), &again, NEW, Counter::FragmentTranslated);
        assert_eq!(seen.destination, net.local);
        // Now one that is no Service's.
        let foreign = CUT.of(&long(net.outside, SocketAddr::new(net.node, 53)).bytes());
        world.ingress(Port::Uplink, &foreign[0]).passed(Counter::NoService);
        world.ingress(Port::Uplink, &foreign[1]).passed(Counter::Fragment);
        // Another sender's is another datagram.
        send(world, (World::ingress, Port::Uplink), &first, &[Counter::RequestTranslated], Counter::FragmentTranslated);
        let other = CUT.of(&long(net.client, net.node_port).bytes());
        world.ingress(Port::Uplink, &other[1]).passed(Counter::Fragment);
    });
}

#[test]
fn when_the_first_fragment_is_refused_or_dropped_so_are_the_others() {
    everywhere(|world, net| {
        let mut spec = net.service(17);
        spec.backends.clear();
        let mut scene = Scene::default();
        let number = scene.add(world, &spec);
        for (port, frontend) in [(1000, net.cluster), (1001, net.node_port)] {
            let client = SocketAddr::new(net.outside.ip(), port);
            let request = CUT.named(port).of(&long(client, frontend).bytes());
            let answer = world.ingress(Port::Uplink, &request[0]).refused(Counter::RefusedNoEndpoint);
            assert_eq!(answer.quoted, Some((client, frontend)), "the answer quotes the fragment");
            world.ingress(Port::Uplink, &request[1]).dropped(Counter::FragmentOfDropped);
            world.ingress(Port::Uplink, &request[2]).dropped(Counter::FragmentOfDropped);
        }
        spec.flags = flag::EXTERNAL_LOCAL;
        spec.backends = vec![BackendSpec { endpoint: net.remote, local: false }];
        scene.write(world, &spec, number, 0, 0);
        let request = CUT.of(&long(net.outside, net.node_port).bytes());
        world.ingress(Port::Uplink, &request[0]).dropped(Counter::NoLocalEndpoint);
        world.ingress(Port::Uplink, &request[1]).dropped(Counter::FragmentOfDropped);
    });
}

#[test]
fn the_reset_for_a_first_fragment_is_a_whole_packet() {
    everywhere(|world, net| {
        let mut spec = net.service(6);
        spec.backends.clear();
        Scene::default().add(world, &spec);
        let data = CUT.of(&tcp(net.client, net.cluster).payload(LENGTH).bytes());
        let outcome = world.ingress(Port::Pod, &data[0]);
        // The fragment header stays where it was, and says "whole".
        let answer = if net.client.is_ipv6() { join(std::slice::from_ref(&outcome.bytes)) } else { outcome.bytes };
        let seen = packet::read(&answer);
        assert_eq!((seen.source, seen.destination), (net.cluster, net.client));
        assert_eq!(seen.flags, Some(Flags { rst: true, ..Flags::default() }));
        world.ingress(Port::Pod, &data[1]).dropped(Counter::FragmentOfDropped);
    });
}

#[test]
fn a_transport_header_that_is_split_or_overwritten_is_dropped_if_it_may_concern_a_service() {
    everywhere(|world, net| {
        Scene::default().add(world, &net.service(6));
        let packet = tcp(net.client, net.cluster).payload(LENGTH).bytes();
        let (headers, segment) = packet.split_at(if net.client.is_ipv6() { 54 } else { 34 });
        // Too short (RFC 1858 section 3.1): the flags would come in another fragment.
        for length in [8, 16] {
            let tiny = CUT.fragment(headers, 0, true, &segment[..length]);
            world.ingress(Port::Pod, &tiny).dropped(Counter::FragmentedHeader);
        }
        let cut_reply = tcp(net.remote, net.client).payload(LENGTH).bytes();
        let cut_reply = CUT.fragment(&cut_reply[..headers.len()], 0, true, &cut_reply[headers.len()..][..8]);
        world.egress(Port::Pod, &cut_reply).dropped(Counter::FragmentedHeader);
        let foreign = tcp(net.client, SocketAddr::new(net.local.ip(), 22)).payload(LENGTH).bytes();
        let foreign = CUT.fragment(&foreign[..headers.len()], 0, true, &foreign[headers.len()..][..8]);
        world.ingress(Port::Pod, &foreign).passed(Counter::NoService);
        world.egress(Port::Pod, &foreign).passed(Counter::NoService);

        // Overwritten (RFC 3128 section 2): behind a good first fragment one that begins in its header.
        world.ingress(Port::Pod, &tcp(net.client, net.cluster).syn().bytes()).translated(NEW);
        let good = CUT.fragment(headers, 0, true, &segment[..800]);
        world.ingress(Port::Pod, &good).rewritten(&[Counter::RequestTranslated]);
        for offset in [8, 16] {
            let over = CUT.fragment(headers, offset, true, &segment[offset..800]);
            world.ingress(Port::Pod, &over).dropped(Counter::FragmentedHeader);
        }
        let next = CUT.fragment(headers, 24, true, &segment[24..800]);
        world.ingress(Port::Pod, &next).rewritten(&[Counter::FragmentTranslated]);
    });
}

#[test]
fn an_icmp_error_that_quotes_a_first_fragment_is_translated() {
    everywhere(|world, net| {
        Scene::default().add(world, &net.service(17));
        let request = CUT.of(&long(net.client, net.cluster).bytes());
        let (sent, _) = send(world, (World::ingress, Port::Pod), &request, NEW, Counter::FragmentTranslated);
        let error = packet::port_unreachable(net.remote.ip(), net.client.ip(), &sent[0], 1000);
        let outcome = world.egress(Port::Pod, &error).rewritten(&[Counter::IcmpTranslated]);
        // The quoted packet with its ends as the client sent them; behind the error's own headers.
        let behind = if net.client.is_ipv6() { 40 + 8 } else { 20 + 8 };
        let quoted = &outcome[14 + behind..];
        let original = &request[0][14..];
        let same = quoted.len().min(original.len());
        // But for IPv4's checksum of the quoted header and the UDP checksum both are kept, byte for byte.
        assert_eq!(quoted[..same], original[..same]);
        let second = packet::port_unreachable(net.remote.ip(), net.client.ip(), &sent[1], 1000);
        world.egress(Port::Pod, &second).passed(Counter::Fragment);
    });
}

#[test]
fn fragments_that_need_no_other_source_bear_the_mark_and_others_do_not() {
    for net in Net::both() {
        for (frontend, port, mark) in [(net.cluster, Port::Pod, MARK), (net.node_port, Port::Uplink, 0)] {
            let mut world = World::host();
            Scene::default().add(&mut world, &net.service(17));
            let Machine::Host(env) = &world.machine else { unreachable!("a world on the host") };
            for fragment in CUT.of(&long(net.client, frontend).bytes()) {
                let mut packet = HostPacket {
                    bytes: fragment.clone(),
                    summed: Summed::Whole,
                    segment: 0,
                    device: 1,
                    mark: 77,
                    copies: Vec::new(),
                };
                assert_eq!(env.run(world::Hook::Ingress, &mut packet, port.ingress().0), Action::Next);
                assert_ne!(packet.bytes, fragment, "it is translated");
                assert_eq!(packet.mark, mark, "{frontend}");
            }
        }
    }
}

#[test]
fn a_sum_of_the_whole_packet_that_a_device_gave_stays_right() {
    for net in Net::both() {
        let mut world = World::host();
        Scene::default().add(&mut world, &net.service(17));
        let Machine::Host(env) = &world.machine else { unreachable!("a world on the host") };
        for fragment in CUT.of(&long(net.client, net.cluster).bytes()) {
            let before = Summed::Complete(checksum::sum(&fragment[14..]));
            let mut packet = HostPacket {
                bytes: fragment.clone(),
                summed: before,
                segment: 0,
                device: 1,
                mark: 0,
                copies: Vec::new(),
            };
            assert_eq!(env.run(world::Hook::Ingress, &mut packet, Attachment::ETHERNET), Action::Next);
            assert_ne!(packet.bytes, fragment, "it is translated");
            let Summed::Complete(sum) = packet.summed else { unreachable!("it stays what it is") };
            let difference = checksum::difference(sum, checksum::sum(&packet.bytes[14..]));
            assert!(checksum::is_zero(difference), "{net:?}");
        }
    }
}
