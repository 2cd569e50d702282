//! Children that run until their guard is dropped, or until this process ends in whatever way.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        LazyLock, Mutex, PoisonError,
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a child may take to end when it is asked to.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// How many lines of a log an error shows.
const LINES_SHOWN: usize = 15;

/// A child with its log. Dropping it kills the child.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` as `name`. What it prints is added to `NAME.log` in `folder`.
    pub(crate) fn start(name: &str, mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open the log {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log between stdout and stderr")?)
            .stderr(output)
            // Ctrl-C in a terminal is for the one who holds the guard.
            .process_group(0);
        let child = spawn(command).with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// An error with the last lines of the log if the child has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("ask whether {} runs", self.name))? {
            None => Ok(()),
            Some(status) => bail!("{}", self.ended(status)),
        }
    }

    /// The end of its log, for error messages.
    pub(crate) fn last_lines(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
    }

    /// The memory that the child has in use, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB"))
            .and_then(|kib| kib.parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .with_context(|| format!("find VmRSS in {path}"))
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub(crate) fn terminate(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, Signal::SIGTERM).with_context(|| format!("ask {} to end", self.name))?;
        let deadline = Instant::now() + ENDS_WITHIN;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "{} did not end within {ENDS_WITHIN:?} of SIGTERM", self.name);
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn ended(&self, status: ExitStatus) -> String {
        format!("{} ended by itself ({status}). The end of its log:\n{}", self.name, self.last_lines())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only for a child that has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A command to spawn, and where to say what came of it.
type Order = (Command, Sender<std::io::Result<Child>>);

/// Spawns from a thread that lives as long as this process.
///
/// The kernel sends the signal of `PR_SET_PDEATHSIG` when the *thread* that spawned the child ends, and a
/// test may start its control plane from a thread that ends long before the test does.
fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // The asker waits for the answer, so it can be gone only in a panic.
                drop(answer.send(command.spawn()));
            }
        });
        Mutex::new(orders)
    });
    let (answer, outcome) = mpsc::channel();
    SPAWNER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .ok()
        .context("the thread that starts children has ended")?;
    Ok(outcome.recv().context("the thread that starts children has ended")??)
}
