//! The agent of a node, as a child process inside the node's namespace.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout},
    time::timeout,
};

use super::{address::CLUSTER_CIDR, lab::Lab};

/// How an agent is started. Cloned for each start, so that a restart is the same again.
#[derive(Debug, Clone)]
pub struct AgentCommand {
    /// The binary `svclb`.
    pub binary: PathBuf,
    /// Where its objects come from: `--manifests DIR` or `--kubeconfig FILE`.
    pub source: Vec<OsString>,
    /// How it attaches: `auto`, `tcx` or `clsact`.
    pub attach: String,
    /// More arguments.
    pub more: Vec<OsString>,
    /// The folder for its log, `NODE.log`; a restart appends.
    pub logs: PathBuf,
}

/// How long an agent may take until its tables are complete. Most of it is the kernel's check of the
/// programs: a second of a processor's time, more where others want the processor too.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// A running agent. Dropping it kills it; its pins stay with the lab's BPF file system.
#[derive(Debug)]
pub struct Agent {
    node: String,
    child: Child,
    log: PathBuf,
    /// Kept open: an agent must not fail because nobody reads what it says.
    stdout: BufReader<ChildStdout>,
}

impl Agent {
    /// Starts the agent of a node and waits until it has said `ready`. Call it from a thread that lives as
    /// long as the agent is wanted, so not from a blocking task.
    pub async fn start(lab: &Lab, node: u8, how: &AgentCommand) -> Result<Self> {
        let node = lab.node(node);
        let log = how.logs.join(format!("{}.log", node.name()));
        let mut command = lab.bpffs().applied_to(node.netns().command(&how.binary));
        command.arg("agent").args(&how.source).args(["--node-name", node.name()]);
        command.arg("--bpffs").arg(lab.bpffs().folder(node.name()));
        command.args(["--attach", &how.attach, "--cluster-cidr", CLUSTER_CIDR]).args(&how.more);
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("open the agent's log {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        // Ctrl-C in a terminal is for the one who started the agents, and who ends them.
        command.process_group(0);
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {} in {}", how.binary.display(), node.name()))?;
        let stdout = child.stdout.take().context("the agent has no standard output")?;
        let mut agent = Self { node: node.name().to_owned(), child, log, stdout: BufReader::new(stdout) };
        match timeout(READY_WITHIN, agent.wait_until_ready()).await {
            Ok(ready) => ready?,
            Err(_elapsed) => {
                bail!("the agent of {} was not ready within {READY_WITHIN:?}{}", agent.node, agent.last_words())
            }
        }
        Ok(agent)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.stdout.read_line(&mut line).await? == 0 {
                let status = self.child.wait().await?;
                bail!("the agent of {} ended before it was ready ({status}){}", self.node, self.last_words());
            }
            if line.trim() == "ready" {
                return Ok(());
            }
        }
    }

    /// Its process number.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The file with its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// An error when it has ended by itself, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the agent of {} ended ({status}){}", self.node, self.last_words()),
        }
    }

    /// Kills it without warning, as a crash would, and waits until it is gone.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("kill the agent of {}", self.node))
    }

    /// Asks it to end and waits until it has.
    pub async fn terminate(mut self) -> Result<()> {
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        }
        match timeout(Duration::from_secs(10), self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                if status.success() { Ok(()) } else { bail!("the agent of {} ended with {status}", self.node) }
            }
            Err(_elapsed) => bail!("the agent of {} did not end within 10 s of SIGTERM", self.node),
        }
    }

    /// The end of its log, to be put behind an error.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(15)..).unwrap_or_default();
        format!("; the end of {}:\n{}", self.log.display(), last.join("\n"))
    }
}
