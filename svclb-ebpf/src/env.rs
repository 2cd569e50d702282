//! Maps and helpers as an [`Env`].

use crate::address_set::of_address;
use crate::buckets::{prefetch, read_bucket, read_frontends, with_lock};
use crate::fib;
use crate::maps;
use aya_ebpf::bindings::{__sk_buff, BPF_ANY, BPF_NOEXIST, bpf_sock, bpf_sock_tuple};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::generated::{
    bpf_get_prandom_u32, bpf_jiffies64, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
};
use core::ffi::c_void;
use core::intrinsics::{AtomicOrdering, atomic_cxchg};
use core::ptr::{read_volatile, write_volatile};
use svclb_common::addr::{Addr4, Addr6, Address};
use svclb_common::config::Config;
use svclb_common::datapath::{Work, request};
use svclb_common::env::{Env, Peek, Place, ServiceEvent, TICK_SHIFT, Tables, Tick};
use svclb_common::flow_table::{self, By, Change, Inserted, Lookup, NewFlow, Sought};
use svclb_common::interest;
use svclb_common::route::{Route, Trip};
use svclb_common::schema::{
    Affinity, AffinityKey, Backend, BackendRef, Device, Fragment, FragmentKey, Masquerade, MasqueradeKey, Service,
    ServiceCounters, ServiceKey, ServiceRef, SlotPair, SocketKey, SocketPeer, SourceRangeKey, WAYS, Way,
};
use svclb_common::snat_port::{self, Claim};
use svclb_common::verdict::Counter;
use svclb_common::wire::protocol;

/// Set by the loader for tests: clock, random numbers and sockets are then those of TEST_ENV, so that
/// a run can be repeated. As a constant of the program, 0 makes the branches dead code.
#[unsafe(no_mangle)]
static TEST_MODE: u32 = 0;

/// Whether TEST_ENV is in place.
#[inline(always)]
fn testing() -> bool {
    // SAFETY: a static of this object; volatile, as the loader changes it before the verifier runs.
    unsafe { read_volatile(&raw const TEST_MODE) != 0 }
}

/// A socket that listens (`TCP_LISTEN` in the kernel's `tcp_states.h`).
const LISTEN: u32 = 10;
/// Look sockets up in the packet's own network namespace (`BPF_F_CURRENT_NETNS`).
const THIS_NAMESPACE: u64 = u64::MAX;

/// The kernel around one packet.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// CONFIG's value.
    pub(crate) config: &'static Config,
    /// The packet, as helpers want it: the kernel's context of the program, whatever kind that is of.
    pub(crate) context: *mut c_void,
}

impl Kernel {
    /// For what looks only at tables.
    #[inline(always)]
    pub(crate) const fn without_packet(config: &'static Config) -> Self {
        Self { config, context: core::ptr::null_mut() }
    }
}

impl Env for Kernel {
    #[inline(always)]
    fn config(&self) -> &Config {
        self.config
    }

    #[inline(always)]
    fn now(&self) -> Tick {
        if testing() {
            return Tick(maps::TEST_ENV.get(0).map_or(0, |test| test.now));
        }
        // SAFETY: a helper without arguments.
        Tick((unsafe { bpf_jiffies64() } >> TICK_SHIFT) as u32)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        if testing() {
            let Some(test) = maps::TEST_ENV.get_ptr_mut(0) else { return 0 };
            // SAFETY: a value of an array map; tests run one packet at a time.
            return unsafe {
                (*test).random = svclb_common::hash::next_test_random((*test).random);
                (*test).random
            };
        }
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn device(&self, index: u32) -> Option<Device> {
        // SAFETY: the value is plain data and copied at once; devices are not rewritten while in use.
        unsafe { maps::DEVICES.get(index) }.copied()
    }

    #[inline(always)]
    fn may_refuse(&self, second: u32) -> bool {
        let Some(budget) = maps::REFUSALS.get_ptr_mut(0) else { return false };
        // SAFETY: this CPU's value; a program is not interrupted by another of the same hook on its CPU.
        unsafe {
            if (*budget).second != second {
                (*budget).second = second;
                (*budget).used = 0;
            }
            if (*budget).used >= self.config.refusals {
                return false;
            }
            (*budget).used += 1;
        }
        true
    }

    #[inline(always)]
    fn count(&self, counter: Counter) {
        if let Some(value) = maps::COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: this CPU's value.
            unsafe { *value += 1 };
        }
    }
}

/// Puts two addresses and ports into the tuple that the socket helpers want, as a packet from the
/// remote end would bear them.
trait SocketTuple: Address {
    /// Bytes of the tuple that count for this family.
    const SIZE: u32;

    /// Fills it in.
    fn tuple(key: &MasqueradeKey<Self>) -> bpf_sock_tuple;
}

macro_rules! socket_tuple {
    ($address:ty, $part:ident, $size:literal) => {
        impl SocketTuple for $address {
            const SIZE: u32 = $size;

            #[inline(always)]
            fn tuple(key: &MasqueradeKey<Self>) -> bpf_sock_tuple {
                // SAFETY: all zero is a valid value of the union of plain integers.
                let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
                // Writing fields of a union of plain integers is safe.
                tuple.__bindgen_anon_1.$part.saddr = key.remote.0;
                tuple.__bindgen_anon_1.$part.daddr = key.ours.0;
                tuple.__bindgen_anon_1.$part.sport = key.remote_port.0;
                tuple.__bindgen_anon_1.$part.dport = key.our_port.0;
                tuple
            }
        }
    };
}
socket_tuple!(Addr4, ipv4, 12);
socket_tuple!(Addr6, ipv6, 36);

/// Whether a connected socket of this node has the conversation of `key`. The kernel has no such question for SCTP
/// sockets.
#[inline(always)]
fn has_socket<A: SocketTuple>(context: *mut c_void, key: &MasqueradeKey<A>) -> bool {
    if testing() || key.protocol == protocol::SCTP {
        return false;
    }
    let mut tuple = A::tuple(key);
    let is_tcp = key.protocol == protocol::TCP;
    // SAFETY: the tuple is initialised and as long as SIZE says; the socket is released below.
    let socket: *mut bpf_sock = unsafe {
        if is_tcp {
            bpf_skc_lookup_tcp(context.cast(), &mut tuple, A::SIZE, THIS_NAMESPACE, 0)
        } else {
            bpf_sk_lookup_udp(context.cast(), &mut tuple, A::SIZE, THIS_NAMESPACE, 0)
        }
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: not null, so a socket that we hold until it is released.
    unsafe {
        let connected = if is_tcp { (*socket).state != LISTEN } else { (*socket).dst_port != 0 };
        bpf_sk_release(socket.cast());
        connected
    }
}

/// What tests say of the way to an address: of IPv4 the key has it in the first word, and 0 in the others.
#[inline(always)]
fn test_route<A: Address>(to: &A) -> Route {
    let (first, second) = to.words();
    let key = [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32];
    // SAFETY: the value is plain data and copied at once; tests write it between packets.
    unsafe { maps::TEST_ROUTES.get(&key) }.copied().unwrap_or_default()
}

/// Shows tests where a packet goes that is sent on.
#[inline(always)]
pub(crate) fn note_onward(route: &Route) {
    if testing()
        && let Some(onward) = maps::TEST_ONWARD.get_ptr_mut(0)
    {
        // SAFETY: a value of an array map; tests run one packet at a time.
        unsafe { *onward = *route };
    }
}

/// Numbers of the variants of [`Inserted`], as they cross a call.
const INSERTED_NEW: u32 = Inserted::New as u32;
const INSERTED_REPLACED: u32 = Inserted::Replaced as u32;
const INSERTED_EXISTING: u32 = Inserted::Existing as u32;
const INSERTED_CONFLICT: u32 = Inserted::Conflict as u32;

/// Implements the tables of one family on its maps. Map statics cannot be generic, so this is the one
/// place where their names stand.
/// Functions with C linkage are verified once, on their own, whoever calls them: without them the search
/// through the ways of a bucket would be followed anew on every path that leads to it, millions of
/// instructions in all.
macro_rules! tables {
    ($address:ty, $masquerade:ident, $interest_frontends:ident, $interest_backends:ident, $services:ident,
     $service:ident, $slots:ident, $backends:ident, $flows:ident, $details:ident, $spill:ident,
     $spill_details:ident, $find_entry:ident, $insert:ident, $locate:ident, $choose:ident, $enter_claim:ident, $masquerades:ident, $affinity:ident, $ranges:ident, $sockets:ident, $fragments:ident,
     $counters:ident) => {
        /// [`flow_table::find_entry`] for one family.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $find_entry(lookup: *mut Lookup<$address>, by_backend: u32) -> u32 {
            // SAFETY: the verifier lets only callers pass that give a whole Lookup.
            let (Some(config), Some(lookup)) = (maps::CONFIG.get(0), unsafe { lookup.as_mut() }) else { return 0 };
            let by = if by_backend != 0 { By::Backend } else { By::Frontend };
            u32::from(flow_table::find_entry(&Kernel::without_packet(config), lookup, by))
        }

        /// [`flow_table::insert`] for one family.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $insert(new: *mut NewFlow<$address>, over: u32) -> u32 {
            // SAFETY: the verifier lets only callers pass that give a whole NewFlow.
            let (Some(config), Some(new)) = (maps::CONFIG.get(0), unsafe { new.as_mut() }) else {
                return Inserted::Full as u32;
            };
            flow_table::insert(&Kernel::without_packet(config), new, over != 0) as u32
        }

        /// [`request::locate`] for one family.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $locate(work: *mut Work<$address>) -> u32 {
            // SAFETY: the verifier lets only callers pass that give a whole Work.
            let (Some(config), Some(work)) = (maps::CONFIG.get(0), unsafe { work.as_mut() }) else { return 0 };
            request::locate(&Kernel::without_packet(config), work);
            0
        }

        /// [`request::choose`] for one family.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $choose(work: *mut Work<$address>, again: u32) -> u32 {
            // SAFETY: the verifier lets only callers pass that give a whole Work.
            let (Some(config), Some(work)) = (maps::CONFIG.get(0), unsafe { work.as_mut() }) else { return 0 };
            u32::from(request::choose(&Kernel::without_packet(config), work, again != 0))
        }

        /// [`snat_port::enter`] for one family.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $enter_claim(ctx: *mut __sk_buff, claim: *mut Claim<$address>) -> u32 {
            // SAFETY: the verifier lets only callers pass that give a whole Claim.
            let (Some(config), Some(claim)) = (maps::CONFIG.get(0), unsafe { claim.as_ref() }) else { return 0 };
            // A copy of our own: kernel 6.1 takes no key of a map from the memory that a caller gave.
            let claim = *claim;
            u32::from(snat_port::enter(&Kernel { config, context: ctx.cast() }, &claim))
        }

        impl Tables<$address> for Kernel {
            #[inline(always)]
            fn locate(&self, work: &mut Work<$address>) {
                $locate(work);
            }

            #[inline(always)]
            fn choose(&self, work: &mut Work<$address>, again: bool) -> bool {
                $choose(work, u32::from(again)) != 0
            }

            #[inline(always)]
            fn route(&self, trip: &mut Trip<$address>) {
                if testing() {
                    trip.route = test_route(&trip.to.address);
                } else {
                    fib::ask(self.context, trip);
                }
            }

            #[inline(always)]
            fn enter_claim(&self, claim: &mut Claim<$address>) -> bool {
                $enter_claim(self.context.cast(), claim) != 0
            }

            #[inline(always)]
            fn find_entry(&self, lookup: &mut Lookup<$address>, by: By) -> bool {
                $find_entry(lookup, u32::from(by == By::Backend)) != 0
            }

            #[inline(always)]
            fn insert(&self, new: &mut NewFlow<$address>, over: bool) -> Inserted {
                match $insert(new, u32::from(over)) {
                    INSERTED_NEW => Inserted::New,
                    INSERTED_REPLACED => Inserted::Replaced,
                    INSERTED_EXISTING => Inserted::Existing,
                    INSERTED_CONFLICT => Inserted::Conflict,
                    _ => Inserted::Full,
                }
            }

            #[inline(always)]
            fn interest_frontend(&self, bit: u32) -> bool {
                let (word, mask) = interest::word(bit);
                maps::$interest_frontends.get(word).is_some_and(|word| word & mask != 0)
            }

            #[inline(always)]
            fn interest_backend(&self, bit: u32) -> bool {
                let (word, mask) = interest::word(bit);
                maps::$interest_backends.get(word).is_some_and(|word| word & mask != 0)
            }

            #[inline(always)]
            fn peek_frontend(&self, bucket: u32, key: &ServiceKey<$address>, found: &mut ServiceRef) -> Peek {
                maps::$services.get_ptr(bucket).map_or(Peek::MISS, |bucket| read_frontends(bucket, key, found))
            }

            #[inline(always)]
            fn service(&self, number: u32) -> Option<Service> {
                let record = maps::$service.get_ptr(number)?;
                // SAFETY: a value of an array map; plain integers that may be torn, which the versions tell.
                // Volatile reads stay in the order in which they stand.
                unsafe {
                    Some(Service {
                        before: read_volatile(&raw const (*record).before),
                        flags: read_volatile(&raw const (*record).flags),
                        affinity_seconds: read_volatile(&raw const (*record).affinity_seconds),
                        cluster_first: read_volatile(&raw const (*record).cluster_first),
                        cluster_count: read_volatile(&raw const (*record).cluster_count),
                        local_first: read_volatile(&raw const (*record).local_first),
                        local_count: read_volatile(&raw const (*record).local_count),
                        after: read_volatile(&raw const (*record).after),
                    })
                }
            }

            #[inline(always)]
            fn slot(&self, index: u32) -> Option<BackendRef> {
                maps::$slots.get(SlotPair::of(index)).map(|pair| pair.get(index))
            }

            #[inline(always)]
            fn backend(&self, number: u32) -> Option<Backend<$address>> {
                let backend = maps::$backends.get_ptr(number)?;
                // SAFETY: a value of an array map; generation and state come first, see the type.
                unsafe {
                    Some(Backend {
                        generation: read_volatile(&raw const (*backend).generation),
                        port: read_volatile(&raw const (*backend).port),
                        state: read_volatile(&raw const (*backend).state),
                        flags: read_volatile(&raw const (*backend).flags),
                        zero: 0,
                        service: read_volatile(&raw const (*backend).service),
                        address: read_volatile(&raw const (*backend).address),
                    })
                }
            }

            #[inline(always)]
            fn affinity(&self, key: &AffinityKey<$address>) -> Option<Affinity> {
                // SAFETY: 8 bytes of plain data, copied at once.
                unsafe { maps::$affinity.get(key) }.copied()
            }

            #[inline(always)]
            fn set_affinity(&self, key: &AffinityKey<$address>, value: &Affinity) -> bool {
                maps::$affinity.insert(key, value, BPF_ANY.into()).is_ok()
            }

            #[inline(always)]
            fn in_source_range(&self, key: &SourceRangeKey<$address>) -> bool {
                maps::$ranges.get(&Key::new(key.prefix_length, key.range)).is_some()
            }

            #[inline(always)]
            fn socket(&self, key: &SocketKey<$address>) -> Option<SocketPeer<$address>> {
                // SAFETY: plain data, copied at once; only its socket's process writes it.
                unsafe { maps::$sockets.get(key) }.copied()
            }

            #[inline(always)]
            fn set_socket(&self, key: &SocketKey<$address>, value: &SocketPeer<$address>) {
                // A table of this kind is never full; if the kernel cannot write, the process sees the backend.
                let _written = maps::$sockets.insert(key, value, BPF_ANY.into());
            }

            #[inline(always)]
            fn fragment(&self, key: &FragmentKey<$address>) -> Option<Fragment<$address>> {
                // SAFETY: plain data, copied at once; an entry that goes to another datagram meanwhile was the least
                // used of all.
                unsafe { maps::$fragments.get(key) }.copied()
            }

            #[inline(always)]
            fn set_fragment(&self, key: &FragmentKey<$address>, value: &Fragment<$address>) {
                // A table of this kind is never full; if the kernel cannot write, the datagram stays incomplete.
                let _written = maps::$fragments.insert(key, value, BPF_ANY.into());
            }

            #[inline(always)]
            fn remove_fragment(&self, key: &FragmentKey<$address>) {
                // That it is gone already is as good.
                let _gone = maps::$fragments.remove(key);
            }

            #[inline(always)]
            fn masquerade(&self, key: &MasqueradeKey<$address>) -> Option<Masquerade<$address>> {
                // SAFETY: a byte within a value of an array map.
                if unsafe { read_volatile(of_address(self.config, key.ours)?) } == 0 {
                    return None;
                }
                // SAFETY: plain data, copied at once; an entry that changes hands meanwhile had expired.
                unsafe { maps::$masquerades.get(key) }.copied()
            }

            #[inline(always)]
            fn insert_masquerade(&self, key: &MasqueradeKey<$address>, value: &Masquerade<$address>) -> bool {
                let Some(known) = of_address(self.config, key.ours) else { return false };
                // SAFETY: as above.
                unsafe { write_volatile(known, 1) };
                maps::$masquerades.insert(key, value, BPF_NOEXIST.into()).is_ok()
            }

            #[inline(always)]
            fn take_masquerade(
                &self,
                key: &MasqueradeKey<$address>,
                expected: u32,
                value: &Masquerade<$address>,
            ) -> bool {
                let Some(entry) = maps::$masquerades.get_ptr_mut(key) else { return false };
                // SAFETY: a value of a hash map that stays allocated while this program runs; the exchange
                // lets one rival through.
                unsafe {
                    let seen = &raw mut (*entry).seen;
                    let (_, won) = atomic_cxchg::<u32, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                        seen, expected, value.seen,
                    );
                    if !won {
                        return false;
                    }
                    (*entry).client = value.client;
                    (*entry).client_port = value.client_port;
                    (*entry).state = value.state;
                }
                true
            }

            #[inline(always)]
            fn renew_masquerade(&self, key: &MasqueradeKey<$address>, state: u8, now: Tick) {
                if let Some(entry) = maps::$masquerades.get_ptr_mut(key) {
                    // SAFETY: as in `take_masquerade`; single stores.
                    unsafe {
                        write_volatile(&raw mut (*entry).state, state);
                        write_volatile(&raw mut (*entry).seen, now.0);
                    }
                }
            }

            #[inline(always)]
            fn remove_masquerade(&self, key: &MasqueradeKey<$address>) {
                // That it is gone already is as good.
                let _gone = maps::$masquerades.remove(key);
            }

            #[inline(always)]
            fn has_socket(&self, key: &MasqueradeKey<$address>) -> bool {
                has_socket(self.context, key)
            }

            #[inline(always)]
            fn masquerade_address(&self, device: &Device) -> $address {
                device.$masquerade
            }

            #[inline(always)]
            fn peek(&self, place: Place, sought: Sought<$address>, way: &mut Way<$address>) -> Peek {
                let map =
                    if place.spill { maps::$spill.get_ptr(place.bucket) } else { maps::$flows.get_ptr(place.bucket) };
                map.map_or(Peek::MISS, |bucket| read_bucket(self.config, bucket, sought, way))
            }

            #[inline(always)]
            fn prefetch(&self, place: Place, way: usize) {
                if let Some(bucket) = maps::$flows.get_ptr_mut(place.bucket) {
                    prefetch(bucket, way);
                }
            }

            #[inline(always)]
            fn locked(&self, place: Place, change: impl Change<$address>) -> Option<u32> {
                let (bucket, details) = if place.spill {
                    (maps::$spill.get_ptr_mut(place.bucket)?, maps::$spill_details.get_ptr_mut(place.bucket)?)
                } else {
                    (maps::$flows.get_ptr_mut(place.bucket)?, maps::$details.get_ptr_mut(place.bucket)?)
                };
                Some(with_lock(bucket, details, change))
            }

            #[inline(always)]
            fn touch(&self, place: Place, way: u32, now: Tick) {
                let map = if place.spill {
                    maps::$spill.get_ptr_mut(place.bucket)
                } else {
                    maps::$flows.get_ptr_mut(place.bucket)
                };
                if let Some(bucket) = map
                    && (way as usize) < WAYS
                {
                    // SAFETY: a value of an array map and an index within it; a single store.
                    unsafe {
                        let ways = (&raw mut (*bucket).body.ways).cast::<Way<$address>>();
                        write_volatile(&raw mut (*ways.add(way as usize)).seen, now.0);
                    }
                }
            }

            #[inline(always)]
            fn count_service(&self, number: u32, event: ServiceEvent) {
                if let Some(counters) = maps::$counters.get_ptr_mut(number) {
                    // SAFETY: this CPU's value.
                    let counters: &mut ServiceCounters = unsafe { &mut *counters };
                    match event {
                        ServiceEvent::Flow => counters.flows += 1,
                        ServiceEvent::Refused => counters.refused += 1,
                        ServiceEvent::Dropped => counters.dropped += 1,
                    }
                }
            }
        }
    };
}

tables!(
    Addr4,
    masquerade4,
    INTEREST_FRONTENDS4,
    INTEREST_BACKENDS4,
    SERVICES4,
    SERVICE4,
    SLOTS4,
    BACKENDS4,
    FLOWS4,
    FLOW_DETAILS4,
    SPILL4,
    SPILL_DETAILS4,
    find_entry4,
    insert4,
    locate4,
    choose4,
    enter_claim4,
    MASQUERADE4,
    AFFINITY4,
    SOURCE_RANGES4,
    SOCKETS4,
    FRAGMENTS4,
    SERVICE_COUNTERS4
);
tables!(
    Addr6,
    masquerade6,
    INTEREST_FRONTENDS6,
    INTEREST_BACKENDS6,
    SERVICES6,
    SERVICE6,
    SLOTS6,
    BACKENDS6,
    FLOWS6,
    FLOW_DETAILS6,
    SPILL6,
    SPILL_DETAILS6,
    find_entry6,
    insert6,
    locate6,
    choose6,
    enter_claim6,
    MASQUERADE6,
    AFFINITY6,
    SOURCE_RANGES6,
    SOCKETS6,
    FRAGMENTS6,
    SERVICE_COUNTERS6
);
