//! A cluster with real kubelets and a real container runtime, for Kubernetes' own tests of the network.
//!
//! The network is that of [`crate::net::Lab`], the control plane that of [`crate::cluster`]. On each node run kubelet
//! and containerd, built from their Go modules ([`programs`]), with images made here ([`images`]); pods get their
//! network from the plugin `ptp`, so that each has a pair of devices and no bridge. svclb runs as the DaemonSet of
//! `deploy/`, kube-proxy as kubeadm would run it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use svclb_userspace::model::Family;

pub mod images;
mod node;
pub mod programs;
pub mod suite;

use crate::{
    cluster::{ControlPlane, Controllers},
    net::{Lab, LabOptions},
};
use images::Images;
use node::ContainerNode;
use programs::Programs;

/// How long nodes and pods may take to become ready. Mostly it is the kernel's check of svclb's programs, on all nodes
/// at once.
const READY_WITHIN: Duration = Duration::from_mins(5);

/// Who serves Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// svclb, from `deploy/`.
    Svclb,
    /// kube-proxy in its mode nftables.
    KubeProxyNftables,
}

/// What kind of cluster.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many nodes, each in a zone of its own unless there are six and more: then two share one.
    pub nodes: u8,
    /// Who serves Services.
    pub subject: Subject,
    /// Which of the two families is the cluster's first one, in which most tests run.
    pub family: Family,
}

/// A pair of which IPv4 comes first, with the cluster's first family first.
fn first<T>(family: Family, [v4, v6]: [T; 2]) -> [T; 2] {
    if family == Family::V6 { [v6, v4] } else { [v4, v6] }
}

/// The cluster IP of cluster DNS.
fn cluster_dns(family: Family) -> &'static str {
    if family == Family::V6 { "fd00:10:96::a" } else { "10.96.0.10" }
}

/// A cluster that is ready for tests. Dropping it takes everything away but its logs.
pub struct Cluster {
    // Dropped from top to bottom: the nodes before those whom they ask, and all before the network.
    nodes: Vec<ContainerNode>,
    plane: ControlPlane,
    lab: Lab,
    folder: PathBuf,
}

impl Cluster {
    /// Starts it. Logs go to `logs`. `say` hears what is being done.
    pub fn start(
        options: Options,
        programs: &Programs,
        images: &Images,
        logs: &Path,
        say: impl Fn(&str),
    ) -> Result<Self> {
        let Options { nodes, subject, family } = options;
        node::remove_leftovers()?;
        let lab = Lab::new(LabOptions { nodes, control_plane: true, ..LabOptions::default() })?;
        let host = lab.control_plane().context("the lab has a host for the control plane")?;
        say("starting the control plane");
        let plane = ControlPlane::start(&host.netns, &first(family, host.address.both()), Controllers::All)?;
        let mut cluster = Self { nodes: Vec::new(), plane, lab, folder: logs.to_owned() };
        cluster.write_kubectl(programs)?;
        say("starting containerd and kubelet on each node");
        for node in cluster.lab.nodes() {
            let zone = if nodes >= 6 { node.number() % (nodes / 2) } else { node.number() };
            let zones = json!({
                "topology.kubernetes.io/region": "lab",
                "topology.kubernetes.io/zone": format!("zone{zone}"),
            });
            let prefixes = first(family, node.pod_prefixes());
            let object = json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": node.name(), "labels": zones},
                "spec": {"podCIDR": prefixes[0], "podCIDRs": prefixes},
            });
            cluster.plane.apply_yaml(&object.to_string())?;
            cluster.nodes.push(ContainerNode::start(node, &cluster.plane, family, programs, images, logs)?);
        }
        cluster.wait("all nodes to be ready", &["get", "nodes", "--no-headers"], |text| {
            text.lines().filter(|line| line.split_whitespace().nth(1) == Some("Ready")).count() == usize::from(nodes)
        })?;
        say("starting who serves Services");
        match subject {
            Subject::Svclb => cluster.apply_svclb(family)?,
            Subject::KubeProxyNftables => cluster.apply("kube-proxy.yaml", family)?,
        }
        cluster.apply("coredns.yaml", family)?;
        let pods = ["get", "pods", "--all-namespaces", "--no-headers"];
        cluster.wait("all pods to be ready", &pods, |text| {
            text.lines().count() >= usize::from(nodes) + 2
                && text.lines().all(|line| line.split_whitespace().nth(2) == Some("1/1"))
        })?;
        Ok(cluster)
    }

    /// The control plane, in whose network namespace the tests run.
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// The network.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// kubectl, which is a part of another program, as a program of its own.
    pub fn kubectl(&self) -> PathBuf {
        self.folder.join("kubectl")
    }

    fn write_kubectl(&self, programs: &Programs) -> Result<()> {
        let file = self.kubectl();
        let text = format!("#!/bin/sh\nexec '{}' kubectl \"$@\"\n", programs.kube().display());
        fs::write(&file, text)
            .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("write {}", file.display()))
    }

    fn server(&self) -> Result<String> {
        self.plane.servers().into_iter().next().context("a control plane has an address")
    }

    /// Applies objects of `tests/e2e`.
    fn apply(&self, name: &str, family: Family) -> Result<()> {
        let file = programs::folder().join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        self.plane.apply_yaml(&text.replace("SERVER", &self.server()?).replace("CLUSTER_DNS", cluster_dns(family)))
    }

    /// Applies `deploy/` with what every cluster sets, and with the label by which the tests find kube-proxy's pods.
    fn apply_svclb(&self, family: Family) -> Result<()> {
        let overlay = self.folder.join("svclb");
        let deploy = overlay.join("deploy");
        fs::create_dir_all(&deploy).with_context(|| format!("make {}", deploy.display()))?;
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        for entry in fs::read_dir(&ours).with_context(|| format!("list {}", ours.display()))?.flatten() {
            fs::copy(entry.path(), deploy.join(entry.file_name()))
                .with_context(|| format!("copy {}", entry.path().display()))?;
        }
        let (name, tag) = images::SVCLB.split_once(':').context("the image has a tag")?;
        let mut patch = vec![
            json!({
                "op": "replace",
                "path": "/spec/template/spec/containers/0/args/1",
                "value": format!("--api-server={}", self.server()?),
            }),
            json!({"op": "add", "path": "/spec/template/metadata/labels/k8s-app", "value": "kube-proxy"}),
        ];
        if family == Family::V6 {
            // The kubelet's probes come to the node's first address.
            let end = "/spec/template/spec/containers/0/args/-";
            patch.push(json!({"op": "add", "path": end, "value": "--healthz-bind-address=[::]:10256"}));
        }
        let kustomization = json!({
            "resources": ["deploy"],
            "images": [{"name": "svclb", "newName": name, "newTag": tag}],
            "patches": [{"target": {"kind": "DaemonSet", "name": "svclb"}, "patch": json!(patch).to_string()}],
        });
        fs::write(overlay.join("kustomization.yaml"), kustomization.to_string()).context("write the overlay")?;
        self.plane.apply([&overlay])
    }

    /// Asks kubectl until its answer is `good`.
    fn wait(&mut self, what: &str, args: &[&str], good: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let answer = self.plane.kubectl(args)?;
            if good(&answer) {
                return Ok(());
            }
            self.plane.check()?;
            self.nodes.iter_mut().try_for_each(ContainerNode::check)?;
            ensure!(
                Instant::now() < deadline,
                "waited {} s for {what}. The nodes' logs are in {}; kubectl says:\n{answer}",
                READY_WITHIN.as_secs(),
                self.folder.display()
            );
            thread::sleep(Duration::from_millis(500));
        }
    }
}
