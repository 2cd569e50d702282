//! The lab as a place for the pods of kubelets.

use std::{net::IpAddr, sync::Arc};

use anyhow::Result;
use tokio::runtime::Handle;

use super::{ControlPlane, Kubelet, NodeWanted, PodRuntime, PodWanted, RunningPod};
use crate::net::{Answerer, Lab, NODES, PodNetwork};

/// Once its server has ended, a pod says so to everybody who asks, not to one a second.
const ANSWERS_EVERYBODY: &[(&str, &str)] = &[("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")];

/// Pods on one node of a lab, which run answerers on the ports of their containers.
#[derive(Debug, Clone)]
pub struct LabPods {
    lab: Arc<Lab>,
    node: u8,
    network: PodNetwork,
    answering: Handle,
}

impl LabPods {
    /// Pods on node number `node`, wired as `network` says. The answerers run on the runtime `answering`.
    pub fn new(lab: &Arc<Lab>, node: u8, network: PodNetwork, answering: &Handle) -> Self {
        Self { lab: Arc::clone(lab), node, network, answering: answering.clone() }
    }

    /// The Node that goes with them: node N is in zone `zoneN`.
    pub fn node(&self) -> NodeWanted {
        let node = self.lab.node(self.node);
        NodeWanted {
            name: node.name().to_owned(),
            addresses: node.address().both().into(),
            pod_cidrs: node.pod_prefixes().into(),
            zone: Some(format!("zone{}", self.node)),
        }
    }

    /// A kubelet on every node of the lab.
    pub fn kubelets(
        plane: &ControlPlane,
        lab: &Arc<Lab>,
        network: PodNetwork,
        answering: &Handle,
    ) -> Result<Vec<Kubelet>> {
        NODES
            .iter()
            .map(|&number| {
                let pods = Self::new(lab, number, network, answering);
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
            let addresses: Vec<IpAddr> = node.address().both().into();
            let answerer = Answerer::start(node.netns(), &wanted.name, &addresses, &wanted.ports)?;
            return Ok(RunningPod { addresses, server: Some(Box::new(answerer)), place: Box::new(()) });
        }
        let pod = node.pod(&wanted.name, self.network)?;
        pod.netns().sysctls(ANSWERS_EVERYBODY)?;
        let answerer = pod.answer(&wanted.ports)?;
        Ok(RunningPod {
            addresses: pod.address().both().into(),
            server: Some(Box::new(answerer)),
            place: Box::new(pod),
        })
    }
}
