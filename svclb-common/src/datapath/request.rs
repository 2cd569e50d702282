//! A request at ingress: its destination becomes a backend.

use super::refuse::{self, Answer};
use super::{Attachment, drop, pass, translated};
use crate::addr::Endpoint;
use crate::conntrack::{Direction, State};
use crate::env::{Env, ServiceEvent, Tables, Tick};
use crate::flow_table::{self, By, FlowKey, Found, Inserted, Meta};
use crate::packet::Packet;
use crate::parse::{Headers, Network};
use crate::rewrite::{Side, rewrite};
use crate::schema::{BackendRef, Detail, ServiceRef};
use crate::select::{self, Eligibility, Eligible, affinity};
use crate::service::{self, Frontend, role};
use crate::verdict::{Counter, DropReason, Verdict};
use crate::wire::{protocol, tcp::flag};

/// Backends that are tried for a client whose port already talks to the one picked.
const PICKS: u32 = 4;

/// Translates a packet whose destination may be a frontend.
#[inline(always)]
pub fn ingress<A: Answer, P: Packet, E: Env + Tables<A>>(
    packet: &mut P,
    env: &E,
    attachment: Attachment,
    headers: &Headers<A>,
) -> Verdict {
    let now = env.now();
    let key = FlowKey { client: headers.sender(), other: headers.receiver(), protocol: headers.protocol };
    let mut found = Found::default();
    let known = flow_table::find(env, &key, By::Frontend, now, &mut found);
    if known && goes_on(env, headers, &found) {
        flow_table::note(env, &mut found, Direction::Original, headers.tcp_flags, now);
        return translate(packet, env, headers, found.way.backend_endpoint(), found.way.meta().is_masqueraded());
    }
    if headers.protocol == protocol::TCP && headers.tcp_flags & flag::RST != 0 {
        return pass(env, Counter::ResetWithoutFlow);
    }
    match service::frontend(env, headers) {
        Frontend::Port(reference) => begin(packet, env, attachment, headers, reference, known, now),
        Frontend::UnknownPort => refuse::refuse(packet, env, attachment, headers, Counter::RefusedUnknownPort),
        Frontend::None => pass(env, Counter::NoService),
    }
}

/// Whether a packet belongs to the flow that was found, rather than beginning another in its place. UDP
/// leaves a backend that no longer serves on the next packet; TCP stays with its backend to the end,
/// unless a SYN starts afresh after that end.
#[inline(always)]
fn goes_on<A: Network, E: Env + Tables<A>>(env: &E, headers: &Headers<A>, found: &Found<A>) -> bool {
    if headers.protocol == protocol::TCP {
        if headers.tcp_flags & (flag::SYN | flag::ACK) != flag::SYN {
            return true;
        }
        if found.way.meta().state().gives_way_to_syn() {
            return false;
        }
    }
    service::serving::<A, E>(env, found.way.backend_ref).is_some()
}

#[inline(always)]
fn translate<A: Network, P: Packet, E: Env>(
    packet: &mut P,
    env: &E,
    headers: &Headers<A>,
    backend: Endpoint<A>,
    masquerade: bool,
) -> Verdict {
    let done = rewrite(packet, headers, Side::Destination, backend);
    if !masquerade {
        packet.set_mark(env.config().mark);
    }
    translated(env, done, Counter::RequestTranslated)
}

/// The first packet of a flow, or one that needs another backend (`again`).
#[inline(always)]
fn begin<A: Answer, P: Packet, E: Env + Tables<A>>(
    packet: &mut P,
    env: &E,
    attachment: Attachment,
    headers: &Headers<A>,
    reference: ServiceRef,
    again: bool,
    now: Tick,
) -> Verdict {
    let number = reference.number;
    let Some(service) = service::record::<A, E>(env, number) else {
        return drop(env, DropReason::Inconsistent);
    };
    if !select::admits(env, &service, number, reference.scope, headers.source) {
        Tables::<A>::count_service(env, number, ServiceEvent::Dropped);
        return drop(env, DropReason::SourceRange);
    }
    let by_pod_device = env.device(packet.device()).is_some_and(|device| device.role == role::POD);
    let origin = select::origin(env.config(), headers.source, by_pod_device);
    let list = match select::eligible(env.config(), &service, reference.scope, origin) {
        Eligibility::List(list) => list,
        Eligibility::NoEndpoint => {
            Tables::<A>::count_service(env, number, ServiceEvent::Refused);
            return refuse::refuse(packet, env, attachment, headers, Counter::RefusedNoEndpoint);
        }
        Eligibility::Drop(reason) => {
            Tables::<A>::count_service(env, number, ServiceEvent::Dropped);
            return drop(env, reason);
        }
    };
    let mut chosen = None;
    if service.affinity_seconds > 0 {
        chosen = affinity::recall(env, number, &service, headers.source, &list, now);
    }
    let recalled = chosen.is_some();
    let mut reason = DropReason::Inconsistent;
    let mut attempt = 0;
    while attempt < PICKS {
        attempt += 1;
        let Some((backend_ref, backend)) = chosen.take().or_else(|| select::pick(env, &list)) else {
            continue;
        };
        let backend = Endpoint::new(backend.address, backend.port);
        match enter(env, headers, &list, backend, backend_ref, number, again, now) {
            Entered::Done { masquerade } => {
                if service.affinity_seconds > 0 {
                    if recalled && attempt == 1 {
                        env.count(Counter::AffinityUsed);
                    }
                    affinity::remember(env, number, headers.source, backend_ref, now);
                }
                Tables::<A>::count_service(env, number, ServiceEvent::Flow);
                return translate(packet, env, headers, backend, masquerade);
            }
            Entered::Conflict => reason = DropReason::TupleTaken,
            Entered::Rival => {
                // Another CPU entered this flow in between; its backend holds.
                let key = FlowKey { client: headers.sender(), other: headers.receiver(), protocol: headers.protocol };
                let mut found = Found::default();
                if flow_table::find(env, &key, By::Frontend, now, &mut found) {
                    let masquerade = found.way.meta().is_masqueraded();
                    return translate(packet, env, headers, found.way.backend_endpoint(), masquerade);
                }
            }
            Entered::Full => {
                reason = DropReason::FlowTableFull;
                break;
            }
        }
    }
    Tables::<A>::count_service(env, number, ServiceEvent::Dropped);
    drop(env, reason)
}

/// Answers of [`enter`].
enum Entered {
    /// The flow is in the table.
    Done { masquerade: bool },
    /// The client's port talks to this backend through another frontend.
    Conflict,
    /// Another CPU was faster.
    Rival,
    /// No room.
    Full,
}

/// Enters a flow with a backend that was picked.
#[expect(clippy::too_many_arguments, reason = "inlined; each is a part of the flow")]
#[inline(always)]
fn enter<A: Network, E: Env + Tables<A>>(
    env: &E,
    headers: &Headers<A>,
    list: &Eligible,
    backend: Endpoint<A>,
    backend_ref: BackendRef,
    number: u32,
    again: bool,
    now: Tick,
) -> Entered {
    // A pod that reaches itself would answer itself directly if it saw its own address.
    let masquerade = list.masquerade || headers.source == backend.address;
    let flags = if masquerade { Meta::MASQUERADE } else { 0 };
    let meta = Meta::new(headers.protocol, State::first(headers.protocol), flags);
    let flow = flow_table::new_flow(headers.sender(), headers.receiver(), backend, meta, backend_ref, now);
    let detail = Detail { service: number, ..Detail::default() };
    match flow_table::insert(env, &flow, &detail, again) {
        Inserted::New => env.count(Counter::FlowCreated),
        Inserted::Replaced => {
            let udp = headers.protocol != protocol::TCP;
            env.count(if again && udp { Counter::FlowRepicked } else { Counter::FlowReplaced });
        }
        Inserted::Existing => return Entered::Rival,
        Inserted::Conflict => return Entered::Conflict,
        Inserted::Full => return Entered::Full,
    }
    Entered::Done { masquerade }
}
