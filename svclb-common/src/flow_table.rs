//! The flow table: one entry per flow, in the bucket of the client's endpoint.
//!
//! A request has the client's endpoint as its source and a reply has it as its destination, so both
//! directions hash to the same bucket and share one entry. A bucket has [`WAYS`] ways; when all hold
//! live flows, the next one goes to SPILL, a second table under a second hash of the same key, and
//! the home bucket counts it in `overflow`, so that only buckets with such flows ever ask SPILL. A
//! live flow is never evicted. Ageing is lazy: a way past its timeout is free.
//!
//! Everything in this file is pure over one bucket. [`crate::env::Tables::peek`] reads a bucket
//! without its lock, [`crate::env::Tables::locked`] changes it under the lock; functions that are
//! used inside `locked` are inlined and call nothing, as kernel 6.1 demands.
//!
//! A flow could stand in FLOWS and SPILL at once: two CPUs may place the first packet of one flow at
//! the same moment while a way of the home bucket becomes free. [`insert`] looks into SPILL before it
//! places in a bucket with overflow, and looks home again after it placed in SPILL; in what remains,
//! the entry at home wins.

use crate::addr::{Address, Be16, Endpoint};
use crate::config::Config;
use crate::conntrack::{self, Direction, State};
use crate::env::{Env, Peek, Place, Tables, Tick};
use crate::hash;
use crate::schema::{BackendRef, Body, Detail, Details, WAYS, Way};
use crate::verdict::Counter;
use crate::wire::protocol;

/// Field `meta` of a way: protocol, state and flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta(pub u16);

impl Meta {
    /// The packet's source must become an address of this node on its way out.
    pub const MASQUERADE: u16 = 1 << 6;
    const PROTOCOL: u16 = 3;

    /// A flow's meta. Only TCP, UDP and SCTP have flows.
    #[inline(always)]
    pub const fn new(protocol: u8, state: State, flags: u16) -> Self {
        Self(Self::protocol_bits(protocol) | ((state.0 & 15) as u16) << 2 | flags)
    }

    /// The protocol as two bits; 0 stands for a free way.
    #[inline(always)]
    pub const fn protocol_bits(protocol: u8) -> u16 {
        if protocol == protocol::TCP {
            1
        } else if protocol == protocol::UDP {
            2
        } else {
            3
        }
    }

    /// IP protocol number.
    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        match self.0 & Self::PROTOCOL {
            1 => protocol::TCP,
            2 => protocol::UDP,
            _ => protocol::SCTP,
        }
    }

    /// State.
    #[inline(always)]
    pub const fn state(self) -> State {
        State((self.0 >> 2 & 15) as u8)
    }

    /// The same with another state.
    #[inline(always)]
    pub const fn with_state(self, state: State) -> Self {
        Self(self.0 & !(15 << 2) | ((state.0 & 15) as u16) << 2)
    }

    /// Whether requests are masqueraded.
    #[inline(always)]
    pub const fn is_masqueraded(self) -> bool {
        self.0 & Self::MASQUERADE != 0
    }

    /// Whether the way is in use (it may have expired).
    #[inline(always)]
    pub const fn is_used(self) -> bool {
        self.0 & Self::PROTOCOL != 0
    }
}

impl<A: Address> Way<A> {
    /// Its [`Meta`].
    #[inline(always)]
    pub const fn meta(&self) -> Meta {
        Meta(self.meta)
    }

    /// The client.
    #[inline(always)]
    pub const fn client_endpoint(&self) -> Endpoint<A> {
        Endpoint::new(self.client, self.client_port)
    }

    /// What the client addressed.
    #[inline(always)]
    pub const fn frontend_endpoint(&self) -> Endpoint<A> {
        Endpoint::new(self.frontend, self.frontend_port)
    }

    /// What serves it.
    #[inline(always)]
    pub const fn backend_endpoint(&self) -> Endpoint<A> {
        Endpoint::new(self.backend, self.backend_port)
    }

    #[inline(always)]
    fn is_of(&self, client: &Endpoint<A>, protocol: u16) -> bool {
        self.client_port == client.port && self.meta & 3 == protocol && self.client == client.address
    }
}

/// The other end by which a flow of a client is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// What the client addressed: a request before its translation.
    Frontend,
    /// Who serves it: a request after its translation, or a reply.
    Backend,
}

/// Names one flow.
#[derive(Clone, Copy, Debug)]
pub struct FlowKey<A> {
    /// The client.
    pub client: Endpoint<A>,
    /// The other end.
    pub other: Endpoint<A>,
    /// IP protocol number.
    pub protocol: u8,
}

/// A flow that was found: a copy of its entry, and where that stands.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Found<A: Address> {
    /// The entry, as it was when it was read.
    pub way: Way<A>,
    /// Bucket.
    pub place: Place,
    /// Way in the bucket.
    pub index: u32,
}

/// Home bucket and SPILL bucket of a client.
#[inline(always)]
pub fn places<A: Address>(config: &Config, client: Endpoint<A>, protocol: u8) -> (Place, Place) {
    let hash = hash::endpoint(config.seed, client.address, client.port, protocol);
    let masks = config.buckets[A::IS_V6 as usize];
    (
        Place { spill: false, bucket: (hash >> 32) as u32 & masks[0] },
        Place { spill: true, bucket: hash as u32 & masks[1] },
    )
}

#[inline(always)]
fn is_hit<A: Address>(way: &Way<A>, key: &FlowKey<A>, bits: u16, by: By) -> bool {
    way.is_of(&key.client, bits)
        && match by {
            By::Frontend => way.frontend_port == key.other.port && way.frontend == key.other.address,
            By::Backend => way.backend_port == key.other.port && way.backend == key.other.address,
        }
}

/// Looks in one bucket: without the lock, and under it should a writer have been inside.
#[inline(always)]
fn find_in<A: Address, T: Tables<A>>(tables: &T, place: Place, key: &FlowKey<A>, by: By, way: &mut Way<A>) -> Peek {
    let bits = Meta::protocol_bits(key.protocol);
    let seen = tables.peek(place, way, |way| is_hit(way, key, bits, by));
    if seen != Peek::BUSY {
        return seen;
    }
    let found = tables.locked(place, |body, _| {
        let mut i = 0;
        while i < WAYS {
            if is_hit(&body.ways[i], key, bits, by) {
                *way = body.ways[i];
                return i as u32;
            }
            i += 1;
        }
        if body.overflow > 0 { Peek::MISS_OVERFLOW.0 } else { Peek::MISS.0 }
    });
    match found {
        Some(found) => Peek(found),
        None => Peek::MISS,
    }
}

/// Finds a live flow. A function of its own in the kernel, as it is called from many places.
#[inline(never)]
pub fn find<A: Address, E: Env + Tables<A>>(
    env: &E,
    key: &FlowKey<A>,
    by: By,
    now: Tick,
    found: &mut Found<A>,
) -> bool {
    let (home, spill) = places(env.config(), key.client, key.protocol);
    found.place = home;
    let mut at = find_in(env, home, key, by, &mut found.way);
    if at == Peek::MISS_OVERFLOW {
        found.place = spill;
        at = find_in(env, spill, key, by, &mut found.way);
    }
    found.index = at.0;
    at.is_found() && !env.config().expired(found.way.meta().state(), found.way.seen, now)
}

/// What [`insert`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inserted {
    /// Placed.
    New,
    /// Placed over an older entry of the same client and frontend.
    Replaced,
    /// A live entry of the same client and frontend is there already.
    Existing,
    /// A live flow of the client reaches the same backend through another frontend: replies could not
    /// be told apart.
    Conflict,
    /// No room, neither at home nor in SPILL.
    Full,
}

/// Results of [`place_in`], small integers as a lock region returns nothing bigger.
mod placed {
    pub(super) const NEW: u32 = 0;
    pub(super) const REPLACED: u32 = 1;
    pub(super) const EXISTING: u32 = 2;
    pub(super) const CONFLICT: u32 = 3;
    pub(super) const FULL: u32 = 4;
    /// NEW, over an expired way whose client is in `displaced`.
    pub(super) const DISPLACED: u32 = 5;
}

/// Places a flow in one bucket, under its lock. `over` allows to replace a live entry of the same client
/// and frontend.
#[inline(always)]
fn place_in<A: Address>(
    config: &Config,
    body: &mut Body<A>,
    details: &mut Details<A>,
    flow: &Way<A>,
    detail: &Detail<A>,
    over: bool,
    displaced: &mut (Endpoint<A>, u8),
) -> u32 {
    let now = Tick(flow.seen);
    let client = flow.client_endpoint();
    let bits = flow.meta & 3;
    let mut free = WAYS;
    let mut same = WAYS;
    let mut i = 0;
    while i < WAYS {
        let way = &body.ways[i];
        let meta = way.meta();
        let live = meta.is_used() && !config.expired(meta.state(), way.seen, now);
        if way.is_of(&client, bits) {
            let same_frontend = way.frontend_port == flow.frontend_port && way.frontend == flow.frontend;
            if same_frontend {
                if live && !over {
                    return placed::EXISTING;
                }
                same = i;
            } else if live && way.backend_port == flow.backend_port && way.backend == flow.backend {
                return placed::CONFLICT;
            }
        }
        if !live {
            free = i;
        }
        i += 1;
    }
    let (slot, result) = if same < WAYS { (same, placed::REPLACED) } else { (free, placed::NEW) };
    let (Some(way), Some(its_detail)) = (body.ways.get_mut(slot), details.ways.get_mut(slot)) else {
        return placed::FULL;
    };
    let old = way.meta();
    displaced.0 = way.client_endpoint();
    displaced.1 = old.protocol();
    *way = *flow;
    *its_detail = *detail;
    if result == placed::NEW && old.is_used() { placed::DISPLACED } else { result }
}

/// Adds to or takes from a home bucket's count of flows in SPILL.
#[inline(always)]
fn count_overflow<A: Address, T: Tables<A>>(tables: &T, home: Place, more: bool) {
    tables.locked(home, |body, _| {
        body.overflow = if more { body.overflow.saturating_add(1) } else { body.overflow.saturating_sub(1) };
        0
    });
}

/// Enters a flow. `over`: a live entry of the same client and frontend is replaced, at its place.
#[inline(never)]
pub fn insert<A: Address, E: Env + Tables<A>>(env: &E, flow: &Way<A>, detail: &Detail<A>, over: bool) -> Inserted {
    let config = env.config();
    let protocol = flow.meta().protocol();
    let (home, spill) = places(config, flow.client_endpoint(), protocol);
    let key = FlowKey { client: flow.client_endpoint(), other: flow.frontend_endpoint(), protocol };
    let mut displaced = (Endpoint::default(), 0);
    let mut place = home;
    let mut other = Way::default();
    // A flow that stands in SPILL is replaced there, not doubled at home.
    if over
        && find_in(env, home, &key, By::Frontend, &mut other) == Peek::MISS_OVERFLOW
        && find_in(env, spill, &key, By::Frontend, &mut other).is_found()
    {
        place = spill;
    }
    let mut result = env
        .locked(place, |body, details| place_in(config, body, details, flow, detail, over, &mut displaced))
        .unwrap_or(placed::FULL);
    if result == placed::FULL && !place.spill {
        place = spill;
        count_overflow::<A, E>(env, home, true);
        result = env
            .locked(spill, |body, details| place_in(config, body, details, flow, detail, over, &mut displaced))
            .unwrap_or(placed::FULL);
        if result == placed::NEW || result == placed::DISPLACED {
            env.count(Counter::FlowSpilled);
            // Another CPU may have placed the same flow at home, in a way that became free just now.
            if find_in(env, home, &key, By::Frontend, &mut other).is_found() {
                remove(env, place, &key);
                result = placed::EXISTING;
            }
        } else {
            count_overflow::<A, E>(env, home, false);
        }
    }
    if place.spill && result == placed::DISPLACED {
        count_overflow::<A, E>(env, places(config, displaced.0, displaced.1).0, false);
    }
    match result {
        placed::NEW | placed::DISPLACED => Inserted::New,
        placed::REPLACED => Inserted::Replaced,
        placed::EXISTING => Inserted::Existing,
        placed::CONFLICT => Inserted::Conflict,
        _ => Inserted::Full,
    }
}

/// Takes a flow out of a SPILL bucket.
#[inline(always)]
fn remove<A: Address, E: Env + Tables<A>>(env: &E, place: Place, key: &FlowKey<A>) {
    let bits = Meta::protocol_bits(key.protocol);
    let removed = env.locked(place, |body, _| {
        let mut i = 0;
        while i < WAYS {
            if is_hit(&body.ways[i], key, bits, By::Frontend) {
                body.ways[i].meta = 0;
                return 1;
            }
            i += 1;
        }
        0
    });
    if removed == Some(1) {
        count_overflow::<A, E>(env, places(env.config(), key.client, key.protocol).0, false);
    }
}

/// Whether `way` still is the flow that was copied to `read`.
#[inline(always)]
fn is_same_flow<A: Address>(way: &Way<A>, read: &Way<A>) -> bool {
    way.client_port == read.client_port
        && way.frontend_port == read.frontend_port
        && way.backend_port == read.backend_port
        && way.meta & 3 == read.meta & 3
        && way.client == read.client
        && way.frontend == read.frontend
        && way.backend == read.backend
}

/// Notes a packet of a known flow: its time, and its state where the packet changes it. The common case
/// is one store without the lock.
#[inline(always)]
pub fn note<A: Address, T: Tables<A>>(
    tables: &T,
    found: &mut Found<A>,
    direction: Direction,
    tcp_flags: u8,
    now: Tick,
) {
    let meta = found.way.meta();
    let state = conntrack::next(meta.state(), meta.protocol(), direction, tcp_flags);
    if state == meta.state() {
        if found.way.seen != now.0 {
            tables.touch(found.place, found.index, now);
        }
        return;
    }
    let read = &found.way;
    tables.locked(found.place, |body, _| {
        let Some(way) = body.ways.get_mut(found.index as usize) else { return 0 };
        if !is_same_flow(way, read) {
            return 0; // it changed hands since it was read
        }
        let meta = way.meta();
        way.meta = meta.with_state(conntrack::next(meta.state(), meta.protocol(), direction, tcp_flags)).0;
        way.seen = now.0;
        1
    });
    found.way.meta = meta.with_state(state).0;
}

/// Ticks after which a masquerade entry is renewed by its flow's packets: far below every timeout,
/// far above the time between packets.
pub const RENEW_TICKS: u32 = 32;

/// What a flow's packets are sent from, if that is settled, and whether its masquerade entry is due to be
/// renewed (the caller does it; it is noted as done).
#[inline(always)]
pub fn masquerade_of<A: Address, T: Tables<A>>(tables: &T, found: &Found<A>, now: Tick) -> Option<(Endpoint<A>, bool)> {
    let mut ours = Endpoint::default();
    let read = &found.way;
    let done = tables.locked(found.place, |body, details| {
        let at = found.index as usize;
        let (Some(way), Some(detail)) = (body.ways.get(at), details.ways.get_mut(at)) else { return 0 };
        if detail.masquerade_port == Be16::ZERO || !is_same_flow(way, read) {
            return 0;
        }
        ours = Endpoint::new(detail.masquerade, detail.masquerade_port);
        if now.0.wrapping_sub(detail.renewed) < RENEW_TICKS {
            return 1;
        }
        detail.renewed = now.0;
        2
    });
    match done {
        Some(1) => Some((ours, false)),
        Some(2) => Some((ours, true)),
        _ => None,
    }
}

/// Settles what a flow's packets are sent from, unless another CPU was faster; returns what holds now,
/// or `None` if the flow is gone.
#[inline(always)]
pub fn set_masquerade<A: Address, T: Tables<A>>(
    tables: &T,
    found: &Found<A>,
    ours: Endpoint<A>,
) -> Option<Endpoint<A>> {
    let mut holds = ours;
    let read = &found.way;
    let done = tables.locked(found.place, |body, details| {
        let at = found.index as usize;
        let (Some(way), Some(detail)) = (body.ways.get(at), details.ways.get_mut(at)) else { return 0 };
        if !is_same_flow(way, read) {
            return 0;
        }
        if detail.masquerade_port == Be16::ZERO {
            detail.masquerade = ours.address;
            detail.masquerade_port = ours.port;
        } else {
            holds = Endpoint::new(detail.masquerade, detail.masquerade_port);
        }
        1
    });
    (done == Some(1)).then_some(holds)
}

/// A new entry.
#[inline(always)]
pub fn new_flow<A: Address>(
    client: Endpoint<A>,
    frontend: Endpoint<A>,
    backend: Endpoint<A>,
    meta: Meta,
    backend_ref: BackendRef,
    now: Tick,
) -> Way<A> {
    Way {
        client: client.address,
        frontend: frontend.address,
        backend: backend.address,
        client_port: client.port,
        frontend_port: frontend.port,
        backend_port: backend.port,
        meta: meta.0,
        seen: now.0,
        backend_ref,
        spare: A::Spare::default(),
    }
}
