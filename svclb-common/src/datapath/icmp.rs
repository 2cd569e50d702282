//! ICMP errors about translated packets.
//!
//! An error quotes the packet that caused it as its sender saw it: translated. Its receiver knows only
//! the packet before translation, so the quotation is translated back, and the outer address with it.
//! Four cases, by who sees the quoted packet:
//!
//! | hook | quoted packet | outer destination or source | quotation |
//! | --- | --- | --- | --- |
//! | ingress | masqueraded request: our address -> backend | to the client | source := client |
//! | ingress | reply as the client saw it: frontend -> client | to the backend | source := backend |
//! | egress | request after its translation: client -> backend | from the frontend, if the backend sent it or the flow is masqueraded | destination := frontend |
//! | egress | reply before its translation: backend -> client, masqueraded | from our address | destination := our address |
//!
//! A router on the way speaks in its own name as long as both ends of the flow know each other. Of a masqueraded flow
//! neither knows what is behind this node, and what routes and filters by source addresses there would throw away an
//! error from another address than that of the flow's own packets.
//!
//! The quotation may end 8 bytes into its transport header (RFC 792), so the checksum of TCP or SCTP may not be in it.

use super::{Work, pass, translated};
use crate::addr::{Address, Be16, Endpoint};
use crate::checksum::{add, difference, update};
use crate::conntrack::State;
use crate::env::{Env, Tables};
use crate::flow_table::{self, By, FlowKey};
use crate::interest;
use crate::packet::Packet;
use crate::parse::{self, Headers, Network, Part};
use crate::rewrite::{Side, crc_after, network_checksum};
use crate::schema::MasqueradeKey;
use crate::verdict::{Counter, Verdict};
use crate::wire::{icmp, ipv4, protocol, sctp};

/// Reads the quoted packet of an error, or says why the message is none of ours. Comes before the rest.
#[inline(never)]
pub fn quoted<A: Network, P: Packet>(packet: &P, work: &mut Work<A>) -> Result<(), Counter> {
    let outer = &work.headers;
    let message: icmp::Icmp = packet.read(outer.l4).ok_or(Counter::Malformed)?;
    let is_error = if A::IS_V6 { icmp::is_error::<true>(message.kind) } else { icmp::is_error::<false>(message.kind) };
    if !is_error {
        return Err(Counter::NoService);
    }
    let l3 = outer.l4 + icmp::LENGTH;
    let mut part = Part::default();
    let network = A::network(packet, l3, Some(&mut part))?;
    if part.offset != 0 {
        return Err(Counter::Fragment); // no ports; no router complains about such a one (RFC 1122 section 3.2.2)
    }
    if !matches!(network.protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        return Err(Counter::NoService);
    }
    if !quotes(outer, network.l4 + PORTS) {
        return Err(Counter::Malformed);
    }
    let (source_port, destination_port) = parse::quoted_ports(packet, network.l4).ok_or(Counter::Malformed)?;
    work.quoted = Headers::new(network, l3, part.at, source_port, destination_port, 0);
    Ok(())
}

/// Length of the ports at the start of a transport header.
const PORTS: usize = 4;

/// Whether a message goes on to this offset. What is behind it in the frame is no part of it.
#[inline(always)]
const fn quotes<A: Address>(outer: &Headers<A>, end: usize) -> bool {
    end <= outer.l4 + outer.payload as usize
}

/// An ICMP error enters the node.
#[inline(never)]
pub fn ingress<A: Network, P: Packet, E: Env + Tables<A>>(packet: &mut P, env: &E, work: &mut Work<A>) -> Verdict {
    let inner = &work.quoted;
    let now = env.now();
    let (sender, receiver) = (inner.sender(), inner.receiver());
    let receiver_hash = interest::endpoint_hash(env.config(), receiver, inner.protocol);
    if interest::is_backend::<A, E>(env, receiver_hash) {
        let key = MasqueradeKey::new(sender, receiver, inner.protocol);
        if let Some(entry) = env.masquerade(&key)
            && !env.config().expired(State(entry.state), entry.seen, now)
        {
            let client = Endpoint::new(entry.client, entry.client_port);
            return towards(packet, env, work, &client);
        }
    }
    if !interest::is_frontend(env, sender, inner.protocol) {
        return pass(env, Counter::NoService);
    }
    work.lookup.key = FlowKey::new(receiver, sender, inner.protocol, receiver_hash);
    if !flow_table::find(env, &mut work.lookup, By::Frontend, now) {
        return pass(env, Counter::IcmpWithoutFlow);
    }
    let way = &work.lookup.found.way;
    let backend = way.backend_endpoint();
    if !way.meta().is_masqueraded() {
        // The backend has sent what is quoted now.
        packet.set_mark(env.config().mark);
    }
    towards(packet, env, work, &backend)
}

/// Sends an error on to the end that sent the quoted packet.
#[inline(always)]
fn towards<A: Network, P: Packet, E: Env>(packet: &mut P, env: &E, work: &Work<A>, end: &Endpoint<A>) -> Verdict {
    let done = translate(packet, work, Side::Source, end, true);
    translated(env, done, Counter::IcmpTranslated)
}

/// An ICMP error leaves the node.
#[inline(never)]
pub fn egress<A: Network, P: Packet, E: Env + Tables<A>>(packet: &mut P, env: &E, work: &mut Work<A>) -> Verdict {
    let inner = &work.quoted;
    let now = env.now();
    let (sender, receiver, protocol) = (inner.sender(), inner.receiver(), inner.protocol);
    let sender_hash = interest::endpoint_hash(env.config(), sender, protocol);
    let receiver_hash = interest::endpoint_hash(env.config(), receiver, protocol);
    if interest::is_backend::<A, E>(env, receiver_hash) {
        work.lookup.key = FlowKey::new(sender, receiver, protocol, sender_hash);
        if flow_table::find(env, &mut work.lookup, By::Backend, now) {
            let way = &work.lookup.found.way;
            let frontend = way.frontend_endpoint();
            let in_its_name = way.meta().is_masqueraded() || work.headers.source == receiver.address;
            let done = translate(packet, work, Side::Destination, &frontend, in_its_name);
            return translated(env, done, Counter::IcmpTranslated);
        }
    }
    if !interest::is_backend::<A, E>(env, sender_hash) {
        return pass(env, Counter::NoService);
    }
    work.lookup.key = FlowKey::new(receiver, sender, protocol, receiver_hash);
    if !flow_table::find(env, &mut work.lookup, By::Backend, now) {
        return pass(env, Counter::IcmpWithoutFlow);
    }
    // Of a flow that is not masqueraded the details are those of one that had its place before.
    if work.lookup.found.way.meta().is_masqueraded()
        && let Some((ours, _)) = flow_table::masquerade_of(env, &work.lookup.found, now)
    {
        let done = translate(packet, work, Side::Destination, &ours, true);
        return translated(env, done, Counter::IcmpTranslated);
    }
    // As the backend has sent it.
    pass(env, Counter::NoService)
}

/// Rewrites one end of the quotation and, if `outer_too`, the address of the message on the opposite side
/// (the source of the quoted packet is who the message goes to), with all checksums: of the quoted network
/// header, of the quoted transport header where it is in the quotation, of the outer network header, and
/// of the message.
#[inline(always)]
fn translate<A: Network, P: Packet>(
    packet: &mut P,
    work: &Work<A>,
    side: Side,
    to: &Endpoint<A>,
    outer_too: bool,
) -> Option<()> {
    if work.quoted.protocol == protocol::SCTP {
        translate_crc(packet, work, side, to.port)?;
    }
    translate_ends(packet, work, side, to, outer_too)
}

/// [`translate`] but for the CRC of SCTP.
#[inline(never)]
fn translate_ends<A: Network, P: Packet>(
    packet: &mut P,
    work: &Work<A>,
    side: Side,
    to: &Endpoint<A>,
    outer_too: bool,
) -> Option<()> {
    let (outer, inner) = (&work.headers, &work.quoted);
    let (from, address_at, port_at, outer_from, outer_at) = match side {
        Side::Source => (inner.sender(), A::SOURCE, 0, outer.destination, A::DESTINATION),
        Side::Destination => (inner.receiver(), A::DESTINATION, 2, outer.source, A::SOURCE),
    };
    let address = difference(from.address.sum(), to.address.sum());
    let both = add(address, difference(from.port.0 as u32, to.port.0 as u32));
    // What the changed bytes of the quotation add to the message's sum.
    let mut message = both;
    packet.write(inner.l3 + address_at, &to.address)?;
    packet.write(inner.l4 + port_at, &to.port)?;
    if !A::IS_V6 {
        let at = inner.l3 + ipv4::CHECKSUM;
        let before: u16 = packet.read(at)?;
        network_checksum(packet, inner.l3, address)?;
        let after: u16 = packet.read(at)?;
        message = add(message, difference(before as u32, after as u32));
    }
    let at = inner.checksum();
    if inner.protocol != protocol::SCTP
        && quotes(outer, at + size_of::<u16>())
        && let Some(before) = packet.read::<u16>(at)
        && (inner.protocol == protocol::TCP || before != 0)
    {
        let after = update(before, both);
        let after = if inner.protocol == protocol::UDP && after == 0 { 0xffff } else { after };
        packet.write(at, &after)?;
        message = add(message, difference(before as u32, after as u32));
    }
    if outer_too {
        packet.write(outer.l3 + outer_at, &to.address)?;
        let change = difference(outer_from.sum(), to.address.sum());
        if A::IS_V6 {
            message = add(message, change); // ICMPv6 covers a pseudo header (RFC 4443 section 2.3)
        } else {
            network_checksum(packet, outer.l3, change)?;
        }
    }
    let at = outer.l4 + icmp::CHECKSUM;
    let field: u16 = packet.read(at)?;
    packet.write(at, &update(field, message))
}

/// Brings the CRC of a quoted SCTP packet, and the message's checksum, to another port at one end of the quotation. The CRC
/// is that of the whole packet, however much of it is quoted, so it can be kept right all the same. With 0 in the field
/// it was quoted before a device had computed it. Not called by
/// [`translate_ends`], whose stack would be below it.
#[inline(never)]
fn translate_crc<A: Network, P: Packet>(packet: &mut P, work: &Work<A>, side: Side, to: Be16) -> Option<()> {
    let quoted = &work.quoted;
    let at = quoted.checksum();
    let whole = quoted.payload >= sctp::LENGTH as u32 && quotes(&work.headers, at + size_of::<u32>());
    let Some(before) = packet.read::<u32>(at).filter(|before| whole && *before != 0) else { return Some(()) };
    let after = crc_after(quoted, side, before, to);
    packet.write(at, &after)?;
    let at = work.headers.l4 + icmp::CHECKSUM;
    let field: u16 = packet.read(at)?;
    packet.write(at, &update(field, difference(before, after)))
}
