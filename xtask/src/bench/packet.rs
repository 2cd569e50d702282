//! `cargo xtask bench packet`: what a packet costs.

use anyhow::{Result, ensure};
use comfy_table::Table;
use svclb_tests::bench::packet::{CASES, Case, Options, Program, Report, run as measure};
use svclb_tests::bench::spread::Spread;
use svclb_userspace::model::Family;

use super::{Format, findings, reference, table};
use crate::{Outcome, process, progress::Progress};

/// What a packet costs, beside programs that do the same in a plainer way.
///
/// Runs the programs of this build on one CPU over made packets, by the kernel's own test-run, with 10,000
/// Services in the tables. Ends with 1 when a figure is not what it must be.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Services, with three endpoints each.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    services: u32,
    /// Rounds of the long cases; the others have four times as many.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// The CPU to measure on; the last one if not given.
    #[arg(long)]
    cpu: Option<usize>,
    /// Measure only this family.
    #[arg(long, value_name = "4|6", value_parser = family)]
    family: Option<Family>,
    /// Measure only these cases.
    #[arg(long = "case", value_name = "NAME,...", value_delimiter = ',', value_parser = CASES)]
    cases: Vec<String>,
    /// How the figures are shown.
    #[arg(long, short, default_value = "table")]
    output: Format,
}

fn family(text: &str) -> Result<Family, String> {
    match text {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        _ => Err("a family is 4 or 6".to_owned()),
    }
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let report = measured(&Options {
        services: args.services,
        rounds: args.rounds,
        families: args.family.map_or_else(|| Family::ALL.to_vec(), |family| vec![family]),
        cases: args.cases.clone(),
        cpu: args.cpu.unwrap_or_else(last_cpu),
    })?;
    match args.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Table => show(&report),
    }
    Ok(findings::outcome(&report.findings))
}

/// What is measured when nothing else is asked for.
pub(super) fn usual() -> Options {
    Options { services: 10_000, rounds: 9, families: Family::ALL.to_vec(), cases: Vec::new(), cpu: last_cpu() }
}

/// The CPU to measure on: the first ones have more else to do.
pub(super) fn last_cpu() -> usize {
    std::thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1)
}

/// Builds the reference programs and measures.
pub(super) fn measured(options: &Options) -> Result<Report> {
    ensure!(process::is_root(), "loading programs into the kernel needs root; run it as root");
    let object = reference::object()?;
    let progress = Progress::start("measuring packets");
    let report = measure(&object, options, |what| progress.line(what))?;
    progress.end("done");
    Ok(report)
}

fn show(report: &Report) {
    println!("{} Services with {} endpoints each, CPU {}", report.services, report.endpoints, report.cpu);
    println!("{}\n{}\n{}", programs(&report.programs), cases(&report.cases), findings::table(&report.findings));
}

fn programs(programs: &[Program]) -> Table {
    let mut table = table(["program", "of", "instructions", "bytes of machine code", "verified instructions"], 2);
    for program in programs {
        table.add_row([
            program.name.clone(),
            program.of.to_owned(),
            program.instructions.to_string(),
            program.machine_code.to_string(),
            program.verified.to_string(),
        ]);
    }
    table
}

fn cases(cases: &[Case]) -> Table {
    let mut table = table(["packets", "family", "program", "of", "ns, median", "quartiles", "ratio", "quartiles"], 4);
    for case in cases {
        for (at, line) in case.lines.iter().enumerate() {
            let (about, family) = if at == 0 { (case.about, &*case.family) } else { ("", "") };
            let Spread { low, median, high } = line.ns;
            let ratio = line.ratio;
            table.add_row([
                about.to_owned(),
                family.to_owned(),
                line.program.to_owned(),
                line.of.to_owned(),
                format!("{median:.1}"),
                format!("{low:.1} .. {high:.1}"),
                format!("{:.2}", ratio.spread.median),
                format!("{:.2} .. {:.2}", ratio.spread.low, ratio.spread.high),
            ]);
        }
    }
    table
}
