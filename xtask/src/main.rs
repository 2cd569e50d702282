//! The commands of this repository, called as `cargo xtask COMMAND`.
//!
//! One file a command. Each has an `Args` for clap and a `run` that answers with an [`Outcome`].
//! The exit code is 0 when the command did what it was asked, 1 when it failed, and 2 when it was
//! called in a wrong way (clap's own code).
#![expect(clippy::print_stdout, reason = "commands for people and scripts, which answer on stdout")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod ci;
mod e2e;
mod fuzz;
mod kubectl;
mod parity;
mod process;
mod progress;
mod repository;
mod run;
mod sequences;
mod setup;
mod test;
mod tidy;
mod verifier;
mod vm;

/// Build, run and test svclb on this machine.
///
/// `cargo xtask run` shows svclb at work, `cargo xtask test` tests it; both first install what this
/// machine lacks, and say so. Exit codes: 0 done, 1 failed, 2 wrong usage.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Xtask {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Parity(parity::Args),
    E2e(e2e::Args),
    Bench(bench::Args),
    Sequences(sequences::Args),
    Fuzz(fuzz::Args),
    Setup(setup::Args),
    Test(test::Args),
    Tidy(tidy::Args),
    Ci(ci::Args),
    Verifier(verifier::Args),
    Vm(vm::Args),
    Kubectl(kubectl::Args),
}

/// How a command ended that came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It did what it was asked to do: exit code 0.
    Done,
    /// It ran, and what it looked at is not in order: exit code 1. It has said why.
    Failed,
}

impl Command {
    fn run(&self) -> anyhow::Result<Outcome> {
        match self {
            Self::Run(args) => run::run(args),
            Self::Parity(args) => parity::run(args),
            Self::E2e(args) => e2e::run(args),
            Self::Bench(args) => bench::run(args),
            Self::Sequences(args) => sequences::run(args),
            Self::Fuzz(args) => fuzz::run(args),
            Self::Setup(args) => setup::run(args),
            Self::Test(args) => test::run(args),
            Self::Tidy(args) => tidy::run(args),
            Self::Ci(args) => ci::run(args),
            Self::Verifier(args) => verifier::run(args),
            Self::Vm(args) => vm::run(args),
            Self::Kubectl(args) => kubectl::run(args),
        }
    }
}

fn main() -> ExitCode {
    match Xtask::parse().command.run() {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_has_two_options_of_one_name() {
        <Xtask as clap::CommandFactory>::command().debug_assert();
    }
}
