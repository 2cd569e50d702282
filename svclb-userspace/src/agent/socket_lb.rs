//! The node's own processes: whether they are served, and where the programs for them are attached.

use std::path::Path;

use anyhow::{Context as _, Result};
use tracing::{error, info, warn};

use crate::bpf::cgroup::{self, Cgroup, Reach};
use crate::bpf::load::Object;
use crate::bpf::sys;
use crate::config::{AgentOptions, SocketLb};
use crate::metrics::SocketLbLabels;

/// How the node's own processes are served.
pub(super) enum SocketHooks {
    /// They are not.
    Off,
    /// Those of this network namespace, through this cgroup.
    Host { cgroup: Cgroup, namespace: u64 },
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
    /// well as another. Returns who is served, for the metrics.
    pub(super) fn attach(&self, object: &mut Object, bpffs: &Path) -> SocketLbLabels {
        let off = || SocketLbLabels { state: "off", cgroup: String::new() };
        match self {
            Self::Off => {
                if let Err(error) = cgroup::detach(bpffs) {
                    warn!(%error, "hooks at sockets of an agent before stay");
                }
                off()
            }
            Self::Host { cgroup, .. } => match cgroup::attach(object, cgroup, bpffs) {
                Ok(()) => {
                    tell_of(cgroup);
                    SocketLbLabels { state: cgroup.reach().label(), cgroup: cgroup.to_string() }
                }
                Err(error) => {
                    error!(%error, "processes of the node itself do not reach Services");
                    off()
                }
            },
        }
    }
}

fn tell_of(cgroup: &Cgroup) {
    const INSTEAD: &str = "mount the node's /sys/fs/cgroup and name it with --cgroup";
    match cgroup.reach() {
        Reach::All => info!(%cgroup, "processes of the node itself are served"),
        Reach::Part => {
            warn!(%cgroup, "processes of the node itself reach Services only below this cgroup; for all, {INSTEAD}");
        }
        Reach::NobodyElse => {
            warn!(%cgroup, "only the agent is in the cgroup whose processes reach Services; for the node's, {INSTEAD}");
        }
    }
}
