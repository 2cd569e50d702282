//! What differs between a run from files and a run on a real API server.

use std::path::Path;

use anyhow::Result;
use svclb_tests::net::{AgentCommand, ClusterState, Manifests};

/// Where the objects of a run come from, and who makes pods of them.
pub(super) trait Source {
    /// How the agents are started, so that they find their objects here. Their logs go to `folder`, with the files that
    /// they need.
    fn agent(&self, binary: &Path, folder: &Path) -> Result<AgentCommand>;

    /// Brings the cluster to what the manifests say, and waits until the new pods answer. Says what the
    /// user should know of it.
    fn apply(&mut self, manifests: &Manifests) -> Result<Vec<String>>;

    /// Does what is due by time, and gives what exists now.
    fn state(&mut self) -> Result<ClusterState>;
}
