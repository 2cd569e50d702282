//! How other processes find a control plane that runs: a state file, and the namespace behind a descriptor
//! of the process that wrote it.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::ControlPlane;
use crate::net::Netns;

/// A control plane that a process of this machine runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningCluster {
    /// The process that runs it.
    pub pid: u32,
    /// The namespace of the control plane, as a path below `/proc`.
    pub netns: PathBuf,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The binary that holds kubectl.
    pub binary: PathBuf,
}

/// The state file while it is there. Dropping it removes the file.
#[derive(Debug)]
pub struct StateFile(PathBuf);

impl RunningCluster {
    /// Where `cargo xtask run --cluster` leaves the state of the cluster that it runs.
    pub fn default_path() -> Result<PathBuf> {
        Ok(super::binary::folder()?.join("running.json"))
    }

    /// What there is to know about `control_plane`, which this process runs.
    pub fn of(control_plane: &ControlPlane) -> Self {
        Self {
            pid: std::process::id(),
            netns: control_plane.netns().path().into(),
            kubeconfig: control_plane.admin_kubeconfig(),
            binary: control_plane.binary().to_owned(),
        }
    }

    /// Writes it to `path` for as long as the guard lives.
    pub fn publish(&self, path: &Path) -> Result<StateFile> {
        let content = serde_json::to_vec_pretty(self).context("write the state as JSON")?;
        fs::write(path, content).with_context(|| format!("write the state file {}", path.display()))?;
        Ok(StateFile(path.to_owned()))
    }

    /// Reads what another process published at `path`, and looks whether it still runs.
    pub fn find(path: &Path) -> Result<Self> {
        let none = "no cluster is running here; start one with `cargo xtask run --cluster`";
        let content = match fs::read(path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("{none}"),
            Err(error) => {
                return Err(error).with_context(|| format!("read the state file {}", path.display()));
            }
        };
        let running: Self = serde_json::from_slice(&content)
            .with_context(|| format!("understand the state file {}; remove it if it is damaged", path.display()))?;
        if !running.kubeconfig.exists() || !running.netns.exists() {
            bail!("{none} (process {} left {} behind when it was killed)", running.pid, path.display());
        }
        Ok(running)
    }

    /// kubectl with `args`, inside the namespace of the control plane, as administrator.
    pub fn kubectl(&self, args: &[OsString]) -> Result<Command> {
        let netns = Netns::open(&self.netns, "control plane")?;
        let mut command = netns.command(&self.binary);
        command.arg("kubectl").arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        Ok(command)
    }
}

impl Drop for StateFile {
    fn drop(&mut self) {
        // Another run may have cleaned up already.
        drop(fs::remove_file(&self.0));
    }
}
