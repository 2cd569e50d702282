//! The cluster that all subjects and scenarios share.
//!
//! Three nodes, dual stack, on a real API server. The pods [`WEB`] serve on the nodes 1 and 2, as do [`HOST`] on the
//! nodes' own network; node 3 has no endpoint. Every node has a pod that only asks. Scenarios that need other pods
//! make them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::sync::Mutex;

use super::{proxies::Proxies, subject::Subject};
use crate::{
    cluster::LabCluster,
    net::{Lab, LabOptions, Pod, PodNetwork},
};

/// The pods that serve, with their nodes. Their label `app` is `web`; the port [`PORT`] is named `http`,
/// [`MORE`] `more`, and for UDP `http-udp` and `more-udp`.
pub const WEB: [(&str, u8); 3] = [("web-1", 1), ("web-2", 2), ("web-3", 2)];

/// The pods that serve on their nodes' own network, with their nodes. Their label `app` is `host`.
pub const HOST: [(&str, u8); 2] = [("host-1", 1), ("host-2", 2)];

/// The port of [`WEB`] named `http`.
pub const PORT: u16 = 8080;

/// The port of [`WEB`] named `more`.
pub const MORE: u16 = 8081;

/// The port of [`HOST`].
pub const HOST_PORT: u16 = 9376;

/// The namespace of everything that scenarios make.
pub const NAMESPACE: &str = "default";

/// A refusal is an ICMP message, and the kernel sends one peer few of them; scenarios ask more often.
const REFUSES_EVERYBODY: &[(&str, &str)] = &[("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")];

/// How long until the pods that all share run.
const PODS_WITHIN: Duration = Duration::from_mins(1);

/// The nodes.
pub const NODES: [u8; 3] = [1, 2, 3];

/// The cluster and who serves on it.
pub struct Stage {
    proxies: Mutex<Option<Proxies>>,
    clients: BTreeMap<u8, Pod>,
    cluster: LabCluster,
    logs: PathBuf,
}

impl Stage {
    /// Builds the cluster. Nobody serves yet. Logs of the subjects go to the folder `logs`. Must be called within a
    /// tokio runtime with several threads.
    pub fn set_up(logs: &Path) -> Result<Self> {
        fs::create_dir_all(logs).with_context(|| format!("make the folder {}", logs.display()))?;
        let options = LabOptions { nodes: NODES.len() as u8, ..LabOptions::default() };
        let cluster = LabCluster::start(options, PodNetwork::Routed)?;
        cluster.plane().apply([Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/rbac.yaml")])?;
        let mut clients = BTreeMap::new();
        for node in cluster.lab().nodes() {
            node.netns().sysctls(REFUSES_EVERYBODY)?;
            clients.insert(node.number(), node.pod(&format!("client-{}", node.number()), PodNetwork::Routed)?);
        }
        cluster.plane().apply_yaml(&standing_pods())?;
        cluster.wait_for_kubectl(&["get", "pods", "-o", "jsonpath={.items[*].status.phase}"], |phases| {
            phases.split(' ').filter(|phase| *phase == "Running").count() == WEB.len() + HOST.len()
        })?;
        Ok(Self { proxies: Mutex::new(None), clients, cluster, logs: logs.to_owned() })
    }

    /// The cluster.
    pub fn cluster(&self) -> &LabCluster {
        &self.cluster
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        self.cluster.lab()
    }

    /// The pod on a node that only asks.
    pub fn client(&self, node: u8) -> Result<&Pod> {
        self.clients.get(&node).with_context(|| format!("there is no node {node}"))
    }

    /// Starts a subject on all nodes.
    pub async fn begin(&self, subject: Subject) -> Result<()> {
        let mut proxies = self.proxies.lock().await;
        ensure!(proxies.is_none(), "a subject serves already");
        *proxies = Some(Proxies::start(&self.cluster, subject, &self.logs).await?);
        Ok(())
    }

    /// Stops the subject and leaves clean nodes.
    pub async fn end(&self) -> Result<()> {
        let proxies = self.proxies.lock().await.take().context("no subject serves")?;
        proxies.stop(&self.cluster).await
    }

    /// Ends the subject's processes on all nodes; what they wrote into the kernel stays.
    pub async fn stop_processes(&self) -> Result<()> {
        self.proxies.lock().await.as_mut().context("no subject serves")?.terminate().await
    }

    /// Starts the subject's processes again.
    pub async fn start_processes(&self) -> Result<()> {
        let mut proxies = self.proxies.lock().await;
        proxies.as_mut().context("no subject serves")?.start_again(&self.cluster, &self.logs).await
    }

    /// An error when a process of the subject or a part of the control plane has ended by itself.
    pub async fn check(&self) -> Result<()> {
        if let Some(proxies) = self.proxies.lock().await.as_mut() {
            proxies.check().with_context(|| format!("{} is not well", proxies.subject()))?;
        }
        self.cluster.plane().check()
    }

    /// An address of a node of the family that `other` has.
    pub fn node_address(&self, node: u8, other: IpAddr) -> IpAddr {
        self.lab().node(node).address().of_family(other)
    }
}

/// How long pods may take.
pub(super) const fn pods_within() -> Duration {
    PODS_WITHIN
}

/// [`WEB`] and [`HOST`] as objects.
fn standing_pods() -> String {
    let mut objects = String::new();
    let pods = WEB
        .map(|(name, node)| (name, node, "web", false))
        .into_iter()
        .chain(HOST.map(|(name, node)| (name, node, "host", true)));
    for (name, node, app, host_network) in pods {
        let ports = if host_network {
            format!("[{{containerPort: {HOST_PORT}}}]")
        } else {
            let both = |name: &str, number: u16| {
                format!(
                    "{{name: {name}, containerPort: {number}}}, \
                     {{name: {name}-udp, containerPort: {number}, protocol: UDP}}"
                )
            };
            format!("[{}, {}]", both("http", PORT), both("more", MORE))
        };
        writeln!(
            objects,
            "---\napiVersion: v1\nkind: Pod\n\
             metadata: {{name: {name}, labels: {{app: {app}}}}}\n\
             spec: {{nodeName: node{node}, hostNetwork: {host_network}, \
             containers: [{{name: answerer, image: answerer, ports: {ports}}}]}}"
        )
        .expect("a String takes everything");
    }
    objects
}
