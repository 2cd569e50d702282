#![cfg(feature = "kernel")]
//! Every script on the kernel's maps, one after the other on the same ones: each begins with an engine
//! that must first remove what the one before left.

mod script;
mod script_pins;

use script::parse::all;
use script::show;
use script::world::Stage;
use script_pins::Pins;
use svclb_common::config::Sizes;
use svclb_common::schema::Backend;
use svclb_userspace::tables::Tables as _;

/// Small, as every step reads all of it.
fn sizes() -> Sizes {
    let mut sizes = Sizes::for_memory(0);
    for (name, entries) in [("slots", 2048), ("backends", 1024), ("services", 256), ("interest_backends", 1024)] {
        sizes.set(name, entries);
    }
    sizes
}

#[test]
fn every_script_shows_its_tables_in_the_kernel() {
    let pins = Pins::new("scripts");
    let (config, mut v4, mut v6) = pins.load(sizes());
    for mut script in all() {
        let mut stage = Stage::new(&script.settings, &config, v4, v6);
        for step in script.steps() {
            stage.tell(&step.files);
            let report = stage.sync();
            assert!(report.failures.is_empty(), "{}: {:?}", script.name(), report.failures);
            assert!(stage.is_settled(), "{}: something is left to do", script.name());
            assert!(stage.drift().is_empty(), "{}: the copy of the tables is not exact", script.name());
            let (v4, v6) = stage.tables();
            let shown = show(v4, v6);
            script.check(&step, &shown, "in the kernel");
        }
        (v4, v6) = stage.into_tables();
    }
}

#[test]
fn a_write_beyond_the_end_of_a_map_names_the_map_and_the_entry() {
    let pins = Pins::new("beyond");
    let (_, mut v4, _) = pins.load(sizes());
    let limits = v4.limits();
    let error = v4.write_backend(limits.backends, &Backend::default()).expect_err("there is no such entry");
    assert_eq!((error.map.as_str(), error.key.as_str()), ("BACKENDS4", limits.backends.to_string().as_str()));
}
