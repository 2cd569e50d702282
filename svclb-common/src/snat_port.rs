//! The port of this node that a masqueraded flow is sent from.
//!
//! A reply is recognised by {our address, our port, backend endpoint, protocol}, so one port serves as
//! many flows as there are backends; only flows to the same backend compete. The client's own port is
//! kept if it is free; else ports from 1024 up are probed from a random start with a step that is
//! prime to their number. An entry past its timeout is free.

use crate::addr::{Address, Be16};
use crate::conntrack::State;
use crate::env::{Env, Tables, Tick};
use crate::schema::{Masquerade, MasqueradeKey};

/// First port that is probed.
pub const FIRST_PORT: u32 = 1024;
const PORTS: u32 = 65_536 - FIRST_PORT;
/// Distance between probes; prime, so that it visits every port.
const STEP: u32 = 15_401;
/// Probes before a flow is refused a port. With half of the ports in use all fail once in 2^24 flows.
pub const PROBES: u32 = 24;

/// An entry of MASQUERADE that a flow would like to have.
#[derive(Clone, Copy, Default, Debug)]
pub struct Claim<A> {
    /// Its key.
    pub key: MasqueradeKey<A>,
    /// Its value.
    pub value: Masquerade<A>,
}

/// Enters the claim under the first free port, which is in its key afterwards; `false` if none was found. The
/// key's port is set here; the rest of the claim is the caller's.
#[inline(always)]
pub fn allocate<A: Address, E: Env + Tables<A>>(env: &E, claim: &mut Claim<A>) -> bool {
    claim.key.our_port = claim.value.client_port;
    let keep = claim.value.client_port.get() as u32 >= FIRST_PORT;
    let mut offset = scale(env.random());
    let mut probe = 0;
    while probe < PROBES {
        if probe > 0 || !keep {
            claim.key.our_port = Be16::new((FIRST_PORT + offset) as u16);
            offset += STEP;
            if offset >= PORTS {
                offset -= PORTS;
            }
        }
        if env.enter_claim(claim) {
            return true;
        }
        probe += 1;
    }
    false
}

/// A random number below the number of ports.
#[inline(always)]
fn scale(random: u32) -> u32 {
    ((random as u64 * PORTS as u64) >> 32) as u32
}

/// Enters one claim if neither a live flow nor a socket of the node has its key. Called through
/// [`Tables::enter_claim`].
#[inline(always)]
pub fn enter<A: Address, E: Env + Tables<A>>(env: &E, claim: &Claim<A>) -> bool {
    let Claim { key, value } = claim;
    if !env.insert_masquerade(key, value) {
        let Some(holder) = env.masquerade(key) else {
            return false; // the table is full, or the holder left this instant
        };
        if holder.client == value.client && holder.client_port == value.client_port {
            // Left by an older flow of the same client to this backend, which this one replaces.
            env.renew_masquerade(key, value.state, Tick(value.seen));
            return true;
        }
        if !env.config().expired(State(holder.state), holder.seen, Tick(value.seen))
            || !env.take_masquerade(key, holder.seen, value)
        {
            return false;
        }
    }
    if env.has_socket(key) {
        env.remove_masquerade(key);
        return false;
    }
    true
}
