//! The datapath in the kernel: the loaded programs, run on a packet by `BPF_PROG_TEST_RUN`.

use aya::maps::{Array, HashMap, IterableMap, MapData, PerCpuArray};
use aya::programs::{TestRun, TestRunOptions};
use std::path::Path;
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::{Config, Sizes};
use svclb_common::schema::{Bucket, Details, Device, Plain};
use svclb_userspace::bpf::load::{LoadError, Object, Options};
use svclb_userspace::bpf::pod::Pod;
use svclb_userspace::bpf::sys;
use svclb_userspace::tables::ConfigTable;
use svclb_userspace::tables::bpf::{BpfConfig, BpfTables};

/// Index of lo, which every network namespace has: the device of all packets here. What kind of device it plays
/// is written into DEVICES before each run.
pub const DEVICE: u32 = 1;

/// Length of the kernel's `__sk_buff`, and where in it the index of the device is.
const CONTEXT: usize = 192;
const CONTEXT_DEVICE: usize = 40;

/// The loaded programs and their maps.
pub struct KernelEnv {
    object: Object,
    config: BpfConfig,
    /// IPv4.
    pub v4: BpfTables<Addr4>,
    /// IPv6.
    pub v6: BpfTables<Addr6>,
    devices: HashMap<MapData, Pod<u32>, Pod<Device>>,
    test_env: Array<MapData, Pod<u64>>,
    counters: PerCpuArray<MapData, u64>,
    flows4: [Array<MapData, Pod<Bucket<Addr4>>>; 2],
    flows6: [Array<MapData, Pod<Bucket<Addr6>>>; 2],
    details4: [Array<MapData, Pod<Details<Addr4>>>; 2],
    details6: [Array<MapData, Pod<Details<Addr6>>>; 2],
}

/// What a program did with a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// Its return value.
    pub action: i32,
    /// The packet afterwards.
    pub bytes: Vec<u8>,
}

impl KernelEnv {
    /// Loads the object with test clock and random numbers, without pins.
    pub fn load(config: &Config, sizes: Sizes) -> Result<Self, LoadError> {
        let mut object = Object::load(&Options { bpffs: None, sizes, test_mode: true })?;
        let mut table = BpfConfig::take(&mut object)?;
        table.write_config(config).expect("CONFIG can be written");
        // Nothing is pinned, and nothing is read back through these.
        let no_pins = Path::new("");
        Ok(Self {
            config: table,
            v4: BpfTables::take(&mut object, no_pins)?,
            v6: BpfTables::take(&mut object, no_pins)?,
            devices: object.take_hash("DEVICES")?,
            test_env: object.take_array("TEST_ENV")?,
            counters: object.take_map("COUNTERS")?,
            flows4: [object.take_array("FLOWS4")?, object.take_array("SPILL4")?],
            flows6: [object.take_array("FLOWS6")?, object.take_array("SPILL6")?],
            details4: [object.take_array("FLOW_DETAILS4")?, object.take_array("SPILL_DETAILS4")?],
            details6: [object.take_array("FLOW_DETAILS6")?, object.take_array("SPILL_DETAILS6")?],
            object,
        })
    }

    /// Writes CONFIG.
    ///
    /// # Panics
    /// If the map cannot be written; so do the others here.
    pub fn set_config(&mut self, config: &Config) {
        self.config.write_config(config).expect("CONFIG can be written");
    }

    /// Sets clock and random numbers.
    ///
    /// # Panics
    /// If the map cannot be written.
    pub fn set_time(&mut self, now: u32, random: u32) {
        self.test_env.set(0, Pod(u64::from(now) | u64::from(random) << 32), 0).expect("TEST_ENV can be written");
    }

    /// State of the random numbers.
    ///
    /// # Panics
    /// If the map cannot be read.
    pub fn random(&self) -> u32 {
        (self.test_env.get(&0, 0).expect("TEST_ENV can be read").0 >> 32) as u32
    }

    /// Says what device the packets are at.
    ///
    /// # Panics
    /// If the map cannot be written.
    pub fn set_device(&mut self, device: &Device) {
        self.devices.insert(Pod(DEVICE), Pod(*device), 0).expect("DEVICES can be written");
    }

    /// Runs a program on a packet.
    ///
    /// # Panics
    /// If the kernel does not run it.
    pub fn run(&mut self, program: &str, packet: &[u8]) -> Ran {
        let mut context = [0u8; CONTEXT];
        context[CONTEXT_DEVICE..CONTEXT_DEVICE + 4].copy_from_slice(&DEVICE.to_ne_bytes());
        let mut out = vec![0u8; packet.len() + 256];
        let program = self.object.program(program).expect("a program of the object");
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        let result = program.test_run(options).expect("the kernel runs the program");
        out.truncate(result.data_size_out as usize);
        Ran { action: result.return_value.cast_signed(), bytes: out }
    }

    /// Counters by number, summed over the CPUs.
    ///
    /// # Panics
    /// If the map cannot be read.
    pub fn counters(&self) -> Vec<u64> {
        (0..self.counters.len())
            .map(|number| self.counters.get(&number, 0).expect("COUNTERS can be read").iter().sum())
            .collect()
    }

    /// Buckets of FLOWS, then those of SPILL.
    ///
    /// # Panics
    /// If a map cannot be read.
    pub fn buckets4(&self) -> Vec<Bucket<Addr4>> {
        self.flows4.iter().flat_map(|map| read_all(map, true)).collect()
    }

    /// The same for IPv6.
    pub fn buckets6(&self) -> Vec<Bucket<Addr6>> {
        self.flows6.iter().flat_map(|map| read_all(map, true)).collect()
    }

    /// Details in the order of the buckets.
    pub fn details4(&self) -> Vec<Details<Addr4>> {
        self.details4.iter().flat_map(|map| read_all(map, false)).collect()
    }

    /// The same for IPv6.
    pub fn details6(&self) -> Vec<Details<Addr6>> {
        self.details6.iter().flat_map(|map| read_all(map, false)).collect()
    }
}

fn read_all<T: Plain>(map: &Array<MapData, Pod<T>>, locked: bool) -> Vec<T> {
    sys::read_array(IterableMap::map(map).fd(), map.len(), locked).expect("a map can be read")
}
