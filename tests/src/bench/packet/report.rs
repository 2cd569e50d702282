//! The figures as they are handed on.

use anyhow::Result;
use aya::programs::ProgramInfo;
use serde::Serialize;

use super::Options;
use crate::bench::finding::{Bound, Finding};
use crate::bench::spread::{Estimate, Spread};

/// Bytes of an instruction.
const INSTRUCTION: u32 = 8;

/// What one program costs to load and to hold.
#[derive(Clone, Debug, Serialize)]
pub struct Program {
    /// Whose it is: `svclb` or `reference`.
    pub of: &'static str,
    /// Name.
    pub name: String,
    /// Instructions as the kernel holds them, functions included.
    pub instructions: u32,
    /// Bytes of machine code.
    pub machine_code: u32,
    /// Instructions that the verifier looked at.
    pub verified: u32,
}

/// One program in one case.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Whose it is: `svclb` or `reference`.
    pub of: &'static str,
    /// Name.
    pub program: &'static str,
    /// Nanoseconds for a packet.
    pub ns: Spread,
    /// The same as a share of the case's base.
    pub ratio: Estimate,
}

/// One kind of packets.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// Short name, for machines.
    pub name: &'static str,
    /// What the packets are.
    pub about: &'static str,
    /// IPv4 or IPv6.
    pub family: String,
    /// The program that the others are compared with.
    pub base: &'static str,
    /// Packets of one sample.
    pub packets: u32,
    /// Samples of each program.
    pub rounds: u32,
    /// The programs.
    pub lines: Vec<Line>,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Services in the tables.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
    /// The CPU.
    pub cpu: usize,
    /// The programs.
    pub programs: Vec<Program>,
    /// The cases.
    pub cases: Vec<Case>,
    /// The figures that are held against goals.
    pub findings: Vec<Finding>,
}

/// A figure that is held against a goal: its row in the table of goals, case, program, and what its ratio must be and
/// should be.
const FIGURES: [(u8, &str, &str, f64, f64); 2] =
    [(2, "no-service", "ingress", 1.0, 0.8), (3, "new-flow", "ingress", 0.6, 0.4)];

impl Report {
    pub(super) fn new(options: &Options, endpoints: u32, programs: Vec<Program>, cases: Vec<Case>) -> Self {
        let findings =
            FIGURES.iter().flat_map(|figure| cases.iter().filter_map(|case| case.finding(*figure))).collect();
        Self { services: options.services, endpoints, cpu: options.cpu, programs, cases, findings }
    }
}

impl Case {
    fn finding(&self, (row, case, program, must, goal): (u8, &str, &str, f64, f64)) -> Option<Finding> {
        let line = self.lines.iter().find(|line| line.program == program).filter(|_| self.name == case)?;
        let what = format!("{}: {program} / reference ({})", self.about, self.base);
        let bound = Bound::AtMost { must, goal };
        Some(Finding::new(Some(row), what, &self.family, Some(line.ratio), Some(bound)))
    }
}

/// Asks the kernel about programs.
pub(super) fn programs(
    names: &[&str],
    of: &'static str,
    mut info: impl FnMut(&str) -> Result<ProgramInfo>,
) -> Result<Vec<Program>> {
    names
        .iter()
        .map(|name| {
            let info = info(name)?;
            Ok(Program {
                of,
                name: (*name).to_owned(),
                instructions: info.size_translated().unwrap_or(0) / INSTRUCTION,
                machine_code: info.size_jitted(),
                verified: info.verified_instruction_count().unwrap_or(0),
            })
        })
        .collect::<Result<_>>()
}
