//! The BPF file system that the agent pins in: whether there is one, and one of our own where there is none.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::{AccessFlags, access},
};

use super::mounts;

/// Where a BPF file system mostly is; the kernel makes the folder.
const USUAL: &str = "/sys/fs/bpf";

/// What the mounts that svclb makes are called, so that they are known again.
const SOURCE: &str = "svclb";

/// Files that the kernel itself puts into each BPF file system (`CONFIG_BPF_PRELOAD`).
const OF_THE_KERNEL: [&str; 2] = ["maps.debug", "progs.debug"];

/// State of the folder for pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BpfFolder {
    /// It, or the folder in which it will be made, is in a BPF file system and writable.
    Usable,
    /// In another file system.
    OtherFileSystem,
    /// In a BPF file system, but this process may not write there.
    ReadOnly,
}

impl BpfFolder {
    /// Looks at the nearest folder that exists.
    pub fn look(folder: &Path) -> Self {
        let Some(existing) = folder.ancestors().find(|path| path.is_dir()) else {
            return Self::OtherFileSystem;
        };
        match statfs(existing) {
            Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => match access(existing, AccessFlags::W_OK) {
                Ok(()) => Self::Usable,
                Err(_) => Self::ReadOnly,
            },
            Ok(_) | Err(_) => Self::OtherFileSystem,
        }
    }
}

/// A file system was mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub at: PathBuf,
    /// Other mount namespaces see it, so it outlives the agent's own.
    pub shared: bool,
}

/// No file system could be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// What is there would be hidden.
    #[error("no BPF file system is mounted at {}, as the folder is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The folder cannot be had, or the kernel refuses.
    #[error("mount a BPF file system at {}: {source}", at.display())]
    Failed {
        /// Where.
        at: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Mounts a BPF file system for the folder of pins unless that is in one: at the usual place if the folder is below
/// that, else at the folder itself. Takes CAP_SYS_ADMIN.
pub fn provide(folder: &Path) -> Result<Option<Mounted>, MountError> {
    if BpfFolder::look(folder) != BpfFolder::OtherFileSystem {
        return Ok(None);
    }
    let at = place(folder);
    let failed = |source: io::Error| MountError::Failed { at: at.to_owned(), source };
    let is_new = at != Path::new(USUAL) && !at.exists();
    if is_new {
        fs::create_dir_all(at).map_err(failed)?;
    }
    if !entries(at).map_err(failed)?.is_empty() {
        return Err(MountError::NotEmpty(at.to_owned()));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RELATIME;
    if let Err(errno) = mount(Some(SOURCE), at, Some("bpf"), flags, Some("mode=0700")) {
        if is_new {
            fs::remove_dir(at).map_err(failed)?;
        }
        return Err(failed(errno.into()));
    }
    let shared = mounts::at(at).map_err(failed)?.is_some_and(|mount| mount.shared);
    Ok(Some(Mounted { at: at.to_owned(), shared }))
}

/// Unmounts what [`provide`] mounted for the folder of pins if nothing is in it any more. Returns where that was.
pub fn take_away(folder: &Path) -> io::Result<Option<PathBuf>> {
    let at = place(folder);
    if !at.is_dir() {
        return Ok(None);
    }
    let is_ours = mounts::at(at)?.is_some_and(|mount| mount.kind == "bpf" && mount.source == SOURCE);
    if !is_ours || !entries(at)?.iter().all(|name| OF_THE_KERNEL.contains(&name.as_str())) {
        return Ok(None);
    }
    umount2(at, MntFlags::empty())?;
    if at != Path::new(USUAL) {
        fs::remove_dir(at)?;
    }
    Ok(Some(at.to_owned()))
}

fn place(folder: &Path) -> &Path {
    if folder.starts_with(USUAL) { Path::new(USUAL) } else { folder }
}

fn entries(folder: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_folder_is_no_bpf_file_system() {
        assert_eq!(BpfFolder::look(Path::new("/proc/self")), BpfFolder::OtherFileSystem);
    }

    #[test]
    fn nothing_is_mounted_over_what_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("file"), "").expect("a file");
        assert!(matches!(provide(folder.path()), Err(MountError::NotEmpty(_))));
        assert_eq!(take_away(folder.path()).expect("it can be looked at"), None);
    }
}
