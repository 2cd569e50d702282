//! The lab as a place for the pods of kubelets.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use tokio::runtime::Handle;

use super::{ControlPlane, Kubelet, NodeWanted, PodRuntime, PodWanted, RunningPod};
use crate::net::{Answerer, Lab, Netns, Pair, PodNetwork};

/// Where a pod runs.
#[derive(Debug, Clone)]
pub struct PodPlace {
    /// The number of its node.
    pub node: u8,
    /// How it is wired; nothing for a pod on its node's own network.
    pub network: Option<PodNetwork>,
    /// Its addresses.
    pub address: Pair,
    /// Its namespace.
    pub netns: Netns,
}

/// The pods that run in a lab, by namespace and name. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct PodRegister(Arc<Mutex<BTreeMap<(String, String), PodPlace>>>);

impl PodRegister {
    /// Where a pod runs, if it does.
    pub fn find(&self, namespace: &str, name: &str) -> Option<PodPlace> {
        self.lock().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    fn enter(&self, pod: &PodWanted, place: PodPlace) -> Entry {
        let key = (pod.namespace.clone(), pod.name.clone());
        self.lock().insert(key.clone(), place);
        Entry { register: self.clone(), key }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), PodPlace>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pod's entry in the register, which goes with the pod.
struct Entry {
    register: PodRegister,
    key: (String, String),
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.register.lock().remove(&self.key);
    }
}

/// Pods on one node of a lab, which run answerers on the ports of their containers.
#[derive(Debug, Clone)]
pub struct LabPods {
    lab: Arc<Lab>,
    node: u8,
    network: PodNetwork,
    answering: Handle,
    register: PodRegister,
}

impl LabPods {
    /// Pods on node number `node`, wired as `network` says and entered in `register`. The answerers run on the
    /// runtime `answering`.
    pub fn new(lab: &Arc<Lab>, node: u8, network: PodNetwork, answering: &Handle, register: &PodRegister) -> Self {
        Self { lab: Arc::clone(lab), node, network, answering: answering.clone(), register: register.clone() }
    }

    /// The Node that goes with them: node N is in zone `zoneN`.
    pub fn node(&self) -> NodeWanted {
        let node = self.lab.node(self.node);
        NodeWanted {
            name: node.name().to_owned(),
            addresses: node.families().of(node.address().both()),
            pod_cidrs: node.families().of(node.pod_prefixes()),
            zone: Some(format!("zone{}", self.node)),
        }
    }

    /// A kubelet on every node of the lab.
    pub fn kubelets(
        plane: &ControlPlane,
        lab: &Arc<Lab>,
        network: PodNetwork,
        answering: &Handle,
        register: &PodRegister,
    ) -> Result<Vec<Kubelet>> {
        lab.nodes()
            .iter()
            .map(|node| {
                let pods = Self::new(lab, node.number(), network, answering, register);
                Kubelet::start(plane.runtime(), &plane.client(), pods.node(), pods)
            })
            .collect()
    }
}

impl PodRuntime for LabPods {
    fn start(&self, wanted: &PodWanted) -> Result<RunningPod> {
        let node = self.lab.node(self.node);
        let _context = self.answering.enter();
        if wanted.host_network {
            let addresses = node.families().of(node.address().both());
            let answerer = Answerer::start(node.netns(), &wanted.name, &addresses, &wanted.ports)?;
            let place =
                PodPlace { node: self.node, network: None, address: node.address(), netns: node.netns().clone() };
            let entry = self.register.enter(wanted, place);
            return Ok(RunningPod { addresses, server: Some(Box::new(answerer)), place: Box::new(entry) });
        }
        let pod = node.pod(&wanted.name, self.network)?;
        let answerer = pod.answer(&wanted.ports)?;
        let place = PodPlace {
            node: self.node,
            network: Some(self.network),
            address: pod.address(),
            netns: pod.netns().clone(),
        };
        let entry = self.register.enter(wanted, place);
        Ok(RunningPod { addresses: pod.addresses(), server: Some(Box::new(answerer)), place: Box::new((entry, pod)) })
    }
}
