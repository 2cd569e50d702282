//! `cargo xtask bench traffic`: what real traffic costs.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use svclb_tests::{
    bench::traffic::{Options, Report, Told, run as measure},
    cluster::binary as cluster_binary,
};

use super::{Format, binary, findings, packet::last_cpu, reference};
use crate::{
    Outcome, process,
    progress::Progress,
    repository,
    setup::{self, items::Need},
};

/// What real traffic costs with svclb, with kube-proxy, and with nobody between client and server.
///
/// Nodes that differ in who serves on them stand side by side in network namespaces; each round measures all of them for
/// a moment, in another order. Rounds go on until the 95 % interval of every figure's median is within 0.02, or the time
/// is over. Ends with 1 when a figure is not what it must be. What was seen in each round is written to
/// target/bench/traffic.json.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rows of the table of goals, from 4 to 12; all of them if not given.
    #[arg(long = "row", value_name = "ROW,...", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(4..=12))]
    rows: Vec<u8>,
    #[command(flatten)]
    effort: Effort,
    /// How the figures are shown.
    #[arg(long, short, default_value = "table")]
    output: Format,
}

/// How much is done for the figures.
#[derive(clap::Args)]
pub(super) struct Effort {
    /// No round begins after so many minutes.
    #[arg(long, default_value_t = 30)]
    pub(super) minutes: u64,
    /// The most rounds.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Services that every node knows besides those that are asked.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub(super) services: u32,
    /// Services of the largest node of row 10.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(100..=60_000))]
    most_services: u32,
    /// Milliseconds for which a node is measured in each round.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(20..))]
    sample: u64,
    /// Another binary than that of this source.
    #[arg(long, env = "SVCLB_BINARY")]
    binary: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let report = report(&args.rows, &args.effort)?;
    match args.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Table => println!("{}", findings::table(&report.findings)),
    }
    for (stand, why) in &report.missing {
        println!("{stand} could not be measured: {why}");
    }
    Ok(findings::outcome(&report.findings))
}

/// Measures the rows, all of them without any, and keeps the raw rounds.
pub(super) fn report(rows: &[u8], effort: &Effort) -> Result<Report> {
    ensure!(process::is_root(), "network namespaces and BPF programs need root; run it as root");
    setup::ensure(&[Need::KernelObject, Need::Network, Need::Cluster])?;
    cluster_binary::kube_binary()?;
    let last = last_cpu();
    let options = Options {
        binary: binary(effort.binary.as_ref())?,
        reference: reference::object()?,
        services: effort.services,
        most_services: effort.most_services,
        rows: rows.to_vec(),
        rounds: effort.rounds as usize,
        time: Duration::from_mins(effort.minutes),
        sample: Duration::from_millis(effort.sample),
        cpus: [last, last.saturating_sub(1)],
    };
    let progress = Progress::start("measuring traffic");
    let told = Told { line: &|line| progress.line(line), now: &|now| progress.now(now) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(measure(&options, &told))?;
    progress.end(&format!("{} rounds", report.rounds.len()));
    let folder = repository::target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let file = folder.join("traffic.json");
    fs::write(&file, serde_json::to_vec(&report)?).with_context(|| format!("write {}", file.display()))?;
    println!("each round is in {}", file.display());
    Ok(report)
}
