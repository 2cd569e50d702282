//! A reply: at ingress back to a masqueraded client, at egress in the name of the frontend.

use super::{Work, cut, translated};
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
#[inline(never)]
pub fn ingress<A: Network, P: Packet, E: Env + Tables<A>>(
    packet: &mut P,
    env: &E,
    work: &mut Work<A>,
) -> Option<Verdict> {
    let headers = &work.headers;
    let now = env.now();
    let key = MasqueradeKey::new(headers.receiver(), headers.sender(), headers.protocol);
    if let Some(entry) = env.masquerade(&key)
        && !env.config().expired(State(entry.state), entry.seen, now)
    {
        if now.0.wrapping_sub(entry.seen) >= RENEW_TICKS {
            env.renew_masquerade(&key, entry.state, now);
        }
        let client = Endpoint::new(entry.client, entry.client_port);
        let done = rewrite(packet, headers, Side::Destination, &client);
        return Some(translated(env, done, Counter::ReplyUnmasqueraded));
    }
    if work.attachment.bridge_port { lift(packet, env, work) } else { None }
}

/// The flow that the packet in hand is a reply of.
#[inline(always)]
fn find_replied<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) -> bool {
    let headers = &work.headers;
    work.lookup.key = FlowKey::new(headers.receiver(), headers.sender(), headers.protocol, work.receiver_hash);
    flow_table::find(env, &mut work.lookup, By::Backend, env.now())
}

/// A reply between two ports of a bridge would be switched past the IP stack, where connection tracking
/// waits for it (and its source would stay the backend's). Addressed to the bridge, it is routed.
#[inline(always)]
fn lift<A: Network, P: Packet, E: Env + Tables<A>>(packet: &mut P, env: &E, work: &mut Work<A>) -> Option<Verdict> {
    let device = env.device(packet.device())?;
    if device.lift == [0; 6] {
        return None;
    }
    work.receiver_hash = interest::endpoint_hash(env.config(), work.headers.receiver(), work.headers.protocol);
    if !find_replied(env, work) {
        return None;
    }
    let done = packet.write(0, &device.lift);
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
