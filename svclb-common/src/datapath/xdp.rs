//! Before there is a packet: frames of direct flows at XDP.
//!
//! A frame is sent on or left untouched, uncounted, to `tc`, which makes flows, refuses, drops, and does whatever else
//! takes more than this: so only frames of known direct flows that are masqueraded to a backend on another node, in either
//! direction, whole TCP and UDP packets without anything unusual. Since both obey the bit of the flow and share its entry,
//! it does not matter by which of the two a packet goes.
//!
//! Now and then all frames are left to `tc` for a [`Tick`]: the kernel finds out whether a neighbour is still there when
//! it sends by itself alone.

use super::{Attachment, Scratch, Work, cut, forward, network_layer, request};
use crate::addr::Endpoint;
use crate::conntrack::{Direction, State};
use crate::env::{Env, Tables, Tick};
use crate::flow_table::{self, By, FlowKey, RENEW_TICKS};
use crate::interest;
use crate::packet::Frame;
use crate::parse::{self, Network};
use crate::rewrite;
use crate::route::{Route, reach};
use crate::schema::MasqueradeKey;
use crate::service::device_flag;
use crate::verdict::{Action, Counter};
use crate::wire::ethernet::{self, Mac};
use crate::wire::protocol;

/// Of so many ticks, one is left to `tc`: 2 seconds at 1000 Hz, 20 at 100. A neighbour is taken to be there for 15 to 45
/// seconds (RFC 4861 section 6.3.2), and forgotten much later. A power of two.
const CONFIRM_TICKS: u32 = 128;

/// A frame comes to a device of the node. [`Action::Forward`], to where [`Scratch::onward`] says, or [`Action::Next`].
#[inline(always)]
pub fn xdp<F: Frame, E: Env>(frame: &mut F, env: &E, attachment: Attachment, scratch: &mut Scratch) -> Action {
    if !forward::are_there(env) {
        return Action::Next;
    }
    match network_layer(frame, attachment) {
        Ok((false, ethernet::LENGTH)) => {
            scratch.is_v6 = false;
            xdp_of(frame, env, attachment, &mut scratch.v4)
        }
        Ok((true, ethernet::LENGTH)) => {
            scratch.is_v6 = true;
            xdp_of(frame, env, attachment, &mut scratch.v6)
        }
        _ => Action::Next,
    }
}

#[inline(always)]
fn xdp_of<A: Network, F: Frame, E: Env + Tables<A>>(
    frame: &mut F,
    env: &E,
    attachment: Attachment,
    work: &mut Work<A>,
) -> Action {
    work.attachment = attachment;
    work.device = frame.device();
    if parse::headers(frame, ethernet::LENGTH, &mut work.headers).is_err() || !is_plain(work) {
        return Action::Next;
    }
    let headers = &work.headers;
    work.sender_hash = interest::endpoint_hash(env.config(), headers.sender(), headers.protocol);
    let from_backend = interest::is_backend::<A, E>(env, work.sender_hash);
    let to_frontend = interest::is_frontend(env, headers.receiver(), headers.protocol);
    if !from_backend && !to_frontend {
        return Action::Next;
    }
    let now = env.now();
    if now.0 & (CONFIRM_TICKS - 1) == 0 || forward::measure(frame, work, 0).is_none() {
        return Action::Next;
    }
    // The stack sees packets come by the very devices that have XDP programs.
    (work.trip.input, work.trip.protocol) = (work.device, work.headers.protocol);
    let known = (from_backend && is_reply(frame, env, work, now)) || (to_frontend && is_request(frame, env, work, now));
    if known && send(frame, work).is_some() {
        env.count(Counter::XdpForwarded);
        return Action::Forward;
    }
    Action::Next
}

/// Of connections, only what is in the middle of one.
#[inline(always)]
fn is_plain<A: Network>(work: &Work<A>) -> bool {
    let headers = &work.headers;
    match headers.protocol {
        protocol::TCP => !headers.opens_connection(),
        protocol::UDP => true,
        _ => false,
    }
}

/// Whether the frame is a request of a flow that XDP serves, on a way that is open to it; its ends are in `work.ends` then.
#[inline(never)]
fn is_request<A: Network, F: Frame, E: Env + Tables<A>>(frame: &F, env: &E, work: &mut Work<A>, now: Tick) -> bool {
    let headers = &work.headers;
    work.lookup.key = FlowKey::new(headers.sender(), headers.receiver(), headers.protocol, work.sender_hash);
    if !flow_table::find(env, &mut work.lookup, By::Frontend, now) || !is_served(work) || !request::goes_on(env, work) {
        return false;
    }
    let backend = work.lookup.found.way.backend_endpoint();
    let Some((ours, renew)) = flow_table::masquerade_of(env, &work.lookup.found, now) else { return false };
    if renew {
        let key = MasqueradeKey::new(ours, backend, work.headers.protocol);
        env.renew_masquerade(&key, work.lookup.found.way.meta().state().0, now);
    }
    work.ends = [ours, backend];
    goes_out(frame, env, work, backend) && note(env, work, Direction::Original, now)
}

/// The same of a reply.
#[inline(never)]
fn is_reply<A: Network, F: Frame, E: Env + Tables<A>>(frame: &F, env: &E, work: &mut Work<A>, now: Tick) -> bool {
    let headers = &work.headers;
    let key = MasqueradeKey::new(headers.receiver(), headers.sender(), headers.protocol);
    let Some(entry) = env.masquerade(&key) else { return false };
    if env.config().expired(State(entry.state), entry.seen, now) {
        return false;
    }
    if now.0.wrapping_sub(entry.seen) >= RENEW_TICKS {
        env.renew_masquerade(&key, entry.state, now);
    }
    let client = Endpoint::new(entry.client, entry.client_port);
    work.receiver_hash = interest::endpoint_hash(env.config(), client, headers.protocol);
    work.lookup.key = FlowKey::new(client, headers.sender(), headers.protocol, work.receiver_hash);
    if !flow_table::find(env, &mut work.lookup, By::Backend, now) || !is_served(work) || cut::is_due(env, work) {
        return false;
    }
    work.ends = [work.lookup.found.way.frontend_endpoint(), client];
    goes_out(frame, env, work, client) && note(env, work, Direction::Reply, now)
}

#[inline(always)]
const fn is_served<A: Network>(work: &Work<A>) -> bool {
    let meta = work.lookup.found.way.meta();
    meta.is_direct() && meta.is_masqueraded()
}

/// Whether the frame is the node's to route, and can be sent to this end, out of the device by which it came or of
/// another that leads out of the node.
#[inline(always)]
fn goes_out<A: Network, F: Frame, E: Env + Tables<A>>(frame: &F, env: &E, work: &mut Work<A>, to: Endpoint<A>) -> bool {
    (work.trip.from, work.trip.to) = (work.headers.sender(), to);
    env.route(&mut work.trip);
    let Route { reach: reached, device: output, macs, .. } = work.trip.route;
    let Some(receiver) = frame.read::<Mac>(0) else { return false };
    if reached != reach::KNOWN {
        return false;
    }
    let [_, own] = macs;
    if output == work.device {
        return receiver == own;
    }
    env.device(work.device).is_some_and(|device| device.mac == receiver)
        && env.device(output).is_some_and(|device| device.flags & device_flag::XDP != 0)
}

/// Notes the packet, after which it is sent.
#[inline(always)]
fn note<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>, direction: Direction, now: Tick) -> bool {
    flow_table::note(env, &mut work.lookup.found, direction, work.headers.signal, now);
    true
}

/// Writes the frame anew. `None` leaves it untouched: its checksum looks as if a device were to complete it.
#[inline(never)]
fn send<A: Network, F: Frame>(frame: &mut F, work: &Work<A>) -> Option<()> {
    if rewrite::looks_unfinished(frame, &work.headers)? {
        return None;
    }
    rewrite::forward(frame, &work.headers, &work.ends)?;
    frame.write(0, &work.trip.route.macs)
}
