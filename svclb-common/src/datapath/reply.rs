//! A reply: at ingress back to a masqueraded client, at egress in the name of the frontend.

use super::{Work, cut, forward, translated};
use crate::addr::Endpoint;
use crate::conntrack::{Direction, State};
use crate::env::{Env, Tables};
use crate::flow_table::{self, By, FlowKey, RENEW_TICKS};
use crate::interest;
use crate::packet::Packet;
use crate::parse::Network;
use crate::rewrite::{Side, rewrite};
use crate::schema::MasqueradeKey;
use crate::verdict::{Counter, Refusal, Verdict};

/// A packet from what may be a backend enters the node. `None`: it is no reply that must be changed here.
/// [`Verdict::Forward`]: its flow, in `work.lookup`, is direct; whether this packet is sent on is to be seen.
#[inline(never)]
pub fn ingress<A: Network, P: Packet, E: Env + Tables<A>>(
    packet: &mut P,
    env: &E,
    work: &mut Work<A>,
) -> Option<Verdict> {
    let headers = &work.headers;
    let now = env.now();
    let key = MasqueradeKey::new(headers.receiver(), headers.sender(), headers.protocol);
    let mut client = headers.receiver();
    let mut is_masqueraded = false;
    if let Some(entry) = env.masquerade(&key)
        && !env.config().expired(State(entry.state), entry.seen, now)
    {
        if now.0.wrapping_sub(entry.seen) >= RENEW_TICKS {
            env.renew_masquerade(&key, entry.state, now);
        }
        client = Endpoint::new(entry.client, entry.client_port);
        is_masqueraded = true;
    }
    if forward::are_there(env)
        && let Some(verdict) = direct(env, work, client)
    {
        return Some(verdict);
    }
    half(packet, env, work, &client, is_masqueraded)
}

/// A reply of a direct flow that is left to the stack all the same enters the node.
#[inline(never)]
pub fn left<A: Network, P: Packet, E: Env + Tables<A>>(packet: &mut P, env: &E, work: &mut Work<A>) -> Option<Verdict> {
    let way = &work.lookup.found.way;
    let (client, is_masqueraded) = (way.client_endpoint(), way.meta().is_masqueraded());
    half(packet, env, work, &client, is_masqueraded)
}

/// The half of the translation of a reply that is the business of ingress.
#[inline(always)]
fn half<A: Network, P: Packet, E: Env + Tables<A>>(
    packet: &mut P,
    env: &E,
    work: &mut Work<A>,
    client: &Endpoint<A>,
    is_masqueraded: bool,
) -> Option<Verdict> {
    if is_masqueraded {
        let done = rewrite(packet, &work.headers, Side::Destination, client);
        return Some(translated(env, done, Counter::ReplyUnmasqueraded));
    }
    if work.attachment.bridge_port { lift(packet, env, work) } else { None }
}

/// A reply to `client`. `None`: its flow is not direct.
#[inline(always)]
fn direct<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>, client: Endpoint<A>) -> Option<Verdict> {
    work.receiver_hash = interest::endpoint_hash(env.config(), client, work.headers.protocol);
    if !find_reply_to(env, work, client) || !work.lookup.found.way.meta().is_direct() {
        return None;
    }
    if cut::is_due(env, work) {
        return Some(Verdict::Refuse(Refusal::GoneBackend));
    }
    Some(Verdict::Forward)
}

/// The flow that the packet in hand, which is addressed to the client, is a reply of.
#[inline(always)]
fn find_replied<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) -> bool {
    find_reply_to(env, work, work.headers.receiver())
}

/// The flow of this client, whose hash is `work.receiver_hash`, that the packet in hand is a reply of.
#[inline(always)]
fn find_reply_to<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>, client: Endpoint<A>) -> bool {
    let headers = &work.headers;
    work.lookup.key = FlowKey::new(client, headers.sender(), headers.protocol, work.receiver_hash);
    flow_table::find(env, &mut work.lookup, By::Backend, env.now())
}

/// A reply between two ports of a bridge would be switched past the IP stack, where connection tracking
/// waits for it (and its source would stay the backend's). Addressed to the bridge, it is routed.
#[inline(always)]
fn lift<A: Network, P: Packet, E: Env + Tables<A>>(packet: &mut P, env: &E, work: &mut Work<A>) -> Option<Verdict> {
    let device = env.device(packet.device())?;
    if device.mac == [0; 6] {
        return None;
    }
    work.receiver_hash = interest::endpoint_hash(env.config(), work.headers.receiver(), work.headers.protocol);
    if !find_replied(env, work) {
        return None;
    }
    let done = packet.write(0, &device.mac);
    Some(translated(env, done, Counter::ReplyLifted))
}

/// A packet from what may be a backend leaves the node. `None`: it is no reply of a known flow. A refusal is the caller's
/// to carry out: the connection is [`cut`].
#[inline(never)]
pub fn egress<A: Network, P: Packet, E: Env + Tables<A>>(
    packet: &mut P,
    env: &E,
    work: &mut Work<A>,
) -> Option<Verdict> {
    if !find_replied(env, work) {
        return None;
    }
    if cut::is_due(env, work) {
        return Some(Verdict::Refuse(Refusal::GoneBackend));
    }
    let found = &mut work.lookup.found;
    flow_table::note(env, found, Direction::Reply, work.headers.signal, env.now());
    let done = rewrite(packet, &work.headers, Side::Source, &found.way.frontend_endpoint());
    Some(translated(env, done, Counter::ReplyTranslated))
}
