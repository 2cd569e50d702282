//! Every map that the kernel and the agent share: name, kind, key, value, size.
//!
//! Each struct here is written by one side and read by the other, byte for byte, so none may have
//! padding: [`Plain`] is only given to types whose size equals the sum of their fields, checked when
//! this file is compiled. Addresses and ports are in network order, everything else in host order.
//! Times are ticks of 16 jiffies, see [`crate::env::Tick`].
//!
//! A change of any of these types changes [`LAYOUT`]: an agent refuses pinned maps of another layout.

mod address_set;
mod fragment;
mod socket;

pub use self::address_set::AddressSet;
pub use self::fragment::{Fragment, FragmentKey, fate, hook};
pub use self::socket::{SocketKey, SocketPeer, side};
use crate::addr::{Addr4, Addr6, Address, Be16, Endpoint};
use crate::wire::ethernet::Mac;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Number of the layout below. Any change of a type, a map or a constant here raises it.
pub const LAYOUT: u32 = 8;

/// A type without padding, which may cross between the kernel and the agent as bytes.
///
/// Implemented only by the `plain!` list of this module, which checks the sizes.
pub trait Plain: Copy + FromBytes + Immutable + 'static {}

macro_rules! plain {
    ($($type:ty: $size:expr,)+) => {
        $(
            const _: () = assert!(size_of::<$type>() == $size, "padding in a shared type");
            impl Plain for $type {}
        )+
    };
}

plain! {
    u32: 4,
    u64: 8,
    [u32; 4]: 4 * 4,
    ServiceKey<Addr4>: 4 + 2 + 1 + 1,
    ServiceKey<Addr6>: 16 + 2 + 1 + 1,
    ServiceRef: 4 + 1 + 3,
    FrontendBucket<Addr4>: 4 + 4 + FRONTEND_WAYS * 12 + 4 + 4,
    FrontendBucket<Addr6>: 4 + 4 + FRONTEND_WAYS * 24 + 5 * 4 + 4,
    Service: 8 * 4,
    BackendRef: 4,
    Backend<Addr4>: 2 + 2 + 1 + 1 + 2 + 4 + 4,
    Backend<Addr6>: 2 + 2 + 1 + 1 + 2 + 4 + 16,
    AffinityKey<Addr4>: 4 + 4,
    AffinityKey<Addr6>: 4 + 16,
    Affinity: 4 + 4,
    SourceRangeKey<Addr4>: 4 + 4 + 4,
    SourceRangeKey<Addr6>: 4 + 4 + 16,
    SourceRange<Addr4>: 4 + 4,
    SourceRange<Addr6>: 4 + 16,
    MasqueradeKey<Addr4>: 4 + 4 + 2 + 2 + 1 + 3,
    MasqueradeKey<Addr6>: 16 + 16 + 2 + 2 + 1 + 3,
    Masquerade<Addr4>: 4 + 2 + 1 + 1 + 4,
    Masquerade<Addr6>: 16 + 2 + 1 + 1 + 4,
    Device: 1 + 1 + 6 + 4 + 4 + 4 + 16,
    SocketKey<Addr4>: 8 + 4 + 2 + 1 + 1,
    SocketKey<Addr6>: 8 + 16 + 2 + 1 + 1,
    SocketPeer<Addr4>: 4 + 2 + 2 + 4 + 4,
    SocketPeer<Addr6>: 16 + 2 + 2 + 4 + 4,
    FragmentKey<Addr4>: 2 * 4 + 4 + 1 + 1 + 2,
    FragmentKey<Addr6>: 2 * 16 + 4 + 1 + 1 + 2,
    Fragment<Addr4>: 2 * 4 + 4 + 2 + 1 + 1 + 6 + 2,
    Fragment<Addr6>: 2 * 16 + 4 + 2 + 1 + 1 + 6 + 2,
    ServiceCounters: 8 + 4 + 4,
    SlotPair: 2 * 4,
    Way<Addr4>: 3 * 4 + 3 * 2 + 2 + 4 + 4 + 4,
    Way<Addr6>: 3 * 16 + 3 * 2 + 2 + 4 + 4,
    Detail<Addr4>: 4 + 2 + 2 + 4,
    Detail<Addr6>: 16 + 2 + 2 + 4,
    Bucket<Addr4>: 4 + 4 + 4 + 4 + 2 * 8 + WAYS * 32,
    Bucket<Addr6>: 4 + 4 + 4 + 4 + 2 * 8 + 8 * 4 + WAYS * 64,
    Details<Addr4>: WAYS * 12,
    Details<Addr6>: WAYS * 24,
    RefusalBudget: 4 + 4,
    AddressSet: 64,
    crate::route::Route: 2 * 4 + 4 * 4 + 2 * 4 + 2 * 6,
    crate::config::Config: 4 + 4 + 8 + 4 + 2 + 2 + 2 * 8 + 8 * 8 + 4 + 4 + 4 * 16 + 4 * 8 + 4 * 32 + 8 * 8 + 8 * 32 + 2 * 4 + 8 + 4 + 16 + 4,
}

/// Ways of a bucket: 0.4 % of the flows spill at 40 % load (2 % with 4 ways). With its head a bucket then is 256
/// bytes (IPv6: 512), so that no way lies across two cache lines.
pub const WAYS: usize = 7;
const _: () = assert!(size_of::<Bucket<Addr4>>() == 256 && size_of::<Bucket<Addr6>>() == 512);

/// What a client addresses, the key of SERVICES. A key whose port and protocol are 0 marks the address itself: as a
/// cluster IP, whose other ports are refused, or as another one that answers echo requests.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, FromBytes, Immutable, KnownLayout)]
pub struct ServiceKey<A> {
    /// Frontend address.
    pub address: A,
    /// Frontend port.
    pub port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    /// Always 0.
    pub zero: u8,
}

impl<A: Address> ServiceKey<A> {
    /// Key of a frontend.
    #[inline(always)]
    pub const fn new(address: A, port: Be16, protocol: u8) -> Self {
        Self { address, port, protocol, zero: 0 }
    }

    /// Key that marks an address as a Service's ([`crate::service::scope::is_mark`]).
    #[inline(always)]
    pub const fn whole(address: A) -> Self {
        Self { address, port: Be16::ZERO, protocol: 0, zero: 0 }
    }
}

/// What SERVICES says of a frontend: which Service port a frontend belongs to, and in which role.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct ServiceRef {
    /// Service number: index into SERVICE.
    pub number: u32,
    /// Role of the frontend, one of [`crate::service::scope`].
    pub scope: u8,
    /// Always 0.
    pub zero: [u8; 3],
}

/// Ways of a bucket of SERVICES. A bucket is a cache line (IPv6: two).
pub const FRONTEND_WAYS: usize = 4;
const _: () = assert!(size_of::<FrontendBucket<Addr4>>() == 64 && size_of::<FrontendBucket<Addr6>>() == 128);

/// A frontend in SERVICES.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct FrontendWay<A> {
    /// Address.
    pub address: A,
    /// Port.
    pub port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    /// 0 if no frontend is here, else its role ([`crate::service::scope`]) and one.
    pub used: u8,
    /// Service number: index into SERVICE.
    pub number: u32,
}

/// Value of SERVICES; see [`crate::frontend_table`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct FrontendBucket<A: Address> {
    /// Version, changed by every write.
    pub before: u32,
    /// Frontends that had to go to their second bucket because this one, their first, was full.
    pub spilled: u32,
    /// The frontends.
    pub ways: [FrontendWay<A>; FRONTEND_WAYS],
    /// Fills the cache line. Always 0.
    pub zero: A::Line,
    /// The same as `before`.
    pub after: u32,
}

/// Value of SERVICE, by service number: one port of one Service, in one family.
///
/// `before` and `after` are equal unless a write is under way: a reader reads them in this order, the
/// fields between, and looks again when they differ.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Service {
    /// Version, changed by every write; never 0 in a record that was written.
    pub before: u32,
    /// See [`crate::service::flag`].
    pub flags: u32,
    /// Session affinity timeout in seconds; 0 without affinity.
    pub affinity_seconds: u32,
    /// First slot of the list that serves the whole cluster.
    pub cluster_first: u32,
    /// Its length.
    pub cluster_count: u32,
    /// First slot of the list of endpoints on this node.
    pub local_first: u32,
    /// Its length.
    pub local_count: u32,
    /// The same as `before`.
    pub after: u32,
}

/// A backend number (22 bits) and the low 10 bits of its generation: what a slot, flows
/// and affinity entries hold. It stops matching when the number is given to another owner.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct BackendRef(pub u32);

impl BackendRef {
    /// Bits of the number.
    pub const NUMBER_BITS: u32 = 22;
    /// Generations are counted modulo this.
    pub const GENERATIONS: u16 = 1 << (32 - Self::NUMBER_BITS);

    /// Combines a number below 2^22 and a generation.
    #[inline(always)]
    pub const fn new(number: u32, generation: u16) -> Self {
        Self(number & ((1 << Self::NUMBER_BITS) - 1) | (generation as u32) << Self::NUMBER_BITS)
    }

    /// Index into BACKENDS.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0 & ((1 << Self::NUMBER_BITS) - 1)
    }

    /// Generation, below [`Self::GENERATIONS`].
    #[inline(always)]
    pub const fn generation(self) -> u16 {
        (self.0 >> Self::NUMBER_BITS) as u16
    }
}

/// Value of SLOTS: two slots, the even one first, as the kernel gives an entry of an array 8 bytes at least.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct SlotPair(pub [BackendRef; 2]);

impl SlotPair {
    /// The pair that holds a slot.
    #[inline(always)]
    pub const fn of(slot: u32) -> u32 {
        slot >> 1
    }

    /// A slot of the pair.
    #[inline(always)]
    pub const fn get(self, slot: u32) -> BackendRef {
        if slot & 1 == 0 { self.0[0] } else { self.0[1] }
    }

    /// Sets a slot of the pair.
    pub const fn set(&mut self, slot: u32, backend: BackendRef) {
        if slot & 1 == 0 { self.0[0] = backend } else { self.0[1] = backend }
    }
}

/// Value of BACKENDS, by backend number: one endpoint of one Service port.
///
/// Generation and state stand in the first word, so that a reader who meets a write half done sees a
/// state of before it. A number is reused only after it was [`crate::service::backend_state::GONE`]
/// for a grace period.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Backend<A> {
    /// Changed whenever the number gets another owner; below [`BackendRef::GENERATIONS`].
    pub generation: u16,
    /// Port.
    pub port: Be16,
    /// One of [`crate::service::backend_state`].
    pub state: u8,
    /// Lists that hold it, see [`crate::service::backend_flag`].
    pub flags: u8,
    /// Always 0.
    pub zero: u16,
    /// Service number that it belongs to.
    pub service: u32,
    /// Address.
    pub address: A,
}

/// Key of AFFINITY: a client of a Service port with session affinity.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, Immutable, KnownLayout)]
pub struct AffinityKey<A> {
    /// Service number.
    pub service: u32,
    /// Client address before masquerading.
    pub client: A,
}

/// Value of AFFINITY.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Affinity {
    /// The backend of the client's last new connection.
    pub backend: BackendRef,
    /// Tick of that connection.
    pub seen: u32,
}

/// Key of SOURCE_RANGES, a longest prefix match trie; its value is 1.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, FromBytes, Immutable, KnownLayout)]
pub struct SourceRangeKey<A> {
    /// Bits of `range` that count: 32 for the service number and the prefix length of the range.
    pub prefix_length: u32,
    /// What the trie looks at.
    pub range: SourceRange<A>,
}

/// What a key of SOURCE_RANGES holds behind the number of bits that count.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, FromBytes, Immutable, KnownLayout)]
pub struct SourceRange<A> {
    /// Service number.
    pub service: u32,
    /// Network address; in a lookup the client's.
    pub address: A,
}

/// Key of MASQUERADE: the reply side of a masqueraded flow.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct MasqueradeKey<A> {
    /// The node's address.
    pub ours: A,
    /// The backend's address.
    pub remote: A,
    /// The node's port.
    pub our_port: Be16,
    /// The backend's port.
    pub remote_port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    /// Always 0.
    pub zero: [u8; 3],
}

impl<A: Address> MasqueradeKey<A> {
    /// Key of a flow that the backend `remote` sees coming from `ours`.
    #[inline(always)]
    pub const fn new(ours: Endpoint<A>, remote: Endpoint<A>, protocol: u8) -> Self {
        Self {
            ours: ours.address,
            remote: remote.address,
            our_port: ours.port,
            remote_port: remote.port,
            protocol,
            zero: [0; 3],
        }
    }
}

/// Value of MASQUERADE.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Masquerade<A> {
    /// The client's address.
    pub client: A,
    /// The client's port.
    pub client_port: Be16,
    /// State of the flow when it was last seen: which timeout holds.
    pub state: u8,
    /// Always 0.
    pub zero: u8,
    /// Tick of the last packet of either direction, at a coarse grain.
    pub seen: u32,
}

/// Value of DEVICES, by interface index.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Device {
    /// One of [`crate::service::role`].
    pub role: u8,
    /// 1 if what enters here is local traffic, else 0.
    pub local: u8,
    /// The MAC address of frames that are the node's to route: the device's own, on a bridge port the bridge's. Zero if it
    /// has none.
    pub mac: Mac,
    /// Index of the device by which the IP stack sees packets come: of a bridge port that of the bridge, else its own.
    pub input: u32,
    /// See [`crate::service::device_flag`].
    pub flags: u32,
    /// Address for masqueraded flows that leave by this device; 0 if neither it nor the node has one.
    pub masquerade4: Addr4,
    /// The same for IPv6.
    pub masquerade6: Addr6,
}

/// Value of SERVICE_COUNTERS (per CPU), by service number.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct ServiceCounters {
    /// Flows made.
    pub flows: u64,
    /// Packets refused, modulo 2^32.
    pub refused: u32,
    /// Packets dropped, modulo 2^32.
    pub dropped: u32,
}

/// One flow: client, frontend and backend, which is all that either direction needs.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Way<A: Address> {
    /// Client address.
    pub client: A,
    /// Address that the client sent to.
    pub frontend: A,
    /// Address that serves it.
    pub backend: A,
    /// Client port.
    pub client_port: Be16,
    /// Frontend port.
    pub frontend_port: Be16,
    /// Backend port.
    pub backend_port: Be16,
    /// Protocol, state and flags, see [`crate::flow_table::Meta`]; 0 in a free way. The upper byte is always 0:
    /// it is written, without the lock, only to load the way ([`crate::flow_table::prefetch`]).
    pub meta: u16,
    /// Tick of the last packet.
    pub seen: u32,
    /// The backend's number and generation.
    pub backend_ref: BackendRef,
    /// Fills IPv4 ways to 32 bytes.
    pub spare: A::Spare,
}

/// What a flow needs now and then: kept beside the ways, so that these fit in few cache lines.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Detail<A> {
    /// Address of this node that the backend sees; valid when the port is not 0.
    pub masquerade: A,
    /// Port of this node that the backend sees; 0 until one is given.
    pub masquerade_port: Be16,
    /// Always 0.
    pub zero: u16,
    /// Tick at which its entry in MASQUERADE was last renewed.
    pub renewed: u32,
}

/// The lock word of a bucket. The kernel knows it by its BTF name.
#[allow(non_camel_case_types, reason = "the verifier looks for a struct of exactly this name")]
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct bpf_spin_lock {
    val: u32,
}

/// Value of FLOWS and SPILL.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Bucket<A: Address> {
    /// Held by writers. Must be the first, direct member (kernel 6.1).
    pub lock: bpf_spin_lock,
    /// Odd while a writer is inside.
    pub version: u32,
    /// What the lock protects.
    pub body: Body<A>,
}

/// Tags of a bucket's ways, 16 bits each, the first in the lowest bits of the first word, 0 for a way that was never
/// used; see [`crate::flow_table`]. The last 16 bits have no way and are always 0.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Tags(pub [u64; 2]);

/// The content of a bucket.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Body<A: Address> {
    /// In FLOWS: flows of this bucket that had to go to SPILL. 0 in SPILL.
    pub overflow: u32,
    /// Always 0: written, without the lock, only to load the bucket ([`crate::flow_table::prefetch`]).
    pub touched: u32,
    /// Tags of the ways.
    pub tags: Tags,
    /// Fills the head to the size of a way. Always 0.
    pub zero: A::Head,
    /// The flows.
    pub ways: [Way<A>; WAYS],
}

/// Value of FLOW_DETAILS and SPILL_DETAILS, under the index and the lock of the bucket.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Details<A: Address> {
    /// One for each way.
    pub ways: [Detail<A>; WAYS],
}

/// Value of REFUSALS (per CPU, one entry): the limit of answers to refused packets.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, FromBytes, Immutable, KnownLayout)]
pub struct RefusalBudget {
    /// Second (ticks divided by ticks per second) that `used` counts.
    pub second: u32,
    /// Answers sent in it.
    pub used: u32,
}

/// How a map is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Array.
    Array,
    /// Array with a value for each CPU.
    PerCpuArray,
    /// Hash whose entries are all allocated when it is made: for what packets add to, who cannot wait for memory.
    Hash,
    /// Hash whose entries are allocated as they come (`BPF_F_NO_PREALLOC`): for what the agent alone adds to,
    /// which tries again when there is no memory.
    GrowingHash,
    /// Hash that forgets what was not used for long when it is full.
    LruHash,
    /// Longest prefix match trie.
    LpmTrie,
}

/// What sets a map's number of entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entries {
    /// Always this many.
    Fixed(u32),
    /// One of [`crate::config::Sizes`], by field name.
    Sized(&'static str),
}

/// One map, for the loader's check of pinned maps and for docs/maps.md.
#[derive(Clone, Copy, Debug)]
pub struct MapInfo {
    /// Name in the object and in the pin folder.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Number of entries.
    pub entries: Entries,
    /// What it holds.
    pub holds: &'static str,
}

macro_rules! maps {
    ($($name:ident $kind:ident [$key:ty => $value:ty] $entries:expr, $holds:literal;)+) => {
        /// All shared maps.
        pub const MAPS: &[MapInfo] = &[$(MapInfo {
            name: stringify!($name),
            kind: Kind::$kind,
            key: size_of::<$key>(),
            value: size_of::<$value>(),
            entries: $entries,
            holds: $holds,
        },)+];
    };
}

use Entries::{Fixed, Sized as SizedBy};
maps! {
    CONFIG Array [u32 => crate::config::Config] Fixed(1), "layout number, seeds, timeouts, flags: what changes without a reload";
    INTEREST_FRONTENDS4 Array [u32 => u64] SizedBy("interest_frontends"), "bitmap of hashed frontends, two halves";
    INTEREST_FRONTENDS6 Array [u32 => u64] SizedBy("interest_frontends"), "the same for IPv6";
    INTEREST_BACKENDS4 Array [u32 => u64] SizedBy("interest_backends"), "bitmap of hashed backend endpoints, two halves";
    INTEREST_BACKENDS6 Array [u32 => u64] SizedBy("interest_backends"), "the same for IPv6";
    SERVICES4 Array [u32 => FrontendBucket<Addr4>] SizedBy("frontend_buckets"), "frontend -> service number and role";
    SERVICES6 Array [u32 => FrontendBucket<Addr6>] SizedBy("frontend_buckets"), "the same for IPv6";
    SERVICE4 Array [u32 => Service] SizedBy("services"), "service number -> flags, slot ranges, affinity";
    SERVICE6 Array [u32 => Service] SizedBy("services"), "the same for IPv6";
    SLOTS4 Array [u32 => SlotPair] SizedBy("slot_pairs"), "ranges of backend numbers";
    SLOTS6 Array [u32 => SlotPair] SizedBy("slot_pairs"), "the same for IPv6";
    BACKENDS4 Array [u32 => Backend<Addr4>] SizedBy("backends"), "backend number -> endpoint, generation, state";
    BACKENDS6 Array [u32 => Backend<Addr6>] SizedBy("backends"), "the same for IPv6";
    FLOWS4 Array [u32 => Bucket<Addr4>] SizedBy("flow_buckets"), "one entry per flow, in the bucket of the client's endpoint";
    FLOWS6 Array [u32 => Bucket<Addr6>] SizedBy("flow_buckets"), "the same for IPv6";
    FLOW_DETAILS4 Array [u32 => Details<Addr4>] SizedBy("flow_buckets"), "what a flow needs now and then, under the same index";
    FLOW_DETAILS6 Array [u32 => Details<Addr6>] SizedBy("flow_buckets"), "the same for IPv6";
    SPILL4 Array [u32 => Bucket<Addr4>] SizedBy("spill_buckets"), "flows whose home bucket was full, under a second hash";
    SPILL6 Array [u32 => Bucket<Addr6>] SizedBy("spill_buckets"), "the same for IPv6";
    SPILL_DETAILS4 Array [u32 => Details<Addr4>] SizedBy("spill_buckets"), "details of SPILL4";
    SPILL_DETAILS6 Array [u32 => Details<Addr6>] SizedBy("spill_buckets"), "details of SPILL6";
    MASQUERADE4 Hash [MasqueradeKey<Addr4> => Masquerade<Addr4>] SizedBy("masquerade"), "reply side of masqueraded flows -> client";
    MASQUERADE6 Hash [MasqueradeKey<Addr6> => Masquerade<Addr6>] SizedBy("masquerade"), "the same for IPv6";
    MASQUERADE_ADDRESSES Array [u32 => AddressSet] Fixed(2), "which replies may have an entry there: of IPv4 and of IPv6";
    AFFINITY4 Hash [AffinityKey<Addr4> => Affinity] SizedBy("affinity"), "client of a Service -> its last backend";
    AFFINITY6 Hash [AffinityKey<Addr6> => Affinity] SizedBy("affinity"), "the same for IPv6";
    SOURCE_RANGES4 LpmTrie [SourceRangeKey<Addr4> => u32] SizedBy("source_ranges"), "clients that a load balancer address admits";
    SOURCE_RANGES6 LpmTrie [SourceRangeKey<Addr6> => u32] SizedBy("source_ranges"), "the same for IPv6";
    FRAGMENTS4 LruHash [FragmentKey<Addr4> => Fragment<Addr4>] SizedBy("fragments"), "datagram at a hook -> what became of its first fragment";
    FRAGMENTS6 LruHash [FragmentKey<Addr6> => Fragment<Addr6>] SizedBy("fragments"), "the same for IPv6";
    SOCKETS4 LruHash [SocketKey<Addr4> => SocketPeer<Addr4>] SizedBy("sockets"), "socket of this node and frontend -> backend, and back";
    SOCKETS6 LruHash [SocketKey<Addr6> => SocketPeer<Addr6>] SizedBy("sockets"), "the same for IPv6";
    DEVICES GrowingHash [u32 => Device] Fixed(16_384), "interface index -> role, addresses, abilities";
    COUNTERS PerCpuArray [u32 => u64] Fixed(crate::verdict::COUNTER_SLOTS), "verdicts, drop reasons and events";
    SERVICE_COUNTERS4 PerCpuArray [u32 => ServiceCounters] SizedBy("services"), "per Service: flows, refused, dropped";
    SERVICE_COUNTERS6 PerCpuArray [u32 => ServiceCounters] SizedBy("services"), "the same for IPv6";
    REFUSALS PerCpuArray [u32 => RefusalBudget] Fixed(1), "limit of answers to refused packets";
}
