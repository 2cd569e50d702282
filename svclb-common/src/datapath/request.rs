//! A request at ingress: its destination becomes a backend.

use super::{Work, count_turned_away, cut, drop, forward, pass, translated};
use crate::addr::Endpoint;
use crate::config::flag;
use crate::conntrack::{Direction, State};
use crate::env::{Env, ServiceEvent, Tables, Tick};
use crate::flow_table::{self, By, FlowKey, Inserted, Meta};
use crate::packet::Packet;
use crate::parse::Network;
use crate::rewrite::{Side, rewrite};
use crate::schema::Detail;
use crate::select::{self, Entry, affinity};
use crate::service;
use crate::verdict::{Counter, DropReason, Refusal, Verdict};
use crate::wire::protocol;

/// Backends that are tried for a client whose port already talks to the one picked.
const PICKS: u32 = 4;

/// Translates a packet whose destination may be a frontend. A refusal is the caller's to carry out; the verdict is in
/// bits for its sake ([`Verdict::to_bits`]).
///
/// The steps are functions of their own, one after the other, so that their stacks do not add up.
#[inline(always)]
pub fn ingress<A: Network, P: Packet, E: Env + Tables<A>>(packet: &mut P, env: &E, work: &mut Work<A>) -> u16 {
    // Most flows are new when a SYN comes: who may serve it is found out while the flow's bucket is on its way
    // from memory.
    let opens = work.headers.opens_connection();
    if opens {
        flow_table::prefetch::<A, E>(env, work.sender_hash);
        env.locate(work);
    }
    let known = find(env, work);
    if known != Known::GoesOn {
        if known == Known::IsStale {
            return Verdict::Refuse(Refusal::StaleAssociation).to_bits();
        }
        if known == Known::IsCut {
            return Verdict::Refuse(Refusal::GoneBackend).to_bits();
        }
        if !opens {
            if work.headers.is_reset() {
                return pass(env, Counter::ResetWithoutFlow).to_bits();
            }
            env.locate(work);
        }
        if work.choice.list.count == 0 {
            turn_away(env, work);
            return work.verdict;
        }
        if !env.choose(work, known == Known::IsOver) {
            return work.verdict;
        }
        if work.may_pass_by && env.config().has(flag::DIRECT) {
            forward::begins(env, work);
        }
    }
    if work.lookup.found.way.meta().is_direct() {
        let verdict = forward::request(env, work);
        if verdict != Verdict::Pass.to_bits() {
            return verdict;
        }
    }
    translate(packet, env, work).to_bits()
}

/// What the flow table says of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// No such flow.
    No,
    /// It is a packet of this flow.
    GoesOn,
    /// There is an entry, but another flow begins in its place.
    IsOver,
    /// There is an SCTP association, but its backend serves no more, and nobody else knows of it.
    IsStale,
    /// There is a TCP connection, but its backend serves no more, and its Service wants it to end ([`cut`]).
    IsCut,
}

/// Looks for the flow of the packet, and notes the packet if it belongs to it.
#[inline(never)]
fn find<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) -> Known {
    let headers = &work.headers;
    let now = env.now();
    work.lookup.key = FlowKey::new(headers.sender(), headers.receiver(), headers.protocol, work.sender_hash);
    if !flow_table::find(env, &mut work.lookup, By::Frontend, now) {
        return Known::No;
    }
    let known = standing(env, work);
    if known != Known::GoesOn {
        return known;
    }
    flow_table::note(env, &mut work.lookup.found, Direction::Original, work.headers.signal, now);
    Known::GoesOn
}

/// Whether the packet in hand is one of the flow in `work.lookup`, and goes to its backend.
#[inline(always)]
pub fn goes_on<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) -> bool {
    standing(env, work) == Known::GoesOn
}

/// Whether a packet belongs to the flow that was found, rather than beginning another in its place. UDP
/// leaves a backend that no longer serves on the next packet; TCP stays with its backend to the end, or is cut,
/// unless a SYN starts afresh after that end. An INIT of SCTP leaves a backend as UDP does, and only then:
/// a client that begins again is known to its backend (RFC 9260 section 5.2.2). No other packet can be taken to another
/// backend, which has not the association.
#[inline(always)]
fn standing<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) -> Known {
    if work.headers.protocol == protocol::TCP && !work.headers.opens_connection() {
        return if cut::is_due(env, work) { Known::IsCut } else { Known::GoesOn };
    }
    let (headers, found) = (&work.headers, &work.lookup.found);
    if headers.protocol == protocol::TCP && found.way.meta().state().gives_way_to_syn() {
        return Known::IsOver;
    }
    if service::serving::<A, E>(env, found.way.backend_ref).is_some() {
        Known::GoesOn
    } else if headers.protocol == protocol::SCTP && !headers.opens_connection() {
        Known::IsStale
    } else {
        Known::IsOver
    }
}

/// Sends the packet to the backend of the flow in `work.lookup`.
#[inline(never)]
fn translate<A: Network, P: Packet, E: Env>(packet: &mut P, env: &E, work: &Work<A>) -> Verdict {
    let way = &work.lookup.found.way;
    let done = rewrite(packet, &work.headers, Side::Destination, &way.backend_endpoint());
    if !way.meta().is_masqueraded() {
        packet.set_mark(env.config().mark);
    }
    translated(env, done, Counter::RequestTranslated)
}

/// Finds out who may serve the first packet of a flow: fills in `work.choice` and `work.chosen`, or says in
/// `work.verdict` what becomes of the packet. Counts nothing, as the packet may yet turn out to be of a known flow.
/// Called through [`Tables::locate`].
#[inline(always)]
pub fn locate<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) {
    work.picked = false;
    let (to, protocol, source) = (work.headers.receiver(), work.headers.protocol, work.headers.source);
    let device = work.device;
    match select::choice(env, to, protocol, source, || Entry::by(env.device(device)), &mut work.choice) {
        // Nearly always that is who it will be.
        Ok(()) => work.picked = work.choice.affinity == 0 && select::pick(env, &work.choice.list, &mut work.chosen),
        Err(verdict) => work.verdict = verdict.to_bits(),
    }
}

/// Counts a packet for which [`locate`] found nobody.
#[inline(always)]
fn turn_away<A: Network, E: Env + Tables<A>>(env: &E, work: &Work<A>) {
    let verdict = Verdict::from_bits(work.verdict);
    count_turned_away::<A, E>(env, work.choice.service, verdict);
    if verdict == Verdict::Pass {
        env.count(Counter::NoService);
    }
}

/// Picks a backend and enters the flow, which is in `work.lookup` afterwards; or says in `work.verdict` why not.
/// `again`: the client has an entry that this one replaces. Called through [`Tables::choose`].
#[inline(always)]
pub fn choose<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>, again: bool) -> bool {
    let failed = pick_and_enter(env, work, again);
    let event = if failed.is_none() { ServiceEvent::Flow } else { ServiceEvent::Dropped };
    Tables::<A>::count_service(env, work.choice.service, event);
    match failed {
        None => true,
        Some(reason) => {
            work.verdict = drop(env, reason).to_bits();
            false
        }
    }
}

#[inline(always)]
fn pick_and_enter<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>, again: bool) -> Option<DropReason> {
    let now = env.now();
    let client = work.headers.source;
    let sticky = work.choice.affinity > 0;
    let mut reason = DropReason::Inconsistent;
    // The backend of the client's affinity has a flow of the same two ends already, through another frontend: this one
    // goes elsewhere, and the next to its own again.
    let mut strays = false;
    let mut attempt = 0;
    while attempt < PICKS {
        let recalled = sticky && attempt == 0 && affinity::recall(env, &work.choice, client, now, &mut work.chosen);
        let picked = work.picked && attempt == 0;
        attempt += 1;
        if !recalled && !picked && !select::pick(env, &work.choice.list, &mut work.chosen) {
            continue;
        }
        prepare(work, now);
        match flow_table::enter(env, &mut work.new, &mut work.lookup, again) {
            Inserted::New => env.count(Counter::FlowCreated),
            Inserted::Replaced => {
                let repicked = again && work.headers.protocol != protocol::TCP;
                env.count(if repicked { Counter::FlowRepicked } else { Counter::FlowReplaced });
            }
            Inserted::Existing => {
                // Another CPU entered this flow in between; its backend holds.
                if flow_table::find(env, &mut work.lookup, By::Frontend, now) {
                    return None;
                }
                continue;
            }
            Inserted::Conflict => {
                reason = DropReason::TupleTaken;
                strays |= recalled;
                continue;
            }
            Inserted::Full => return Some(DropReason::FlowTableFull),
        }
        if sticky {
            if recalled {
                env.count(Counter::AffinityUsed);
            }
            if !strays {
                affinity::remember(env, &work.choice, client, work.chosen.reference, now);
            }
        }
        work.lookup.found.way = work.new.way;
        (work.lookup.found.place, work.lookup.found.index) = (work.new.place, work.new.index);
        return None;
    }
    Some(reason)
}

/// Fills in the flow between the packet's ends and the backend that was chosen.
#[inline(never)]
fn prepare<A: Network>(work: &mut Work<A>, now: Tick) {
    let (headers, chosen) = (&work.headers, &work.chosen);
    // A pod that reaches itself would answer itself directly if it saw its own address.
    let masquerade = work.choice.list.masquerade || headers.source == chosen.backend.address;
    let flags = if masquerade { Meta::MASQUERADE } else { 0 };
    let meta = Meta::new(headers.protocol, State::first(headers.protocol, headers.signal), flags);
    let backend = Endpoint::new(chosen.backend.address, chosen.backend.port);
    work.new.hash = work.lookup.key.hash;
    work.new.detail = Detail::default();
    work.new.way = flow_table::new_flow(headers.sender(), headers.receiver(), backend, meta, chosen.reference, now);
}
