//! The node's own processes: whether they are served, and where the programs for them are attached.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tracing::{error, info, warn};

use crate::bpf::load::Object;
use crate::bpf::{cgroup, sys};
use crate::config::{AgentOptions, SocketLb};

/// How the node's own processes are served.
pub(super) enum SocketHooks {
    /// They are not.
    Off,
    /// Those of this network namespace, through this cgroup.
    Host { cgroup: PathBuf, namespace: u64 },
}

impl SocketHooks {
    /// As the options say; without a cgroup they are not served.
    pub(super) fn prepare(options: &AgentOptions) -> Result<Self> {
        match options.socket_lb {
            SocketLb::Off => return Ok(Self::Off),
            SocketLb::Host => {}
        }
        match cgroup::find(options.cgroup.as_deref()) {
            Ok(cgroup) => {
                let namespace = sys::namespace_cookie().context("ask for the cookie of this network namespace")?;
                Ok(Self::Host { cgroup, namespace })
            }
            Err(error) => {
                warn!(%error, "processes of the node itself do not reach Services");
                Ok(Self::Off)
            }
        }
    }

    /// The namespace for CONFIG; 0 if nobody is served.
    pub(super) fn namespace(&self) -> u64 {
        match self {
            Self::Off => 0,
            Self::Host { namespace, .. } => *namespace,
        }
    }

    /// Attaches the programs, or removes those of an agent before. A kernel that does not take them serves pods as
    /// well as another.
    pub(super) fn attach(&self, object: &mut Object, bpffs: &Path) {
        match self {
            Self::Off => {
                if let Err(error) = cgroup::detach(bpffs) {
                    warn!(%error, "hooks at sockets of an agent before stay");
                }
            }
            Self::Host { cgroup, .. } => match cgroup::attach(object, cgroup, bpffs) {
                Ok(()) => info!(cgroup = %cgroup.display(), "processes of the node itself are served"),
                Err(error) => error!(%error, "processes of the node itself do not reach Services"),
            },
        }
    }
}
