//! What is sent to a Service's address and to no port of it.
//!
//! A cluster IP is a Service's with all its ports and protocols, and nobody else's: an echo request to it is refused, as
//! a port that no Service has, or answered where `--ping-services` is on; so is another protocol than those that
//! Services have. Load balancer addresses and external IPs may be somebody's besides: only the echo requests that they
//! shall answer are ours.
//!
//! An address of a ServiceCIDR that no Service has, or that is served by another proxy on this node, is let alone until
//! it is about to leave the node: then nobody has taken it on, and it would wander to the default route and beyond.
//! kube-proxy's nftables mode drops the same at forward and output. What is sent by SCTP to a Service's cluster IP comes so
//! far from processes of the node alone, whose sockets of SCTP no hook sees (`connect` hooks are run for TCP and UDP): it
//! is refused, so that they need not wait.

use super::refuse::{self, Answer};
use super::{Work, drop, pass};
use crate::addr::Address;
use crate::checksum::{difference, update};
use crate::config::{self, flag};
use crate::env::{Env, Tables};
use crate::interest;
use crate::packet::Packet;
use crate::parse::Network;
use crate::service::{self, Whole, role};
use crate::verdict::{Counter, DropReason, Refusal, Verdict};
use crate::wire::{icmp, protocol};

/// A packet without ports enters the node; `why` it passes, if it is none of ours. A refusal or an answer is the
/// caller's to carry out.
#[inline(never)]
pub fn ingress<A: Network, P: Packet, E: Env + Tables<A>>(
    packet: &P,
    env: &E,
    work: &Work<A>,
    why: Counter,
) -> Verdict {
    let headers = &work.headers;
    if !interest::is_frontend_address(env, headers.destination) {
        return pass(env, why);
    }
    let is_echo = headers.protocol == A::ICMP;
    if is_echo {
        let start: [u8; 2] = match packet.read(headers.l4) {
            Some(start) => start,
            None => return pass(env, Counter::Malformed),
        };
        // Errors, and what a host says unasked, are never answered.
        if start != [echo::<A>().1, 0] {
            return pass(env, why);
        }
    }
    match service::whole_address(env, headers.destination) {
        Whole::None => pass(env, why),
        Whole::Unsettled => drop(env, DropReason::Inconsistent),
        Whole::ClusterIp | Whole::Other if is_echo && env.config().has(flag::PING_SERVICES) => Verdict::Answer,
        Whole::ClusterIp => Verdict::Refuse(Refusal::UnknownPort),
        Whole::Other => pass(env, why),
    }
}

/// Types of an echo reply and of an echo request.
#[inline(always)]
const fn echo<A: Network>() -> (u8, u8) {
    if A::IS_V6 { icmp::V6_ECHO } else { icmp::ECHO }
}

/// Turns an echo request into its reply, which goes back where it came from.
#[inline(never)]
pub fn answer<A: Answer, P: Packet, E: Env + Tables<A>>(packet: &mut P, env: &E, work: &Work<A>) -> Verdict {
    if reply(packet, work).is_none() {
        return drop(env, DropReason::Unwritable);
    }
    env.count(Counter::PingAnswered);
    Verdict::Answer
}

/// The rest of the message stays as it is (RFC 792, RFC 4443 section 4.2).
#[inline(always)]
fn reply<A: Answer, P: Packet>(packet: &mut P, work: &Work<A>) -> Option<()> {
    let headers = &work.headers;
    let (reply, request) = echo::<A>();
    let checksum: u16 = packet.read(headers.l4 + icmp::CHECKSUM)?;
    let changed = difference(u16::from_ne_bytes([request, 0]) as u32, u16::from_ne_bytes([reply, 0]) as u32);
    packet.write(headers.l4, &[reply, 0])?;
    packet.write(headers.l4 + icmp::CHECKSUM, &update(checksum, changed))?;
    A::turn_around(packet, headers, headers.payload as u16)?;
    if work.attachment.ethernet { refuse::turn_around(packet) } else { Some(()) }
}

/// A packet that nobody has translated leaves the node; `why` it passes, if it may.
#[inline(always)]
pub fn egress<A: Address, E: Env + Tables<A>>(env: &E, work: &Work<A>, why: Counter) -> Verdict {
    let headers = &work.headers;
    if headers.protocol == protocol::SCTP || config::in_service_cidrs(env.config(), headers.destination) {
        return untaken(env, work, why);
    }
    pass(env, why)
}

/// What becomes of a packet that is by SCTP or for an address of a ServiceCIDR, and that nobody has taken on. A refusal is
/// the caller's to carry out.
#[inline(never)]
fn untaken<A: Address, E: Env + Tables<A>>(env: &E, work: &Work<A>, why: Counter) -> Verdict {
    let destination = work.headers.destination;
    let by_sctp = work.headers.protocol == protocol::SCTP && interest::is_frontend_address(env, destination);
    let in_cidr = config::in_service_cidrs(env.config(), destination);
    if !by_sctp && !in_cidr {
        return pass(env, why);
    }
    if !env.device(work.device).is_some_and(|device| matches!(device.role, role::NODE | role::TUNNEL)) {
        return pass(env, why);
    }
    if by_sctp && matches!(service::whole_address(env, destination), Whole::ClusterIp) {
        return Verdict::Refuse(Refusal::OwnAssociation);
    }
    if in_cidr {
        return drop(env, DropReason::NobodysAddress);
    }
    pass(env, why)
}
