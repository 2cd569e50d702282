//! `cargo xtask bench control`: what a cluster costs the agent.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use svclb_tests::bench::control::{Kind, Options, Report, Times, mib, run as measure};

use super::{Format, binary, goals, outcome, table};
use crate::{Outcome, process, progress::Progress};

/// What 10,000 Services cost the agent: time of the first synchronization and of a change, and memory.
///
/// Builds svclb for release and runs it in network namespaces of its own, on a folder of manifests or on a real API
/// server, which is built first (a quarter of an hour) and filled (some minutes). Ends with 1 when a goal is missed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the agent has its Services from.
    #[arg(long, default_value = "files")]
    source: Source,
    /// Services, with three endpoints each.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=30_000))]
    services: u32,
    /// Changes of one endpoint.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
    /// Another binary than that of this source.
    #[arg(long, env = "SVCLB_BINARY")]
    binary: Option<PathBuf>,
    /// How the figures are shown.
    #[arg(long, short, default_value = "table")]
    output: Format,
}

/// Where the agent has its Services from.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Source {
    /// A folder of YAML files.
    Files,
    /// An API server and its etcd; takes Go.
    Api,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    ensure!(process::is_root(), "an agent needs root; run it as root");
    let source = match args.source {
        Source::Files => Kind::Files,
        Source::Api => Kind::Api,
    };
    let binary = binary(args.binary.as_ref())?;
    let options = Options { source, binary, services: args.services, changes: args.changes };
    let progress = Progress::start("measuring");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(measure(&options, |what| progress.line(what)))?;
    progress.end("done");
    match args.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Table => show(&report),
    }
    Ok(outcome(&report.bars))
}

fn show(report: &Report) {
    let mib = |bytes| format!("{:.1} MiB", mib(bytes));
    let times = |Times { p50, p99 }: Times| format!("{p50:.2} ms, p99 {p99:.2} ms");
    let mut figures = table(["figure", "value"], 1);
    figures.add_row(["Services, endpoints".to_owned(), format!("{}, {}", report.services, report.endpoints)]);
    figures.add_row(["start to ready".to_owned(), format!("{:.2} s", report.ready)]);
    let first = format!("{:.0} ms, {} writes", report.first_sync, report.first_writes);
    figures.add_row(["last list to maps complete".to_owned(), first]);
    figures.add_row(["agent, resident".to_owned(), mib(report.resident)]);
    figures.add_row(["agent, of it backed by no file".to_owned(), mib(report.anonymous)]);
    figures.add_row(["maps that follow the cluster".to_owned(), mib(report.maps_of_cluster)]);
    figures.add_row(["one endpoint's change, in the agent".to_owned(), times(report.change)]);
    let whole = match report.source {
        Kind::Files => "the same from the file on",
        Kind::Api => "the same from the request on",
    };
    figures.add_row([whole.to_owned(), times(report.whole_change)]);
    let mut maps = table(["map", "memory"], 1);
    for (name, bytes) in &report.maps {
        maps.add_row([(*name).to_owned(), mib(*bytes)]);
    }
    println!("{figures}\n{maps}\n{}", goals(&report.bars));
}
