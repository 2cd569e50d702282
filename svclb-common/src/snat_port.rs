//! The port of this node that a masqueraded flow is sent from.
//!
//! A reply is recognised by {our address, our port, backend endpoint, protocol}, so one port serves as
//! many flows as there are backends; only flows to the same backend compete. The client's own port is
//! kept if it is free; else ports from 1024 up are probed from a random start with a step that is
//! prime to their number. An entry past its timeout is free.

use crate::addr::{Address, Be16, Endpoint};
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

/// Enters `client` under the first free port of `ours` towards `remote`. `None` if none was found.
#[inline(always)]
pub fn allocate<A: Address, E: Env + Tables<A>>(
    env: &E,
    ours: A,
    remote: Endpoint<A>,
    protocol: u8,
    client: Endpoint<A>,
    state: State,
    now: Tick,
) -> Option<Be16> {
    let mut key = MasqueradeKey {
        ours,
        remote: remote.address,
        our_port: client.port,
        remote_port: remote.port,
        protocol,
        zero: [0; 3],
    };
    let value = Masquerade { client: client.address, client_port: client.port, state: state.0, zero: 0, seen: now.0 };
    let mut offset = scale(env.random());
    let mut probe = 0;
    while probe < PROBES {
        if probe > 0 || (client.port.get() as u32) < FIRST_PORT {
            key.our_port = Be16::new((FIRST_PORT + offset) as u16);
            offset += STEP;
            if offset >= PORTS {
                offset -= PORTS;
            }
        }
        if claim(env, &key, &value, now) {
            return Some(key.our_port);
        }
        probe += 1;
    }
    None
}

/// A random number below the number of ports.
#[inline(always)]
fn scale(random: u32) -> u32 {
    ((random as u64 * PORTS as u64) >> 32) as u32
}

/// Enters one key if neither a live flow nor a socket of the node has it.
#[inline(always)]
fn claim<A: Address, E: Env + Tables<A>>(env: &E, key: &MasqueradeKey<A>, value: &Masquerade<A>, now: Tick) -> bool {
    if !env.insert_masquerade(key, value) {
        let Some(holder) = env.masquerade(key) else {
            return false; // the table is full, or the holder left this instant
        };
        if holder.client == value.client && holder.client_port == value.client_port {
            // Left by an older flow of the same client to this backend, which this one replaces.
            env.renew_masquerade(key, value.state, now);
            return true;
        }
        if !env.config().expired(State(holder.state), holder.seen, now) || !env.take_masquerade(key, holder.seen, value)
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
