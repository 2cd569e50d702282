//! The stage of a run: a lab, pods that ask, an agent on each node.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use svclb_tests::net::{
    Agent, Askers, ClusterState, Effort, Found, Lab, Line, Manifests, NODES, PolicyEngine, all_paths, go_round,
};

use crate::repository;

use super::{Args, choice, cluster::Cluster, files::Files, source::Source};

/// What one round found.
pub(super) struct Round {
    /// By line of the table.
    pub(super) lines: BTreeMap<Line, Found>,
    /// Whether the cluster was another one at its end than at its beginning, so that it proves nothing.
    pub(super) overtaken: bool,
}

impl Round {
    /// Whether all went as it must.
    pub(super) fn is_good(&self) -> bool {
        !self.overtaken && !self.lines.is_empty() && self.lines.values().all(Found::is_good)
    }
}

/// Everything of a run that must be taken down at its end.
pub(super) struct Stage {
    agents: Vec<Agent>,
    askers: Askers,
    source: Box<dyn Source>,
    lab: Arc<Lab>,
    messages: Vec<String>,
    binary: PathBuf,
    /// Last: the agents write their logs there.
    folder: Folder,
}

impl Stage {
    /// Builds the lab, makes the pods, and starts the agents, which are ready when this ends.
    pub(super) async fn set_up(args: &Args, binary: &Path, manifests: &Manifests) -> Result<Self> {
        let folder = Folder::new()?;
        let lab = Arc::new(Lab::new(args.lab())?);
        let network = args.network();
        let policy = if args.policy { Some(PolicyEngine::start(&lab)?) } else { None };
        let mut source: Box<dyn Source> = if args.cluster {
            Box::new(Cluster::start(&lab, network, policy.as_ref(), args.kube_proxy_config()?)?)
        } else {
            Box::new(Files::new(&lab, &folder.0.join("manifests"), network, policy.as_ref())?)
        };
        let askers = Askers::new(&lab, network, policy.as_deref())?;
        let mut messages = source.apply(manifests)?;
        messages.extend(manifests.passed_over.iter().map(|what| format!("passed over: {what}")));
        let mut how = source.agent(binary, &folder.0)?;
        how.more.extend(args.attach.iter().flat_map(|way| ["--attach".into(), choice(way).into()]));
        let mut stage = Self { agents: Vec::new(), askers, source, lab, messages, binary: binary.to_owned(), folder };
        stage.route_load_balancers()?;
        eprintln!("starting an agent on each node ...");
        let starts = NODES.map(|node| Agent::start(&stage.lab, node, &how));
        stage.agents = try_join_all(starts).await?;
        Ok(stage)
    }

    /// Brings everything to the manifests as they are now.
    pub(super) fn apply(&mut self, manifests: &Manifests) -> Result<()> {
        let said = self.source.apply(manifests)?;
        self.messages.extend(said);
        self.route_load_balancers()
    }

    /// Requests over all paths.
    pub(super) async fn round(&mut self) -> Result<Round> {
        for agent in &mut self.agents {
            agent.check()?;
        }
        let before = self.source.state()?;
        let paths = all_paths(&self.lab, &self.askers, &before);
        let lines = go_round(paths, Effort::default()).await;
        let overtaken = fingerprint(&before) != fingerprint(&self.source.state()?);
        Ok(Round { lines, overtaken })
    }

    /// What has been said since the last call.
    pub(super) fn take_messages(&mut self) -> Vec<String> {
        std::mem::take(&mut self.messages)
    }

    /// Ends the agents; the rest goes when this is dropped.
    pub(super) async fn take_down(self) {
        for agent in self.agents {
            // One that has ended already is what is wanted.
            drop(agent.kill().await);
        }
    }

    /// Commands with which another terminal can look into the namespaces; they are in a file as well.
    pub(super) fn how_to_look_inside(&self) -> Result<(String, PathBuf)> {
        let mut lines = Vec::new();
        for (node, agent) in self.lab.nodes().iter().zip(&self.agents) {
            let enter = format!("nsenter --net={}", node.netns().path());
            let (mounts, pins) = agent.pins();
            lines.push(format!("  {:<9} {enter} ip address", node.name()));
            lines.push(format!(
                "  {:<9} {enter} --mount={mounts} {} list services --bpffs {}",
                "",
                self.binary.display(),
                pins.display()
            ));
            lines.push(format!("  {:<9} log: {}", "", agent.log().display()));
        }
        for pod in &self.askers.pods {
            lines.push(format!("  {:<9} nsenter --net={} bash", pod.name(), pod.netns().path()));
        }
        lines.push(format!("  {:<9} nsenter --net={} bash", "outside", self.lab.client().netns.path()));
        let (text, file) = (lines.join("\n"), self.folder.0.join("look-inside.txt"));
        fs::write(&file, &text).with_context(|| format!("write {}", file.display()))?;
        Ok((text, file))
    }

    /// The warnings of the agents since they were started, each once, with the nodes whose agents say so.
    pub(super) fn warnings(&self) -> Result<Vec<String>> {
        let mut nodes_by_warning: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (node, agent) in self.lab.nodes().iter().zip(&self.agents) {
            for warning in agent.warnings()? {
                let nodes = nodes_by_warning.entry(warning).or_default();
                if nodes.last() != Some(&node.name()) {
                    nodes.push(node.name());
                }
            }
        }
        Ok(nodes_by_warning.iter().map(|(warning, nodes)| format!("{}: {warning}", nodes.join(", "))).collect())
    }

    /// Leads the addresses of load balancers to a node, as a cloud would.
    fn route_load_balancers(&mut self) -> Result<()> {
        let state = self.source.state()?;
        load_balancer_addresses(&state).try_for_each(|address| self.lab.route_load_balancer(address))
    }
}

/// The addresses of load balancers that Services have.
fn load_balancer_addresses(state: &ClusterState) -> impl Iterator<Item = IpAddr> {
    let status = state.services.iter().filter_map(|service| service.status.as_ref()?.load_balancer.as_ref());
    status.flat_map(|status| status.ingress.iter().flatten()).filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
}

/// What makes two states differ for requests.
fn fingerprint(state: &ClusterState) -> (String, BTreeSet<(String, bool, bool)>) {
    let services = serde_json::to_string(&state.services).unwrap_or_default();
    let pods = state.pods.iter().map(|pod| (pod.name.clone(), pod.ready, pod.terminating)).collect();
    (services, pods)
}

/// The folder of this run below the target folder. It goes at the end, and where a run was killed, with
/// the next run.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let runs = repository::target().join("run");
        fs::create_dir_all(&runs).with_context(|| format!("make {}", runs.display()))?;
        for old in fs::read_dir(&runs)?.flatten() {
            let owner = old.file_name().to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw);
            if owner.is_some_and(|pid| kill(pid, None) == Err(Errno::ESRCH)) {
                fs::remove_dir_all(old.path()).with_context(|| format!("remove {}", old.path().display()))?;
            }
        }
        let folder = runs.join(std::process::id().to_string());
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}
