//! `cargo xtask bench`: what packets, real traffic, changes of the cluster and new devices cost.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use svclb_tests::bench::control::Bar;

use crate::{Outcome, process, progress::Progress, repository};

mod control;
mod devices;
mod findings;
mod packet;
mod reference;
mod report;
mod traffic;
mod whole;

/// Measure what svclb costs on this machine.
///
/// Without a command all that packets and traffic cost, beside reference programs, the real kube-proxy and no proxy. Needs
/// root. Attaches nothing to the devices of this machine, and leaves nothing behind.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    whole: whole::Whole,
}

#[derive(clap::Subcommand)]
enum What {
    Packet(packet::Args),
    Traffic(traffic::Args),
    Control(control::Args),
    Devices(devices::Args),
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    match &args.what {
        None => whole::run(&args.whole),
        Some(What::Packet(args)) => packet::run(args),
        Some(What::Traffic(args)) => traffic::run(args),
        Some(What::Control(args)) => control::run(args),
        Some(What::Devices(args)) => devices::run(args),
    }
}

/// How figures are shown.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

/// The binary `svclb`: that which is named, else built from this source for release.
fn binary(named: Option<&PathBuf>) -> Result<PathBuf> {
    if let Some(binary) = named {
        return binary.canonicalize().with_context(|| format!("find {}", binary.display()));
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--package", "svclb-userspace", "--bin", "svclb"]);
    command.current_dir(repository::root());
    let progress = Progress::start("building svclb for release");
    process::run(&mut command, &repository::log_file("bench")?, |line| progress.now(line))?;
    progress.end("done");
    Ok(repository::target().join("release/svclb"))
}

/// A table of goals.
fn goals(bars: &[Bar]) -> Table {
    let mut goals = table(["goal", "found", "at most", "met"], 1);
    for bar in bars {
        let met = if bar.met { "yes" } else { "NO" };
        let value = |value: f64| format!("{value:.2} {}", bar.unit);
        goals.add_row([bar.what.to_owned(), value(bar.found), value(bar.limit), met.to_owned()]);
    }
    goals
}

/// Whether all goals are met.
fn outcome(bars: &[Bar]) -> Outcome {
    if bars.iter().all(|bar| bar.met) { Outcome::Done } else { Outcome::Failed }
}

/// An empty table whose columns hold numbers from `first_number` on.
fn table<const N: usize>(header: [&str; N], first_number: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    for column in table.column_iter_mut().skip(first_number) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
