//! Access to the buckets of FLOWS, SPILL and SERVICES.

use aya_ebpf::helpers::generated::{bpf_spin_lock as lock, bpf_spin_unlock as unlock};
use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{Ordering, compiler_fence};
use svclb_common::addr::Address;
use svclb_common::config::Config;
use svclb_common::env::Peek;
use svclb_common::flow_table::{Change, Sought, first_way};
use svclb_common::schema::{Bucket, Details, FRONTEND_WAYS, FrontendBucket, ServiceKey, ServiceRef, WAYS, Way};

/// Runs `change` on a bucket with its lock held. The version is odd meanwhile, for readers without the
/// lock.
#[inline(always)]
pub(crate) fn with_lock<A: Address>(bucket: *mut Bucket<A>, details: *mut Details<A>, change: impl Change<A>) -> u32 {
    // SAFETY: both point to values of array maps of the same index, which live as long as the maps; the
    // lock makes this CPU the only writer.
    unsafe {
        lock((&raw mut (*bucket).lock).cast());
        let version = read_volatile(&raw const (*bucket).version);
        write_volatile(&raw mut (*bucket).version, version.wrapping_add(1));
        compiler_fence(Ordering::SeqCst);
        let result = change.apply(&mut (*bucket).body, &mut *details);
        compiler_fence(Ordering::SeqCst);
        write_volatile(&raw mut (*bucket).version, version.wrapping_add(2));
        unlock((&raw mut (*bucket).lock).cast());
        result
    }
}

/// Looks through a bucket without its lock. On x86 loads are not reordered with loads, so comparing the
/// version before and after is enough; other processors take the lock.
#[inline(always)]
pub(crate) fn read_bucket<A: Address>(
    config: &Config,
    bucket: *const Bucket<A>,
    sought: Sought<A>,
    out: &mut Way<A>,
) -> Peek {
    if !cfg!(bpf_target_arch = "x86_64") {
        return Peek::BUSY;
    }
    // SAFETY: the pointer is to a value of an array map. What is read may be torn until the version is
    // seen unchanged; all of it is plain integers.
    unsafe {
        let version = read_volatile(&raw const (*bucket).version);
        compiler_fence(Ordering::SeqCst);
        let mut answer =
            if read_volatile(&raw const (*bucket).body.overflow) > 0 { Peek::MISS_OVERFLOW } else { Peek::MISS };
        let may_have = read_volatile(&raw const (*bucket).body.tags).may_have(sought.key.hash);
        let ways = (&raw const (*bucket).body.ways).cast::<Way<A>>();
        let mut at = first_way(sought.key.hash);
        if !sought.is(config, &*ways.add(at)) {
            at = if may_have { 0 } else { WAYS };
            while at < WAYS && !sought.is(config, &*ways.add(at)) {
                at += 1;
            }
        }
        if at < WAYS {
            *out = read_volatile(ways.add(at));
            answer = Peek(at as u32);
        }
        compiler_fence(Ordering::SeqCst);
        if version & 1 != 0 || read_volatile(&raw const (*bucket).version) != version { Peek::BUSY } else { answer }
    }
}

/// Looks through a bucket of SERVICES. Loads are not reordered with loads on x86, see [`read_bucket`].
#[inline(always)]
pub(crate) fn read_frontends<A: Address>(
    bucket: *const FrontendBucket<A>,
    key: &ServiceKey<A>,
    found: &mut ServiceRef,
) -> Peek {
    // SAFETY: the pointer is to a value of an array map. What is read may be torn until the versions are seen to be
    // the same; all of it is plain integers.
    unsafe {
        let before = read_volatile(&raw const (*bucket).before);
        compiler_fence(Ordering::SeqCst);
        let spilled = read_volatile(&raw const (*bucket).spilled) > 0;
        let mut answer = if spilled { Peek::MISS_OVERFLOW } else { Peek::MISS };
        let mut i = 0;
        while i < FRONTEND_WAYS {
            let way = &(*bucket).ways[i];
            if way.holds(key) {
                *found = way.service_ref();
                answer = Peek(i as u32);
                break;
            }
            i += 1;
        }
        compiler_fence(Ordering::SeqCst);
        if read_volatile(&raw const (*bucket).after) == before { answer } else { Peek::BUSY }
    }
}

/// Begins to load the head and a way of a bucket. BPF has no prefetch, and a load holds up the processor as soon as
/// some hundred instructions wait behind it; a store does not.
#[inline(always)]
pub(crate) fn prefetch<A: Address>(bucket: *mut Bucket<A>, way: usize) {
    if way < WAYS {
        // SAFETY: a value of an array map and a way within it; what is stored to is always 0.
        unsafe {
            write_volatile(&raw mut (*bucket).body.touched, 0);
            let ways = (&raw mut (*bucket).body.ways).cast::<Way<A>>();
            write_volatile((&raw mut (*ways.add(way)).meta).cast::<u8>().add(1), 0);
        }
    }
}
