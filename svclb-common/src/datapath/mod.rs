//! The order of the stages, one function for each hook.
//!
//! Hooks at ingress change only the destination: a request's becomes a backend ([`request`]), the
//! reply to a masqueraded request goes to its client ([`reply::ingress`]). Hooks at egress change only
//! the source: a request that must be masqueraded gets an address of this node ([`masquerade`]), a
//! reply gets the frontend it was sent to ([`reply::egress`]). Between the two the packet crosses the
//! node's IP stack, so routing, reverse path filters, netfilter and connection tracking see client and
//! backend, as they do under kube-proxy.
//!
//! ICMP errors quote a translated packet and are translated with it ([`icmp`]); packets that nobody
//! serves are answered by [`refuse`], and connections whose backend is gone may be [`cut`]. What is sent to a Service's address and belongs to no port of it, and what is sent
//! to an address that only Services may have, is a matter of [`portless`].
//! Of a datagram in fragments the first one is processed as if it were the whole, and the others follow it
//! ([`fragment`]).
//!
//! Processes of the node itself are served before there is a packet ([`socket`]).

pub mod cut;
pub mod forward;
pub mod fragment;
pub mod icmp;
pub mod masquerade;
pub mod portless;
pub mod refuse;
pub mod reply;
pub mod request;
pub mod reset;
pub mod socket;
pub mod xdp;

use core::hint::cold_path;

use self::refuse::Answer;
use self::reset::Reset;
pub use self::xdp::xdp;
use crate::addr::{Addr4, Addr6, Address, Endpoint};
use crate::env::{Env, ServiceEvent, Tables};
use crate::flow_table::{Lookup, NewFlow};
use crate::interest;
use crate::packet::{Frame, Packet};
use crate::parse::{self, Headers, Piece};
use crate::route::{Route, Trip};
use crate::schema::{FragmentKey, hook};
use crate::select::{Choice, Chosen};
use crate::snat_port::Claim;
use crate::verdict::{Action, Counter, DropReason, Refusal, Verdict};

/// What a program knows of the device it is attached to; constant in each entry point.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Attachment {
    /// Packets start with an Ethernet header, not with the IP header.
    pub ethernet: bool,
    /// The device is stacked on another (bridge, VLAN, tunnel), so a packet may have passed a hook
    /// already and carry this agent's mark.
    pub stacked: bool,
    /// The device is a port of a bridge: replies are lifted to the IP stack.
    pub bridge_port: bool,
}

impl Attachment {
    /// A bottom device with an Ethernet header.
    pub const ETHERNET: Self = Self { ethernet: true, stacked: false, bridge_port: false };
    /// A bottom device without a link-layer header.
    pub const BARE_IP: Self = Self { ethernet: false, stacked: false, bridge_port: false };
    /// A stacked device with an Ethernet header.
    pub const STACKED: Self = Self { ethernet: true, stacked: true, bridge_port: false };
    /// A stacked device without a link-layer header.
    pub const STACKED_BARE_IP: Self = Self { ethernet: false, stacked: true, bridge_port: false };
    /// A bridge port.
    pub const BRIDGE_PORT: Self = Self { ethernet: true, stacked: false, bridge_port: true };
}

/// Working memory for one packet of one family. In the kernel it is a map value of this CPU: it would not
/// fit on the stack, which has 512 bytes for all functions together. What packets of no Service need comes first, in
/// as few cache lines as it fits in: between two packets the processor forgets most of them.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Work<A: Address> {
    /// Headers of the packet.
    pub headers: Headers<A>,
    /// [`interest::endpoint_hash`] of the packet's sender.
    pub sender_hash: u64,
    /// [`interest::endpoint_hash`] of the packet's receiver, once it was needed.
    pub receiver_hash: u64,
    /// Index of the device.
    pub device: u32,
    /// The device's program.
    pub attachment: Attachment,
    /// The packet could pass the node's IP stack by, if its flow is direct ([`forward`]).
    pub may_pass_by: bool,
    /// It came by a device of local traffic. Known of what may pass by.
    pub from_local: bool,
    /// Somebody of those in `choice` was picked at random already, and is in `chosen`.
    pub picked: bool,
    /// What becomes of the packet ([`Verdict::to_bits`]), where a step has found that out.
    pub verdict: u16,
    /// The flow that is looked for.
    pub lookup: Lookup<A>,
    /// Who may serve it.
    pub choice: Choice,
    /// Who shall serve it.
    pub chosen: Chosen<A>,
    /// The flow that is made.
    pub new: NewFlow<A>,
    /// The port that it is to be sent from.
    pub claim: Claim<A>,
    /// Where it goes, if it passes by.
    pub trip: Trip<A>,
    /// What its ends become then, source first.
    pub ends: [Endpoint<A>; 2],
    /// In an ICMP error: headers of the quoted packet.
    pub quoted: Headers<A>,
    /// Of a fragment: which one it is.
    pub piece: Piece,
    /// Of a fragment: its datagram.
    pub datagram: FragmentKey<A>,
    /// Of a connection that is cut: the reset that enters the node, and the one that leaves it.
    pub resets: [Reset<A>; 2],
}

/// Working memory for one packet of either family.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Scratch {
    v4: Work<Addr4>,
    v6: Work<Addr6>,
    /// The family of a packet that goes on.
    is_v6: bool,
}

impl Scratch {
    /// Where a packet goes for which a hook has answered [`Action::Forward`].
    #[inline(always)]
    pub const fn onward(&self) -> &Route {
        if self.is_v6 { &self.v6.trip.route } else { &self.v4.trip.route }
    }
}

/// Passes a packet untouched and counts why.
#[inline(always)]
fn pass<E: Env>(env: &E, why: Counter) -> Verdict {
    env.count(why);
    Verdict::Pass
}

/// Drops a packet and counts why.
#[inline(always)]
fn drop<E: Env>(env: &E, reason: DropReason) -> Verdict {
    env.count(reason.counter());
    Verdict::Drop(reason)
}

/// Counts for its Service what [`crate::select::choice`] turned away, and a drop by its reason too.
#[inline(always)]
fn count_turned_away<A: Address, E: Env + Tables<A>>(env: &E, service: u32, verdict: Verdict) {
    match verdict {
        Verdict::Drop(reason) => {
            Tables::<A>::count_service(env, service, ServiceEvent::Dropped);
            drop(env, reason);
        }
        Verdict::Refuse(_) => Tables::<A>::count_service(env, service, ServiceEvent::Refused),
        Verdict::Pass | Verdict::Translate | Verdict::Answer | Verdict::Forward => {}
    }
}

/// Ends a rewrite: counts it, or drops a packet that is now half translated.
#[inline(always)]
fn translated<E: Env>(env: &E, done: Option<()>, counter: Counter) -> Verdict {
    match done {
        Some(()) => {
            env.count(counter);
            Verdict::Translate
        }
        None => drop(env, DropReason::Unwritable),
    }
}

#[inline(always)]
fn network_layer<F: Frame>(packet: &F, attachment: Attachment) -> parse::Link {
    if attachment.ethernet { parse::link_layer(packet) } else { parse::bare_ip(packet) }
}

/// A packet enters the node.
#[inline(always)]
pub fn ingress<P: Packet, E: Env>(packet: &mut P, env: &E, attachment: Attachment, scratch: &mut Scratch) -> Action {
    if attachment.stacked && packet.mark() == env.config().mark {
        return pass(env, Counter::Marked).action();
    }
    // The mark survives the way through a veth pair into another namespace.
    packet.set_mark(0);
    match network_layer(packet, attachment) {
        Ok((_, l3)) if forward::are_there(env) && forward::is_tagged(packet, attachment.ethernet, l3) => {
            pass(env, Counter::Tagged).action()
        }
        Ok((is_v6, l3)) => {
            let action = if is_v6 {
                ingress_of(packet, env, attachment, l3, &mut scratch.v6)
            } else {
                ingress_of(packet, env, attachment, l3, &mut scratch.v4)
            };
            if action == Action::Forward {
                scratch.is_v6 = is_v6;
            }
            action
        }
        Err(why) => pass(env, why).action(),
    }
}

/// The steps that decide, and then those that turn the packet into an answer: one after the other, so that their
/// stacks do not add up.
#[inline(always)]
fn ingress_of<A: Answer, P: Packet, E: Env + Tables<A>>(
    packet: &mut P,
    env: &E,
    attachment: Attachment,
    l3: usize,
    work: &mut Work<A>,
) -> Action {
    work.attachment = attachment;
    work.device = packet.device();
    // As a number: kernel 6.1 lets nobody put the undefined half of a verdict without a reason aside.
    let verdict = if let Some(verdict) = read(packet, env, hook::INGRESS, l3, work) {
        verdict.to_bits()
    } else {
        let verdict = decide_at_ingress(packet, env, work);
        leave(packet, env, work, verdict);
        verdict
    };
    match Verdict::refusal_of(verdict) {
        Some(Refusal::GoneBackend) => cut::cut(packet, env, work, hook::INGRESS).action(),
        Some(why) => refuse::refuse(packet, env, work, why).action(),
        None if verdict == Verdict::Answer.to_bits() => portless::answer(packet, env, work).action(),
        None if verdict == Verdict::Forward.to_bits() => forward::send(packet, env, work).action(),
        None => Verdict::action_of(verdict),
    }
}

/// Reads the headers of a packet; its verdict if it is to go no further.
#[inline(always)]
fn read<A: Answer, P: Packet, E: Env + Tables<A>>(
    packet: &mut P,
    env: &E,
    hook: u8,
    l3: usize,
    work: &mut Work<A>,
) -> Option<Verdict> {
    let failed = match parse::headers(packet, l3, &mut work.headers) {
        Ok(()) => return None,
        Err(failed) => failed,
    };
    cold_path();
    match failed {
        Counter::Fragment => fragment::arrives(packet, env, hook, l3, work),
        Counter::OtherProtocol if hook == hook::INGRESS => {
            Some(portless::ingress(packet, env, work, Counter::OtherProtocol))
        }
        Counter::OtherProtocol => Some(portless::egress(env, work, Counter::OtherProtocol)),
        why => Some(pass(env, why)),
    }
}

/// What is left to do for a packet that has its verdict ([`Verdict::to_bits`]).
#[inline(always)]
fn leave<A: Answer, P: Packet, E: Env + Tables<A>>(packet: &P, env: &E, work: &Work<A>, verdict: u16) {
    if work.headers.fragment != 0 {
        fragment::remember(packet, env, work, verdict);
    }
}

#[inline(always)]
fn decide_at_ingress<A: Answer, P: Packet, E: Env + Tables<A>>(packet: &mut P, env: &E, work: &mut Work<A>) -> u16 {
    let headers = &work.headers;
    if headers.protocol == A::ICMP {
        return match icmp::quoted(packet, work) {
            Ok(()) => icmp::ingress(packet, env, work).to_bits(),
            Err(why) => portless::ingress(packet, env, work, why).to_bits(),
        };
    }
    let protocol = headers.protocol;
    work.sender_hash = interest::endpoint_hash(env.config(), headers.sender(), protocol);
    // What opens a connection is no reply.
    let from_backend = !headers.opens_connection() && interest::is_backend::<A, E>(env, work.sender_hash);
    let to_frontend = interest::is_frontend(env, headers.receiver(), protocol);
    if !from_backend && !to_frontend {
        return pass(env, Counter::NoService).to_bits();
    }
    if forward::are_there(env) {
        forward::look_at(packet, env, work);
    } else {
        work.may_pass_by = false;
    }
    if from_backend && let Some(verdict) = reply::ingress(packet, env, work) {
        if verdict != Verdict::Forward || forward::reply(env, work) {
            return verdict.to_bits();
        }
        if let Some(verdict) = reply::left(packet, env, work) {
            return verdict.to_bits();
        }
    }
    if to_frontend {
        return request::ingress(packet, env, work);
    }
    pass(env, Counter::NoService).to_bits()
}

/// A packet leaves the node, or goes from it to a pod.
#[inline(always)]
pub fn egress<P: Packet, E: Env>(packet: &mut P, env: &E, attachment: Attachment, scratch: &mut Scratch) -> Action {
    // Only packets that need no other source bear the mark: everything else is looked up, because
    // what ingress saw may have been changed since (a masquerade of the CNI, say).
    if packet.mark() == env.config().mark {
        return pass(env, Counter::Marked).action();
    }
    match network_layer(packet, attachment) {
        Ok((false, l3)) => egress_of(packet, env, attachment, l3, &mut scratch.v4),
        Ok((true, l3)) => egress_of(packet, env, attachment, l3, &mut scratch.v6),
        Err(why) => pass(env, why).action(),
    }
}

/// As at ingress: steps that decide, then the one that turns the packet into an answer or two.
#[inline(always)]
fn egress_of<A: Answer, P: Packet, E: Env + Tables<A>>(
    packet: &mut P,
    env: &E,
    attachment: Attachment,
    l3: usize,
    work: &mut Work<A>,
) -> Action {
    work.attachment = attachment;
    work.device = packet.device();
    if let Some(verdict) = read(packet, env, hook::EGRESS, l3, work) {
        return verdict.action();
    }
    let verdict = whole_egress(packet, env, work).to_bits();
    leave(packet, env, work, verdict);
    match Verdict::refusal_of(verdict) {
        Some(Refusal::GoneBackend) => cut::cut(packet, env, work, hook::EGRESS).action(),
        Some(why) => refuse::refuse(packet, env, work, why).action(),
        None => Verdict::action_of(verdict),
    }
}

#[inline(always)]
fn whole_egress<A: Answer, P: Packet, E: Env + Tables<A>>(packet: &mut P, env: &E, work: &mut Work<A>) -> Verdict {
    let headers = &work.headers;
    if headers.protocol == A::ICMP {
        return match icmp::quoted(packet, work) {
            Ok(()) => icmp::egress(packet, env, work),
            Err(why) => portless::egress(env, work, why),
        };
    }
    let protocol = headers.protocol;
    work.sender_hash = interest::endpoint_hash(env.config(), headers.sender(), protocol);
    work.receiver_hash = interest::endpoint_hash(env.config(), headers.receiver(), protocol);
    let to_backend = interest::is_backend::<A, E>(env, work.receiver_hash);
    let from_backend = !headers.opens_connection() && interest::is_backend::<A, E>(env, work.sender_hash);
    if !from_backend && !to_backend {
        return portless::egress(env, work, Counter::NoService);
    }
    if to_backend && let Some(verdict) = masquerade::egress(packet, env, work) {
        return verdict;
    }
    if from_backend && let Some(verdict) = reply::egress(packet, env, work) {
        return verdict;
    }
    portless::egress(env, work, Counter::NoService)
}
