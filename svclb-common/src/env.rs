//! What surrounds the datapath: tables, clock, random numbers, devices.
//!
//! In the kernel these are BPF maps and helpers; tests put tables in memory, a clock that stands
//! still and a list of random numbers in their place. All methods take `&self`: maps are shared by
//! all CPUs at any time, and every method is as atomic as the map behind it, no more.

use crate::addr::{Addr4, Addr6, Address};
use crate::config::Config;
use crate::datapath::{Work, request};
use crate::flow_table::{self, By, Change, Inserted, Lookup, NewFlow, Sought};
use crate::parse::Network;
use crate::route::Trip;
use crate::schema::{
    Affinity, AffinityKey, Backend, BackendRef, Device, Fragment, FragmentKey, Masquerade, MasqueradeKey, Service,
    ServiceKey, ServiceRef, SocketKey, SocketPeer, SourceRangeKey, Way,
};
use crate::snat_port::{self, Claim};
use crate::verdict::Counter;

/// Time in units of 16 jiffies since some moment, modulo 2^32: 16 ms at 1000 Hz, 160 ms at 100 Hz.
/// Wraps after 2 years or more. `bpf_jiffies64` costs 1 ns, the clocks 20.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tick(pub u32);

/// Jiffies in a [`Tick`], as a shift.
pub const TICK_SHIFT: u32 = 4;

/// Where a flow may stand.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Place {
    /// In SPILL rather than in FLOWS.
    pub spill: bool,
    /// Index of the bucket.
    pub bucket: u32,
}

/// Answer of [`Tables::peek`] and [`Tables::peek_frontend`]: the number of the way, or one of the constants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peek(pub u32);

impl Peek {
    /// Not here, and nothing of this bucket is in SPILL, or in a second bucket of SERVICES.
    pub const MISS: Self = Self(0x100);
    /// Not here, but something of this bucket is there.
    pub const MISS_OVERFLOW: Self = Self(0x101);
    /// A writer was inside: ask again, or under the lock.
    pub const BUSY: Self = Self(0x102);

    /// Whether it is a way.
    #[inline(always)]
    pub const fn is_found(self) -> bool {
        self.0 < Self::MISS.0
    }
}

/// What is counted for each Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServiceEvent {
    /// A flow was made.
    Flow,
    /// A packet was refused.
    Refused,
    /// A packet was dropped.
    Dropped,
}

/// The tables of one address family, see [`crate::schema`].
pub trait Tables<A: Address> {
    /// A bit of INTEREST_FRONTENDS.
    fn interest_frontend(&self, bit: u32) -> bool;
    /// A bit of INTEREST_BACKENDS.
    fn interest_backend(&self, bit: u32) -> bool;
    /// Looks for a frontend in a bucket of SERVICES; whose it is, is then in `found`. [`Peek::BUSY`] if a writer was
    /// inside. See [`crate::frontend_table`].
    fn peek_frontend(&self, bucket: u32, key: &ServiceKey<A>, found: &mut ServiceRef) -> Peek;
    /// SERVICE; fields are read in their order, so that a torn record shows.
    fn service(&self, number: u32) -> Option<Service>;
    /// SLOTS.
    fn slot(&self, index: u32) -> Option<BackendRef>;
    /// BACKENDS; read in the order of the fields.
    fn backend(&self, number: u32) -> Option<Backend<A>>;
    /// AFFINITY.
    fn affinity(&self, key: &AffinityKey<A>) -> Option<Affinity>;
    /// Writes AFFINITY; `false` when the table is full.
    fn set_affinity(&self, key: &AffinityKey<A>, value: &Affinity) -> bool;
    /// Whether SOURCE_RANGES has a prefix of the key.
    fn in_source_range(&self, key: &SourceRangeKey<A>) -> bool;
    /// SOCKETS.
    fn socket(&self, key: &SocketKey<A>) -> Option<SocketPeer<A>>;
    /// Writes SOCKETS; what was not used for long makes room.
    fn set_socket(&self, key: &SocketKey<A>, value: &SocketPeer<A>);
    /// FRAGMENTS.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<Fragment<A>>;
    /// Writes FRAGMENTS; what was not used for long makes room.
    fn set_fragment(&self, key: &FragmentKey<A>, value: &Fragment<A>);
    /// Removes an entry of FRAGMENTS, if it is there.
    fn remove_fragment(&self, key: &FragmentKey<A>);
    /// MASQUERADE.
    fn masquerade(&self, key: &MasqueradeKey<A>) -> Option<Masquerade<A>>;
    /// Enters a key that must not exist yet; `false` if it does or the table is full.
    fn insert_masquerade(&self, key: &MasqueradeKey<A>, value: &Masquerade<A>) -> bool;
    /// Takes over an entry whose `seen` still is `expected`, which only one of several rivals can.
    fn take_masquerade(&self, key: &MasqueradeKey<A>, expected: u32, value: &Masquerade<A>) -> bool;
    /// Renews `seen` and `state` of an entry.
    fn renew_masquerade(&self, key: &MasqueradeKey<A>, state: u8, now: Tick);
    /// Removes an entry.
    fn remove_masquerade(&self, key: &MasqueradeKey<A>);
    /// Whether a socket of this node has exactly this conversation.
    fn has_socket(&self, key: &MasqueradeKey<A>) -> bool;
    /// The masquerade address of this family in a device's record; the default value if it has none.
    fn masquerade_address(&self, device: &Device) -> A;
    /// Looks through a bucket without its lock for a flow and copies its entry to `way`. The copy is whole
    /// unless the answer is [`Peek::BUSY`].
    fn peek(&self, place: Place, sought: Sought<A>, way: &mut Way<A>) -> Peek;
    /// Begins to load the head and a way of a bucket that will be asked for soon, and does not wait for them.
    fn prefetch(&self, place: Place, way: usize);
    /// Applies a change with the bucket's lock held; `None` if there is no such bucket.
    fn locked(&self, place: Place, change: impl Change<A>) -> Option<u32>;
    /// [`flow_table::find_entry`]. The kernel makes it a function that the verifier checks once, not at each
    /// call; so it does with the other methods that have a body here.
    fn find_entry(&self, lookup: &mut Lookup<A>, by: By) -> bool
    where
        Self: Env + Sized,
    {
        flow_table::find_entry(self, lookup, by)
    }
    /// [`flow_table::insert`].
    fn insert(&self, entry: &mut NewFlow<A>, over: bool) -> Inserted
    where
        Self: Env + Sized,
    {
        flow_table::insert(self, entry, over)
    }
    /// [`request::locate`].
    fn locate(&self, work: &mut Work<A>)
    where
        Self: Env + Sized,
        A: Network,
    {
        request::locate(self, work);
    }
    /// [`request::choose`].
    fn choose(&self, work: &mut Work<A>, again: bool) -> bool
    where
        Self: Env + Sized,
        A: Network,
    {
        request::choose(self, work, again)
    }
    /// [`snat_port::enter`].
    fn enter_claim(&self, claim: &mut Claim<A>) -> bool
    where
        Self: Env + Sized,
    {
        snat_port::enter(self, claim)
    }
    /// Asks the node's routing tables. Fills in all of the answer.
    fn route(&self, trip: &mut Trip<A>);
    /// Stores `seen` of a way without the lock: harmless should the way have changed hands meanwhile.
    fn touch(&self, place: Place, way: u32, now: Tick);
    /// SERVICE_COUNTERS.
    fn count_service(&self, number: u32, event: ServiceEvent);
}

/// Everything around the datapath.
pub trait Env: Tables<Addr4> + Tables<Addr6> {
    /// CONFIG.
    fn config(&self) -> &Config;
    /// The time.
    fn now(&self) -> Tick;
    /// A random number.
    fn random(&self) -> u32;
    /// DEVICES.
    fn device(&self, index: u32) -> Option<Device>;
    /// Takes one answer from this CPU's limit of refusals; `false` when it is used up.
    fn may_refuse(&self, second: u32) -> bool;
    /// COUNTERS.
    fn count(&self, counter: Counter);
}
