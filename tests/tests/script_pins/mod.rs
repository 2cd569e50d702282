//! The kernel's maps under pins of their own.

use std::fs;
use std::path::PathBuf;

use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::{Config, Sizes};
use svclb_userspace::bpf::load::{Object, Options};
use svclb_userspace::desired::datapath_config::{self, Identity, Settings};
use svclb_userspace::tables::ConfigTable as _;
use svclb_userspace::tables::bpf::{BpfConfig, BpfTables};

/// A folder for pins that goes with the test.
pub(crate) struct Pins(PathBuf);

impl Pins {
    /// A folder that nobody else has.
    pub(crate) fn new(test: &str) -> Self {
        let folder = PathBuf::from(format!("/sys/fs/bpf/svclb-script-{}-{test}", std::process::id()));
        fs::create_dir(&folder).expect("a BPF file system is mounted at /sys/fs/bpf");
        Self(folder)
    }

    /// Loads the object, with the maps that are pinned already if there are any.
    pub(crate) fn load(&self, sizes: Sizes) -> (Config, BpfTables<Addr4>, BpfTables<Addr6>) {
        let options = Options { bpffs: Some(&self.0), sizes, test_mode: false, programs: &[] };
        let mut object = Object::load(&options).expect("the kernel takes the object");
        let mut config_table = BpfConfig::take(&mut object).expect("there is CONFIG");
        let before = config_table.read_config().expect("CONFIG can be read");
        let identity = Identity { seed: 0x5eed, mark: 1 };
        let config = datapath_config::config(&Settings::default(), object.sizes(), 250, &before, identity);
        config_table.write_config(&config).expect("CONFIG can be written");
        let v4 = BpfTables::take(&mut object, &self.0, &config).expect("there are IPv4 maps");
        let v6 = BpfTables::take(&mut object, &self.0, &config).expect("there are IPv6 maps");
        (config, v4, v6)
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
