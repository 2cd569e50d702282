//! What happens: packets and what follows from them, and changes around them.

use std::net::SocketAddr;

use svclb_common::config::flag as config_flag;
use svclb_common::route::{Route, reach};
use svclb_common::schema::Device;
use svclb_common::service::{device_flag, role};
use svclb_common::verdict::Counter;

use super::frames::{damage, make, pieces, shape};
use super::services::{base, client, ends, services, unused};
use super::{Nodes, SCTP, Story, TCP, UDP};
use crate::packet::{self, sctp, tcp, udp};
use crate::world::{NEXT, NODE4, NODE6, Outcome, Port};

/// Sends fragments through both hooks.
fn send_pieces(story: &mut Story<impl Nodes>, pieces: &[Vec<u8>], (enters, leaves): (Port, Port)) {
    for piece in pieces {
        let sent = story.nodes.run(true, enters, piece);
        if sent.action == NEXT {
            story.nodes.run(false, leaves, &sent.bytes);
        }
    }
}

/// One packet and what follows from it.
pub(super) fn step(story: &mut Story<impl Nodes>) {
    let v6 = story.dice.one_in(2);
    let protocol = story.dice.of(&[TCP, UDP, SCTP]);
    let spec = story.dice.one_of(services(v6, protocol));
    let mut frontend = story.dice.one_of(&spec.frontends).0;
    if story.dice.one_in(12) {
        frontend.set_port(81);
    }
    let mut from = client(&mut story.dice, v6);
    let known = |(client, _): &&(SocketAddr, SocketAddr)| client.is_ipv6() == v6;
    let count = story.recent.iter().filter(known).count();
    if count > 0 && story.dice.one_in(2) {
        let at = story.dice.below(count);
        (from, frontend) = *story.recent.iter().filter(known).nth(at).expect("one of those counted");
        if story.dice.one_in(2) {
            frontend = story.dice.one_of(&spec.frontends).0;
        }
    } else {
        story.recent.push((from, frontend));
        if story.recent.len() > 24 {
            story.recent.remove(0);
        }
    }
    let port = story.dice.of(&[Port::Pod, Port::Uplink, Port::BridgePort]);
    let frame = make(protocol, from, frontend);
    if story.dice.one_in(5) {
        let leaves = story.dice.of(&[Port::Uplink, Port::Uplink, Port::Pod, Port::Unnumbered]);
        let pieces = pieces(&mut story.dice, frame);
        send_pieces(story, &pieces, (port, leaves));
        return;
    }
    let mut bytes = shape(&mut story.dice, frame, protocol).bytes();
    if story.dice.one_in(8) {
        damage(&mut story.dice, &mut bytes, v6);
        let ingress = story.dice.one_in(2);
        story.nodes.run(ingress, port, &bytes);
        return;
    }
    let request = story.nodes.run(true, port, &bytes);
    if request.moved.contains_key(Counter::RequestForwarded.label()) {
        let seen = packet::read(&request.bytes);
        for _ in 0..2 {
            let by = story.dice.of(&[Port::Uplink, Port::Pod, Port::BridgePort]);
            let reply = story.nodes.run(true, by, &make(protocol, seen.destination, seen.source).answer().bytes());
            if reply.moved.contains_key(Counter::ReplyForwarded.label()) {
                comes_back(&reply, from, frontend);
            }
        }
        return;
    }
    if !request.moved.contains_key(Counter::RequestTranslated.label()) {
        return;
    }
    let by = story.dice.of(&[Port::Uplink, Port::Uplink, Port::Pod, Port::Unnumbered]);
    let out = story.nodes.run(false, by, &request.bytes);
    if out.action != NEXT {
        return;
    }
    let sent = packet::read(&out.bytes);
    if story.dice.one_in(3) {
        answer(story, &sent, (from, frontend, protocol));
    }
    if story.dice.one_in(6) {
        complain(story, &sent, &out.bytes, (from, frontend, protocol));
    }
}

/// The backend answers.
fn answer(
    story: &mut Story<impl Nodes>,
    sent: &packet::Seen,
    (from, frontend, protocol): (SocketAddr, SocketAddr, u8),
) {
    let frame = make(protocol, sent.destination, sent.source);
    let by = story.dice.of(&[Port::Uplink, Port::BridgePort, Port::Pod]);
    if story.dice.one_in(3) {
        let pieces = pieces(&mut story.dice, frame);
        send_pieces(story, &pieces, (by, Port::Uplink));
        return;
    }
    let frame =
        if protocol != UDP && story.dice.one_in(2) { frame.answer() } else { shape(&mut story.dice, frame, protocol) };
    let reply = story.nodes.run(true, by, &frame.bytes());
    if reply.action != NEXT {
        return;
    }
    let out = story.nodes.run(false, Port::Uplink, &reply.bytes);
    if out.moved.contains_key(Counter::ReplyTranslated.label()) {
        comes_back(&out, from, frontend);
    }
}

/// A reply comes from what its client has addressed.
fn comes_back(reply: &Outcome, client: SocketAddr, frontend: SocketAddr) {
    let seen = packet::read(&reply.bytes);
    assert_eq!((seen.source, seen.destination), (frontend, client), "a reply comes from what its client addressed");
}

/// The backend's side complains about the request, or the client about a reply.
fn complain(
    story: &mut Story<impl Nodes>,
    sent: &packet::Seen,
    request: &[u8],
    (from, frontend, protocol): (SocketAddr, SocketAddr, u8),
) {
    // Only packets whose network header stands right behind the Ethernet header are quoted here.
    if request[12..14] == [0x81, 0x00] {
        return;
    }
    let quoted = story.dice.of(&[48, 28, 1000]);
    let of_request = story.dice.one_in(2);
    let error = if of_request {
        packet::port_unreachable(sent.destination.ip(), sent.source.ip(), request, quoted)
    } else {
        packet::port_unreachable(from.ip(), frontend.ip(), &make(protocol, frontend, from).bytes(), quoted)
    };
    let inside = story.nodes.run(true, Port::Uplink, &error);
    let out = story.nodes.run(false, Port::Uplink, &inside.bytes);
    let whose = if of_request { &out } else { &inside };
    if whose.moved.contains_key(Counter::IcmpTranslated.label()) {
        let own = if of_request { (from, frontend) } else { (sent.destination, sent.source) };
        assert_eq!(packet::read(&out.bytes).quoted, Some(own), "an error quotes what its receiver has sent");
    }
}

/// A packet without ports, to an address of a Service or near one.
pub(super) fn portless(story: &mut Story<impl Nodes>) {
    let v6 = story.dice.one_in(2);
    let from = client(&mut story.dice, v6).ip();
    let frontend = story.dice.one_of(services(v6, UDP)).frontends[story.dice.below(4)].0;
    let to = if story.dice.one_in(2) { unused(v6) } else { frontend.ip() };
    let bytes = match story.dice.below(4) {
        0 => packet::gre(from, to),
        1 => udp(SocketAddr::new(from, 9), SocketAddr::new(to, 9)).bytes(),
        _ => packet::echo(from, to, story.dice.one_in(8)),
    };
    let (ingress, port) =
        (story.dice.one_in(2), story.dice.of(&[Port::Pod, Port::Uplink, Port::BridgePort, Port::Bridge]));
    story.nodes.run(ingress, port, &bytes);
    if story.dice.one_in(3) {
        // A process of the node asks for a Service by SCTP.
        let own = if v6 { NODE6.into() } else { NODE4.into() };
        let (cluster, _) = services(v6, SCTP)[0].frontends[0];
        story.nodes.run(false, Port::Uplink, &sctp(SocketAddr::new(own, 40_000), cluster).syn().bytes());
    }
}

/// Direct mode comes or goes, and ways to clients and endpoints change.
fn roads(story: &mut Story<impl Nodes>) {
    let both = config_flag::DIRECT | config_flag::DIRECT_FLOWS;
    let flags = story.dice.of(&[0, config_flag::DIRECT_FLOWS, both, both, both, both]);
    story.nodes.each(|world, _| world.configure(|config| config.flags = config.flags & !both | flags));
    for device in [role::NODE, role::POD] {
        let flags = device_flag::ETHERNET | if device == role::POD { device_flag::PEER } else { 0 };
        let numbered = (NODE4.into(), NODE6.into());
        let record =
            Device { role: device, flags, masquerade4: numbered.0, masquerade6: numbered.1, ..Device::default() };
        story.nodes.each(|world, _| world.add_device(u32::from(device) + 1, &record));
    }
    for end in ends().iter().copied() {
        let ways = [reach::KNOWN, reach::KNOWN, reach::ASKED, reach::ASKED, reach::TOO_LONG, reach::STACK];
        let reach = story.dice.of(&ways);
        // Of the last one nothing is known.
        let device = story.dice.of(&[2, 2, 3, 3, 4]);
        let way = Route { reach, device, macs: [[2, 0, 0, 0, 0, 7]; 2], ..Route::default() };
        story.nodes.each(|world, _| world.route(end, &way));
    }
}

/// Something changes around the packets.
pub(super) fn change(story: &mut Story<impl Nodes>) {
    match story.dice.below(28) {
        0 => {
            let seconds = story.dice.of(&[1, 5, 20, 61, 121]);
            story.nodes.each(|world, _| world.wait(seconds));
        }
        1..4 => {
            let flags =
                [0, config_flag::CUT, config_flag::CUT | config_flag::MASQUERADE_ALL, config_flag::LOCAL_BY_DEVICE]
                    .map(|flag| if story.dice.one_in(2) { flag | config_flag::PING_SERVICES } else { flag });
            let (flags, cidrs) = (story.dice.of(&flags), story.dice.below(2) as u32);
            story.nodes.each(|world, _| {
                world.configure(|config| {
                    config.flags = flags;
                    config.service_cidrs = [cidrs, cidrs];
                });
            });
        }
        4 | 5 => {
            let refusals = story.dice.of(&[1_000_000, 1_000_000, 0]);
            story.nodes.each(|world, _| world.configure(|config| config.refusals = refusals));
        }
        6..9 => roads(story),
        _ => {
            // Endpoints go and come back, half of the time as numbers of another owner.
            let (v6, protocol) = (story.dice.one_in(2), story.dice.of(&[UDP, SCTP]));
            let n = story.dice.of(&[0, 0, 4, 4, 4, 1, 2, 3, 5]);
            let (generation, gone, count) =
                (story.dice.below(2) as u16, story.dice.one_in(2), story.dice.of(&[2, 4, 4, 8]));
            story.nodes.each(|world, scene| {
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
pub(super) fn afresh(story: &mut Story<impl Nodes>) {
    let v6 = story.dice.one_in(2);
    let from = client(&mut story.dice, v6);
    for protocol in [TCP, UDP, SCTP] {
        let spec = &services(v6, protocol)[4];
        let (number, first) = base(protocol);
        let request = make(protocol, from, spec.frontends[0].0);
        let begin = if protocol == UDP { request.clone() } else { request.clone().syn() }.bytes();
        let sent = story.nodes.run(true, Port::Pod, &begin);
        if !sent.moved.contains_key(Counter::RequestTranslated.label()) {
            continue;
        }
        let backend = packet::read(&sent.bytes).destination;
        story.nodes.run(true, Port::BridgePort, &make(protocol, backend, from).answer().bytes());
        let gone = u32::from(backend.port() - 8050);
        story.nodes.each(|world, scene| scene.drop_backends(world, v6, first + 40 + gone, 1));
        for again in [request.bytes(), begin] {
            story.nodes.run(false, Port::Pod, &make(protocol, backend, from).bytes());
            story.nodes.run(true, Port::Pod, &again);
        }
        story.nodes.each(|world, scene| scene.write_at(world, spec, number + 4, first + 40, 0));
    }
    for (frontend, _) in &services(v6, UDP)[5].frontends[..2] {
        story.nodes.run(true, Port::Pod, &udp(from, *frontend).bytes());
    }
    let frontend = services(v6, TCP)[0].frontends[0].0;
    let never_sent = tcp(frontend, SocketAddr::new(from.ip(), 7)).bytes();
    story.nodes.run(true, Port::Uplink, &packet::port_unreachable(from.ip(), frontend.ip(), &never_sent, 1000));
    let syn = tcp(from, frontend).syn().bytes();
    let sent = story.nodes.run(true, Port::Pod, &syn);
    if sent.moved.contains_key(Counter::RequestTranslated.label()) {
        let reset = tcp(packet::read(&sent.bytes).destination, from).rst().bytes();
        story.nodes.run(false, Port::Pod, &reset);
        story.nodes.run(true, Port::Pod, &syn);
    }
}
