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
//! | egress | request after its translation: client -> backend | from the frontend, if the backend sent it | destination := frontend |
//! | egress | reply before its translation: backend -> client, masqueraded | from our address, if the client sent it | destination := our address |
//!
//! The quotation may end 8 bytes into its transport header (RFC 792), so a TCP checksum may not be in it.

use super::{pass, translated};
use crate::addr::Endpoint;
use crate::checksum::{add, difference, update};
use crate::conntrack::State;
use crate::env::{Env, Tables};
use crate::flow_table::{self, By, FlowKey, Found};
use crate::interest;
use crate::packet::Packet;
use crate::parse::{self, Headers, Network};
use crate::rewrite::{Side, network_checksum};
use crate::schema::MasqueradeKey;
use crate::verdict::{Counter, Verdict};
use crate::wire::{icmp, ipv4, protocol, tcp, udp};

/// The quoted packet of an error, or why the message is none of ours.
#[inline(always)]
fn quoted<A: Network, P: Packet>(packet: &P, outer: &Headers<A>) -> Result<Headers<A>, Counter> {
    let message: icmp::Icmp = packet.read(outer.l4).ok_or(Counter::Malformed)?;
    let is_error = if A::IS_V6 { icmp::is_error::<true>(message.kind) } else { icmp::is_error::<false>(message.kind) };
    if !is_error {
        return Err(Counter::NoService);
    }
    let l3 = outer.l4 + icmp::LENGTH;
    let network = A::network(packet, l3)?;
    if network.protocol != protocol::TCP && network.protocol != protocol::UDP {
        return Err(Counter::NoService);
    }
    let (source_port, destination_port) = parse::quoted_ports(packet, network.l4).ok_or(Counter::Malformed)?;
    Ok(Headers {
        source: network.source,
        destination: network.destination,
        source_port,
        destination_port,
        l3,
        l4: network.l4,
        payload: network.payload,
        protocol: network.protocol,
        tcp_flags: 0,
    })
}

/// An ICMP packet enters the node.
#[inline(always)]
pub fn ingress<A: Network, P: Packet, E: Env + Tables<A>>(packet: &mut P, env: &E, outer: &Headers<A>) -> Verdict {
    let inner = match quoted(packet, outer) {
        Ok(inner) => inner,
        Err(why) => return pass(env, why),
    };
    let now = env.now();
    let receiver = inner.receiver();
    if interest::is_backend(env, receiver, inner.protocol) {
        let key = MasqueradeKey {
            ours: inner.source,
            remote: inner.destination,
            our_port: inner.source_port,
            remote_port: inner.destination_port,
            protocol: inner.protocol,
            zero: [0; 3],
        };
        if let Some(entry) = env.masquerade(&key)
            && !env.config().expired(State(entry.state), entry.seen, now)
        {
            let client = Endpoint::new(entry.client, entry.client_port);
            let done =
                translate(packet, outer, &inner, Side::Source, client, Some((Side::Destination, client.address)));
            return translated(env, done, Counter::IcmpTranslated);
        }
    }
    let sender = inner.sender();
    if interest::is_frontend(env, sender, inner.protocol) {
        let key = FlowKey { client: receiver, other: sender, protocol: inner.protocol };
        let mut found = Found::default();
        if flow_table::find(env, &key, By::Frontend, now, &mut found) {
            let backend = found.way.backend_endpoint();
            let done =
                translate(packet, outer, &inner, Side::Source, backend, Some((Side::Destination, backend.address)));
            return translated(env, done, Counter::IcmpTranslated);
        }
    } else {
        return pass(env, Counter::NoService);
    }
    pass(env, Counter::IcmpWithoutFlow)
}

/// An ICMP packet leaves the node.
#[inline(always)]
pub fn egress<A: Network, P: Packet, E: Env + Tables<A>>(packet: &mut P, env: &E, outer: &Headers<A>) -> Verdict {
    let inner = match quoted(packet, outer) {
        Ok(inner) => inner,
        Err(why) => return pass(env, why),
    };
    let now = env.now();
    let (sender, receiver) = (inner.sender(), inner.receiver());
    let mut found = Found::default();
    if interest::is_backend(env, receiver, inner.protocol) {
        let key = FlowKey { client: sender, other: receiver, protocol: inner.protocol };
        if flow_table::find(env, &key, By::Backend, now, &mut found) {
            let frontend = found.way.frontend_endpoint();
            // A router on the way speaks in its own name.
            let by_backend = outer.source == receiver.address;
            let outer_side = by_backend.then_some((Side::Source, frontend.address));
            let done = translate(packet, outer, &inner, Side::Destination, frontend, outer_side);
            return translated(env, done, Counter::IcmpTranslated);
        }
    }
    if interest::is_backend(env, sender, inner.protocol) {
        let key = FlowKey { client: receiver, other: sender, protocol: inner.protocol };
        if flow_table::find(env, &key, By::Backend, now, &mut found)
            && let Some((ours, _)) = flow_table::masquerade_of(env, &found, now)
        {
            let by_client = outer.source == receiver.address;
            let outer_side = by_client.then_some((Side::Source, ours.address));
            let done = translate(packet, outer, &inner, Side::Destination, ours, outer_side);
            return translated(env, done, Counter::IcmpTranslated);
        }
        return pass(env, Counter::IcmpWithoutFlow);
    }
    pass(env, Counter::NoService)
}

/// Rewrites one end of the quotation and, where given, one address of the message itself, with all
/// checksums: of the quoted network header, of the quoted transport header where it is in the
/// quotation, of the outer network header, and of the message.
#[inline(always)]
fn translate<A: Network, P: Packet>(
    packet: &mut P,
    outer: &Headers<A>,
    inner: &Headers<A>,
    side: Side,
    to: Endpoint<A>,
    outer_side: Option<(Side, A)>,
) -> Option<()> {
    let (from, address_at, port_at) = match side {
        Side::Source => (inner.sender(), A::SOURCE, 0),
        Side::Destination => (inner.receiver(), A::DESTINATION, 2),
    };
    let address = difference(from.address.sum(), to.address.sum());
    let port = difference(from.port.0 as u32, to.port.0 as u32);
    let both = add(address, port);
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
    let at = inner.l4 + if inner.protocol == protocol::TCP { tcp::CHECKSUM } else { udp::CHECKSUM };
    if let Some(before) = packet.read::<u16>(at)
        && (inner.protocol == protocol::TCP || before != 0)
    {
        let after = update(before, both);
        let after = if inner.protocol == protocol::UDP && after == 0 { 0xffff } else { after };
        packet.write(at, &after)?;
        message = add(message, difference(before as u32, after as u32));
    }
    if let Some((side, address)) = outer_side {
        let (from, at) = match side {
            Side::Source => (outer.source, A::SOURCE),
            Side::Destination => (outer.destination, A::DESTINATION),
        };
        packet.write(outer.l3 + at, &address)?;
        let change = difference(from.sum(), address.sum());
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
