//! Maps of the object that are not tables of Services: DEVICES and COUNTERS.

use std::io;

use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use svclb_common::schema::Device;
use svclb_common::verdict::Counter;

use crate::bpf::attach::DeviceTable;
use crate::bpf::load::{LoadError, Object};
use crate::bpf::pod::Pod;
use crate::metrics::CounterSource;

/// The map DEVICES.
pub struct DeviceMap(HashMap<MapData, Pod<u32>, Pod<Device>>);

impl DeviceMap {
    /// Takes it out of a loaded object.
    pub fn take(object: &mut Object) -> Result<Self, LoadError> {
        object.take_hash("DEVICES").map(Self)
    }
}

fn cause(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

impl DeviceTable for DeviceMap {
    fn put(&mut self, index: u32, device: &Device) -> io::Result<()> {
        self.0.insert(Pod(index), Pod(*device), 0).map_err(cause)
    }

    fn remove(&mut self, index: u32) -> io::Result<()> {
        match self.0.remove(&Pod(index)).map_err(cause) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    fn indices(&self) -> io::Result<Vec<u32>> {
        self.0.keys().map(|index| index.map(|index| index.0).map_err(cause)).collect()
    }
}

/// The map COUNTERS.
pub struct PacketCounters(PerCpuArray<MapData, Pod<u64>>);

impl PacketCounters {
    /// Takes it out of a loaded object.
    pub fn take(object: &mut Object) -> Result<Self, LoadError> {
        object.take_map("COUNTERS").map(Self)
    }
}

impl CounterSource for PacketCounters {
    fn read(&self, counter: Counter) -> Option<u64> {
        let per_cpu = self.0.get(&(counter as u32), 0).ok()?;
        Some(per_cpu.iter().map(|count| count.0).sum())
    }
}
