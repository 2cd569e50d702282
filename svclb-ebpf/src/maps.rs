//! The maps. Types and meaning: `svclb_common::schema::MAPS`; numbers of entries are set by the loader.
//!
//! Two maps are the kernel's own: SCRATCH, the datapath's working memory (`tc` programs of one CPU do not
//! interrupt each other), and TEST_ENV.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::macros::btf_map;
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::Config;
use svclb_common::datapath::Scratch;
use svclb_common::schema::{
    Affinity, AffinityKey, Backend, BackendRef, Bucket, Details, Device, Masquerade, MasqueradeKey, RefusalBudget,
    Service, ServiceCounters, ServiceKey, ServiceRef, SourceRange,
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
    SERVICES4: HashMap<ServiceKey<Addr4>, ServiceRef, 1, GROWING>;
    SERVICES6: HashMap<ServiceKey<Addr6>, ServiceRef, 1, GROWING>;
    SERVICE4: Array<Service, 1>;
    SERVICE6: Array<Service, 1>;
    SLOTS4: Array<BackendRef, 1>;
    SLOTS6: Array<BackendRef, 1>;
    BACKENDS4: Array<Backend<Addr4>, 1>;
    BACKENDS6: Array<Backend<Addr6>, 1>;
    FLOWS4: Array<Bucket<Addr4>, 1>;
    FLOWS6: Array<Bucket<Addr6>, 1>;
    FLOW_DETAILS4: Array<Details<Addr4>, 1>;
    FLOW_DETAILS6: Array<Details<Addr6>, 1>;
    SPILL4: Array<Bucket<Addr4>, 1>;
    SPILL6: Array<Bucket<Addr6>, 1>;
    SPILL_DETAILS4: Array<Details<Addr4>, 1>;
    SPILL_DETAILS6: Array<Details<Addr6>, 1>;
    MASQUERADE4: HashMap<MasqueradeKey<Addr4>, Masquerade<Addr4>, 1>;
    MASQUERADE6: HashMap<MasqueradeKey<Addr6>, Masquerade<Addr6>, 1>;
    AFFINITY4: HashMap<AffinityKey<Addr4>, Affinity, 1>;
    AFFINITY6: HashMap<AffinityKey<Addr6>, Affinity, 1>;
    SOURCE_RANGES4: LpmTrie<SourceRange<Addr4>, u32, 1>;
    SOURCE_RANGES6: LpmTrie<SourceRange<Addr6>, u32, 1>;
    DEVICES: HashMap<u32, Device, 1, GROWING>;
    COUNTERS: PerCpuArray<u64, 1>;
    SERVICE_COUNTERS4: PerCpuArray<ServiceCounters, 1>;
    SERVICE_COUNTERS6: PerCpuArray<ServiceCounters, 1>;
    REFUSALS: PerCpuArray<RefusalBudget, 1>;
    SCRATCH: PerCpuArray<Scratch, 1>;
    TEST_ENV: Array<TestEnv, 1>;
}
