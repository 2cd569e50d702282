//! Every script on the kernel's maps, one after the other on the same ones: each begins with an engine
//! that must first remove what the one before left.
#![cfg(feature = "kernel")]

mod script_pins;

use script_pins::Pins;
use svclb_common::addr::{Addr4, Be16};
use svclb_common::config::Sizes;
use svclb_common::schema::{Backend, BackendRef, ServiceKey, ServiceRef};
use svclb_tests::script::world::Stage;
use svclb_tests::script::{all, show};
use svclb_userspace::tables::Tables as _;

/// Small, as every step reads all of it.
fn sizes() -> Sizes {
    sizes_with(("services", 256))
}

fn sizes_with(own: (&str, u32)) -> Sizes {
    let mut sizes = Sizes::for_memory(0);
    for (name, entries) in
        [("slot_pairs", 1024), ("backends", 1024), ("services", 256), ("interest_backends", 1024), own]
    {
        sizes.set(name, entries);
    }
    sizes
}

#[test]
fn every_script_shows_its_tables_in_the_kernel() {
    let pins = Pins::new("scripts");
    let (config, mut v4, mut v6) = pins.load(sizes());
    for mut script in all("scripts") {
        let mut stage = Stage::new(&script.settings(), &config, v4, v6);
        for step in script.steps() {
            stage.tell(&step.files);
            let report = stage.sync();
            assert!(report.failures.is_empty(), "{}: {:?}", script.name(), report.failures);
            assert!(stage.is_settled(), "{}: something is left to do", script.name());
            assert!(stage.drift().is_empty(), "{}: the copy of the tables is not exact", script.name());
            let (v4, v6) = stage.tables();
            let shown = show(v4, v6);
            script.check_tables(&step, &shown, "in the kernel");
        }
        (v4, v6) = stage.into_tables();
    }
}

#[test]
fn a_write_beyond_the_end_of_a_map_names_the_map_and_the_entry_and_leaves_those_before_it() {
    let pins = Pins::new("beyond");
    let (_, mut v4, _) = pins.load(sizes());
    let end = v4.limits().backends;
    let backend = |service| Backend { service, ..Backend::default() };
    let cut = v4
        .write_backends(&[end - 2, end - 1, end, end - 3], &[1, 2, 3, 4].map(backend))
        .expect_err("there is no third entry");
    assert_eq!((cut.error.map.as_str(), cut.error.key.as_str()), ("BACKENDS4", end.to_string().as_str()));
    assert_eq!(cut.done, 2);
    let backends = v4.read().expect("the maps can be read").backends;
    let last = backends.iter().skip(end as usize - 3).map(|backend| backend.service);
    assert_eq!(last.collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn of_frontends_for_which_there_is_no_room_those_before_are_written() {
    let pins = Pins::new("full");
    let (_, mut v4, _) = pins.load(sizes_with(("frontend_buckets", 2)));
    let keys: Vec<_> = (0..16).map(|n| ServiceKey::new(Addr4(n), Be16::new(80), 6)).collect();
    let values: Vec<_> = (0..16).map(|number| ServiceRef { number, scope: 0, zero: [0; 3] }).collect();
    let cut = v4.put_frontends(&keys, &values).expect_err("there is room for eight");
    assert_eq!(cut.error.source.kind(), std::io::ErrorKind::StorageFull);
    assert!(cut.done >= 4, "a bucket alone has room for four");
    let found = v4.read().expect("the maps can be read").frontends;
    assert_eq!(found.len(), cut.done);
    assert!(keys.iter().take(cut.done).all(|key| found.contains_key(key)));
}

#[test]
fn lists_whose_ends_share_an_entry_of_slots_do_not_touch_one_another() {
    let pins = Pins::new("slots");
    let (_, mut v4, _) = pins.load(sizes());
    let mut wanted = vec![BackendRef::default(); 16];
    // Each line is one call, in whose middle a list ends and another begins.
    let calls: &[&[u32]] = &[&[1, 2, 3], &[0, 8, 9, 10, 4], &[11, 5, 6, 7, 12], &[13], &[2, 14, 3, 15]];
    for (at, slots) in calls.iter().enumerate() {
        let values: Vec<_> = slots.iter().map(|slot| BackendRef::new(slot + 100 * at as u32, 1)).collect();
        v4.write_slots(slots, &values).expect("there are as many slots");
        for (slot, value) in slots.iter().zip(values) {
            wanted[*slot as usize] = value;
        }
        let mut found = v4.read().expect("the maps can be read").slots;
        found.resize(16, BackendRef::default());
        assert_eq!(found, wanted, "after the slots {slots:?}");
    }
}

#[test]
fn of_slots_beyond_the_end_those_before_are_counted() {
    let pins = Pins::new("ends");
    let (_, mut v4, _) = pins.load(sizes());
    let end = v4.limits().slots;
    let slots = [end - 3, end - 2, end - 1, end, end + 1];
    let values = slots.map(|slot| BackendRef::new(slot, 1));
    let cut = v4.write_slots(&slots, &values).expect_err("the last two are not there");
    assert_eq!(cut.done, 3);
}
