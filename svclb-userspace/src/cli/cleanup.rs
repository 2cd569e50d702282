//! `svclb cleanup`: leaves the node as it was found.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use svclb_common::schema::MAPS;

use crate::agent::conntrack;
use crate::agent::lock::FolderLock;
use crate::bpf::sysctl_notes::Notes;
use crate::bpf::{attach, bpffs};
use crate::config::DEFAULT_BPFFS;
use crate::host::sysctl::Folder;

/// Options of `svclb cleanup`.
#[derive(Args, Clone, Debug)]
pub struct CleanupOptions {
    /// The agent's folder in a BPF file system.
    #[arg(long, env = "SVCLB_BPFFS", default_value = DEFAULT_BPFFS, value_name = "DIR")]
    pub bpffs: PathBuf,
}

/// Removes hooks, programs and maps of an agent that does not run any more, and puts back the sysctls that it wrote. To be called in the network
/// namespace of its node. Connections through Services break.
pub fn run(options: &CleanupOptions) -> Result<()> {
    let folder = &options.bpffs;
    let there = folder.try_exists().with_context(|| format!("look for {}", folder.display()))?;
    let lock = there.then(|| FolderLock::take(folder)).transpose()?;
    let removed = attach::clean_up(folder)
        .with_context(|| format!("remove the hooks of the agent with --bpffs {}", folder.display()))?;
    let mut maps = 0;
    for map in MAPS {
        let pin = folder.join(map.name);
        match fs::remove_file(&pin) {
            Ok(()) => maps += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("remove {}", pin.display())),
        }
    }
    let sysctls = conntrack::restore(&Folder::conntrack(), &Notes::beside(folder))?;
    if lock.is_some() {
        match fs::remove_dir(folder) {
            // A file system may be mounted at the folder itself.
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => {
                return Err(error).with_context(|| format!("remove {}", folder.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    // It keeps the file system busy.
    drop(lock);
    let unmounted = bpffs::take_away(folder)
        .with_context(|| format!("unmount the BPF file system that the agent mounted for {}", folder.display()))?;
    let links = removed.links.len();
    let filters = removed.filters.len();
    writeln!(
        io::stdout(),
        "removed {maps} maps, links on {links} devices, filters on {filters} devices; put {sysctls} sysctls back{}",
        unmounted.map(|at| format!("; unmounted {}", at.display())).unwrap_or_default()
    )
    .context("say what was removed")
}
