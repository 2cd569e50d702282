//! `cargo xtask sequences`: random sequences of events, each to the same end.

use std::{fs, num::NonZeroUsize, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use svclb_tests::sequences::{Line, Record};

use crate::{
    Outcome, process,
    progress::{Progress, time_text},
    repository,
};

/// Run random sequences of events, from Kubernetes' objects to packets.
///
/// Objects change, watches break, agents die and writes fail, in any order. Each sequence must end in the tables that
/// a new agent makes of the last state, and no packet of a Service that an event does not concern may notice it, at
/// any write. A sequence that fails is shown as short as it can be made. Takes a million of them, on all processors,
/// unless told otherwise; `cargo xtask test script` has a sample. Writes a record to target/sequences.json.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many.
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// What they are made from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of the first.
    #[arg(long, default_value_t = 0)]
    first: u64,
}

/// Failures that are shown; the others are counted.
const SHOWN: u64 = 5;

/// What is written to target/sequences.json.
#[derive(serde::Serialize)]
struct Recorded {
    commit: Option<String>,
    /// There are changes that are not committed.
    changed: bool,
    date: Option<String>,
    threads: usize,
    #[serde(flatten)]
    record: Record,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let git = |words: &[&str]| {
        let root = repository::root().display().to_string();
        process::answer("git", [&["-C", &root], words].concat())
    };
    let log = repository::log_file("sequences")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--package", "svclb-tests", "--bin", "sequences"]);
    // What is run a million times is fast, what it uses is there already; all assertions stay.
    for package in ["svclb-userspace", "svclb-tests", "proptest", "rand_chacha", "foldhash"] {
        build.arg("--config").arg(format!("profile.dev.package.{package}.opt-level=3"));
    }
    build.current_dir(repository::root());
    let progress = Progress::start("building the sequences, fast and with all assertions");
    process::run(&mut build, &log, |line| progress.now(line))?;
    progress.end("done");

    let (commit, changed) = (git(&["rev-parse", "HEAD"]), git(&["status", "--porcelain"]) != Some(String::new()));
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let numbers = [args.seed, args.first, args.count, threads as u64].map(|number| number.to_string());
    let mut command = Command::new(repository::target().join("debug/sequences"));
    command.args(numbers);
    let progress = Progress::start("running sequences");
    let (mut done, mut failures, mut next_line) = (None, 0, 10);
    process::run(&mut command, &log, |line| match serde_json::from_str(line) {
        Ok(Line::SoFar(record)) => {
            let percent = (record.passed + record.failed) * 100 / args.count.max(1);
            progress.now(&so_far(&record, args.count));
            if percent >= next_line {
                progress.line(&so_far(&record, args.count));
                next_line = percent - percent % 10 + 10;
            }
        }
        Ok(Line::Failed(failure)) => {
            failures += 1;
            if failures <= SHOWN {
                progress.line(&failure);
            }
        }
        Ok(Line::Done(record)) => done = Some(record),
        Err(_) => {}
    })?;
    progress.end("done");
    let Some(record) = done else { bail!("the sequences ended without a record; see {}", log.display()) };
    let Record { passed, failed, events, writes, seconds, .. } = record;
    let date = process::answer("date", ["-u", "+%Y-%m-%dT%H:%M:%SZ"]);
    let text = serde_json::to_string(&Recorded { commit, changed, date, threads, record })?;
    let file = repository::target().join("sequences.json");
    fs::write(&file, format!("{text}\n")).with_context(|| format!("writing {}", file.display()))?;
    println!("{text}");
    let time = time_text(Duration::from_secs_f64(seconds));
    println!("{events} events, {writes} writes after each of which packets were asked for, {time}");
    if failures > SHOWN {
        println!("{} more failures are in {}", failures - SHOWN, log.display());
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 && passed == args.count { Outcome::Done } else { Outcome::Failed })
}

fn so_far(record: &Record, count: u64) -> String {
    let Record { passed, failed, seconds, .. } = record;
    let done = passed + failed;
    let milliseconds = Duration::from_secs_f64(*seconds).as_millis().max(1);
    let rate = u128::from(done) * 1000 / milliseconds;
    format!("{done} of {count}, {rate} a second, {failed} failed")
}
