//! The figures as they are handed on.

use anyhow::Result;
use aya::programs::ProgramInfo;
use serde::Serialize;

use super::Options;
use crate::bench::spread::Spread;

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
    pub ratio: Spread,
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

/// A goal.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    /// What is compared.
    pub what: String,
    /// Median of the ratios.
    pub ratio: f64,
    /// The most that it may be.
    pub limit: f64,
    /// Whether it is met.
    pub met: bool,
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
    /// The goals.
    pub bars: Vec<Bar>,
}

/// Case, program and limit of each goal.
const BARS: [(&str, &str, f64); 2] = [("no-service", "ingress", 1.1), ("new-flow", "ingress", 0.6)];

impl Report {
    pub(super) fn new(options: &Options, endpoints: u32, programs: Vec<Program>, cases: Vec<Case>) -> Self {
        let bars = cases.iter().flat_map(|case| BARS.iter().filter_map(|bar| case.held_against(*bar))).collect();
        Self { services: options.services, endpoints, cpu: options.cpu, programs, cases, bars }
    }
}

impl Case {
    fn held_against(&self, (case, program, limit): (&str, &str, f64)) -> Option<Bar> {
        let line = self.lines.iter().find(|line| line.program == program).filter(|_| self.name == case)?;
        let ratio = line.ratio.median;
        let what = format!("{}: {program} as a share of {} ({})", self.about, self.base, self.family);
        Some(Bar { what, ratio, limit, met: ratio <= limit })
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
