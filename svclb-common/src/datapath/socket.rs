//! Processes of the node itself: their sockets are led to a backend before there is a packet.
//!
//! Hooks of the cgroup run when a process connects, sends a datagram, receives one, or asks who its peer is. What it
//! addresses becomes a backend ([`connect`], [`send`]), what it is shown becomes the frontend again ([`peer`]). The
//! packets then go between the node and the backend, with the source that the way to the backend asks for, and no
//! hook of a device has to know of them. Loopback addresses are served here and nowhere else.
//!
//! A process of the node is local traffic, and the client that source ranges and session affinity see is the node's
//! address. Only TCP and UDP are served: the kernel runs these hooks for no other sockets.

use super::count_turned_away;
use crate::addr::{Address, Endpoint};
use crate::config::Config;
use crate::conntrack::State;
use crate::env::{Env, ServiceEvent, Tables};
use crate::interest;
use crate::schema::{SocketKey, SocketPeer, side};
use crate::select::{self, Choice, Chosen, Entry, affinity};
use crate::service;
use crate::verdict::{Counter, DropReason, Verdict};
use crate::wire::protocol;

/// Slots that are tried: one may name a backend that is gone, for an instant while lists change.
const PICKS: u32 = 4;

/// The socket of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket {
    /// The kernel's cookie of its network namespace.
    pub namespace: u64,
    /// The kernel's cookie of the socket.
    pub cookie: u64,
    /// IP protocol number.
    pub protocol: u8,
}

impl Socket {
    /// Whether its processes are served: those of the namespace of the agent that attached the program.
    #[inline(always)]
    fn is_served(&self, config: &Config) -> bool {
        self.namespace == config.namespace && matches!(self.protocol, protocol::TCP | protocol::UDP)
    }
}

/// What becomes of a connection or a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision<A> {
    /// It concerns no Service, or the process is none of ours.
    Pass,
    /// It goes there.
    Translate(Endpoint<A>),
    /// Nobody serves it: the process is told so, as by a reset.
    Refuse,
    /// A policy forbids it, or it cannot be decided: an error as of a packet filter.
    Drop(DropReason),
}

/// A process connects a socket.
#[inline(always)]
pub fn connect<A: Address, E: Env + Tables<A>>(env: &E, socket: &Socket, to: Endpoint<A>) -> Decision<A> {
    if !concerns_us(env, socket, to) {
        return Decision::Pass;
    }
    begin(env, socket, to)
}

/// A process sends a datagram to an address of its own choice. The datagrams of a socket to one frontend go to one
/// backend, as long as that serves and they follow each other as closely as those of a flow.
#[inline(always)]
pub fn send<A: Address, E: Env + Tables<A>>(env: &E, socket: &Socket, to: Endpoint<A>) -> Decision<A> {
    if !concerns_us(env, socket, to) {
        return Decision::Pass;
    }
    if let Some(known) = env.socket(&SocketKey::new(socket.cookie, shown(to), side::FRONTEND)) {
        let idle = env.now().0.wrapping_sub(known.seen);
        if idle <= env.config().timeout(State::REPLIED) && service::serving::<A, E>(env, known.backend).is_some() {
            let backend = Endpoint::new(known.address, known.port);
            if idle > env.config().ticks(1) {
                remember(env, socket, to, backend, &known);
            }
            env.count(Counter::SocketTranslated);
            return Decision::Translate(backend);
        }
    }
    begin(env, socket, to)
}

/// A process is to be shown a peer: the frontend that it had addressed, or `None` if the peer is what it is.
#[inline(always)]
pub fn peer<A: Address, E: Env + Tables<A>>(env: &E, socket: &Socket, peer: Endpoint<A>) -> Option<Endpoint<A>> {
    if !socket.is_served(env.config()) {
        return None;
    }
    let frontend = env.socket(&SocketKey::new(socket.cookie, peer, side::BACKEND))?;
    env.count(Counter::SocketPeerTranslated);
    Some(Endpoint::new(frontend.address, frontend.port))
}

/// Whether a process of ours may have addressed a Service. Node ports on loopback addresses have no interest bit, as
/// no packet may ask for them.
#[inline(always)]
fn concerns_us<A: Address, E: Env + Tables<A>>(env: &E, socket: &Socket, to: Endpoint<A>) -> bool {
    socket.is_served(env.config()) && (is_this_host(to.address) || interest::is_frontend(env, to, socket.protocol))
}

/// A loopback address, or the unspecified one, which the kernel takes for one.
#[inline(always)]
fn is_this_host<A: Address>(address: A) -> bool {
    address.is_loopback() || address == A::default()
}

/// What the kernel itself would show the process as its peer.
#[inline(always)]
fn shown<A: Address>(to: Endpoint<A>) -> Endpoint<A> {
    if to.address == A::default() { Endpoint::new(A::LOOPBACK, to.port) } else { to }
}

/// The first datagram of a conversation, or a connection: picks a backend.
#[inline(always)]
fn begin<A: Address, E: Env + Tables<A>>(env: &E, socket: &Socket, to: Endpoint<A>) -> Decision<A> {
    let mut choice = Choice::default();
    let turned_away = match choose(env, socket, to, &mut choice) {
        Ok(chosen) => {
            let backend = Endpoint::new(chosen.backend.address, chosen.backend.port);
            let first = SocketPeer { backend: chosen.reference, ..SocketPeer::default() };
            remember(env, socket, to, backend, &first);
            env.count(Counter::SocketTranslated);
            Tables::<A>::count_service(env, choice.service, ServiceEvent::Flow);
            return Decision::Translate(backend);
        }
        Err(verdict) => verdict,
    };
    count_turned_away::<A, E>(env, choice.service, turned_away);
    match turned_away {
        Verdict::Refuse(_) => {
            env.count(Counter::RefusedSocket);
            Decision::Refuse
        }
        Verdict::Drop(reason) => Decision::Drop(reason),
        Verdict::Pass | Verdict::Translate | Verdict::Answer | Verdict::Forward => Decision::Pass,
    }
}

#[inline(always)]
fn choose<A: Address, E: Env + Tables<A>>(
    env: &E,
    socket: &Socket,
    to: Endpoint<A>,
    choice: &mut Choice,
) -> Result<Chosen<A>, Verdict> {
    let address = if is_this_host(to.address) { A::LOOPBACK } else { to.address };
    let client = A::either(env.config().node4, env.config().node6);
    select::choice(env, Endpoint::new(address, to.port), socket.protocol, client, || Entry::Local, choice)?;
    pick(env, choice, client).ok_or(Verdict::Drop(DropReason::Inconsistent))
}

#[inline(always)]
fn pick<A: Address, E: Env + Tables<A>>(env: &E, choice: &Choice, client: A) -> Option<Chosen<A>> {
    let sticky = choice.affinity > 0;
    let now = env.now();
    let mut chosen = Chosen::default();
    let mut found = sticky && affinity::recall(env, choice, client, now, &mut chosen);
    if found {
        env.count(Counter::AffinityUsed);
    }
    let mut attempt = 0;
    while !found && attempt < PICKS {
        found = select::pick(env, &choice.list, &mut chosen);
        attempt += 1;
    }
    if !found {
        return None;
    }
    if sticky {
        affinity::remember(env, choice, client, chosen.reference, now);
    }
    Some(chosen)
}

/// Enters who answers for whom, so that the process is shown what it addressed.
#[inline(always)]
fn remember<A: Address, E: Env + Tables<A>>(
    env: &E,
    socket: &Socket,
    to: Endpoint<A>,
    backend: Endpoint<A>,
    known: &SocketPeer<A>,
) {
    let asked = shown(to);
    let mut value = SocketPeer { seen: env.now().0, ..*known };
    if socket.protocol == protocol::UDP {
        (value.address, value.port) = (backend.address, backend.port);
        env.set_socket(&SocketKey::new(socket.cookie, asked, side::FRONTEND), &value);
    }
    (value.address, value.port) = (asked.address, asked.port);
    env.set_socket(&SocketKey::new(socket.cookie, backend, side::BACKEND), &value);
}
