//! What takes more rights than serving: a BPF file system where the node has none, and the sysctls of connection
//! tracking. `svclb agent --init-only` does this alone, so that an agent with fewer rights finds it done.

use anyhow::{Context as _, Result};
use tracing::{info, warn};

use super::conntrack::{self, Conntrack};
use super::lock::{self, FolderLock};
use crate::bpf::bpffs;
use crate::bpf::probe::Probe;
use crate::bpf::sysctl_notes::Notes;
use crate::config::AgentOptions;
use crate::host::sysctl::Folder;

/// A machine on which the agent can work.
pub(super) struct Prepared {
    /// The folder of pins is the agent's as long as this is held.
    pub(super) lock: FolderLock,
    /// Sysctls, of which some may be there later.
    pub(super) conntrack: Conntrack,
}

/// Prepares the machine for an agent, and waits for the one before it to end.
pub(super) async fn prepare(options: &AgentOptions) -> Result<Prepared> {
    let folder = &options.bpffs;
    let mounted = bpffs::provide(folder);
    let probe = Probe::run(folder);
    let mut missing: Vec<String> = probe.problems(folder).iter().map(ToString::to_string).collect();
    match mounted {
        Ok(None) => {}
        Ok(Some(mounted)) => tell_of(&mounted),
        Err(error) => missing.push(error.to_string()),
    }
    if !missing.is_empty() {
        anyhow::bail!("this node cannot run svclb: {}", missing.join("; "));
    }
    info!(kernel = probe.kernel, tcx = probe.tcx, btf = probe.btf, "node probed");
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let lock = FolderLock::wait(folder, lock::PATIENCE).await?;
    let wanted = options.conntrack.sysctls(conntrack::online_cpus());
    let mut conntrack = Conntrack::new(Folder::conntrack(), Notes::beside(folder), wanted);
    conntrack.write();
    Ok(Prepared { lock, conntrack })
}

/// `--init-only`.
pub async fn run(options: &AgentOptions) -> Result<()> {
    let Prepared { conntrack, .. } = prepare(options).await?;
    if conntrack.waits() {
        warn!("nf_conntrack is not loaded yet, so its sysctls are not written; the agent does it later if it may");
    }
    Ok(())
}

fn tell_of(mounted: &bpffs::Mounted) {
    let at = mounted.at.display();
    if mounted.shared {
        info!("a BPF file system is mounted at {at}, as there was none; other mount namespaces see it, too");
    } else {
        warn!(
            "a BPF file system is mounted at {at}, as there was none. It ends with the mount namespace of this agent, and \
             maps, connections and hooks with it: to keep them over a restart, mount one on the node (mount -t bpf bpf \
             /sys/fs/bpf) and give it to the agent's container"
        );
    }
}
