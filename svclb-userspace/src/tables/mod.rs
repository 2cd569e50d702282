//! The tables: where plans are written to.
//!
//! [`Tables`] is one typed operation per map of a family. `bpf` writes the kernel's maps, [`fake`]
//! keeps everything in memory for tests, [`faulty`] wraps another and fails on purpose. [`run`] carries
//! out plans on any of them.

pub mod bpf;
pub mod fake;
pub mod faulty;

use std::io;
use std::time::Duration;

use svclb_common::config::{Config, flag};
use svclb_common::schema::{Backend, BackendRef, Service, ServiceKey, ServiceRef};

use crate::ids::Full;
use crate::model::{FamilyAddress, PortKey};
use crate::plan::{Action, Bitmap, Content, Limits, Planner, Step};

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

/// The maps of one family that the agent alone writes.
pub trait Tables<A: FamilyAddress> {
    /// Writes a word of a bitmap.
    fn write_interest(&mut self, bitmap: Bitmap, word: u32, value: u64) -> Result<(), TableError>;
    /// Writes a backend.
    fn write_backend(&mut self, number: u32, value: &Backend<A>) -> Result<(), TableError>;
    /// Writes a range of slots.
    fn write_slots(&mut self, first: u32, list: &[BackendRef]) -> Result<(), TableError>;
    /// Writes a Service port.
    fn write_service(&mut self, number: u32, value: &Service) -> Result<(), TableError>;
    /// Adds or replaces a frontend.
    fn put_frontend(&mut self, key: &ServiceKey<A>, value: &ServiceRef) -> Result<(), TableError>;
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

/// What [`run`] did.
#[derive(Default, Debug)]
pub struct Report {
    /// Writes that succeeded.
    pub writes: usize,
    /// What failed, with the Service port if one is concerned. It stays pending.
    pub failures: Vec<(Option<PortKey>, Failure)>,
}

/// Service ports in one plan. Bounds the memory of a first sync; less would break no promise.
const CHUNK: usize = 1024;

/// Plans for everything that is pending and carries the plans out.
pub fn run<A: FamilyAddress>(planner: &mut Planner<A>, tables: &mut impl Tables<A>, now: Duration) -> Report {
    let mut report = Report::default();
    let pending = planner.pending();
    if pending.is_empty() && !planner.is_settled() {
        run_plan(planner, &[], tables, now, &mut report);
    }
    for keys in pending.chunks(CHUNK) {
        run_plan(planner, keys, tables, now, &mut report);
    }
    report
}

fn run_plan<A: FamilyAddress>(
    planner: &mut Planner<A>,
    keys: &[PortKey],
    tables: &mut impl Tables<A>,
    now: Duration,
    report: &mut Report,
) {
    let mut plan = planner.plan(keys, now);
    let refused = std::mem::take(&mut plan.refused);
    report.failures.extend(refused.into_iter().map(|(key, full)| (Some(key), full.into())));
    for step in std::mem::take(&mut plan.steps) {
        if plan.is_cancelled(&step) || planner.must_wait(&plan, &step) {
            continue;
        }
        match execute(planner.content(), tables, &step) {
            Ok(()) => {
                planner.done(&mut plan, &step, now);
                report.writes += 1;
            }
            Err(error) => report.failures.push((plan.fail(step.port), error.into())),
        }
    }
    planner.finish(plan, now);
}

/// Carries out one step.
pub fn execute<A: FamilyAddress>(
    content: &Content<A>,
    tables: &mut impl Tables<A>,
    step: &Step<A>,
) -> Result<(), TableError> {
    match &step.action {
        Action::SetInterest { bitmap, word, bits } => {
            tables.write_interest(*bitmap, *word, content.interest(*bitmap, *word) | bits)
        }
        Action::WriteBackend { number, value } => tables.write_backend(*number, value),
        Action::WriteSlots { first, list } => tables.write_slots(*first, list),
        Action::AddSourceRange { service, range } => tables.add_source_range(*service, *range),
        Action::RemoveSourceRange { service, range } => tables.remove_source_range(*service, *range),
        Action::WriteService { number, value } => tables.write_service(*number, value),
        Action::PutFrontend { key, value } => tables.put_frontend(key, value),
        Action::RemoveFrontend { key } => tables.remove_frontend(key),
    }
}

/// Writes the idle halves of a family's bitmaps. When both families succeeded, the halves can be
/// switched with [`switch_halves`].
pub fn write_idle_half<A: FamilyAddress>(
    planner: &mut Planner<A>,
    tables: &mut impl Tables<A>,
    now: Duration,
) -> Result<(), TableError> {
    for (bitmap, word, value) in planner.idle_half(now) {
        tables.write_interest(bitmap, word, value)?;
        planner.interest_written((bitmap, word, value));
    }
    Ok(())
}

/// Makes the idle halves of all bitmaps the active ones.
pub fn switch_halves(table: &mut impl ConfigTable, config: &Config) -> Result<Config, TableError> {
    let switched = Config { flags: config.flags ^ flag::SECOND_HALF, ..*config };
    table.write_config(&switched)?;
    Ok(switched)
}
