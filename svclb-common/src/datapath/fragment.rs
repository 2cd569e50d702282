//! Fragments: the first one of a datagram has the ports, those behind it have not.
//!
//! A first fragment is processed as if it were the whole packet: its transport checksum covers all of the datagram, so
//! the change of a checksum is the same. What became of it is entered in FRAGMENTS under the addresses that this hook
//! saw, and the fragments behind it get the same address: so all go to one backend, or are dropped together. Ingress
//! and egress remember each for themselves, since a datagram may be put together and cut again in between
//! (`nf_defrag`, another MTU), and bears other addresses.
//!
//! Those of a direct flow ([`forward`]) get both addresses at once, and are sent on as their first one was; if there is no
//! way for one of them any more it is dropped, as the stack would not know what to do with it.
//!
//! What nothing was entered for passes untouched, but for fragments to an address that Services have as such: a cluster
//! IP, a load balancer's address, an external IP. Of what passes there the first fragment is entered, too, so that those
//! without an entry have come before it; they are dropped, rather than sent to the default route. A node's own address
//! has node ports and all the other ports, and a pod's has what is no Service's, so a fragment tells nothing there. Come
//! before its first one it stays as it is, and its datagram is never complete at its receiver. On one path fragments
//! come in order: Linux sends the first one first, and devices spread fragments by addresses alone.
//!
//! A header that is split between fragments, or overwritten by a later one (RFC 1858, RFC 3128, RFC 5722, RFC 7112), is
//! dropped if it may concern a Service. Data that fragments overwrite is the receiver's business (Linux drops such a
//! datagram whole): all of them go to one. Fragments of other protocols than TCP and UDP pass: an ICMP error is never so long that
//! it is cut, and nobody cuts SCTP, whose checksum would take all of a packet to change.

use super::{Work, drop, forward, pass, translated};
use crate::env::{Env, Tables};
use crate::interest;
use crate::packet::Packet;
use crate::parse::{self, Network};
use crate::rewrite::{Side, rewrite_address};
use crate::schema::{Fragment, FragmentKey, fate, hook};
use crate::service::{self, Whole};
use crate::verdict::{Counter, DropReason, Verdict};
use crate::wire::ethernet::Mac;

/// A fragment comes to a hook. `None`: it is a first one, and goes on as if it were the whole packet.
#[inline(always)]
pub fn arrives<A: Network, P: Packet, E: Env + Tables<A>>(
    packet: &mut P,
    env: &E,
    hook: u8,
    l3: usize,
    work: &mut Work<A>,
) -> Option<Verdict> {
    if let Err(why) = parse::fragment(packet, l3, &mut work.headers, &mut work.piece) {
        return Some(pass(env, why));
    }
    let headers = &work.headers;
    work.datagram = FragmentKey::new(headers.source, headers.destination, work.piece.part.id, headers.protocol, hook);
    if work.piece.part.offset == 0 { first(env, work) } else { Some(follows(packet, env, work)) }
}

/// A first fragment. `None`: it goes on.
#[inline(never)]
fn first<A: Network, E: Env + Tables<A>>(env: &E, work: &Work<A>) -> Option<Verdict> {
    // Senders use their names again; what went by this one before is over, whatever becomes of this one.
    let key = work.datagram;
    if env.fragment(&key).is_some() {
        env.remove_fragment(&key);
    }
    if !work.piece.cut {
        return None;
    }
    let headers = &work.headers;
    let hash_of = |end| interest::endpoint_hash(env.config(), end, headers.protocol);
    let receiver = if key.hook == hook::INGRESS {
        interest::is_frontend(env, headers.receiver(), headers.protocol)
    } else {
        interest::is_backend::<A, E>(env, hash_of(headers.receiver()))
    };
    let concerned = receiver || interest::is_backend::<A, E>(env, hash_of(headers.sender()));
    Some(if concerned { drop(env, DropReason::FragmentedHeader) } else { pass(env, Counter::NoService) })
}

/// Enters what became of a first fragment, which was in `work` when it came ([`Verdict::to_bits`]): it passed, was
/// translated or sent on, or goes no further.
#[inline(never)]
pub fn remember<A: Network, P: Packet, E: Env + Tables<A>>(packet: &P, env: &E, work: &Work<A>, verdict: u16) {
    let key = work.datagram;
    let passed = verdict == Verdict::Pass.to_bits();
    if passed && !(key.hook == hook::INGRESS && interest::is_frontend_address(env, work.headers.destination)) {
        return;
    }
    let translated = verdict == Verdict::Translate.to_bits();
    let mut entry = Fragment {
        seen: env.now().0,
        header_end: work.piece.header_end as u16,
        flags: if passed { fate::PASSED } else { fate::DROPPED },
        ..Fragment::default()
    };
    let at = if key.hook == hook::INGRESS { A::DESTINATION } else { A::SOURCE };
    if translated && let Some(address) = packet.read(work.headers.l3 + at) {
        entry.address = address;
        entry.flags = if packet.mark() == env.config().mark { fate::MARKED } else { 0 };
        if at_bridge_port(work) {
            entry.to = packet.read(0).unwrap_or_default();
        }
    }
    if verdict == Verdict::Forward.to_bits() {
        (entry.source, entry.address) = (work.ends[0].address, work.ends[1].address);
        entry.flags = fate::FORWARDED;
    }
    env.set_fragment(&key, &entry);
}

/// A fragment behind the first one.
#[inline(never)]
fn follows<A: Network, P: Packet, E: Env + Tables<A>>(packet: &mut P, env: &E, work: &mut Work<A>) -> Verdict {
    let key = work.datagram;
    let config = env.config();
    let timeout = config.ticks(A::REASSEMBLY_SECONDS);
    let Some(entry) = env.fragment(&key).filter(|entry| env.now().0.wrapping_sub(entry.seen) <= timeout) else {
        return without_first(env, work);
    };
    if entry.flags & fate::DROPPED != 0 {
        return drop(env, DropReason::FragmentOfDropped);
    }
    if entry.flags & fate::PASSED != 0 {
        return pass(env, Counter::Fragment);
    }
    if work.piece.part.offset < entry.header_end {
        return drop(env, DropReason::FragmentedHeader);
    }
    if entry.flags & fate::FORWARDED != 0 {
        (work.ends[0].address, work.ends[1].address) = (entry.source, entry.address);
        return forward::fragment(packet, env, work);
    }
    let side = if key.hook == hook::INGRESS { Side::Destination } else { Side::Source };
    let mut done = rewrite_address(packet, &work.headers, side, entry.address);
    if at_bridge_port(work) && done.is_some() {
        done = packet.write::<Mac>(0, &entry.to);
    }
    if entry.flags & fate::MARKED != 0 {
        packet.set_mark(config.mark);
    }
    translated(env, done, Counter::FragmentTranslated)
}

/// Whether what is done may be the lift of a reply, which is the business of ingress.
#[inline(always)]
const fn at_bridge_port<A: Network>(work: &Work<A>) -> bool {
    work.datagram.hook == hook::INGRESS && work.attachment.bridge_port
}

/// A fragment whose first one is unknown.
#[inline(always)]
fn without_first<A: Network, E: Env + Tables<A>>(env: &E, work: &Work<A>) -> Verdict {
    let to = work.headers.destination;
    if work.datagram.hook == hook::INGRESS
        && interest::is_frontend_address(env, to)
        && service::whole_address(env, to) != Whole::None
    {
        return drop(env, DropReason::FragmentBeforeFirst);
    }
    pass(env, Counter::Fragment)
}
