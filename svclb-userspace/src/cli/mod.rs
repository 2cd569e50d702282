//! The command line: one file a subcommand.

pub mod agent;
pub mod cleanup;
pub mod list;

use clap::{Parser, Subcommand};

/// A Kubernetes Service proxy in eBPF.
#[derive(Parser, Debug)]
#[command(name = "svclb", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Watch the source of Services, keep the kernel's tables in step, serve health and metrics.
    Agent(Box<crate::config::AgentOptions>),
    /// Show what the kernel's tables hold.
    List(list::ListOptions),
    /// Leave the node as it was found: remove hooks, programs and tables.
    Cleanup(cleanup::CleanupOptions),
}

/// Runs a command. Errors name the object and the next step.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Agent(options) => agent::run(*options),
        Command::List(options) => list::run(&options),
        Command::Cleanup(options) => cleanup::run(&options),
    }
}
