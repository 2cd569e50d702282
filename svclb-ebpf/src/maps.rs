//! The maps. Types and meaning: `svclb_common::schema::MAPS`; numbers of entries are set by the loader.
//!
//! Some maps are the kernel's own: SCRATCH, the datapath's working memory (`tc` and XDP programs of one CPU do not
//! interrupt each other), and those of tests: TEST_ENV, TEST_ROUTES with ways by destination, and TEST_ONWARD with that of
//! the last packet that was sent on.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::Config;
use svclb_common::datapath::Scratch;
use svclb_common::route::Route;
use svclb_common::schema::{
    AddressSet, Affinity, AffinityKey, Backend, BackendRef, Bucket, Details, Device, Fragment, FragmentKey,
    FrontendBucket, Masquerade, MasqueradeKey, RefusalBudget, Service, ServiceCounters, SlotPair, SocketKey,
    SocketPeer, SourceRange,
};

/// Flags of a hash whose entries are allocated as they come.
const GROWING: usize = BPF_F_NO_PREALLOC as usize;

/// What tests put in place of clock and random numbers, see [`crate::env`].
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct TestEnv {
    /// The tick.
    pub(crate) now: u32,
    /// State of the generator of random numbers.
    pub(crate) random: u32,
}

/// Flag of arrays whose first value lies at the start of a page (`BPF_F_MMAPABLE`), and so each bucket at the start
/// of a cache line. Without it values begin behind the kernel's own head, which is no multiple of a line. Nobody can
/// map these: the kernel refuses that for values with a lock.
const PAGE_ALIGNED: usize = 1 << 10;

macro_rules! maps {
    ($($name:ident: $type:ty;)+) => {
        $(
            #[btf_map]
            pub(crate) static $name: $type = <$type>::new();
        )+
    };
}

maps! {
    CONFIG: Array<Config, 1>;
    INTEREST_FRONTENDS4: Array<u64, 1>;
    INTEREST_FRONTENDS6: Array<u64, 1>;
    INTEREST_BACKENDS4: Array<u64, 1>;
    INTEREST_BACKENDS6: Array<u64, 1>;
    SERVICES4: Array<FrontendBucket<Addr4>, 1, PAGE_ALIGNED>;
    SERVICES6: Array<FrontendBucket<Addr6>, 1, PAGE_ALIGNED>;
    SERVICE4: Array<Service, 1, PAGE_ALIGNED>;
    SERVICE6: Array<Service, 1, PAGE_ALIGNED>;
    SLOTS4: Array<SlotPair, 1, PAGE_ALIGNED>;
    SLOTS6: Array<SlotPair, 1, PAGE_ALIGNED>;
    BACKENDS4: Array<Backend<Addr4>, 1, PAGE_ALIGNED>;
    BACKENDS6: Array<Backend<Addr6>, 1, PAGE_ALIGNED>;
    FLOWS4: Array<Bucket<Addr4>, 1, PAGE_ALIGNED>;
    FLOWS6: Array<Bucket<Addr6>, 1, PAGE_ALIGNED>;
    FLOW_DETAILS4: Array<Details<Addr4>, 1>;
    FLOW_DETAILS6: Array<Details<Addr6>, 1>;
    SPILL4: Array<Bucket<Addr4>, 1, PAGE_ALIGNED>;
    SPILL6: Array<Bucket<Addr6>, 1, PAGE_ALIGNED>;
    SPILL_DETAILS4: Array<Details<Addr4>, 1>;
    SPILL_DETAILS6: Array<Details<Addr6>, 1>;
    MASQUERADE4: HashMap<MasqueradeKey<Addr4>, Masquerade<Addr4>, 1>;
    MASQUERADE6: HashMap<MasqueradeKey<Addr6>, Masquerade<Addr6>, 1>;
    MASQUERADE_ADDRESSES: Array<AddressSet, 2>;
    AFFINITY4: HashMap<AffinityKey<Addr4>, Affinity, 1>;
    AFFINITY6: HashMap<AffinityKey<Addr6>, Affinity, 1>;
    SOURCE_RANGES4: LpmTrie<SourceRange<Addr4>, u32, 1>;
    SOURCE_RANGES6: LpmTrie<SourceRange<Addr6>, u32, 1>;
    FRAGMENTS4: LruHashMap<FragmentKey<Addr4>, Fragment<Addr4>, 1>;
    FRAGMENTS6: LruHashMap<FragmentKey<Addr6>, Fragment<Addr6>, 1>;
    SOCKETS4: LruHashMap<SocketKey<Addr4>, SocketPeer<Addr4>, 1>;
    SOCKETS6: LruHashMap<SocketKey<Addr6>, SocketPeer<Addr6>, 1>;
    DEVICES: HashMap<u32, Device, 1, GROWING>;
    COUNTERS: PerCpuArray<u64, 1>;
    SERVICE_COUNTERS4: PerCpuArray<ServiceCounters, 1>;
    SERVICE_COUNTERS6: PerCpuArray<ServiceCounters, 1>;
    REFUSALS: PerCpuArray<RefusalBudget, 1>;
    SCRATCH: PerCpuArray<Scratch, 1>;
    TEST_ENV: Array<TestEnv, 1>;
    TEST_ROUTES: HashMap<[u32; 4], Route, 64, GROWING>;
    TEST_ONWARD: Array<Route, 1>;
}
