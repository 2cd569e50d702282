//! A TCP connection is cut: both of its sides are reset.
//!
//! What becomes of a connection whose backend serves no more ([`service::serving`], as for every other protocol) is its
//! Service's choice. Most let it go on with the address that it has; for one with [`flag::CUT`] the next packet of either
//! side ends it. Whose the connection is, is told by its frontend: the backend's number may have another owner by now.
//!
//! The packet in hand becomes two resets. At ingress the client speaks: its reset enters by the same device once more and
//! passes all hooks as a request does, and the frontend's goes back to it. At egress the backend speaks: the client's
//! reset enters by the client's device, as if the client had sent it, and the frontend's goes on to the client. So in
//! both cases the client's reset enters the node as a copy, the frontend's leaves by the device at hand, and routing,
//! masquerade and connection tracking see what they would see had the two sides reset each other. Of a direct flow
//! ([`super::forward`]) the backend speaks at ingress, too: then its reset enters by its own device once more, and that of
//! the one it spoke to goes back.
//!
//! The flow is closed then, and stays known for as long as a closed one does. A side that did not take its reset (see
//! [`Reset::replaces`]) and says so is cut again.

use super::refuse::{Answer, turn_around, unanswered};
use super::reset::Reset;
use super::{Work, drop};
use crate::checksum::difference;
use crate::config;
use crate::conntrack::{Direction, State};
use crate::env::{Env, ServiceEvent, Tables};
use crate::flow_table;
use crate::frontend_table;
use crate::packet::{MAX_SUM, Packet};
use crate::parse::{Headers, Network};
use crate::rewrite::is_partial;
use crate::schema::{ServiceKey, ServiceRef, hook};
use crate::service::{self, flag};
use crate::verdict::{DropReason, Refusal, Verdict};
use crate::wire::{protocol, tcp};

/// Whether the packet in hand, which is of the flow in `work.lookup` and opens no connection, is to cut it. The Service is
/// then in `work.choice`. Cost: a look at CONFIG where no Service asks for it, else the backend's record.
#[inline(always)]
pub fn is_due<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) -> bool {
    env.config().has(config::flag::CUT) && work.headers.protocol == protocol::TCP && has_lost_backend(env, work)
}

/// Of resets nobody is reset, and where both sides have said that they are done there is nothing to cut.
#[inline(never)]
fn has_lost_backend<A: Network, E: Env + Tables<A>>(env: &E, work: &mut Work<A>) -> bool {
    let way = &work.lookup.found.way;
    if work.headers.is_reset()
        || way.meta().state() == State::CLOSING
        || service::serving::<A, E>(env, way.backend_ref).is_some()
    {
        return false;
    }
    let mut found = ServiceRef::default();
    let key = ServiceKey::new(way.frontend, way.frontend_port, protocol::TCP);
    if !frontend_table::find(env, &key, &mut found).is_found() {
        return false;
    }
    let Some(record) = service::record::<A, E>(env, found.number) else { return false };
    work.choice.service = found.number;
    record.flags & flag::CUT != 0
}

/// Cuts the connection of a packet for which [`is_due`] said so, at the hook where it enters or leaves the node.
#[inline(never)]
pub fn cut<A: Answer, P: Packet, E: Env + Tables<A>>(packet: &mut P, env: &E, work: &mut Work<A>, hook: u8) -> Verdict {
    if let Some(reason) = unanswered(env, &work.headers) {
        return drop(env, reason);
    }
    let from = speaker(work);
    flow_table::note(env, &mut work.lookup.found, from, tcp::flag::RST, env.now());
    if prepare(packet, work, hook).is_none() || send(packet, work).is_none() {
        return drop(env, DropReason::RefusalFailed);
    }
    Tables::<A>::count_service(env, work.choice.service, ServiceEvent::Refused);
    env.count(Refusal::GoneBackend.counter());
    if hook == hook::INGRESS { Verdict::Refuse(Refusal::GoneBackend) } else { Verdict::Translate }
}

/// Who has sent the packet in hand, which is of the flow in `work.lookup`.
#[inline(always)]
fn speaker<A: Network>(work: &Work<A>) -> Direction {
    let to_frontend = work.headers.receiver() == work.lookup.found.way.frontend_endpoint();
    if to_frontend { Direction::Original } else { Direction::Reply }
}

/// Fills in `work.resets`, cuts the packet to the length of one, and turns it to where it enters the node from.
#[inline(never)]
fn prepare<A: Answer, P: Packet>(packet: &mut P, work: &mut Work<A>, hook: u8) -> Option<()> {
    let (headers, way) = (&work.headers, &work.lookup.found.way);
    let at_ingress = hook == hook::INGRESS;
    let (here, there) = if at_ingress {
        (headers.sender(), headers.receiver())
    } else {
        (way.client_endpoint(), way.frontend_endpoint())
    };
    let segment: tcp::Tcp = packet.read(headers.l4)?;
    let partial = is_partial(packet, headers.checksum())?;
    let [enters, leaves] = &mut work.resets;
    (enters.from, enters.to, enters.partial) = (here, there, partial);
    (leaves.from, leaves.to, leaves.partial) = (there, here, partial);
    let (onward, answer) = if at_ingress { (enters, leaves) } else { (leaves, enters) };
    onward.replaces(headers, &segment);
    answer.answers(headers, &segment);
    packet.resize((headers.l4 + tcp::LENGTH) as u32)?;
    if work.attachment.ethernet && !at_ingress { turn_around(packet) } else { Some(()) }
}

/// Sends the reset that enters into the node as a copy of the packet, and makes the packet the one that leaves.
#[inline(always)]
fn send<A: Answer, P: Packet>(packet: &mut P, work: &Work<A>) -> Option<()> {
    write(packet, &work.headers, &work.resets[0])?;
    packet.copy_into_node()?;
    write(packet, &work.headers, &work.resets[1])?;
    if work.attachment.ethernet { turn_around(packet) } else { Some(()) }
}

/// Writes a reset over the packet, and keeps a sum that the device gave for all of it.
#[inline(always)]
fn write<A: Answer, P: Packet>(packet: &mut P, headers: &Headers<A>, reset: &Reset<A>) -> Option<()> {
    let length = headers.l4 + tcp::LENGTH - headers.l3;
    if length > MAX_SUM {
        return None;
    }
    let before = packet.sum(headers.l3, length)?;
    reset.write(packet, headers)?;
    let after = packet.sum(headers.l3, length)?;
    packet.add_packet_sum(difference(before, after));
    Some(())
}
