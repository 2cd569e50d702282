//! `cargo xtask test`: all tests of the repository, sorted into rungs from cheap to dear.
//!
//! Each rung is one or two calls of `cargo test`, all with the same packages and features, so that
//! dependencies are built once. Nothing is skipped: what a rung needs and this machine lacks is installed
//! or named before the first test, a rung without tests fails, and ignored tests are counted and shown.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    Outcome, process,
    progress::Progress,
    repository,
    setup::{self, items},
    test::{
        libtest::{Counts, Listener},
        residue::Residue,
        rungs::Rung,
    },
};

mod libtest;
mod residue;
mod rungs;

/// Run the tests: all rungs, or those that are named.
///
/// The rungs, from cheap to dear: unit (plain Rust, works for any user), packet (single packets on the
/// host and in the kernel), script (objects in, tables out), verifier (every program loads, at which
/// cost), netns (real traffic between network namespaces), cluster (a real Kubernetes control plane). All
/// but unit need root. The last line is `N passed, N failed`.
#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// The rungs to run, in the order of the ladder; all of them if none is named.
    #[arg(value_enum)]
    rungs: Vec<Rung>,
    /// Run only tests whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// How long tests may be silent before they count as hanging. The first cluster test may have to build
/// Kubernetes, which takes a quarter of an hour.
const LONGEST_SILENCE: Duration = Duration::from_mins(25);
/// Features of svclb-tests for all rungs above unit.
const FEATURES: &str = "svclb-tests/kernel,svclb-tests/cluster";
/// How many of cargo's last lines are shown when it ended without a failed test.
const LAST_LINES: usize = 60;

/// What one rung came to.
struct Report {
    rung: Rung,
    counts: Counts,
    took: Duration,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let mut rungs = args.rungs.clone();
    if rungs.is_empty() {
        rungs = Rung::ALL.to_vec();
    }
    rungs.sort_unstable();
    rungs.dedup();
    let files = rungs::files()?;
    get_ready(&rungs)?;

    let privileged = rungs.iter().any(|rung| rung.needs_root());
    if privileged {
        bpf_file_system()?;
    }
    let before = Residue::now();
    let built = !privileged || build()?;
    let mut reports = Vec::new();
    for rung in rungs {
        let since = Instant::now();
        let mut counts = if built || !rung.needs_root() {
            run_rung(rung, &files, args.filter.as_deref())?
        } else {
            println!("{rung}: not run, because svclb does not build");
            Counts::one_failure()
        };
        if rung.needs_root() {
            let left = before.left_behind();
            if !left.is_empty() {
                println!("{rung} left behind on this machine:\n  {}", left.join("\n  "));
                counts.failed += 1;
            }
        }
        reports.push(Report { rung, counts, took: since.elapsed() });
    }
    Ok(close(&reports))
}

/// Names what is missing for `rungs`, or installs it.
fn get_ready(rungs: &[Rung]) -> Result<()> {
    let needs = rungs::needs(rungs);
    let root_rungs: Vec<_> = rungs.iter().filter(|rung| rung.needs_root()).map(ToString::to_string).collect();
    if root_rungs.is_empty() {
        return Ok(());
    }
    let lacks = process::lacking_capabilities();
    if lacks.is_empty() {
        return setup::ensure(&needs);
    }
    let mut missing = vec![if process::is_root() {
        format!("the capabilities {} (a container?)", lacks.join(", "))
    } else {
        "root: call it as root, or as `sudo --preserve-env=PATH,HOME cargo xtask test`".to_owned()
    }];
    missing.extend(items::of(&needs).filter_map(|item| {
        let reason = (item.find)().err()?;
        Some(format!("{}: {reason}; {}", item.name, item.by_hand()))
    }));
    bail!(
        "the rungs {} cannot run here. Missing:\n  {}\nWhat works for any user: `cargo xtask test unit`",
        root_rungs.join(", "),
        missing.join("\n  ")
    );
}

/// Builds the programs that the tests start. Whether they could be built.
fn build() -> Result<bool> {
    let log = fresh_log("test-build")?;
    let progress = Progress::start("building svclb and its tests");
    let mut last = LastLines::default();
    let status = process::follow(cargo("build").args(["--bins"]), &log, LONGEST_SILENCE, |line| {
        last.push(line);
        progress.now(line);
    })?;
    if status.success() {
        progress.end("done");
        return Ok(true);
    }
    progress.line(&last.text());
    progress.end(&format!("FAILED, see {}", log.display()));
    Ok(false)
}

/// Builds svclb and the tests of one file of tests/tests, and answers with the program that these become.
pub(crate) fn program(file: &str) -> Result<PathBuf> {
    if !build()? {
        bail!("svclb does not build");
    }
    let progress = Progress::start(format!("building {file}"));
    let mut program = None;
    let mut call = cargo("test");
    call.args(["--no-run", "--test", file, "--message-format", "json-render-diagnostics"]);
    process::run(&mut call, &fresh_log("test-build")?, |line| {
        // What cargo says itself comes between its messages.
        match serde_json::from_str::<serde_json::Value>(line) {
            Ok(message) if message.pointer("/target/name").is_some_and(|name| name == file) => {
                program = message.pointer("/executable").and_then(|path| Some(PathBuf::from(path.as_str()?)));
            }
            Ok(_) => {}
            Err(_no_message) => progress.now(line),
        }
    })?;
    progress.end("done");
    program.with_context(|| format!("cargo has built no program of the tests in {file}"))
}

/// Where tests of the kernel's maps put their pins.
const BPFFS: &str = "/sys/fs/bpf";

/// Mounts the BPF file system where systemd would, on machines that have none there.
fn bpf_file_system() -> Result<()> {
    let kind = nix::sys::statfs::statfs(BPFFS).with_context(|| format!("ask what is mounted at {BPFFS}"))?;
    if kind.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC {
        return Ok(());
    }
    println!("mounting a BPF file system at {BPFFS}");
    let none = None::<&str>;
    nix::mount::mount(Some("bpf"), BPFFS, Some("bpf"), nix::mount::MsFlags::empty(), none)
        .with_context(|| format!("mount -t bpf bpf {BPFFS}"))
}

fn run_rung(rung: Rung, files: &rungs::Files, filter: Option<&str>) -> Result<Counts> {
    let mut calls = Vec::new();
    let named = files.of(rung);
    let mut call = cargo("test");
    call.arg("--no-fail-fast");
    for name in named {
        call.args(["--test", name]);
    }
    // Built a moment ago, with the features of all rungs. Without this the tests that start svclb would
    // build it, and half of its dependencies, once more with its own.
    call.env("SVCLB_BINARY", std::path::absolute(repository::target().join("debug/svclb"))?);
    if rung == Rung::Unit {
        call.args(["--lib", "--bins"]);
        let mut doc = cargo("test");
        doc.args(["--no-fail-fast", "--doc"]);
        calls.push(doc);
    } else if named.is_empty() {
        println!("{rung}: FAILED, there is no file tests/tests/{}*.rs", rung.prefix());
        return Ok(Counts::one_failure());
    }
    calls.insert(0, call);

    let log = fresh_log(&format!("test-{rung}"))?;
    let progress = Progress::start(format!("{rung}"));
    let mut counts = Counts::default();
    for call in &mut calls {
        if let Some(filter) = filter {
            call.args(["--", filter]);
        }
        counts += run_call(call, &log, &progress)?;
    }
    if counts.passed == 0 && counts.failed == 0 {
        progress.line(&format!("{rung}: FAILED, no test ran"));
        counts.failed += 1;
    }
    progress.end(&counts.to_string());
    Ok(counts)
}

/// Runs one `cargo test` and counts its tests. A call that fails without a failed test counts as one.
fn run_call(call: &mut Command, log: &Path, progress: &Progress) -> Result<Counts> {
    let mut last = LastLines::default();
    let mut listener = Listener::default();
    let status = process::follow(call, log, LONGEST_SILENCE, |line| {
        last.push(line);
        for line in listener.hear(line) {
            progress.line(&line);
        }
        progress.now(&listener.now());
    })?;
    for line in listener.end() {
        progress.line(&line);
    }
    let mut counts = listener.counts();
    if !status.success() && counts.failed == 0 {
        counts.failed = 1;
        progress.line(&last.text());
        progress.line(&format!("`{}` ended with {status}; all of its output: {}", process::shown(call), log.display()));
    }
    Ok(counts)
}

/// A call of cargo on the whole workspace. All calls take the same packages and features, so that no
/// dependency is built twice.
fn cargo(command: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(repository::root())
        .args([command, "--workspace", "--features", FEATURES])
        // Where a panic happened is worth a trace, if the caller wants one; where an error was made is not.
        .env("RUST_LIB_BACKTRACE", "0");
    cargo
}

fn fresh_log(name: &str) -> Result<PathBuf> {
    let log = repository::log_file(name)?;
    if log.exists() {
        std::fs::remove_file(&log)?;
    }
    Ok(log)
}

/// Prints the table of the rungs and the closing line.
fn close(reports: &[Report]) -> Outcome {
    println!("\n{:<10} {:>7} {:>7} {:>8} {:>8}", "rung", "passed", "failed", "ignored", "minutes");
    let mut sum = Counts::default();
    for Report { rung, counts, took } in reports {
        println!(
            "{:<10} {:>7} {:>7} {:>8} {:>8.1}",
            rung.to_string(),
            counts.passed,
            counts.failed,
            counts.ignored,
            took.as_secs_f64() / 60.0
        );
        sum += *counts;
    }
    println!("{} passed, {} failed", sum.passed, sum.failed);
    if sum.failed == 0 { Outcome::Done } else { Outcome::Failed }
}

/// The last lines of some output.
#[derive(Default)]
struct LastLines(std::collections::VecDeque<String>);

impl LastLines {
    fn push(&mut self, line: &str) {
        if self.0.len() == LAST_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    fn text(&self) -> String {
        self.0.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}
