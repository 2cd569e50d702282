//! The datapath in the kernel: the loaded programs, run on a packet by `BPF_PROG_TEST_RUN`.

use aya::maps::{Array, HashMap, IterableMap, LpmTrie, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::{Config, Sizes};
use svclb_common::route::Route;
use svclb_common::schema::{
    AddressSet, Affinity, AffinityKey, Backend, Bucket, Details, Device, Fragment, FragmentKey, FrontendBucket,
    Masquerade, MasqueradeKey, Plain, Service, SlotPair, SourceRange,
};
use svclb_common::verdict::COUNTER_SLOTS;
use svclb_userspace::bpf::load::{self, Object, Options, XDP_PROGRAM};
use svclb_userspace::bpf::pod::Pod;
use svclb_userspace::bpf::sys;
use svclb_userspace::tables::ConfigTable;
use svclb_userspace::tables::bpf::{BpfConfig, BpfTables};
use zerocopy::{FromZeros, IntoBytes as _};

use super::capture::Capture;
use crate::net::Netns;

/// Index of lo, which every network namespace has: the device of all packets here. What kind of device it plays
/// is written into DEVICES before each run. It is that of a namespace of its own, so that what a program sends by it
/// is seen by its own test alone.
pub const DEVICE: u32 = 1;

/// Length of the kernel's `__sk_buff`, and where in it the index of the device is.
const CONTEXT: usize = 192;
const CONTEXT_DEVICE: usize = 40;

/// Loaded objects that no test uses at the moment: loading one takes the verifier a second.
static POOL: Mutex<Vec<KernelEnv>> = Mutex::new(Vec::new());

/// The loaded programs and their maps.
pub struct KernelEnv {
    clear: Vec<Box<dyn FnMut() + Send>>,
    object: Object,
    netns: Netns,
    heard: Capture,
    config: BpfConfig,
    /// IPv4.
    pub v4: BpfTables<Addr4>,
    /// IPv6.
    pub v6: BpfTables<Addr6>,
    devices: HashMap<MapData, Pod<u32>, Pod<Device>>,
    test_env: Array<MapData, Pod<u64>>,
    routes: HashMap<MapData, Pod<[u32; 4]>, Pod<Route>>,
    onward: Array<MapData, Pod<Route>>,
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
    /// An object with empty tables, test clock and random numbers: one that an earlier test has done with, or a
    /// new one.
    ///
    /// # Panics
    /// If a map cannot be emptied.
    pub fn take(config: &Config, sizes: Sizes) -> anyhow::Result<Self> {
        let idle = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut env = match idle {
            Some(env) => env,
            None => Self::load(config, sizes)?,
        };
        for clear in &mut env.clear {
            clear();
        }
        env.clear_routes();
        env.set_config(config);
        Ok(env)
    }

    fn clear_routes(&mut self) {
        let keys: Vec<_> = self.routes.keys().collect::<Result<_, _>>().expect("TEST_ROUTES can be read");
        for key in keys {
            self.routes.remove(&key).expect("TEST_ROUTES can be written");
        }
    }

    /// Hands an object back for later tests.
    pub fn give_back(env: Self) {
        POOL.lock().unwrap_or_else(PoisonError::into_inner).push(env);
    }

    fn load(config: &Config, sizes: Sizes) -> anyhow::Result<Self> {
        let programs = &["ingress", "ingress_port", "ingress_stacked", "egress"];
        let pins = tempfile::Builder::new().prefix("svclb-world-").tempdir_in("/sys/fs/bpf")?;
        let mut object = Object::load(&Options { bpffs: Some(pins.path()), sizes, test_mode: true, programs })?;
        object.load_xdp_program()?;
        // Nothing is read back through the tables, so they do not need the pins, which end with this function.
        let clear = clearing(pins.path())?;
        let netns = Netns::new("a world in the kernel")?;
        Ok(Self {
            clear,
            heard: Capture::begin(&netns)?,
            netns,
            config: BpfConfig::take(&mut object)?,
            v4: BpfTables::take(&mut object, pins.path(), config)?,
            v6: BpfTables::take(&mut object, pins.path(), config)?,
            devices: object.take_hash("DEVICES")?,
            test_env: object.take_array("TEST_ENV")?,
            routes: object.take_hash("TEST_ROUTES")?,
            onward: object.take_array("TEST_ONWARD")?,
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

    /// Says what a device is.
    ///
    /// # Panics
    /// If the map cannot be written.
    pub fn set_device(&mut self, index: u32, device: &Device) {
        self.devices.insert(Pod(index), Pod(*device), 0).expect("DEVICES can be written");
    }

    /// Says which way leads to an address.
    ///
    /// # Panics
    /// If the map cannot be written.
    pub fn set_route(&mut self, to: IpAddr, route: &Route) {
        let words = match to {
            IpAddr::V4(ip) => [Addr4::from(ip).0, 0, 0, 0],
            IpAddr::V6(ip) => Addr6::from(ip).0,
        };
        self.routes.insert(Pod(words), Pod(*route), 0).expect("TEST_ROUTES can be written");
    }

    /// Where the last packet went that passed the stack by.
    ///
    /// # Panics
    /// If the map cannot be read.
    pub fn onward(&self) -> Route {
        self.onward.get(&0, 0).expect("TEST_ONWARD can be read").0
    }

    /// Forgets where that was.
    ///
    /// # Panics
    /// If the map cannot be written.
    pub fn forget_onward(&mut self) {
        self.onward.set(0, Pod(Route::default()), 0).expect("TEST_ONWARD can be written");
    }

    /// Runs a program on a packet.
    ///
    /// # Panics
    /// If the kernel does not run it.
    pub fn run(&mut self, program: &str, packet: &[u8]) -> Ran {
        if program == XDP_PROGRAM {
            let program = self.object.xdp_program().expect("a program of the object");
            return self.netns.enter(|| run_xdp(program, packet));
        }
        let program = self.object.program(program).expect("a program of the object");
        self.netns.enter(|| run(program, packet))
    }

    /// The packets that programs sent into the node since the last time, for which it waits if there are not yet as many
    /// as expected.
    ///
    /// # Panics
    /// If they cannot be heard.
    pub fn copies(&mut self, expected: u64) -> Vec<Vec<u8>> {
        self.heard.take(expected as usize)
    }

    /// A program to be run by several threads, and the IPv4 tables to be written meanwhile.
    ///
    /// # Panics
    /// If there is no such program.
    pub fn split(&mut self, program: &str) -> (&SchedClassifier, &mut BpfTables<Addr4>) {
        (self.object.program(program).expect("a program of the object"), &mut self.v4)
    }

    /// Counters by number, summed over the CPUs.
    ///
    /// # Panics
    /// If the map cannot be read.
    pub fn counters(&self) -> [u64; COUNTER_SLOTS as usize] {
        let sums = sys::read_sums(IterableMap::map(&self.counters).fd(), COUNTER_SLOTS).expect("COUNTERS can be read");
        sums.try_into().expect("as many counters as there are slots")
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

/// Runs a program on a packet that enters or leaves by [`DEVICE`].
///
/// # Panics
/// If the kernel does not run it.
pub fn run(program: &SchedClassifier, packet: &[u8]) -> Ran {
    let mut context = [0u8; CONTEXT];
    context[CONTEXT_DEVICE..CONTEXT_DEVICE + 4].copy_from_slice(&DEVICE.to_ne_bytes());
    run_in(program, packet, &context)
}

/// Runs the XDP program on a frame that comes by [`DEVICE`].
fn run_xdp(program: &Xdp, frame: &[u8]) -> Ran {
    // `struct xdp_md`: bounds of the frame, its metadata, device, queue, and output device.
    let context = [0, frame.len() as u32, 0, DEVICE, 0, 0];
    run_in(program, frame, context.as_bytes())
}

fn run_in<P>(program: &P, packet: &[u8], context: &[u8]) -> Ran
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let mut out = vec![0u8; packet.len() + 256];
    let mut options = TestRunOptions::new();
    options.data_in = Some(packet);
    options.data_out = Some(&mut out);
    options.ctx_in = Some(context);
    let result = program.test_run(options).expect("the kernel runs the program");
    out.truncate(result.data_size_out as usize);
    Ran { action: result.return_value.cast_signed(), bytes: out }
}

fn read_all<T: Plain>(map: &Array<MapData, Pod<T>>, locked: bool) -> Vec<T> {
    sys::read_array(IterableMap::map(map).fd(), map.len(), locked).expect("a map can be read")
}

/// Ways to empty every table that a test may fill, through handles of their own.
fn clearing(pins: &Path) -> anyhow::Result<Vec<Box<dyn FnMut() + Send>>> {
    let mut all: Vec<Box<dyn FnMut() + Send>> = Vec::new();
    macro_rules! arrays {
        ($($name:literal: $value:ty,)+) => { $(
            let mut map: Array<MapData, Pod<$value>> = load::open_pinned(pins, $name)?;
            all.push(Box::new(move || {
                for index in 0..map.len() {
                    map.set(index, Pod(<$value>::new_zeroed()), 0).expect(concat!($name, " can be written"));
                }
            }));
        )+ };
    }
    macro_rules! hashes {
        ($($name:literal: $key:ty => $value:ty,)+) => { $(
            let mut map: HashMap<MapData, Pod<$key>, Pod<$value>> = load::open_pinned(pins, $name)?;
            all.push(Box::new(move || {
                let keys: Vec<_> = map.keys().collect::<Result<_, _>>().expect(concat!($name, " can be read"));
                for key in keys {
                    map.remove(&key).expect(concat!($name, " can be written"));
                }
            }));
        )+ };
    }
    macro_rules! tries {
        ($($name:literal: $address:ty,)+) => { $(
            let mut map: LpmTrie<MapData, Pod<SourceRange<$address>>, Pod<u32>> = load::open_pinned(pins, $name)?;
            all.push(Box::new(move || {
                let keys: Vec<_> = map.keys().collect::<Result<_, _>>().expect(concat!($name, " can be read"));
                for key in keys {
                    map.remove(&key).expect(concat!($name, " can be written"));
                }
            }));
        )+ };
    }
    arrays! {
        "INTEREST_FRONTENDS4": u64, "INTEREST_FRONTENDS6": u64, "INTEREST_BACKENDS4": u64, "INTEREST_BACKENDS6": u64,
        "SERVICES4": FrontendBucket<Addr4>, "SERVICES6": FrontendBucket<Addr6>,
        "SERVICE4": Service, "SERVICE6": Service, "SLOTS4": SlotPair, "SLOTS6": SlotPair,
        "BACKENDS4": Backend<Addr4>, "BACKENDS6": Backend<Addr6>,
        "FLOWS4": Bucket<Addr4>, "FLOWS6": Bucket<Addr6>, "SPILL4": Bucket<Addr4>, "SPILL6": Bucket<Addr6>,
        "FLOW_DETAILS4": Details<Addr4>, "FLOW_DETAILS6": Details<Addr6>,
        "SPILL_DETAILS4": Details<Addr4>, "SPILL_DETAILS6": Details<Addr6>, "MASQUERADE_ADDRESSES": AddressSet,
    }
    hashes! {
        "MASQUERADE4": MasqueradeKey<Addr4> => Masquerade<Addr4>,
        "MASQUERADE6": MasqueradeKey<Addr6> => Masquerade<Addr6>,
        "FRAGMENTS4": FragmentKey<Addr4> => Fragment<Addr4>, "FRAGMENTS6": FragmentKey<Addr6> => Fragment<Addr6>,
        "AFFINITY4": AffinityKey<Addr4> => Affinity, "AFFINITY6": AffinityKey<Addr6> => Affinity,
    }
    tries! { "SOURCE_RANGES4": Addr4, "SOURCE_RANGES6": Addr6, }
    Ok(all)
}
