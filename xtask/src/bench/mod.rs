//! `cargo xtask bench`: what packets and changes of the cluster cost.

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};

use crate::Outcome;

mod control;
mod packet;
mod reference;

/// Measure what svclb costs on this machine.
///
/// Needs root. Attaches nothing to the devices of this machine, and leaves nothing behind.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Packet(packet::Args),
    Control(control::Args),
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    match &args.what {
        What::Packet(args) => packet::run(args),
        What::Control(args) => control::run(args),
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
