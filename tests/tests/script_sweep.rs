//! What the agent removes from the kernel's maps by and by.
#![cfg(feature = "kernel")]

use aya::maps::{HashMap, MapData};
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::Sizes;
use svclb_common::schema::{Affinity, AffinityKey, BackendRef, Service};
use svclb_userspace::agent::sweep::Sweep;
use svclb_userspace::bpf::load::{self, Object, Options};
use svclb_userspace::bpf::pod::Pod;
use svclb_userspace::clock::jiffies_per_second;
use svclb_userspace::plan::Limits;
use svclb_userspace::tables::fake::FakeTables;

/// The packet path's clock now, by the kernel's own account: jiffies begin five minutes before they wrap.
fn ticks_now() -> u32 {
    let hz = jiffies_per_second().expect("the clock has a resolution");
    let uptime = std::fs::read_to_string("/proc/uptime").expect("/proc is mounted");
    let seconds: u64 = uptime.split('.').next().and_then(|text| text.parse().ok()).expect("seconds");
    let jiffies = seconds * hz + u64::from(((300 * hz) as u32).wrapping_neg());
    (jiffies >> 4) as u32
}

#[test]
fn affinity_entries_go_when_their_timeout_has_passed_and_not_before() {
    let pins = tempfile::Builder::new().prefix("svclb-sweep-").tempdir_in("/sys/fs/bpf").expect("a bpf file system");
    let options = Options { bpffs: Some(pins.path()), sizes: Sizes::for_memory(0), test_mode: false, programs: &[] };
    let mut object = Object::load(&options).unwrap_or_else(|error| panic!("{error}"));
    let mut table: HashMap<MapData, Pod<AffinityKey<Addr4>>, Pod<Affinity>> =
        load::open_pinned(pins.path(), "AFFINITY4").expect("AFFINITY4 is pinned");
    let limits = Limits { services: 8, slots: 8, backends: 8, interest_frontends: 8, interest_backends: 8 };
    let mut v4 = FakeTables::<Addr4>::new(limits).content;
    v4.services = vec![Service { affinity_seconds: 100, ..Service::default() }, Service::default()];
    let v6 = FakeTables::<Addr6>::new(limits).content;

    let per_second = jiffies_per_second().expect("the clock has a resolution") as u32 / 16;
    let mut enter = |service: u32, client: u32, seconds_ago: u32| {
        let key = AffinityKey { service, client: Addr4(client) };
        let seen = ticks_now().wrapping_sub(seconds_ago * per_second);
        table.insert(Pod(key), Pod(Affinity { backend: BackendRef::new(1, 0), seen }), 0).expect("there is room");
    };
    enter(0, 1, 10); // in time
    enter(0, 2, 300); // past the timeout
    enter(1, 3, 10); // of a Service that has no affinity any more

    let removed = Sweep::take(&mut object).expect("the maps are there").run(&v4, &v6).expect("the maps can be written");
    let left: Vec<u32> = table.keys().map(|key| key.expect("the map can be read").0.client.0).collect();
    assert_eq!((removed, left), (2, vec![1]));
}
