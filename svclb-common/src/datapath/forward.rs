//! Direct flows: both halves of the translation at the first hook, and on past the node's IP stack.
//!
//! Whether a flow is direct is a bit of it, set when it is made, so that all of its packets go the same way: netfilter's
//! connection tracking, which has not seen some packets of a connection, calls the others invalid. A flow becomes direct
//! if routing leads to its backend by a device with Ethernet headers that has hooks, so that replies can be direct
//! too. What goes to the node itself does not; nor does what keeps its source and leaves the cluster from a pod: its
//! source is the business of the CNI, in netfilter; nor, of IPv6, what pods of one bridge say to each other.
//!
//! Single packets of a direct flow that only the stack can deal with are left to it, half translated, as packets of
//! other flows are: those with no hop left or too long for the way, for which the stack answers by ICMP or cuts them;
//! those with IP options; those without a route; frames that are not addressed to the node.

use super::{Work, drop, masquerade};
use crate::addr::Endpoint;
use crate::config::{flag, in_cluster_cidrs};
use crate::conntrack::Direction;
use crate::env::{Env, Tables};
use crate::flow_table;
use crate::packet::{Frame, Packet};
use crate::parse::{Headers, Network};
use crate::rewrite;
use crate::route::{Trip, reach};
use crate::schema::Device;
use crate::service::{device_flag, role};
use crate::verdict::{Counter, DropReason, Verdict};
use crate::wire::ethernet::{self, Mac};
use crate::wire::{protocol, tcp, udp};

/// Whether direct flows may exist: else nothing here is asked.
#[inline(always)]
pub fn are_there<E: Env>(env: &E) -> bool {
    env.config().has(flag::DIRECT_FLOWS)
}

/// Whether a packet bears a VLAN tag. The device of the VLAN will see it once more without, and can send it on.
#[inline(always)]
pub fn is_tagged<P: Packet>(packet: &P, ethernet: bool, l3: usize) -> bool {
    packet.is_tagged() || (ethernet && l3 != ethernet::LENGTH)
}

/// Finds out whether a packet that enters the node could pass its stack by, for all that is to be seen of it:
/// `work.may_pass_by`. Fills in what `work.trip` needs besides the ends.
#[inline(never)]
pub fn look_at<A: Network, P: Packet, E: Env>(packet: &P, env: &E, work: &mut Work<A>) {
    let segment = packet.segment();
    look_at_frame(packet, env, work, segment);
}

/// [`look_at`], of a frame whose segments have so many bytes of payload; 0 if it is but one.
#[inline(always)]
pub fn look_at_frame<A: Network, F: Frame, E: Env>(packet: &F, env: &E, work: &mut Work<A>, segment: u32) {
    work.may_pass_by = false;
    work.trip = Trip { protocol: work.headers.protocol, ..Trip::default() };
    if let Some(device) = env.device(work.device)
        && is_for_node(packet, &device, work.attachment.bridge_port)
    {
        work.from_local = device.local != 0;
        work.trip.input = device.input;
        work.may_pass_by = measure(packet, work, segment).is_some();
    }
}

/// Whether a frame is the node's to route. From a pod at a port of a bridge all is: between two ports it would be
/// switched.
#[inline(always)]
fn is_for_node<F: Frame>(packet: &F, device: &Device, bridge_port: bool) -> bool {
    let Some(to) = packet.read::<Mac>(0) else { return false };
    device.flags & device_flag::ETHERNET != 0
        && (to == device.mac || (bridge_port && device.role == role::POD && to[0] & 1 == 0))
}

/// Notes length and class of a packet. `None` if it has no hop left, or headers that routers look at.
#[inline(always)]
pub(super) fn measure<A: Network, F: Frame>(packet: &F, work: &mut Work<A>, segment: u32) -> Option<()> {
    let headers = &work.headers;
    let (class, hops) = A::class_and_hops(packet, headers.l3)?;
    let header = headers.l4 - headers.l3;
    if hops <= 1 || header != if headers.fragment == 0 { A::HEADER } else { A::FRAGMENT_HEADER } {
        return None;
    }
    work.trip.class = class;
    work.trip.length = header as u16 + transport_length(packet, headers, segment)?;
    Some(())
}

/// Bytes behind the network header; of what stands for several packets, in the longest of them.
#[inline(always)]
fn transport_length<A: Network, F: Frame>(packet: &F, headers: &Headers<A>, segment: u32) -> Option<u16> {
    if segment == 0 {
        return Some(headers.payload as u16);
    }
    let header = match headers.protocol {
        protocol::TCP => {
            let [words, _]: [u8; 2] = packet.read(headers.l4 + tcp::OFFSET)?;
            (words >> 4) as u16 * 4
        }
        // They are cut where their sender has put them together, and the number that stands for that is no length.
        protocol::SCTP => return Some(0),
        _ => udp::LENGTH as u16,
    };
    Some(header + segment as u16)
}

/// Asks where a packet between these ends goes.
#[inline(always)]
fn ask<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>, from: Endpoint<A>, to: Endpoint<A>) {
    (work.trip.from, work.trip.to) = (from, to);
    env.route(&mut work.trip);
}

/// Makes the flow direct that the packet in hand, which could pass the stack by, begins, if all of it can. The way to its
/// backend is in `work.trip` then. A packet of the flow that another CPU has at the same moment may still go the other way.
#[inline(never)]
pub fn begins<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) {
    let backend = work.lookup.found.way.backend_endpoint();
    ask(env, work, work.headers.sender(), backend);
    let Some(out) = output(env, work) else { return };
    // Between two pods of one bridge nothing but the lift of replies is known to work with IPv6.
    if A::IS_V6
        && work.trip.route.device == work.trip.input
        && out.role == role::POD
        && !work.lookup.found.way.meta().is_masqueraded()
    {
        return;
    }
    if work.lookup.found.way.meta().is_masqueraded()
        || out.role != role::NODE
        || !work.from_local
        || in_cluster_cidrs(env.config(), backend.address).1
    {
        flow_table::make_direct(env, &mut work.lookup.found);
    }
}

/// The device by which the trip leaves, if it is one that direct flows may use.
#[inline(always)]
fn output<A: Network, E: Env>(env: &E, work: &Work<A>) -> Option<Device> {
    if !work.trip.leads_on() {
        return None;
    }
    env.device(work.trip.route.device).filter(|device| device.flags & device_flag::ETHERNET != 0)
}

/// Whether the trip is open to the packet in hand. How it takes it is in `work.trip` then.
#[inline(always)]
fn is_open<A: Network, E: Env>(env: &E, work: &mut Work<A>) -> bool {
    if !work.trip.is_open() {
        return false;
    }
    let Some(out) = output(env, work) else { return false };
    let known = work.trip.route.reach == reach::KNOWN;
    work.trip.route.into_pod = u32::from(known && out.flags & device_flag::PEER != 0);
    true
}

/// Decides about a request of the direct flow in `work.lookup`. [`Verdict::Forward`], in bits: it goes on to the backend,
/// and [`send`] is to write it; [`Verdict::Pass`]: it is left to the stack.
#[inline(always)]
pub fn request<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) -> u16 {
    if !leads_to_backend(env, work) {
        env.count(Counter::DirectToStack);
        return Verdict::Pass.to_bits();
    }
    if work.lookup.found.way.meta().is_masqueraded() {
        let device = work.trip.route.device;
        if let Some(reason) = masquerade::source(env, work, device) {
            return drop(env, reason).to_bits();
        }
        work.ends[0] = Endpoint::new(work.claim.key.ours, work.claim.key.our_port);
    }
    env.count(Counter::RequestForwarded);
    Verdict::Forward.to_bits()
}

/// Whether the way to the backend is open; what the packet's ends become is in `work.ends` then.
#[inline(never)]
fn leads_to_backend<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) -> bool {
    if !work.may_pass_by {
        return false;
    }
    let way = &work.lookup.found.way;
    let backend = way.backend_endpoint();
    work.ends = [way.client_endpoint(), backend];
    // Of a flow that was made just now it is known.
    if work.trip.to != backend {
        ask(env, work, work.headers.sender(), backend);
    }
    is_open(env, work)
}

/// Decides about a reply of the direct flow in `work.lookup`, and notes it if it goes on to its client: then [`send`] is to
/// write it. Else it is left to the stack.
#[inline(never)]
pub fn reply<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) -> bool {
    let client = work.lookup.found.way.client_endpoint();
    if work.may_pass_by {
        ask(env, work, work.headers.sender(), client);
    }
    if !work.may_pass_by || !is_open(env, work) {
        env.count(Counter::DirectToStack);
        return false;
    }
    flow_table::note(env, &mut work.lookup.found, Direction::Reply, work.headers.signal, env.now());
    work.ends = [work.lookup.found.way.frontend_endpoint(), client];
    env.count(Counter::ReplyForwarded);
    true
}

/// Decides about a fragment behind the first one, whose addresses become those in `work.ends`. Without a way it is dropped:
/// the rest of its datagram has gone past the stack.
#[inline(always)]
pub fn fragment<A: Network, P: Packet, E: Env + Tables<A>>(packet: &P, env: &E, work: &mut Work<A>) -> Verdict {
    look_at(packet, env, work);
    if !leads_after_first(env, work) {
        return drop(env, DropReason::FragmentOfDropped);
    }
    env.count(Counter::FragmentTranslated);
    Verdict::Forward
}

#[inline(never)]
fn leads_after_first<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) -> bool {
    if !work.may_pass_by {
        return false;
    }
    ask(env, work, work.headers.sender(), work.ends[1]);
    is_open(env, work)
}

/// Writes a packet that goes on: both of its ends, and a hop less.
#[inline(never)]
pub fn send<A: Network, P: Packet, E: Env>(packet: &mut P, env: &E, work: &Work<A>) -> Verdict {
    let done = if work.headers.fragment != 0 && work.piece.part.offset != 0 {
        rewrite::forward_addresses(packet, &work.headers, work.ends.map(|end| end.address))
    } else {
        rewrite::forward(packet, &work.headers, &work.ends)
    };
    let addressed = if work.trip.route.into_pod == 0 { Some(()) } else { packet.write(0, &work.trip.route.macs) };
    if done.is_none() || addressed.is_none() {
        return drop(env, DropReason::Unwritable);
    }
    // No hook has to look at it once more.
    packet.set_mark(env.config().mark);
    Verdict::Forward
}
