//! The flow table: one entry per flow, in the bucket of the client's endpoint.
//!
//! A request has the client's endpoint as its source and a reply has it as its destination, so both
//! directions hash to the same bucket and share one entry. A bucket has [`WAYS`] ways; when all hold
//! live flows, the next one goes to SPILL, a second table under a second hash of the same key, and
//! the home bucket counts it in `overflow`, so that only buckets with such flows ever ask SPILL. A
//! live flow is never evicted. Ageing is lazy: a way past its timeout is free. The head of a bucket holds
//! a tag of each way, some bits of the client's hash, so that a search that finds nothing, as every new flow's, loads
//! nothing but the head. A flow stands in the way that its hash picks, if that was free: so what a packet needs can
//! be loaded at once, head and way, before anything of the bucket is known ([`prefetch`]).
//!
//! [`entry`] names flows, [`change`] holds all that is done under the lock of a bucket, this file puts
//! them together. [`Tables::peek`] reads a bucket without its lock, [`Tables::locked`] applies a change.
//!
//! A flow could stand in FLOWS and SPILL at once: two CPUs may place the first packet of one flow at
//! the same moment while a way of the home bucket becomes free. [`insert`] looks into SPILL before it
//! places in a bucket with overflow, and looks home again after it placed in SPILL; in what remains,
//! the entry at home wins.

pub mod change;
pub mod entry;

use self::change::{
    Advance, CountOverflow, Enter, MakeDirect, ReadMasquerade, Remove, Search, SettleMasquerade, entered,
};
pub use self::change::{Change, RENEW_TICKS};
pub use self::entry::{By, Displaced, FlowKey, Found, Lookup, Meta, NewFlow, Sought, first_way, new_flow};
use crate::addr::{Address, Be16, Endpoint};
use crate::config::Config;
use crate::conntrack::{self, Direction};
use crate::env::{Env, Peek, Place, Tables, Tick};
use crate::interest;
use crate::schema::{MasqueradeKey, Way};
use crate::verdict::Counter;

/// Home bucket and SPILL bucket of a client with this hash ([`interest::endpoint_hash`]).
#[inline(always)]
fn places<A: Address>(config: &Config, hash: u64) -> (Place, Place) {
    let masks = config.buckets[A::IS_V6 as usize];
    (
        Place { spill: false, bucket: (hash >> 32) as u32 & masks[0] },
        Place { spill: true, bucket: hash as u32 & masks[1] },
    )
}

/// Begins to load what is needed of the home bucket of a client with this hash, its head and one way: in a big table
/// that takes as long as all the rest of a packet, which meanwhile goes on.
#[inline(always)]
pub fn prefetch<A: Address, E: Env + Tables<A>>(env: &E, hash: u64) {
    Tables::<A>::prefetch(env, places::<A>(env.config(), hash).0, first_way(hash));
}

/// Looks in one bucket: without the lock, and under it should a writer have been inside.
#[inline(always)]
fn find_in<A: Address, E: Env + Tables<A>>(env: &E, place: Place, sought: Sought<A>, way: &mut Way<A>) -> Peek {
    let seen = env.peek(place, sought, way);
    if seen != Peek::BUSY {
        return seen;
    }
    env.locked(place, Search { config: env.config(), sought, way }).map_or(Peek::MISS, Peek)
}

/// Finds a live entry, and says where. Called through [`Tables::find_entry`].
#[inline(always)]
pub fn find_entry<A: Address, E: Env + Tables<A>>(env: &E, lookup: &mut Lookup<A>, by: By) -> bool {
    let Lookup { key, now, found } = lookup;
    let sought = Sought { key, by, now: *now };
    let (home, spill) = places::<A>(env.config(), key.hash);
    found.place = home;
    let mut at = find_in(env, home, sought, &mut found.way);
    if at == Peek::MISS_OVERFLOW {
        found.place = spill;
        at = find_in(env, spill, sought, &mut found.way);
    }
    found.index = at.0;
    at.is_found()
}

/// Finds a live flow.
#[inline(always)]
pub fn find<A: Address, E: Env + Tables<A>>(env: &E, lookup: &mut Lookup<A>, by: By, now: Tick) -> bool {
    lookup.now = now;
    env.find_entry(lookup, by)
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

/// Adds to or takes from a home bucket's count of flows in SPILL.
#[inline(always)]
fn count_overflow<A: Address, T: Tables<A>>(tables: &T, home: Place, more: bool) {
    tables.locked(home, CountOverflow { more });
}

/// Places a flow in a bucket: at home, else in SPILL. Called through [`Tables::insert`] by [`enter`].
#[inline(always)]
pub fn insert<A: Address, E: Env + Tables<A>>(env: &E, new: &mut NewFlow<A>, over: bool) -> Inserted {
    let config = env.config();
    let (home, spill) = places::<A>(config, new.hash);
    // A flow that stands in SPILL is replaced there, not doubled at home.
    let mut place = if new.from_spill { spill } else { home };
    let mut counted = false;
    // Written twice rather than as a loop: kernel 6.1 refuses code that falls from a call into the head of
    // a loop, and where the compiler puts a loop around two locks is up to it.
    let mut result = env.locked(place, Enter { config, new, over }).unwrap_or(entered::FULL);
    if result == entered::FULL && !place.spill {
        place = spill;
        count_overflow::<A, E>(env, home, true);
        counted = true;
        result = env.locked(place, Enter { config, new, over }).unwrap_or(entered::FULL);
    }
    let placed = result == entered::NEW || result == entered::DISPLACED;
    new.in_spill = place.spill && placed;
    new.place = place;
    if place.spill {
        if placed != counted {
            count_overflow::<A, E>(env, home, placed);
        }
        if result == entered::DISPLACED {
            let Displaced { client, protocol, .. } = new.displaced;
            let hash = interest::endpoint_hash(config, client, protocol);
            count_overflow::<A, E>(env, places::<A>(config, hash).0, false);
        }
    }
    match result {
        entered::NEW | entered::DISPLACED => Inserted::New,
        entered::REPLACED => Inserted::Replaced,
        entered::EXISTING => Inserted::Existing,
        entered::CONFLICT => Inserted::Conflict,
        _ => Inserted::Full,
    }
}

/// Takes back the masquerade port of a flow whose way was taken over. So MASQUERADE never holds more than there are
/// ways, though nothing sweeps it.
#[inline(never)]
fn release<A: Address, T: Tables<A>>(tables: &T, displaced: &Displaced<A>) {
    let Displaced { client, backend, protocol, ours } = displaced;
    if ours.port == Be16::ZERO {
        return;
    }
    let entry = MasqueradeKey::new(*ours, *backend, *protocol);
    // It may serve another client by now.
    if let Some(holder) = tables.masquerade(&entry)
        && holder.client == client.address
        && holder.client_port == client.port
    {
        tables.remove_masquerade(&entry);
    }
}

/// Whether a live flow of the client has the new flow's backend already. Asked where flows of one bucket stand in SPILL,
/// too: under the lock of either bucket only its own are seen. A function of its own, whose stack is not below that of
/// [`insert`].
#[inline(never)]
fn is_taken<A: Address, E: Env + Tables<A>>(env: &E, new: &NewFlow<A>, lookup: &mut Lookup<A>) -> bool {
    let (frontend, place, index) = (lookup.key.other, lookup.found.place, lookup.found.index);
    lookup.key.other = new.way.backend_endpoint();
    let found = env.find_entry(lookup, By::Backend);
    lookup.key.other = frontend;
    (lookup.found.place, lookup.found.index) = (place, index);
    found && lookup.found.way.frontend_endpoint() != frontend
}

/// Enters a flow. `lookup` holds the answer to the search for it that came before; `over`: the live entry found
/// there is replaced, at its place.
#[inline(always)]
pub fn enter<A: Address, E: Env + Tables<A>>(
    env: &E,
    new: &mut NewFlow<A>,
    lookup: &mut Lookup<A>,
    over: bool,
) -> Inserted {
    new.from_spill = Peek(lookup.found.index).is_found() && lookup.found.place.spill;
    if lookup.found.place.spill && is_taken(env, new, lookup) {
        return Inserted::Conflict;
    }
    new.displaced.ours.port = Be16::ZERO;
    let inserted = env.insert(new, over);
    release(env, &new.displaced);
    if !new.in_spill {
        return inserted;
    }
    env.count(Counter::FlowSpilled);
    // Another CPU may have placed the same flow at home, in a way that became free just now.
    if env.find_entry(lookup, By::Frontend) && !lookup.found.place.spill {
        let (home, spill) = places::<A>(env.config(), lookup.key.hash);
        if env.locked(spill, Remove { key: &lookup.key }) == Some(1) {
            count_overflow::<A, E>(env, home, false);
        }
        return Inserted::Existing;
    }
    inserted
}

/// Notes a packet of a known flow: its time, and its state where the packet changes it. The common case
/// is one store without the lock. `signal`: what it says of its connection.
#[inline(always)]
pub fn note<A: Address, T: Tables<A>>(tables: &T, found: &mut Found<A>, direction: Direction, signal: u8, now: Tick) {
    let meta = found.way.meta();
    let state = conntrack::next(meta.state(), meta.protocol(), direction, signal);
    if state == meta.state() {
        if found.way.seen != now.0 {
            tables.touch(found.place, found.index, now);
        }
        return;
    }
    tables.locked(found.place, Advance { found, direction, signal, now });
    found.way.meta = meta.with_state(state).0;
    if meta.is_masqueraded() {
        renew(tables, found, now);
    }
}

/// Makes a flow that was found direct.
#[inline(always)]
pub fn make_direct<A: Address, T: Tables<A>>(tables: &T, found: &mut Found<A>) {
    if tables.locked(found.place, MakeDirect { found }) == Some(1) {
        found.way.meta |= Meta::DIRECT;
    }
}

/// Tells MASQUERADE of a flow's new state: its entry would end with the timeout of the state before, should the flow
/// be idle from now on.
#[inline(never)]
fn renew<A: Address, T: Tables<A>>(tables: &T, found: &Found<A>, now: Tick) {
    if let Some((ours, _)) = masquerade_of(tables, found, now) {
        let meta = found.way.meta();
        let key = MasqueradeKey::new(ours, found.way.backend_endpoint(), meta.protocol());
        tables.renew_masquerade(&key, meta.state().0, now);
    }
}

/// What a flow's packets are sent from, if that is settled, and whether its masquerade entry is due to be
/// renewed (the caller does it; it is noted as done).
#[inline(always)]
pub fn masquerade_of<A: Address, T: Tables<A>>(tables: &T, found: &Found<A>, now: Tick) -> Option<(Endpoint<A>, bool)> {
    let mut ours = Endpoint::default();
    match tables.locked(found.place, ReadMasquerade { found, now, ours: &mut ours }) {
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
    now: Tick,
) -> Option<Endpoint<A>> {
    let mut holds = ours;
    let done = tables.locked(found.place, SettleMasquerade { found, now, ours: &mut holds });
    (done == Some(1)).then_some(holds)
}
