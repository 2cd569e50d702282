//! `cargo xtask fuzz`: libFuzzer on the datapath.

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use svclb_tests::fuzz::{self, corpus};

use crate::{
    Outcome, process,
    progress::{Progress, time_text},
    repository,
    setup::{self, items::Need},
};

/// Let libFuzzer look for packets that the datapath does wrong.
///
/// Each input is a life of a node on the host: packets of all kinds, damaged ones, fragments, errors, and between them
/// endpoints, settings and the clock change. No packet may make the datapath panic, change what a hook must leave
/// alone, or lose a right checksum, and a reply must come from what its client addressed. libFuzzer makes new inputs
/// from those that reached something new, beginning with tests/fuzz/corpus.txt. Takes 1,000 million packets on all
/// processors unless told otherwise; `cargo xtask test packet` plays the corpus on the host and in the kernel. Writes a
/// record to target/fuzz.json. An input that fails is kept in target/fuzz/found.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many packets.
    #[arg(long, default_value_t = 1_000_000_000)]
    packets: u64,
    /// How many processes.
    #[arg(long)]
    jobs: Option<u16>,
    /// Play this input alone, and say what is wrong with it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["packets", "jobs", "keep"])]
    again: Option<PathBuf>,
    /// Afterwards, write to tests/fuzz/corpus.txt the least inputs that reach all that was reached.
    #[arg(long)]
    keep: bool,
}

/// Bytes of an input at most: some 200 packets.
const LONGEST: &str = "-max_len=2048";

/// Bytes of an input that is kept, so that all of them fit into a small file.
const KEPT: &str = "-max_len=384";

/// What is written to target/fuzz.json.
#[derive(serde::Serialize)]
struct Record {
    commit: Option<String>,
    /// There are changes that are not committed.
    changed: bool,
    date: Option<String>,
    jobs: u16,
    packets: u64,
    seconds: f64,
    /// Points of the code that were reached (libFuzzer's `cov`).
    points: u64,
    /// Inputs that reached something of their own.
    corpus: usize,
    /// Files of inputs that failed.
    failed: Vec<PathBuf>,
}

/// What a fuzzer has said last.
#[derive(Clone, Copy, Default)]
struct Said {
    packets: u64,
    points: u64,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    setup::ensure(&[Need::Fuzz])?;
    let log = repository::log_file("fuzz")?;
    build(&log)?;
    see(&log)?;
    let home = repository::target().join("fuzz");
    let (inputs, found) = (home.join("corpus"), home.join("found"));
    for folder in [&inputs, &found] {
        fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    }
    if let Some(input) = &args.again {
        process::run(fuzzer().arg(input), &log, |line| println!("{line}"))?;
        println!("nothing is wrong with it");
        return Ok(Outcome::Done);
    }
    let kept = repository::root().join(corpus::FILE);
    corpus::unpack(&kept, &inputs)?;
    let before = files(&found)?;
    let jobs = match args.jobs {
        Some(jobs) => jobs.max(1),
        None => thread::available_parallelism().map_or(1, NonZeroUsize::get) as u16,
    };
    let start = Instant::now();
    let said = fuzz_all(args.packets, jobs, &inputs, &found, &log)?;
    let seconds = start.elapsed().as_secs_f64();
    let failed: Vec<_> = files(&found)?.into_iter().filter(|file| !before.contains(file)).collect();
    let packets = said.iter().map(|said| said.packets).sum();
    if failed.is_empty() && packets < args.packets {
        bail!("the fuzzers ended after {packets} packets, without an input that fails; see {}", log.display());
    }
    if args.keep && failed.is_empty() {
        keep(&inputs, &kept, &home, &log)?;
    }

    let git = |words: &[&str]| {
        let root = repository::root().display().to_string();
        process::answer("git", [&["-C", &root], words].concat())
    };
    let record = Record {
        commit: git(&["rev-parse", "HEAD"]),
        changed: git(&["status", "--porcelain"]) != Some(String::new()),
        date: process::answer("date", ["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        jobs,
        packets,
        seconds,
        points: said.iter().map(|said| said.points).max().unwrap_or(0),
        corpus: files(&inputs)?.len(),
        failed,
    };
    let text = serde_json::to_string(&record)?;
    let file = repository::target().join("fuzz.json");
    fs::write(&file, format!("{text}\n")).with_context(|| format!("writing {}", file.display()))?;
    println!("{text}");
    for input in &record.failed {
        println!("wrong: {0}; `cargo xtask fuzz --again {0}` says what", input.display());
    }
    println!("{} packets in {}, {} inputs failed", record.packets, time(seconds), record.failed.len());
    Ok(if record.failed.is_empty() { Outcome::Done } else { Outcome::Failed })
}

fn time(seconds: f64) -> String {
    time_text(Duration::from_secs_f64(seconds))
}

/// Builds the fuzzer: the datapath with the counters that guide it, what it uses fast, and all assertions.
fn build(log: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--package", "svclb-tests", "--bin", "fuzz", "--features", "fuzz"]);
    for package in ["svclb-common", "svclb-tests", "etherparse", "libfuzzer-sys"] {
        command.arg("--config").arg(format!("profile.dev.package.{package}.opt-level=2"));
    }
    command.env("RUSTC_WORKSPACE_WRAPPER", repository::root().join("tests/fuzz/rustc"));
    command.current_dir(repository::root());
    let progress = Progress::start("building the fuzzer");
    process::run(&mut command, log, |line| progress.now(line))?;
    progress.end("done");
    Ok(())
}

/// Makes sure that the datapath has its counters: a fuzzer without them runs, and learns nothing.
fn see(log: &Path) -> Result<()> {
    const LEAST: u64 = 1000;
    let mut seen = 0;
    process::run(fuzzer().arg("-runs=0"), log, |line| seen = counters(line).unwrap_or(seen))?;
    if seen < LEAST {
        bail!("the fuzzer has counters at {seen} points of the code alone, so the datapath was compiled without");
    }
    Ok(())
}

/// The points in a line of libFuzzer's, `INFO: Loaded 1 modules   (123 inline 8-bit counters): ...`.
fn counters(line: &str) -> Option<u64> {
    line.strip_prefix("INFO: Loaded")?.split_once('(')?.1.split_once(" inline 8-bit counters")?.0.parse().ok()
}

fn fuzzer() -> Command {
    Command::new(repository::target().join("debug/fuzz"))
}

/// Runs so many fuzzers on the same inputs until they have seen all packets, or each has found a fault.
fn fuzz_all(packets: u64, jobs: u16, inputs: &Path, found: &Path, log: &Path) -> Result<Vec<Said>> {
    let progress = Progress::start(format!("fuzzing the datapath in {jobs} processes"));
    let said = Mutex::new(vec![Said::default(); usize::from(jobs)]);
    let next_line = Mutex::new(10);
    let start = Instant::now();
    let tell = |job: usize, change: &dyn Fn(&mut Said)| {
        let mut all = said.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut all[job]);
        let done: u64 = all.iter().map(|said| said.packets).sum();
        let points = all.iter().map(|said| said.points).max().unwrap_or(0);
        let rate = u128::from(done) * 1000 / start.elapsed().as_millis().max(1);
        let text = format!("{done} of {packets} packets, {rate} a second, {points} points of the code reached");
        progress.now(&text);
        let mut next = next_line.lock().unwrap_or_else(PoisonError::into_inner);
        let percent = done * 100 / packets.max(1);
        if percent >= *next {
            progress.line(&text);
            *next = percent - percent % 10 + 10;
        }
    };
    let ran: Vec<Result<()>> = thread::scope(|scope| {
        let run = |job: usize| {
            let tell = &tell;
            let mut command = fuzzer();
            command
                .arg(inputs)
                .args([
                    LONGEST,
                    "-len_control=0",
                    "-timeout=20",
                    "-reload=1",
                    "-print_final_stats=1",
                    "-close_fd_mask=0",
                ])
                .arg(format!("-seed={}", job + 1))
                .arg(format!("-artifact_prefix={}/", found.display()))
                .env(fuzz::PACKETS, packets.div_ceil(u64::from(jobs)).to_string());
            let log = log.with_extension(format!("{job}.log"));
            move || {
                process::follow(&mut command, &log, Duration::from_mins(15), |line| {
                    if let Some(number) = line.strip_prefix(fuzz::SAID).and_then(|text| text.trim().parse().ok()) {
                        tell(job, &|said| said.packets = number);
                    } else if let Some(number) = points(line) {
                        tell(job, &|said| said.points = number);
                    }
                })
                .map(drop)
            }
        };
        let threads: Vec<_> = (0..usize::from(jobs)).map(|job| scope.spawn(run(job))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked"))).collect()
    });
    progress.end("done");
    ran.into_iter().collect::<Result<()>>()?;
    Ok(said.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The points of the code in a line of libFuzzer's, `#1234 NEW cov: 567 ft: ...`.
fn points(line: &str) -> Option<u64> {
    line.split_once(" cov: ")?.1.split(' ').next()?.parse().ok()
}

/// Writes the least inputs that reach what all of `inputs` do.
fn keep(inputs: &Path, kept: &Path, home: &Path, log: &Path) -> Result<()> {
    let least = home.join("least");
    if least.exists() {
        fs::remove_dir_all(&least).with_context(|| format!("removing {}", least.display()))?;
    }
    fs::create_dir_all(&least).with_context(|| format!("making the folder {}", least.display()))?;
    let progress = Progress::start("looking for the least inputs that reach as much");
    process::run(fuzzer().args(["-set_cover_merge=1", KEPT]).args([&least, inputs]), log, |line| {
        progress.now(line);
    })?;
    progress.end("done");
    let count = corpus::pack(&least, kept)?;
    println!("{count} inputs are in {}", kept.display());
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading the folder {}", folder.display()))?;
    let files: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    files.with_context(|| format!("reading the folder {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_points_of_the_code_are_read_from_a_line_of_libfuzzer() {
        assert_eq!(points("#8192\tpulse  cov: 1234 ft: 5678 corp: 90/12Kb lim: 80 exec/s: 4096 rss: 99Mb"), Some(1234));
        assert_eq!(points("INFO: seed corpus: files: 3"), None);
        let loaded = "INFO: Loaded 1 modules   (4321 inline 8-bit counters): 4321 [0x55ca427b3ff8, 0x55ca427b4032), ";
        assert_eq!((counters(loaded), counters("INFO: Loaded 1 PC tables (58 PCs): 58 [0x1,0x2)")), (Some(4321), None));
    }
}
