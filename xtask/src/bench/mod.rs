//! `cargo xtask bench`: what packets and changes of the cluster cost.

use anyhow::Result;

use crate::Outcome;

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
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    match &args.what {
        What::Packet(args) => packet::run(args),
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
