//! A request at egress: its source becomes an address of this node.
//!
//! The address is that of the output device, so it can be chosen only here; the node's address on a
//! tunnel would die at the far node's reverse path filter. A flow keeps the address and port that its
//! first packet got.

use super::{Work, drop, translated};
use crate::addr::Endpoint;
use crate::env::{Env, Tables, Tick};
use crate::flow_table::{self, By, FlowKey, Found};
use crate::packet::Packet;
use crate::parse::{Headers, Network};
use crate::rewrite::{Side, rewrite};
use crate::schema::MasqueradeKey;
use crate::snat_port;
use crate::verdict::{Counter, DropReason, Verdict};

/// A packet to what may be a backend leaves the node. `None`: its flow is unknown or keeps its source.
#[inline(never)]
pub fn egress<A: Network, P: Packet, E: Env + Tables<A>>(
    packet: &mut P,
    env: &E,
    work: &mut Work<A>,
) -> Option<Verdict> {
    let headers = &work.headers;
    let now = env.now();
    work.lookup.key = FlowKey { client: headers.sender(), other: headers.receiver(), protocol: headers.protocol };
    if !flow_table::find(env, &mut work.lookup, By::Backend, now) {
        return None;
    }
    let found = &work.lookup.found;
    if !found.way.meta().is_masqueraded() {
        return None;
    }
    let ours = match flow_table::masquerade_of(env, found, now) {
        Some((ours, renew)) => {
            if renew {
                env.renew_masquerade(&reply_key(headers, ours), found.way.meta().state().0, now);
            }
            ours
        }
        None => match settle(packet, env, headers, found, now) {
            Ok(ours) => ours,
            Err(reason) => return Some(drop(env, reason)),
        },
    };
    let done = rewrite(packet, headers, Side::Source, &ours);
    Some(translated(env, done, Counter::RequestMasqueraded))
}

/// Key under which the reply to a request from `ours` will be found.
#[inline(always)]
fn reply_key<A: Network>(headers: &Headers<A>, ours: Endpoint<A>) -> MasqueradeKey<A> {
    MasqueradeKey {
        ours: ours.address,
        remote: headers.destination,
        our_port: ours.port,
        remote_port: headers.destination_port,
        protocol: headers.protocol,
        zero: [0; 3],
    }
}

/// Gives a flow its address and port. Of two CPUs that do so at once the loser gives its port back.
#[inline(always)]
fn settle<A: Network, P: Packet, E: Env + Tables<A>>(
    packet: &P,
    env: &E,
    headers: &Headers<A>,
    found: &Found<A>,
    now: Tick,
) -> Result<Endpoint<A>, DropReason> {
    let device = env.device(packet.device()).ok_or(DropReason::NoMasqueradeAddress)?;
    let address = Tables::<A>::masquerade_address(env, &device);
    if address == A::default() {
        return Err(DropReason::NoMasqueradeAddress);
    }
    let client = headers.sender();
    let state = found.way.meta().state();
    let port = snat_port::allocate(env, address, headers.receiver(), headers.protocol, client, state, now)
        .ok_or(DropReason::MasqueradeExhausted)?;
    let ours = Endpoint::new(address, port);
    match flow_table::set_masquerade(env, found, ours, now) {
        Some(holds) if holds == ours => {
            env.count(Counter::MasqueradeAllocated);
            Ok(ours)
        }
        Some(holds) => {
            env.remove_masquerade(&reply_key(headers, ours));
            Ok(holds)
        }
        None => {
            env.remove_masquerade(&reply_key(headers, ours));
            Err(DropReason::Inconsistent)
        }
    }
}
