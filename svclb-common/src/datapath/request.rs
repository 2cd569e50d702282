//! A request at ingress: its destination becomes a backend.

use super::refuse::{self, Answer};
use super::{Work, drop, pass, translated};
use crate::addr::Endpoint;
use crate::conntrack::{Direction, State};
use crate::env::{Env, ServiceEvent, Tables, Tick};
use crate::flow_table::{self, By, FlowKey, Inserted, Meta};
use crate::packet::Packet;
use crate::parse::Network;
use crate::rewrite::{Side, rewrite};
use crate::schema::{Backend, BackendRef, Detail, Service, ServiceRef};
use crate::select::{self, Eligibility, Eligible, affinity};
use crate::service::{self, Frontend, role};
use crate::verdict::{Counter, DropReason, Verdict};
use crate::wire::{protocol, tcp::flag};

/// Backends that are tried for a client whose port already talks to the one picked.
const PICKS: u32 = 4;

/// Translates a packet whose destination may be a frontend.
#[inline(never)]
pub fn ingress<A: Answer, P: Packet, E: Env + Tables<A>>(packet: &mut P, env: &E, work: &mut Work<A>) -> Verdict {
    let headers = &work.headers;
    let now = env.now();
    work.lookup.key = FlowKey { client: headers.sender(), other: headers.receiver(), protocol: headers.protocol };
    let known = flow_table::find(env, &mut work.lookup, By::Frontend, now);
    if known && goes_on(env, work) {
        flow_table::note(env, &mut work.lookup.found, Direction::Original, work.headers.tcp_flags, now);
        return translate(packet, env, work);
    }
    let headers = &work.headers;
    if headers.protocol == protocol::TCP && headers.tcp_flags & flag::RST != 0 {
        return pass(env, Counter::ResetWithoutFlow);
    }
    match service::frontend(env, headers) {
        Frontend::Port(reference) => begin(packet, env, work, reference, known),
        Frontend::UnknownPort => refuse::refuse(packet, env, work, Counter::RefusedUnknownPort),
        Frontend::None => pass(env, Counter::NoService),
    }
}

/// Whether a packet belongs to the flow that was found, rather than beginning another in its place. UDP
/// leaves a backend that no longer serves on the next packet; TCP stays with its backend to the end,
/// unless a SYN starts afresh after that end.
#[inline(always)]
fn goes_on<A: Network, E: Env + Tables<A>>(env: &E, work: &Work<A>) -> bool {
    let found = &work.lookup.found;
    if work.headers.protocol == protocol::TCP {
        if work.headers.tcp_flags & (flag::SYN | flag::ACK) != flag::SYN {
            return true;
        }
        if found.way.meta().state().gives_way_to_syn() {
            return false;
        }
    }
    service::serving::<A, E>(env, found.way.backend_ref).is_some()
}

/// Sends the packet to the backend of the flow in `work.lookup`.
#[inline(always)]
fn translate<A: Network, P: Packet, E: Env>(packet: &mut P, env: &E, work: &Work<A>) -> Verdict {
    let way = &work.lookup.found.way;
    let done = rewrite(packet, &work.headers, Side::Destination, &way.backend_endpoint());
    if !way.meta().is_masqueraded() {
        packet.set_mark(env.config().mark);
    }
    translated(env, done, Counter::RequestTranslated)
}

/// The first packet of a flow, or one that needs another backend (`again`).
#[inline(always)]
fn begin<A: Answer, P: Packet, E: Env + Tables<A>>(
    packet: &mut P,
    env: &E,
    work: &mut Work<A>,
    reference: ServiceRef,
    again: bool,
) -> Verdict {
    let number = reference.number;
    let client = work.headers.source;
    let Some(service) = service::record::<A, E>(env, number) else {
        return drop(env, DropReason::Inconsistent);
    };
    if !select::admits(env, &service, number, reference.scope, client) {
        Tables::<A>::count_service(env, number, ServiceEvent::Dropped);
        return drop(env, DropReason::SourceRange);
    }
    let by_pod_device = env.device(packet.device()).is_some_and(|device| device.role == role::POD);
    let origin = select::origin(env.config(), client, by_pod_device);
    let list = match select::eligible(env.config(), &service, reference.scope, origin) {
        Eligibility::List(list) => list,
        Eligibility::NoEndpoint => {
            Tables::<A>::count_service(env, number, ServiceEvent::Refused);
            return refuse::refuse(packet, env, work, Counter::RefusedNoEndpoint);
        }
        Eligibility::Drop(reason) => {
            Tables::<A>::count_service(env, number, ServiceEvent::Dropped);
            return drop(env, reason);
        }
    };
    work.detail = Detail { service: number, ..Detail::default() };
    match choose(env, work, &service, &list, again) {
        Ok(()) => {
            Tables::<A>::count_service(env, number, ServiceEvent::Flow);
            translate(packet, env, work)
        }
        Err(reason) => {
            Tables::<A>::count_service(env, number, ServiceEvent::Dropped);
            drop(env, reason)
        }
    }
}

/// Picks a backend and enters the flow, which is in `work.lookup` afterwards.
#[inline(always)]
fn choose<A: Network, E: Env + Tables<A>>(
    env: &E,
    work: &mut Work<A>,
    service: &Service,
    list: &Eligible,
    again: bool,
) -> Result<(), DropReason> {
    let now = env.now();
    let (number, client) = (work.detail.service, work.headers.source);
    let sticky = service.affinity_seconds > 0;
    let mut reason = DropReason::Inconsistent;
    let mut attempt = 0;
    while attempt < PICKS {
        let mut chosen = None;
        if sticky && attempt == 0 {
            chosen = affinity::recall(env, number, service, client, list, now);
        }
        let recalled = chosen.is_some();
        if chosen.is_none() {
            chosen = select::pick(env, list);
        }
        attempt += 1;
        let Some((backend_ref, backend)) = chosen else { continue };
        prepare(work, list, &backend, backend_ref, now);
        match flow_table::insert(env, &work.flow, &work.detail, again, &mut work.lookup) {
            Inserted::New => env.count(Counter::FlowCreated),
            Inserted::Replaced => {
                let repicked = again && work.headers.protocol != protocol::TCP;
                env.count(if repicked { Counter::FlowRepicked } else { Counter::FlowReplaced });
            }
            Inserted::Existing => {
                // Another CPU entered this flow in between; its backend holds.
                if flow_table::find(env, &mut work.lookup, By::Frontend, now) {
                    return Ok(());
                }
                continue;
            }
            Inserted::Conflict => {
                reason = DropReason::TupleTaken;
                continue;
            }
            Inserted::Full => return Err(DropReason::FlowTableFull),
        }
        if sticky {
            if recalled {
                env.count(Counter::AffinityUsed);
            }
            affinity::remember(env, number, client, backend_ref, now);
        }
        work.lookup.found.way = work.flow;
        return Ok(());
    }
    Err(reason)
}

/// Fills in the flow between the packet's ends and a backend.
#[inline(always)]
fn prepare<A: Network>(work: &mut Work<A>, list: &Eligible, backend: &Backend<A>, backend_ref: BackendRef, now: Tick) {
    let headers = &work.headers;
    // A pod that reaches itself would answer itself directly if it saw its own address.
    let masquerade = list.masquerade || headers.source == backend.address;
    let flags = if masquerade { Meta::MASQUERADE } else { 0 };
    let meta = Meta::new(headers.protocol, State::first(headers.protocol), flags);
    let backend = Endpoint::new(backend.address, backend.port);
    work.flow = flow_table::new_flow(headers.sender(), headers.receiver(), backend, meta, backend_ref, now);
}
