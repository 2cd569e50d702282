//! A kubelet for pods that are network namespaces.
//!
//! It does what the rest of a cluster can see of a kubelet: a Node that stays ready, pods that come up,
//! report their addresses and become ready, and pods that go away in order. A pod that is deleted serves
//! through its whole grace period, as a program does that finishes its work after SIGTERM: its endpoint is
//! `terminating` and still `serving` for all that time. Then its server ends (who connects is refused), the
//! pod is reported as ended, and when that is known its namespace goes, and the object with it.
//!
//! A test makes a pod unready with the annotation [`READY_ANNOTATION`] set to `false`.

mod node;
mod pods;
mod status;
mod workbench;

use std::{any::Any, net::IpAddr, sync::Arc};

use anyhow::{Context, Result};
use kube::Client;
use tokio::task::JoinHandle;

pub use node::NodeWanted;

use super::runtime::NamespaceRuntime;

/// The annotation by which a test says whether a pod is ready: `true` (as without it) or `false`.
pub const READY_ANNOTATION: &str = "svclb.test/ready";

/// Where pods come from.
pub trait PodRuntime: Send + 'static {
    /// Makes a pod that serves at once. It blocks until the pod does, and is called for one pod at a time,
    /// from a thread in the namespace of whoever started the kubelet.
    fn start(&self, pod: &PodWanted) -> Result<RunningPod>;
}

/// A pod that runs.
pub struct RunningPod {
    /// Its addresses, the one of the primary family first.
    pub addresses: Vec<IpAddr>,
    /// What serves in it. Taken and dropped when the grace period is over, before anything else.
    pub server: Option<Box<dyn Any>>,
    /// Its namespace and device. Dropped last, on the thread that made it.
    pub place: Box<dyn Any>,
}

/// A pod as the scheduler bound it to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodWanted {
    /// Its identity: a pod that is made again under the same name has another.
    pub uid: String,
    /// Its namespace in Kubernetes.
    pub namespace: String,
    /// Its name, by which an answer names it.
    pub name: String,
    /// The ports of its containers, each once.
    pub ports: Vec<u16>,
    /// Whether it shares the namespace and the addresses of its node.
    pub host_network: bool,
}

/// A kubelet that runs. Dropping it ends its pods; the Node object stays, as that of a node that was cut off.
#[derive(Debug)]
pub struct Kubelet {
    tasks: Vec<JoinHandle<()>>,
    bench: workbench::Workbench,
}

impl Kubelet {
    /// Registers `node` and follows the pods that are bound to it. Returns when the Node is ready.
    pub fn start(runtime: &NamespaceRuntime, client: &Client, node: NodeWanted, pods: impl PodRuntime) -> Result<Self> {
        let name = node.name.clone();
        let node = Arc::new(node);
        let registered = (client.clone(), Arc::clone(&node));
        runtime
            .run(async move { node::register(&registered.0, &registered.1).await })
            .with_context(|| format!("register node {name}"))?;
        let bench = workbench::Workbench::start(&name, pods)?;
        let tasks = vec![
            runtime.spawn(node::keep_alive(client.clone(), Arc::clone(&node))),
            runtime.spawn(pods::follow(client.clone(), node, bench.clone())),
        ];
        Ok(Self { tasks, bench })
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.bench.close();
    }
}
