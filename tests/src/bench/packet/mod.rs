//! What a packet costs: svclb's programs beside reference programs, on one CPU, by the kernel's test-run.
//!
//! All subjects of a case see the same packets. Where a case needs another packet each time, the reference
//! object makes it and goes on to the subject by a tail call; `empty` shows what that costs, and it is part of
//! all figures. A round measures all subjects once, in random order; see [`spread`](super::spread) for what is
//! made of the rounds.

mod cases;
mod family;
mod filled;
mod reference;
mod report;

use anyhow::{Result, ensure};
use svclb_common::addr::{Addr4, Addr6};
use svclb_userspace::bpf::load::PROGRAMS;
use svclb_userspace::model::Family;

use self::cases::Bench;
use self::report::programs;
pub use self::report::{Case, Line, Program, Report};
use super::{cpu, population::Population};
use crate::net::Bpffs;

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// Services in the tables, with three endpoints each.
    pub services: u32,
    /// Rounds of the long cases; short ones have more.
    pub rounds: u32,
    /// Families that are measured.
    pub families: Vec<Family>,
    /// Names of the cases that are measured; all without any.
    pub cases: Vec<String>,
    /// The CPU that everything runs on.
    pub cpu: usize,
}

/// Names of the cases.
pub const CASES: [&str; 6] = ["no-service", "no-service-many", "request", "reply", "new-flow", "new-flow-asked"];

/// Endpoints of each Service.
const ENDPOINTS: u32 = 3;

/// Measures everything. `reference` is the reference object as an ELF file; `say` is told what is under way. Needs
/// root, and attaches nothing.
pub fn run(reference: &[u8], options: &Options, say: impl Fn(&str) + Sync) -> Result<Report> {
    // On a thread of its own, as CPU and mounts are changed for it alone.
    Bpffs::new()?.run(|| measure(reference, options, &say))
}

fn measure(reference: &[u8], options: &Options, say: &(dyn Fn(&str) + Sync)) -> Result<Report> {
    cpu::stay_on(options.cpu)?;
    cpu::go_first()?;
    ensure!(options.rounds > 0, "without rounds there is nothing to measure");
    let population = Population { services: options.services, endpoints: ENDPOINTS, families: Family::ALL.to_vec() };
    say("filling the tables");
    let mut bench = Bench::new(reference, population, options)?;
    let mut cases = Vec::new();
    for family in &options.families {
        cases.extend(match family {
            Family::V4 => bench.all_cases::<Addr4>(say)?,
            Family::V6 => bench.all_cases::<Addr6>(say)?,
        });
    }
    let mut costs = programs(PROGRAMS, "svclb", |name| Ok(bench.filled.program(name)?.info()?))?;
    costs.extend(programs(&reference::PROGRAMS, "reference", |name| Ok(bench.reference.program(name)?.info()?))?);
    Ok(Report::new(options, ENDPOINTS, costs, cases))
}
