//! svclb's own object in the kernel, with Services in its tables, as the agent would have filled them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::programs::SchedClassifier;
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::Sizes;
use svclb_common::schema::{Bucket, Device, Plain};
use svclb_common::service::role;
use svclb_common::verdict::Counter;
use svclb_userspace::agent::engine::{Engine, NodeSettings};
use svclb_userspace::bpf::load::{Object, Options, PROGRAMS};
use svclb_userspace::bpf::pod::Pod;
use svclb_userspace::bpf::sys;
use svclb_userspace::desired::datapath_config::{self, Identity, Settings};
use svclb_userspace::tables::ConfigTable as _;
use svclb_userspace::tables::bpf::{BpfConfig, BpfTables};

use super::family::{Wire, empty_bucket};
use crate::bench::{population::Population, spread};

/// Buckets of the flow table: with 7 ways each, room for nearly as many flows as the reference has.
const FLOW_BUCKETS: u32 = 1 << 18;
/// Buckets that are emptied in one call.
const CHUNK: usize = 4096;
/// The device that test-runs take for the packet's: the loopback of the namespace.
const LOOPBACK: u32 = 1;

/// Object and tables.
pub(super) struct Filled {
    object: Object,
    counters: PerCpuArray<MapData, Pod<u64>>,
    pins: PathBuf,
}

impl Filled {
    /// Loads the object, pinned in `pins`, and fills its tables.
    pub(super) fn new(population: &Population, pins: &Path) -> Result<Self> {
        let sizes = Sizes { flow_buckets: FLOW_BUCKETS, spill_buckets: FLOW_BUCKETS / 8, ..Sizes::for_memory(0) };
        let mut object = Object::load(&Options { bpffs: Some(pins), sizes, test_mode: false, programs: PROGRAMS })?;
        let mut table = BpfConfig::take(&mut object)?;
        let identity = Identity { seed: spread::random(), mark: 0x5cb1 };
        let before = table.read_config()?;
        let hz = jiffies_per_second()?;
        let config = datapath_config::config(&Settings::default(), object.sizes(), hz, &before, identity);
        table.write_config(&config)?;
        let v4 = BpfTables::<Addr4>::take(&mut object, pins, &config)?;
        let v6 = BpfTables::<Addr6>::take(&mut object, pins, &config)?;
        let mut engine =
            Engine::new(NodeSettings { name: "bench".into(), ..NodeSettings::default() }, &config, v4, v6)?;
        for event in population.events() {
            engine.apply(event);
        }
        let report = engine.sync(Duration::ZERO);
        ensure!(report.failures.is_empty(), "the tables cannot be filled: {:?}", report.failures.first());
        // Packets come from pods, as most requests do.
        let mut devices: HashMap<MapData, Pod<u32>, Pod<Device>> = object.take_hash("DEVICES")?;
        let device = Device { role: role::POD, ..zerocopy::FromZeros::new_zeroed() };
        devices.insert(Pod(LOOPBACK), Pod(device), 0)?;
        let counters = object.take_map("COUNTERS")?;
        Ok(Self { object, counters, pins: pins.to_owned() })
    }

    /// A program.
    pub(super) fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        Ok(self.object.program(name)?)
    }

    /// A counter, summed up over the CPUs.
    pub(super) fn count(&self, counter: Counter) -> Result<u64> {
        let values = self.counters.get(&(counter as u32), 0).with_context(|| format!("read {}", counter.label()))?;
        Ok(values.iter().map(|value| value.0).sum())
    }

    /// All counters that moved, in words.
    pub(super) fn counted(&self) -> Result<String> {
        let mut moved = Vec::new();
        for counter in Counter::ALL {
            let count = self.count(*counter)?;
            if count > 0 {
                moved.push(format!("{} {count}", counter.label()));
            }
        }
        Ok(moved.join(", "))
    }

    /// Empties the flow table of a family.
    pub(super) fn forget_flows<A: Wire>(&self) -> Result<()>
    where
        Bucket<A>: Plain,
    {
        let values: Vec<_> = std::iter::repeat_n(empty_bucket::<A>(), CHUNK).collect();
        for name in ["FLOWS", "SPILL"] {
            let name = format!("{name}{}", A::FAMILY.suffix());
            let map = MapData::from_pin(self.pins.join(&name))?;
            let entries = map.info()?.max_entries();
            let keys: Vec<u32> = (0..entries).collect();
            for keys in keys.chunks(CHUNK) {
                let values = values.get(..keys.len()).unwrap_or_default();
                let written = sys::update_batch(map.fd(), keys, values);
                written.map_err(|(_, error)| error).with_context(|| format!("empty {name}"))?;
            }
        }
        Ok(())
    }
}

/// The kernel's jiffies in a second: the coarse clock moves once a jiffy.
fn jiffies_per_second() -> Result<u64> {
    let resolution = nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE)
        .context("read the resolution of the kernel's coarse clock")?;
    let nanoseconds = u64::try_from(resolution.tv_nsec()).unwrap_or(0).max(1);
    Ok(1_000_000_000 / nanoseconds)
}
