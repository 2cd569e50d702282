//! What the kernel's verifier says about each program of the kernel object.
//!
//! The same report is a test (`tests/tests/verifier.rs`), a command (`cargo xtask verifier`), and what
//! `cargo xtask vm` runs by default inside another kernel.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use svclb_common::config::Sizes;
use svclb_userspace::bpf::load::{Object, Options, PROGRAMS, SOCKET_PROGRAMS, XDP_PROGRAM};

/// What one program costs on one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Name of the program.
    pub program: String,
    /// Instructions as the kernel runs them.
    pub instructions: u32,
    /// Instructions that the verifier looked at, every path counted; its limit is 1,000,000.
    pub verified: u32,
}

/// What all programs cost on one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The kernel as major and minor number, such as `6.12`.
    pub kernel: String,
    /// One for each program, in the order of [`PROGRAMS`], [`XDP_PROGRAM`] and then [`SOCKET_PROGRAMS`].
    pub costs: Vec<Cost>,
}

impl Report {
    /// Loads the kernel object on this kernel, attached nowhere and pinned nowhere, with the smallest maps.
    pub fn of_this_kernel() -> Result<Self> {
        let mut object =
            Object::load(&Options { bpffs: None, sizes: Sizes::for_memory(0), test_mode: false, programs: PROGRAMS })?;
        object.load_xdp_program()?;
        object.load_socket_programs()?;
        let costs = PROGRAMS
            .iter()
            .chain(&[XDP_PROGRAM])
            .chain(&SOCKET_PROGRAMS)
            .map(|name| {
                let info =
                    object.program_info(name).with_context(|| format!("asking the kernel about the program {name}"))?;
                Ok(Cost {
                    program: (*name).to_owned(),
                    instructions: info.size_translated().unwrap_or(0) / BYTES_OF_INSTRUCTION,
                    verified: info.verified_instruction_count().unwrap_or(0),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { kernel: kernel()?, costs })
    }

    /// Finds what grew by more than a tenth, appeared or vanished since `reviewed`, each worded for a reader.
    pub fn compare(&self, reviewed: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for cost in &self.costs {
            match reviewed.costs.iter().find(|old| old.program == cost.program) {
                None => found.push(format!("{} is new", cost.program)),
                Some(old) => {
                    for (what, new, old) in [
                        ("instructions", cost.instructions, old.instructions),
                        ("verified instructions", cost.verified, old.verified),
                    ] {
                        if u64::from(new) * 10 > u64::from(old) * 11 {
                            found.push(format!("{}: {old} {what} became {new}", cost.program));
                        }
                    }
                }
            }
        }
        for old in &reviewed.costs {
            if !self.costs.iter().any(|cost| cost.program == old.program) {
                found.push(format!("{} is gone", old.program));
            }
        }
        found
    }
}

const BYTES_OF_INSTRUCTION: u32 = 8;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for cost in &self.costs {
            writeln!(f, "{:<7} {:<20} {:>12} {:>9}", self.kernel, cost.program, cost.instructions, cost.verified)?;
        }
        Ok(())
    }
}

/// The first line of a file of reports.
pub const HEADING: &str = "kernel  program              instructions  verified";

/// Reads a file of reports, one line for each program and kernel.
pub fn parse(text: &str) -> Result<Vec<Report>> {
    let mut reports: Vec<Report> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && *line != HEADING) {
        let words: Vec<_> = line.split_whitespace().collect();
        let &[kernel, program, instructions, verified] = words.as_slice() else {
            bail!("not a line of the verifier's report: {line}");
        };
        let number = |word: &str| word.parse().with_context(|| format!("{word} is no number, in: {line}"));
        let cost =
            Cost { program: program.to_owned(), instructions: number(instructions)?, verified: number(verified)? };
        match reports.iter_mut().find(|report| report.kernel == kernel) {
            Some(report) => report.costs.push(cost),
            None => reports.push(Report { kernel: kernel.to_owned(), costs: vec![cost] }),
        }
    }
    Ok(reports)
}

/// Major and minor number of the kernel that runs.
fn kernel() -> Result<String> {
    let name = nix::sys::utsname::uname().context("asking for the kernel's version")?;
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']);
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    ensure!(!minor.is_empty(), "the kernel calls itself {release}, which is no version");
    Ok(format!("{major}.{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(instructions: u32) -> Report {
        let cost = Cost { program: "ingress".to_owned(), instructions, verified: 1000 };
        Report { kernel: "6.1".to_owned(), costs: vec![cost] }
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let text = format!("{HEADING}\n{}", report(500));
        assert_eq!(parse(&text).expect("it can be read"), [report(500)]);
    }

    #[test]
    fn growth_by_more_than_a_tenth_is_found() {
        assert!(report(550).compare(&report(500)).is_empty());
        assert_eq!(report(551).compare(&report(500)), ["ingress: 500 instructions became 551"]);
    }
}
