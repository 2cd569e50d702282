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

use svclb_userspace::config::DEFAULT_BPFFS;

use super::lab::Lab;

/// How an agent is started. Cloned for each start, so that a restart is the same again.
#[derive(Debug, Clone)]
pub struct AgentCommand {
    /// The binary `svclb`.
    pub binary: PathBuf,
    /// Where its objects come from.
    pub source: AgentSource,
    /// More arguments.
    pub more: Vec<OsString>,
    /// The folder for its log, `NODE.log`; a restart appends.
    pub logs: PathBuf,
}

/// Where an agent's objects come from.
#[derive(Debug, Clone)]
pub enum AgentSource {
    /// The folder of complete objects that it watches.
    Manifests(PathBuf),
    /// An API server, by its kubeconfig.
    Kubeconfig(PathBuf),
    /// An API server, by kube-proxy's configuration file. It is told this and its node's name, and nothing else of the
    /// lab: neither the pods' prefixes nor a folder for its pins. So `binary` must give it a mount namespace of its own,
    /// with a BPF file system that no other agent has.
    KubeProxyConfig(PathBuf),
}

impl AgentSource {
    /// The flag that says it, with its value, and the flag for the node's name that goes with it.
    fn flags(&self) -> (&'static str, &Path, &'static str) {
        match self {
            Self::Manifests(folder) => ("--manifests", folder, "--node-name"),
            Self::Kubeconfig(file) => ("--kubeconfig", file, "--node-name"),
            Self::KubeProxyConfig(file) => ("--config", file, "--hostname-override"),
        }
    }
}

/// How long an agent may take until its tables are complete. Most of it is the kernel's check of the
/// programs: a second of a processor's time, more where others want the processor too, or where it is emulated.
const READY_WITHIN: Duration = Duration::from_mins(4);

/// What a line of a log says, if it is a warning or an error: behind the time and the spaces of its column.
fn warning(line: &str) -> Option<&str> {
    let said = line.split_once(' ')?.1.trim_start();
    (said.starts_with("WARN ") || said.starts_with("ERROR ")).then_some(said)
}

/// A running agent. Dropping it kills it; its pins stay with the lab's BPF file system.
#[derive(Debug)]
pub struct Agent {
    node: String,
    child: Child,
    log: PathBuf,
    /// The mount namespace that has its pins, as a path below `/proc`, and their folder there.
    pins: (String, PathBuf),
    /// Kept open: an agent must not fail because nobody reads what it says.
    stdout: BufReader<ChildStdout>,
}

impl Agent {
    /// Starts the agent of a node and waits until it has said `ready`. Call it from a thread that lives as
    /// long as the agent is wanted, so not from a blocking task.
    pub async fn start(lab: &Lab, node: u8, how: &AgentCommand) -> Result<Self> {
        let (node, cluster_cidr) = (lab.node(node), lab.options().families.cluster_cidr());
        let log = how.logs.join(format!("{}.log", node.name()));
        let mut command = lab.bpffs().applied_to(node.netns().command(&how.binary));
        let pins = lab.bpffs().folder(node.name());
        let (source, place, name) = how.source.flags();
        command.arg("agent").arg(source).arg(place).args([name, node.name()]);
        let is_of_the_lab = !matches!(how.source, AgentSource::KubeProxyConfig(_));
        if is_of_the_lab {
            command.arg("--bpffs").arg(&pins).args(["--cluster-cidr", &cluster_cidr]);
        }
        command.args(&how.more);
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
        let pins = match child.id() {
            Some(pid) if !is_of_the_lab => (format!("/proc/{pid}/ns/mnt"), DEFAULT_BPFFS.into()),
            _ => (lab.bpffs().path(), pins),
        };
        let mut agent = Self { node: node.name().to_owned(), child, log, pins, stdout: BufReader::new(stdout) };
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

    /// The warnings and errors in its log, each as `WARN ...` without the time.
    pub fn warnings(&self) -> Result<Vec<String>> {
        let log = fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        Ok(log.lines().filter_map(warning).map(str::to_owned).collect())
    }

    /// Where its maps and links are: the mount namespace, as a path below `/proc`, and the folder there.
    pub fn pins(&self) -> (&str, &Path) {
        (&self.pins.0, &self.pins.1)
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
