//! `cargo xtask vm`: a command inside another kernel, to see that svclb works there.
//!
//! The kernel comes as a Debian package, is unpacked below target/ and never installed. The machine is
//! emulated by qemu without help from the processor, since nested virtualisation is rarely there: slow
//! enough to say nothing about speed, but good for what a kernel accepts and does. Its root file system is
//! an archive in memory with busybox, the command and the libraries it is linked with.
//!
//! Tests of real traffic run there too (`--test`): Debian's kernels have SCTP, which few others have.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    Outcome, process,
    progress::Progress,
    repository,
    setup::{self, items::Need},
    vm::{kernel::Version, root_fs::Job},
};

mod kernel;
mod root_fs;
mod tests;

/// Run a command inside another kernel.
///
/// Without a command it is `cargo xtask verifier`: every program of the kernel object is loaded there, and
/// its cost reported. With --test it is a file of network tests: nodes, pods and clients as network namespaces of
/// that kernel, with real traffic. Works on Debian: the kernels come from its packages, and are unpacked, not
/// installed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which kernel.
    #[arg(long, value_enum)]
    kernel: Version,
    /// Memory of the machine in MiB.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    memory: u32,
    /// Run the tests of this file of tests/tests there, such as netns_sctp. What follows `--` is for the test program:
    /// a text that names of tests contain, and its options.
    #[arg(long, value_name = "FILE")]
    test: Option<String>,
    /// The command and its arguments; a program of this machine, which is copied there. `busybox` and
    /// its tools are there already, so `sh -c '...'` works.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// How long the machine may print nothing before it counts as hanging.
const LONGEST_SILENCE: Duration = Duration::from_mins(5);

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    setup::ensure(&[Need::Vm])?;
    let job = match &args.test {
        Some(file) => tests::job(file, &args.command)?,
        None if args.command.is_empty() => {
            setup::ensure(&[Need::KernelObject])?;
            let itself = std::env::current_exe().context("finding this program")?;
            Job { command: vec![itself.into(), "verifier".into()], ..Job::default() }
        }
        None => Job { command: args.command.clone(), ..Job::default() },
    };
    let log = repository::log_file("vm")?;
    let folder = repository::target().join("vm");
    let kernel = kernel::fetch(args.kernel, &folder, &log)?;
    let root_fs = root_fs::pack(&kernel, &job, &folder, &log)?;
    boot(&kernel.image, &root_fs, args.memory, &log)
}

/// Starts the machine, prints what the command prints, and answers with how it ended.
fn boot(image: &Path, root_fs: &Path, memory: u32, log: &Path) -> Result<Outcome> {
    let progress = Progress::start(format!(
        "starting {} under qemu",
        image.file_name().map_or_else(PathBuf::new, PathBuf::from).display()
    ));
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
        .args(["-m", &memory.to_string()])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(root_fs)
        .args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1"]);
    let mut inside = false;
    let mut exit_code = None;
    let status = process::follow(&mut qemu, log, LONGEST_SILENCE, |line| {
        let line = line.trim_end_matches('\r');
        if line == root_fs::BEGIN {
            inside = true;
        } else if let Some(code) = line.strip_prefix(root_fs::END) {
            inside = false;
            exit_code = code.trim().parse::<i32>().ok();
        } else if inside {
            progress.line(line);
        } else {
            progress.now(line);
        }
    })?;
    let Some(code) = exit_code else {
        progress.end("FAILED");
        bail!("the machine stopped (qemu: {status}) before the command ended; what it printed: {}", log.display());
    };
    progress.end(&format!("the command ended with {code}"));
    Ok(if code == 0 { Outcome::Done } else { Outcome::Failed })
}
