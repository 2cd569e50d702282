//! What differs between a run from files and a run on a real API server.

use std::ffi::OsString;

use anyhow::Result;
use svclb_tests::net::{ClusterState, Manifests};

/// Where the objects of a run come from, and who makes pods of them.
pub(super) trait Source {
    /// What tells an agent where its objects are, for example `--manifests DIR`.
    fn agent_arguments(&self) -> Vec<OsString>;

    /// Brings the cluster to what the manifests say, and waits until the new pods answer. Says what the
    /// user should know of it.
    fn apply(&mut self, manifests: &Manifests) -> Result<Vec<String>>;

    /// Does what is due by time, and gives what exists now.
    fn state(&mut self) -> Result<ClusterState>;
}
