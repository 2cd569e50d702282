//! Before there is a packet: frames of direct flows at XDP.
//!
//! A frame is sent on or left untouched, uncounted, to `tc`, which makes flows, refuses, drops, and does whatever else
//! takes more than this: so only frames of known direct flows that are masqueraded to a backend on another node, in either
//! direction, whole TCP and UDP packets without anything unusual. Since both obey the bit of the flow and share its entry,
//! it does not matter by which of the two a packet goes.
//!
//! Now and then `tc` gets a packet of each flow: when its entry in MASQUERADE is due to be renewed, so that the kernel
//! finds out whether the neighbour is still there, which it does when it sends by itself alone.

use super::{Attachment, Scratch, Work, cut, forward, network_layer, request};
use crate::addr::Endpoint;
use crate::conntrack::{Direction, State};
use crate::env::{Env, Tables};
use crate::flow_table::{self, By, FlowKey, RENEW_TICKS};
use crate::interest;
use crate::packet::Frame;
use crate::parse::{self, Network};
use crate::rewrite;
use crate::route::reach;
use crate::schema::MasqueradeKey;
use crate::service::{device_flag, role};
use crate::verdict::{Action, Counter};
use crate::wire::{ethernet, protocol};

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
    forward::look_at_frame(frame, env, work, 0);
    let known = work.may_pass_by && ((from_backend && is_reply(env, work)) || (to_frontend && is_request(env, work)));
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
fn is_request<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) -> bool {
    let now = env.now();
    let headers = &work.headers;
    work.lookup.key = FlowKey::new(headers.sender(), headers.receiver(), headers.protocol, work.sender_hash);
    if !flow_table::find(env, &mut work.lookup, By::Frontend, now)
        || !is_served(work)
        || !request::goes_on(env, work)
        || !flow_table::fresh_masquerade_of(env, &work.lookup.found, now, &mut work.ends[0])
    {
        return false;
    }
    let backend = work.lookup.found.way.backend_endpoint();
    work.ends[1] = backend;
    goes_out(env, work, backend) && note(env, work, Direction::Original)
}

/// The same of a reply.
#[inline(never)]
fn is_reply<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) -> bool {
    let now = env.now();
    let headers = &work.headers;
    let key = MasqueradeKey::new(headers.receiver(), headers.sender(), headers.protocol);
    let Some(entry) = env.masquerade(&key) else { return false };
    if env.config().expired(State(entry.state), entry.seen, now) || now.0.wrapping_sub(entry.seen) >= RENEW_TICKS {
        return false;
    }
    let client = Endpoint::new(entry.client, entry.client_port);
    work.receiver_hash = interest::endpoint_hash(env.config(), client, headers.protocol);
    work.lookup.key = FlowKey::new(client, headers.sender(), headers.protocol, work.receiver_hash);
    if !flow_table::find(env, &mut work.lookup, By::Backend, now) || !is_served(work) || cut::is_due(env, work) {
        return false;
    }
    work.ends = [work.lookup.found.way.frontend_endpoint(), client];
    goes_out(env, work, client) && note(env, work, Direction::Reply)
}

#[inline(always)]
const fn is_served<A: Network>(work: &Work<A>) -> bool {
    let meta = work.lookup.found.way.meta();
    meta.is_direct() && meta.is_masqueraded()
}

/// Whether frames can be sent to this end, out of a device that leads out of the node.
#[inline(always)]
fn goes_out<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>, to: Endpoint<A>) -> bool {
    (work.trip.from, work.trip.to) = (work.headers.sender(), to);
    env.route(&mut work.trip);
    if work.trip.route.reach != reach::KNOWN {
        return false;
    }
    let output = work.trip.route.device;
    env.device(output).is_some_and(|device| {
        device.role == role::NODE && (output == work.device || device.flags & device_flag::XDP != 0)
    })
}

/// Notes the packet, after which it is sent.
#[inline(always)]
fn note<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>, direction: Direction) -> bool {
    flow_table::note(env, &mut work.lookup.found, direction, work.headers.signal, env.now());
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
