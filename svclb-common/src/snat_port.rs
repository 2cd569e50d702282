//! The port of this node that a masqueraded flow is sent from.
//!
//! A reply is recognised by {our address, our port, backend endpoint, protocol}, so one port serves as
//! many flows as there are backends; only flows to the same backend compete. The node's own sockets compete as
//! well: one that exists is found, but one that is opened later is not asked. The kernel gives those ports of
//! `net.ipv4.ip_local_port_range`, so a flow gets one outside of it while there are any: the client's own, or one of
//! those probed from a random start. An entry past its timeout is free.

use crate::addr::{Address, Be16};
use crate::config::Ports;
use crate::conntrack::State;
use crate::env::{Env, Tables, Tick};
use crate::schema::{Masquerade, MasqueradeKey};

/// First port that is probed.
pub const FIRST_PORT: u32 = 1024;
/// Probes before a flow is refused a port. With half of the ports in use all fail once in 2^24 flows.
pub const PROBES: u32 = 24;
/// Probes outside of the ports that the kernel gives sockets of the node; the rest is inside.
const OUTSIDE: u32 = 18;
/// So few ports outside are not worth a probe.
const FEW: u32 = 128;
/// 2^32 by the golden ratio. Its multiples lie as far apart as they can, so that no port is probed twice.
const STEP: u32 = 0x9e37_79b9;

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
    let own = &env.config().own_ports;
    let client = claim.value.client_port.get();
    let keep = client as u32 >= FIRST_PORT && !own.holds(client);
    claim.key.our_port = claim.value.client_port;
    let mut place = env.random();
    let mut probe = 0;
    while probe < PROBES {
        if probe > 0 || !keep {
            claim.key.our_port = Be16::new(port(own, place, probe < OUTSIDE));
            place = place.wrapping_add(STEP);
        }
        if env.enter_claim(claim) {
            return true;
        }
        probe += 1;
    }
    false
}

/// The port that lies `place` / 2^32 of the way through those outside or inside of the node's own, where there are
/// such ports.
#[inline(always)]
fn port(own: &Ports, place: u32, outside: bool) -> u16 {
    let first = (own.first as u32).max(FIRST_PORT);
    let end = if own.is_none() { first } else { (own.last as u32 + 1).max(first) };
    let (below, above) = (first - FIRST_PORT, 65_536 - end);
    let port = if below + above >= FEW && (outside || end == first) {
        let at = scale(place, below + above);
        if at < below { FIRST_PORT + at } else { end + (at - below) }
    } else {
        first + scale(place, end - first)
    };
    port as u16
}

/// `place` / 2^32 of the way to `count`.
#[inline(always)]
const fn scale(place: u32, count: u32) -> u32 {
    ((place as u64 * count as u64) >> 32) as u32
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

#[cfg(test)]
mod tests {
    use super::*;

    fn range(own: Ports, outside: bool) -> (u16, u16) {
        (port(&own, 0, outside), port(&own, u32::MAX, outside))
    }

    #[test]
    fn ports_that_sockets_are_given_come_last() {
        let own = Ports { first: 32_768, last: 60_999 };
        assert_eq!(range(own, true), (1024, 65_535));
        assert_eq!(range(own, false), (32_768, 60_999));
        assert!((0..1 << 16).all(|place| !own.holds(port(&own, place << 16, true))));
        assert_eq!(port(&own, u32::MAX / 36_280 * 31_744 - 1, true), 32_767);
    }

    #[test]
    fn every_range_has_ports_and_none_is_probed_twice() {
        let ranges = [(0, 0), (1, 65_535), (1024, 65_535), (15, 900), (1024, 65_000), (2000, 65_535), (40_000, 40_900)];
        for (first, last) in ranges {
            let own = Ports { first, last };
            for start in (0..u32::MAX).step_by(9_999_991) {
                let mut ports = [0; PROBES as usize];
                for (probe, probed) in (0..).zip(&mut ports) {
                    *probed = port(&own, start.wrapping_add(STEP.wrapping_mul(probe)), probe < OUTSIDE);
                }
                assert!(ports.iter().all(|port| *port >= 1024), "{own:?} {ports:?}");
                let outside = &mut ports[..OUTSIDE as usize];
                outside.sort_unstable();
                assert!(outside.windows(2).all(|two| two[0] != two[1]), "{own:?} {outside:?}");
            }
        }
    }
}
