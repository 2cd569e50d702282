//! `cargo xtask ci`: what must hold before a change is merged.

use std::process::Command;

use anyhow::Result;

use crate::{Outcome, process, progress::Progress, repository, test};

/// Check formatting and lints, then run all tests.
///
/// Warnings are errors here. The tests are those of `cargo xtask test`; the rules of `cargo xtask tidy`
/// are among them. Ends with 1 if anything is not in order, after having tried everything.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only formatting and lints.
    #[arg(long)]
    no_tests: bool,
}

const FEATURES: &str = "svclb-tests/kernel,svclb-tests/cluster";

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let log = repository::log_file("ci")?;
    let steps: [(&str, &[&str]); 2] = [
        ("formatting", &["fmt", "--all", "--check"]),
        ("lints", &["clippy", "--workspace", "--all-targets", "--features", FEATURES, "--", "--deny", "warnings"]),
    ];
    let mut outcome = Outcome::Done;
    for (name, words) in steps {
        let progress = Progress::start(name);
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(repository::root()).args(words);
        match process::run(&mut cargo, &log, |line| progress.now(line)) {
            Ok(()) => {
                progress.end("done");
            }
            Err(error) => {
                progress.line(&format!("{error:#}"));
                progress.end("FAILED");
                outcome = Outcome::Failed;
            }
        }
    }
    if !args.no_tests && test::run(&test::Args::default())? == Outcome::Failed {
        outcome = Outcome::Failed;
    }
    Ok(outcome)
}
