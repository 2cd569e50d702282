//! A request at egress: its source becomes an address of this node.
//!
//! The address is that of the output device, so it can be chosen only here; the node's address on a
//! tunnel would die at the far node's reverse path filter. A flow keeps the address and port that its
//! first packet got.

use super::{Work, drop, translated};
use crate::addr::{Be16, Endpoint};
use crate::env::{Env, Tables};
use crate::flow_table::{self, By, FlowKey};
use crate::packet::Packet;
use crate::parse::Network;
use crate::rewrite::{Side, rewrite};
use crate::schema::{Masquerade, MasqueradeKey};
use crate::snat_port;
use crate::verdict::{Counter, DropReason, Verdict};

/// A packet to what may be a backend leaves the node. `None`: its flow is unknown or keeps its source.
#[inline(always)]
pub fn egress<A: Network, P: Packet, E: Env + Tables<A>>(
    packet: &mut P,
    env: &E,
    work: &mut Work<A>,
) -> Option<Verdict> {
    if !find(env, work) {
        return None;
    }
    if work.claim.key.our_port == Be16::ZERO
        && let Some(reason) = settle(env, work, packet.device())
    {
        return Some(drop(env, reason));
    }
    let ours = Endpoint::new(work.claim.key.ours, work.claim.key.our_port);
    let done = rewrite(packet, &work.headers, Side::Source, &ours);
    Some(translated(env, done, Counter::RequestMasqueraded))
}

/// Whether the packet belongs to a masqueraded flow. What it is sent from is then in the key of `work.claim`; port
/// 0 if that is not settled.
#[inline(never)]
fn find<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) -> bool {
    let headers = &work.headers;
    let now = env.now();
    work.lookup.key = FlowKey::new(headers.sender(), headers.receiver(), headers.protocol, work.sender_hash);
    if !flow_table::find(env, &mut work.lookup, By::Backend, now) {
        return false;
    }
    if !work.lookup.found.way.meta().is_masqueraded() {
        return false;
    }
    recall(env, work);
    true
}

/// What the flow in `work.lookup`, which is masqueraded, is sent from, in the key of `work.claim`; where that is not
/// settled, from an address of `device`, by which the packet in hand leaves. Or why it cannot be.
#[inline(never)]
pub fn source<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>, device: u32) -> Option<DropReason> {
    recall(env, work);
    if work.claim.key.our_port == Be16::ZERO { settle(env, work, device) } else { None }
}

/// Fills in the key of `work.claim`; port 0 if it is not settled.
#[inline(always)]
fn recall<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) {
    let found = &work.lookup.found;
    let (meta, now) = (found.way.meta(), env.now());
    let key = &mut work.claim.key;
    *key = MasqueradeKey::new(Endpoint::default(), found.way.backend_endpoint(), meta.protocol());
    if let Some((ours, renew)) = flow_table::masquerade_of(env, found, now) {
        key.ours = ours.address;
        key.our_port = ours.port;
        if renew {
            env.renew_masquerade(key, meta.state().0, now);
        }
    }
}

/// Gives a flow an address of a device, and a port. Of two CPUs that do so at once the loser gives its port back.
#[inline(never)]
fn settle<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>, device: u32) -> Option<DropReason> {
    let Some(device) = env.device(device) else { return Some(DropReason::NoMasqueradeAddress) };
    let address = Tables::<A>::masquerade_address(env, &device);
    if address == A::default() {
        return Some(DropReason::NoMasqueradeAddress);
    }
    let (claim, found) = (&mut work.claim, &work.lookup.found);
    let now = env.now();
    claim.key.ours = address;
    claim.value = Masquerade {
        client: work.headers.source,
        client_port: work.headers.source_port,
        state: found.way.meta().state().0,
        zero: 0,
        seen: now.0,
    };
    if !snat_port::allocate(env, claim) {
        return Some(DropReason::MasqueradeExhausted);
    }
    let ours = Endpoint::new(address, claim.key.our_port);
    let holds = flow_table::set_masquerade(env, found, ours, now);
    if holds == Some(ours) {
        env.count(Counter::MasqueradeAllocated);
        return None;
    }
    env.remove_masquerade(&claim.key);
    let Some(holds) = holds else { return Some(DropReason::Inconsistent) };
    claim.key.ours = holds.address;
    claim.key.our_port = holds.port;
    None
}
