//! `cargo xtask bench devices`: how long devices are without hooks.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use svclb_tests::bench::{
    control::Times,
    devices::{Options, Report, run as measure},
};

use super::{Format, binary, goals, outcome, table};
use crate::{Outcome, process, progress::Progress};

/// How soon new pods' devices are hooked when 200 of them come at once, and how soon an agent is ready.
///
/// Builds svclb for release and runs it in network namespaces of its own. What is measured is the time between the
/// kernel's messages that a device is there and that svclb's second filter hangs in it, as another process hears
/// them. Ends with 1 when a goal is missed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Devices that are made at once.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    devices: u32,
    /// How often that is done.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Milliseconds between two devices, to see what one at a time meets.
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// Another binary than that of this source.
    #[arg(long, env = "SVCLB_BINARY")]
    binary: Option<PathBuf>,
    /// How the figures are shown.
    #[arg(long, short, default_value = "table")]
    output: Format,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    ensure!(process::is_root(), "an agent needs root; run it as root");
    let options = Options {
        binary: binary(args.binary.as_ref())?,
        devices: args.devices,
        runs: args.runs,
        pause: Duration::from_millis(args.pause),
    };
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
    let [first, next] = report.ready;
    let mut ready = table(["start to ready", "seconds"], 1);
    ready.add_row(["on a new node".to_owned(), format!("{first:.2}")]);
    ready.add_row(["of the next agent".to_owned(), format!("{next:.2}")]);
    let mut runs = table(["run", "devices", "made within ms", "hooked after ms: p50", "p99", "longest"], 1);
    for (number, run) in report.runs.iter().enumerate() {
        let Times { p50, p99 } = run.hooked;
        let figures = [run.made, p50, p99, run.longest].map(|value| format!("{value:.2}"));
        runs.add_row([(number + 1).to_string(), report.devices.to_string()].into_iter().chain(figures));
    }
    println!("{ready}\n{runs}\n{}", goals(&report.bars));
}
