//! The maps of the reference programs and of the traffic. The measuring side writes them as arrays of
//! 32-bit words, so every type here is made of whole words.

use crate::flood::Flood;
use crate::programs::Scratch;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::macros::btf_map;
use svclb_common::addr::{Addr4, Addr6, Address, Be16};
use svclb_common::schema::ServiceKey;

/// Frontends and reply ends in a table: a power of two, as the traffic takes them by a mask.
pub(crate) const ENDS: u32 = 1 << 16;

/// An address and a port.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct End<A> {
    pub(crate) address: A,
    pub(crate) port: Be16,
    pub(crate) zero: u16,
}

/// What the traffic is made of.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// Number of the next packet.
    pub(crate) next: u32,
    /// Clients, less one; a power of two less one.
    pub(crate) clients: u32,
    /// Odd: spreads the numbers of clients, so that they do not come in the order in which they came first.
    pub(crate) stride: u32,
    /// Packets come from `peers` and go to the clients, not the other way round.
    pub(crate) replies: u32,
    /// The program under measurement, by its place in SUBJECTS.
    pub(crate) subject: u32,
    /// TCP flags.
    pub(crate) tcp_flags: u32,
}

/// A Service as the reference knows it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Service {
    /// Its first entry in BACKENDS.
    pub(crate) first: u32,
    /// How many it has.
    pub(crate) count: u32,
}

/// Key of the table of flows: a packet's ends as they are on the wire.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Tuple<A> {
    pub(crate) source: A,
    pub(crate) destination: A,
    pub(crate) source_port: Be16,
    pub(crate) destination_port: Be16,
    pub(crate) protocol: u8,
    pub(crate) zero: [u8; 3],
}

/// One direction of a flow: 24 bytes for IPv4, 36 for IPv6.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Direction<A> {
    /// What the packet's end becomes.
    pub(crate) to: End<A>,
    /// 1 if it is the source that changes.
    pub(crate) source: u32,
    /// When it was made, in jiffies.
    pub(crate) seen: u32,
    /// The Service's first backend.
    pub(crate) service: u32,
    /// State and the like.
    pub(crate) state: u32,
}

macro_rules! maps {
    ($($name:ident: $type:ty;)+) => {
        $(
            #[btf_map]
            pub(crate) static $name: $type = <$type>::new();
        )+
    };
}

maps! {
    PLAN: Array<Plan, 1>;
    SUBJECTS: ProgramArray<16>;
    PEERS4: Array<End<Addr4>, { ENDS as usize }>;
    PEERS6: Array<End<Addr6>, { ENDS as usize }>;
    SERVICES4: HashMap<ServiceKey<Addr4>, Service, 16384>;
    SERVICES6: HashMap<ServiceKey<Addr6>, Service, 16384>;
    BACKENDS4: Array<End<Addr4>, 65536>;
    BACKENDS6: Array<End<Addr6>, 65536>;
    SCRATCH: PerCpuArray<Scratch, 1>;
    FLOWS4: LruHashMap<Tuple<Addr4>, Direction<Addr4>, 1>;
    FLOWS6: LruHashMap<Tuple<Addr6>, Direction<Addr6>, 1>;
    FLOOD: Array<Flood, 1>;
    SUNK: PerCpuArray<u64, 1>;
}

/// The tables of one family.
pub(crate) trait Tables: Address {
    fn peer(index: u32) -> Option<End<Self>>;
    fn service(key: &ServiceKey<Self>) -> Option<Service>;
    fn backend(index: u32) -> Option<End<Self>>;
    fn flow(tuple: &Tuple<Self>) -> Option<Direction<Self>>;
    fn insert(tuple: &Tuple<Self>, direction: &Direction<Self>);
}

macro_rules! tables {
    ($address:ty, $peers:ident, $services:ident, $backends:ident, $flows:ident) => {
        impl Tables for $address {
            #[inline(always)]
            fn peer(index: u32) -> Option<End<Self>> {
                $peers.get(index).copied()
            }

            #[inline(always)]
            fn service(key: &ServiceKey<Self>) -> Option<Service> {
                // SAFETY: nobody writes while a measurement runs.
                unsafe { $services.get(key) }.copied()
            }

            #[inline(always)]
            fn backend(index: u32) -> Option<End<Self>> {
                $backends.get(index).copied()
            }

            #[inline(always)]
            fn flow(tuple: &Tuple<Self>) -> Option<Direction<Self>> {
                // SAFETY: only this CPU writes.
                unsafe { $flows.get(tuple) }.copied()
            }

            #[inline(always)]
            fn insert(tuple: &Tuple<Self>, direction: &Direction<Self>) {
                // A full table evicts, so this does not fail.
                let _full = $flows.insert(tuple, direction, 0);
            }
        }
    };
}
tables!(Addr4, PEERS4, SERVICES4, BACKENDS4, FLOWS4);
tables!(Addr6, PEERS6, SERVICES6, BACKENDS6, FLOWS6);
