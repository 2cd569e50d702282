//! `svclb list drops` and `svclb list counters`.

use std::path::Path;

use anyhow::Result;
use aya::maps::{MapData, PerCpuArray};
use serde::Serialize;
use svclb_common::verdict::Counter;

use super::Row;
use crate::bpf::pod::Pod;
use crate::tables::bpf::pinned;

/// A counter of the packet path.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct CounterRow {
    name: &'static str,
    count: u64,
    meaning: &'static str,
}

impl Row for CounterRow {
    const HEADERS: &'static [&'static str] = &["count", "name", "meaning"];

    fn cells(&self) -> Vec<String> {
        vec![self.count.to_string(), self.name.to_owned(), self.meaning.trim().to_owned()]
    }
}

/// All counters, summed over CPUs.
pub(super) fn all(pins: &Path) -> Result<Vec<CounterRow>> {
    let map: PerCpuArray<MapData, Pod<u64>> = pinned(pins, "COUNTERS")?;
    let mut rows = Vec::new();
    for counter in Counter::ALL {
        let per_cpu = map.get(&u32::from(*counter as u8), 0)?;
        let count = per_cpu.iter().map(|count| count.0).sum();
        rows.push(CounterRow { name: counter.label(), count, meaning: counter.meaning() });
    }
    Ok(rows)
}

/// Counters of packets that did not get through.
pub(super) fn drops(pins: &Path) -> Result<Vec<CounterRow>> {
    let mut rows = all(pins)?;
    rows.retain(|row| row.name.starts_with("drop_") || row.name.starts_with("refused_"));
    Ok(rows)
}
