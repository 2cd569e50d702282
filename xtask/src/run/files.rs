//! Objects from files: the run plays the part of the cluster.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use svclb_tests::net::{
    AgentCommand, AgentSource, ClusterState, Ending, FileCluster, Lab, Manifests, PodNetwork, PolicyEngine,
};

use super::source::Source;

/// How long pods answer after they are told to end.
const GRACE: Duration = Duration::from_secs(2);

/// A folder of complete objects that the agents watch.
pub(super) struct Files {
    lab: Arc<Lab>,
    cluster: FileCluster,
}

impl Files {
    pub(super) fn new(
        lab: &Arc<Lab>,
        folder: &Path,
        network: PodNetwork,
        policy: Option<&Arc<PolicyEngine>>,
    ) -> Result<Self> {
        let mut cluster = FileCluster::new(lab, folder, network, Ending::Announced(GRACE))?;
        if let Some(policy) = policy {
            cluster.set_policy(policy);
        }
        Ok(Self { lab: Arc::clone(lab), cluster })
    }
}

impl Source for Files {
    fn agent(&self, binary: &Path, folder: &Path) -> Result<AgentCommand> {
        Ok(AgentCommand {
            binary: binary.to_owned(),
            source: AgentSource::Manifests(self.cluster.folder().to_owned()),
            more: Vec::new(),
            logs: folder.to_owned(),
        })
    }

    fn apply(&mut self, manifests: &Manifests) -> Result<Vec<String>> {
        self.cluster.apply(&self.lab, manifests)
    }

    fn state(&mut self) -> Result<ClusterState> {
        self.cluster.reap()?;
        Ok(self.cluster.state())
    }
}
