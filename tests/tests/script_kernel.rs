#![cfg(feature = "kernel")]
//! Every script on the kernel's maps, one after the other on the same ones: each begins with an engine
//! that must first remove what the one before left.

mod script;

use std::fs;
use std::path::{Path, PathBuf};

use script::parse::all;
use script::show;
use script::world::Stage;
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::{Config, Sizes};
use svclb_common::schema::Backend;
use svclb_userspace::bpf::load::{Object, Options};
use svclb_userspace::desired::datapath_config::{self, Identity, Settings};
use svclb_userspace::tables::bpf::{BpfConfig, BpfTables};
use svclb_userspace::tables::{ConfigTable as _, Tables as _};

/// A folder for pins that goes with the test.
struct Pins(PathBuf);

impl Pins {
    fn new(test: &str) -> Self {
        let folder = PathBuf::from(format!("/sys/fs/bpf/svclb-script-{}-{test}", std::process::id()));
        fs::create_dir(&folder).expect("a BPF file system is mounted at /sys/fs/bpf");
        Self(folder)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for pin in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            fs::remove_file(pin.path()).expect("a pin can be removed");
        }
        fs::remove_dir(&self.0).expect("the folder is empty");
    }
}

fn load(pins: &Pins) -> (Config, BpfTables<Addr4>, BpfTables<Addr6>) {
    // Small, as every step reads all of it.
    let mut sizes = Sizes::for_memory(0);
    for (name, entries) in [("slots", 2048), ("backends", 1024), ("services", 256), ("interest_backends", 1024)] {
        sizes.set(name, entries);
    }
    let options = Options { bpffs: Some(pins.path()), sizes, test_mode: false, programs: &[] };
    let mut object = Object::load(&options).expect("the kernel takes the object");
    let mut config_table = BpfConfig::take(&mut object).expect("there is CONFIG");
    let before = config_table.read_config().expect("CONFIG can be read");
    let identity = Identity { seed: 0x5eed, mark: 1 };
    let config = datapath_config::config(&Settings::default(), object.sizes(), 250, &before, identity);
    config_table.write_config(&config).expect("CONFIG can be written");
    let v4 = BpfTables::take(&mut object, pins.path()).expect("there are IPv4 maps");
    let v6 = BpfTables::take(&mut object, pins.path()).expect("there are IPv6 maps");
    (config, v4, v6)
}

#[test]
fn every_script_shows_its_tables_in_the_kernel() {
    let pins = Pins::new("scripts");
    let (config, mut v4, mut v6) = load(&pins);
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
    let (_, mut v4, _) = load(&pins);
    let limits = v4.limits();
    let error = v4.write_backend(limits.backends, &Backend::default()).expect_err("there is no such entry");
    assert_eq!((error.map.as_str(), error.key.as_str()), ("BACKENDS4", limits.backends.to_string().as_str()));
}
