//! `svclb list drops` and `svclb list counters`.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{IterableMap as _, MapData, PerCpuArray};
use serde::Serialize;
use svclb_common::verdict::Counter;

use super::Row;
use crate::bpf::pod::Pod;
use crate::bpf::sys;
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
    let sums = sys::read_sums(map.map().fd(), map.len()).context("reading COUNTERS")?;
    let row = |counter: &Counter| {
        let count = sums.get(*counter as usize).copied()?;
        Some(CounterRow { name: counter.label(), count, meaning: counter.meaning() })
    };
    Ok(Counter::ALL.iter().filter_map(row).collect())
}

/// Counters of packets that did not get through.
pub(super) fn drops(pins: &Path) -> Result<Vec<CounterRow>> {
    let mut rows = all(pins)?;
    rows.retain(|row| row.name.starts_with("drop_") || row.name.starts_with("refused_"));
    Ok(rows)
}
