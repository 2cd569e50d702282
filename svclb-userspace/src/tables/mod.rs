//! The tables: where plans are written to.
//!
//! [`Tables`] is one typed operation per map of a family. `bpf` writes the kernel's maps, [`fake`]
//! keeps everything in memory for tests, [`faulty`] wraps another and fails on purpose; [`frontends`] says
//! how SERVICES is written. [`run()`] carries
//! out plans on any of them.

pub mod bpf;
pub mod fake;
pub mod faulty;
pub mod frontends;
mod run;

pub use run::{Report, run};

use std::io;
use std::time::Duration;

use svclb_common::config::{Config, flag};
use svclb_common::schema::{Backend, BackendRef, Service, ServiceKey, ServiceRef};

use crate::ids::Full;
use crate::model::FamilyAddress;
use crate::plan::{Bitmap, Content, Limits, Planner};

/// A map operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {map}{}: {source}", if key.is_empty() { String::new() } else { format!(" at {key}") })]
pub struct TableError {
    /// What was tried.
    pub operation: &'static str,
    /// Name of the map.
    pub map: String,
    /// The key, as far as there is one.
    pub key: String,
    /// The kernel's answer.
    pub source: io::Error,
}

/// Many writes to one map of which one failed: those before it were made, those behind it were not tried.
#[derive(Debug, thiserror::Error)]
#[error("{error} (after {done} that succeeded)")]
pub struct Cut {
    /// How many were made.
    pub done: usize,
    /// What became of the next one.
    #[source]
    pub error: TableError,
}

/// The maps of one family that the agent alone writes.
///
/// What comes in great numbers is written many entries at a time, in the order given; there are as many values
/// as keys.
pub trait Tables<A: FamilyAddress> {
    /// Writes words of a bitmap.
    fn write_interest(&mut self, bitmap: Bitmap, words: &[u32], values: &[u64]) -> Result<(), Cut>;
    /// Writes backends.
    fn write_backends(&mut self, numbers: &[u32], values: &[Backend<A>]) -> Result<(), Cut>;
    /// Writes slots.
    fn write_slots(&mut self, slots: &[u32], values: &[BackendRef]) -> Result<(), Cut>;
    /// Writes Service ports.
    fn write_services(&mut self, numbers: &[u32], values: &[Service]) -> Result<(), Cut>;
    /// Adds or replaces frontends.
    fn put_frontends(&mut self, keys: &[ServiceKey<A>], values: &[ServiceRef]) -> Result<(), Cut>;
    /// Removes a frontend; one that is not there is no error.
    fn remove_frontend(&mut self, key: &ServiceKey<A>) -> Result<(), TableError>;
    /// Adds a range of sources: prefix length and address.
    fn add_source_range(&mut self, service: u32, range: (u8, A)) -> Result<(), TableError>;
    /// Removes a range of sources; one that is not there is no error.
    fn remove_source_range(&mut self, service: u32, range: (u8, A)) -> Result<(), TableError>;
    /// Reads all of it back.
    fn read(&self) -> Result<Content<A>, TableError>;
    /// Sizes of the maps.
    fn limits(&self) -> Limits;
}

/// The map that both families share.
pub trait ConfigTable {
    /// Reads CONFIG; all zero if it was never written.
    fn read_config(&self) -> Result<Config, TableError>;
    /// Writes CONFIG.
    fn write_config(&mut self, config: &Config) -> Result<(), TableError>;
}

/// Why a Service port is not (wholly) served.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A write failed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// There is no room.
    #[error(transparent)]
    Full(#[from] Full),
}

/// Writes the idle halves of a family's bitmaps. When both families succeeded, the halves can be
/// switched with [`switch_halves`].
pub fn write_idle_half<A: FamilyAddress>(
    planner: &mut Planner<A>,
    tables: &mut impl Tables<A>,
    now: Duration,
) -> Result<(), TableError> {
    for change in planner.idle_half(now).chunk_by(|one, other| one.0 == other.0) {
        let Some((bitmap, _, _)) = change.first() else { continue };
        let (words, values): (Vec<u32>, Vec<u64>) = change.iter().map(|(_, word, value)| (*word, *value)).unzip();
        let written = tables.write_interest(*bitmap, &words, &values);
        let done = written.as_ref().map_or_else(|cut| cut.done, |()| words.len());
        change.iter().take(done).for_each(|word| planner.interest_written(*word));
        written.map_err(|cut| cut.error)?;
    }
    Ok(())
}

/// Makes the idle halves of all bitmaps the active ones.
pub fn switch_halves(table: &mut impl ConfigTable, config: &Config) -> Result<Config, TableError> {
    let switched = Config { flags: config.flags ^ flag::SECOND_HALF, ..*config };
    table.write_config(&switched)?;
    Ok(switched)
}
