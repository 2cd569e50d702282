//! A lab and a control plane as one cluster: two nodes with kubelets, ready for Deployments.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::runtime::Handle;

use super::{ControlPlane, Kubelet, LabPods};
use crate::net::{Lab, LabOptions, PodNetwork};

/// How long the controllers may take for anything. They need a second or two on an idle machine.
pub const CONTROLLERS_WITHIN: Duration = Duration::from_mins(1);

/// A cluster whose nodes are those of a lab. Dropping it takes everything away.
pub struct LabCluster {
    // Dropped from top to bottom: the kubelets end their pods before the lab goes.
    kubelets: Vec<Kubelet>,
    plane: ControlPlane,
    lab: Arc<Lab>,
}

impl LabCluster {
    /// Builds a lab, starts a control plane on its host for that, and a kubelet on each node. Must be called
    /// within a tokio runtime with several threads, which then runs the pods' answerers.
    pub fn start(options: LabOptions, network: PodNetwork) -> Result<Self> {
        let lab = Arc::new(Lab::new(LabOptions { control_plane: true, ..options })?);
        let host = lab.control_plane().context("the lab has a host for the control plane")?;
        let plane = ControlPlane::start(&host.netns, &host.address.both())?;
        let kubelets = LabPods::kubelets(&plane, &lab, network, &Handle::current())?;
        Ok(Self { kubelets, plane, lab })
    }

    /// The control plane.
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// The lab.
    pub fn lab(&self) -> &Arc<Lab> {
        &self.lab
    }

    /// The kubelets, by node.
    pub fn kubelets(&self) -> &[Kubelet] {
        &self.kubelets
    }

    /// Runs kubectl, as administrator, until what it prints is `good`, and gives that back. It blocks for
    /// [`CONTROLLERS_WITHIN`] at most; after that the error holds the last answer.
    pub fn until(&self, args: &[&str], good: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + CONTROLLERS_WITHIN;
        loop {
            let answer = self.plane.kubectl(args)?;
            if good(&answer) {
                return Ok(answer);
            }
            ensure!(Instant::now() < deadline, "after {CONTROLLERS_WITHIN:?} kubectl {args:?} still says: {answer}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}
