//! A whole scene for a test: a lab, a cluster of files, pods that ask, an agent on each node.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::future::{try_join, try_join_all};
use serde_json::Value;
use svclb_common::verdict::Counter;
use tempfile::TempDir;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::sleep,
};

use super::{
    agent::{Agent, AgentCommand, AgentSource},
    file_cluster::{Ending, FileCluster},
    lab::{Lab, LabOptions, NODES},
    manifests::Manifests,
    paths::{Askers, Line, all_paths},
    pod::{Pod, PodNetwork},
    policy::PolicyEngine,
    probe::Client,
    round::{Effort, Found, go_round},
};

/// What kind of scene.
#[derive(Debug, Clone)]
pub struct SceneOptions {
    /// The topology.
    pub lab: LabOptions,
    /// How pods are wired.
    pub network: PodNetwork,
    /// Whether a network policy is in force, and a pod that it keeps out asks as well.
    pub policy: bool,
    /// How agents attach.
    pub attach: &'static str,
    /// More arguments for the agents.
    pub agent_arguments: Vec<&'static str>,
    /// What happens to pods that are to go.
    pub ending: Ending,
    /// Shell commands that change what the agents find, in a mount namespace of each one's own; without single quotes.
    pub surroundings: Option<String>,
}

impl Default for SceneOptions {
    fn default() -> Self {
        Self {
            lab: LabOptions::default(),
            network: PodNetwork::default(),
            policy: false,
            attach: "auto",
            agent_arguments: Vec::new(),
            ending: Ending::Announced(Duration::from_secs(2)),
            surroundings: None,
        }
    }
}

/// A running scene.
#[derive(Debug)]
pub struct Scene {
    agents: BTreeMap<u8, Agent>,
    /// The pods that ask.
    pub askers: Askers,
    /// The cluster, to be changed by [`Scene::apply`].
    pub cluster: FileCluster,
    /// The topology.
    pub lab: Lab,
    how: AgentCommand,
    _folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// One scene at a time in a process. Loading an agent's programs keeps a processor busy for seconds: with
/// several scenes at once all of them would only wait longer.
static TURN: Mutex<()> = Mutex::const_new(());

/// How long agents may take to follow a change.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(10);

impl Scene {
    /// Sets everything up; the agents are ready when this ends.
    pub async fn new(options: SceneOptions, manifests: &str) -> Result<Self> {
        let turn = TURN.lock().await;
        let folder = tempfile::tempdir()?;
        let binary = match &options.surroundings {
            Some(surroundings) => agent_in(surroundings, folder.path())?,
            None => agent_binary()?,
        };
        let lab = Lab::new(options.lab)?;
        let network = options.network;
        let mut cluster = FileCluster::new(&lab, &folder.path().join("manifests"), network, options.ending)?;
        let policy = if options.policy { Some(PolicyEngine::start(&lab)?) } else { None };
        if let Some(policy) = &policy {
            cluster.set_policy(policy);
        }
        let askers = Askers::new(&lab, network, policy.as_deref())?;
        let how = AgentCommand {
            binary,
            source: AgentSource::Manifests(cluster.folder().to_owned()),
            more: ["--attach", options.attach].iter().chain(&options.agent_arguments).map(Into::into).collect(),
            logs: folder.path().to_owned(),
        };
        let agents = BTreeMap::new();
        let mut scene = Self { agents, askers, cluster, lab, how, _folder: folder, _turn: turn };
        scene.apply(manifests)?;
        scene.start_agents().await?;
        Ok(scene)
    }

    /// Brings the cluster to other manifests. The agents follow a little later.
    pub fn apply(&mut self, manifests: &str) -> Result<()> {
        self.cluster.apply(&self.lab, &Manifests::parse(manifests)?)?;
        Ok(())
    }

    /// Starts the agents of all nodes, again if they were killed.
    pub async fn start_agents(&mut self) -> Result<()> {
        let starts = NODES.map(|node| Agent::start(&self.lab, node, &self.how));
        let agents = try_join_all(starts).await?;
        self.agents = NODES.into_iter().zip(agents).collect();
        Ok(())
    }

    /// As [`Self::start_agents`], with other arguments than before from now on.
    pub async fn start_agents_with(&mut self, arguments: &[&str]) -> Result<()> {
        // The first two say how they attach.
        self.how.more.truncate(2);
        self.how.more.extend(arguments.iter().map(Into::into));
        self.start_agents().await
    }

    /// Kills the agents of all nodes without warning.
    pub async fn kill_agents(&mut self) -> Result<()> {
        for agent in std::mem::take(&mut self.agents).into_values() {
            agent.kill().await?;
        }
        Ok(())
    }

    /// Kills the agent of a node without warning.
    pub async fn kill_agent(&mut self, node: u8) -> Result<()> {
        let agent = self.agents.remove(&node).with_context(|| format!("node{node} has no agent"))?;
        agent.kill().await
    }

    /// Asks the agent of a node to end.
    pub async fn terminate_agent(&mut self, node: u8) -> Result<()> {
        let agent = self.agents.remove(&node).with_context(|| format!("node{node} has no agent"))?;
        agent.terminate().await
    }

    /// Starts a second agent on a node, and ends the first when the second has found it.
    pub async fn hand_over(&mut self, node: u8) -> Result<()> {
        let before = self.agents.remove(&node).with_context(|| format!("node{node} has no agent"))?;
        let log = self.agent_log(node);
        let end = async {
            let start = Instant::now();
            while !fs::read_to_string(&log)?.contains("waiting for another agent to end") {
                ensure!(start.elapsed() < FOLLOWED_WITHIN, "the second agent does not wait{}", self.logs());
                sleep(Duration::from_millis(5)).await;
            }
            before.terminate().await
        };
        let (next, ()) = try_join(Agent::start(&self.lab, node, &self.how), end).await?;
        self.agents.insert(node, next);
        Ok(())
    }

    /// The asking pod of a node.
    ///
    /// # Panics
    /// When there is no such node.
    #[track_caller]
    pub fn asker(&self, node: u8) -> &Pod {
        self.askers.pods.iter().find(|pod| pod.node() == node).expect("each node has an asking pod")
    }

    /// A client in the asking pod of node 1.
    pub fn inside(&self) -> Client {
        Client::new(self.asker(1).netns(), Effort::default().deadline)
    }

    /// A client outside the cluster.
    pub fn outside(&self) -> Client {
        Client::new(&self.lab.client().netns, Effort::default().deadline)
    }

    /// Asks on all paths once.
    async fn round(&mut self, effort: Effort) -> Result<BTreeMap<Line, Found>> {
        for agent in self.agents.values_mut() {
            agent.check()?;
        }
        let paths = all_paths(&self.lab, &self.askers, &self.cluster.state());
        Ok(go_round(paths, effort).await)
    }

    /// Asks on all paths until every path is as it must be, or for as long as agents may take to follow a
    /// change. Then the error names the paths that are not.
    pub async fn expect_good_round(&mut self) -> Result<()> {
        self.expect_good_round_with(Effort::default()).await
    }

    /// As [`Self::expect_good_round`], with another effort.
    pub async fn expect_good_round_with(&mut self, effort: Effort) -> Result<()> {
        let start = Instant::now();
        loop {
            let is_last = start.elapsed() > FOLLOWED_WITHIN / 2;
            let round = self.round(effort).await?;
            ensure!(!round.is_empty(), "there is no path to ask on");
            let bad: Vec<String> = round.iter().filter(|(_, found)| !found.is_good()).map(describe).collect();
            if bad.is_empty() {
                return Ok(());
            }
            if is_last {
                let (bad_paths, logs) = (bad.join("\n"), self.logs());
                bail!("{} of {} paths are not as they must be:\n{bad_paths}{logs}", bad.len(), round.len());
            }
        }
    }

    /// Asks until the answer, or the failure, is as wanted; fresh connections and source ports each time.
    pub async fn wait_until<F>(&mut self, what: &str, mut wanted: F) -> Result<()>
    where
        F: AsyncFnMut(&mut Self) -> Result<bool>,
    {
        let start = Instant::now();
        while !wanted(self).await? {
            if start.elapsed() > FOLLOWED_WITHIN {
                bail!("{what}: not within {FOLLOWED_WITHIN:?}{}", self.logs());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// An address and port of a node.
    pub fn node_port(&self, node: u8, v6: bool, port: u16) -> SocketAddr {
        let address = self.lab.node(node).address();
        SocketAddr::new(if v6 { address.v6.into() } else { address.v4.into() }, port)
    }

    /// Runs `svclb` on a node, where the agent there has its pins.
    pub fn svclb(&self, node: u8, arguments: &[&str]) -> Result<Output> {
        let (node, bpffs) = (self.lab.node(node), self.lab.bpffs());
        let mut command = bpffs.applied_to(node.netns().command(agent_binary()?));
        command.args(arguments).arg("--bpffs").arg(bpffs.folder(node.name()));
        command.output().context("run svclb")
    }

    /// What `svclb list` says on a node.
    pub fn list(&self, node: u8, what: &str) -> Result<Vec<Value>> {
        let output = self.svclb(node, &["list", what, "-o", "json"])?;
        ensure!(output.status.success(), "list {what}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).with_context(|| format!("list {what} prints a JSON array"))
    }

    /// A counter of a node's packet path, by its name.
    pub fn count(&self, node: u8, counter: Counter) -> Result<u64> {
        let rows = self.list(node, "counters")?;
        let row = rows.iter().find(|row| row["name"] == counter.label());
        row.and_then(|row| row["count"].as_u64()).with_context(|| format!("no counter {}", counter.label()))
    }

    /// The file with the log of a node's agents.
    pub fn agent_log(&self, node: u8) -> PathBuf {
        self.how.logs.join(format!("node{node}.log"))
    }

    /// The ends of the agents' logs.
    fn logs(&self) -> String {
        let end = |node: u8| {
            let log = fs::read_to_string(self.agent_log(node)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines.get(lines.len().saturating_sub(10)..).unwrap_or_default();
            format!("\nagent of node{node}, the end of its log:\n{}", end.join("\n"))
        };
        NODES.map(end).concat()
    }
}

/// A program, made in a folder, that makes surroundings and becomes the agent: see [`SceneOptions::surroundings`].
pub fn agent_in(surroundings: &str, folder: &Path) -> Result<PathBuf> {
    ensure!(!surroundings.contains('\''), "{surroundings} has single quotes");
    let (script, agent) = (folder.join("agent"), agent_binary()?);
    let line = format!(
        "#!/bin/sh\nexec unshare --mount --propagation private -- sh -c '{surroundings} && exec \"$0\" \"$@\"' {} \"$@\"\n",
        agent.display()
    );
    fs::write(&script, line)?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    Ok(script)
}

fn describe((line, found): (&Line, &Found)) -> String {
    format!(
        "  {} from {} to {} {}: {:?} {:?} {:?}",
        line.kind, line.from, line.to, line.protocol, found.failures, found.by_pod, found.faults
    )
}

/// Builds the agent unless it is up to date, and gives the binary. The variable `SVCLB_BINARY` names
/// another one to test.
pub fn agent_binary() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if let Some(given) = env::var_os("SVCLB_BINARY") {
        return Ok(given.into());
    }
    BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))).clone().map_err(anyhow::Error::msg)
}

fn build() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What cargo tells this package of itself is not for another one: build scripts (ring's) look at these
    // and would run again, and with them half of the dependencies, here and in the next build.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    let output = command
        .args(["build", "--package", "svclb-userspace", "--message-format", "json-render-diagnostics"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .context("start cargo to build svclb")?;
    ensure!(output.status.success(), "svclb does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8_lossy(&output.stdout);
    let built = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    built
        .filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .find(|path| path.file_name().is_some_and(|name| name == "svclb"))
        .context("cargo has built no binary named svclb")
}
