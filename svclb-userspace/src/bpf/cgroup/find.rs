//! Which cgroup is hooked: the root of all if it can be had, since a process elsewhere is not served.
//!
//! It is looked for among the mounts that the agent sees, then among those of the first process (`ip netns exec`
//! hides the agent's), then in the hierarchy itself, which can be opened without being mounted anywhere.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
    process,
};

use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
    sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs},
};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsmount, fsopen};

use super::{
    super::mounts::{self, Mount},
    CgroupError,
};

/// Whom hooks at a cgroup serve, of the processes of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All: it is the root of the hierarchy.
    All,
    /// Those below a cgroup that is not the root.
    Part,
    /// The agent, and nobody else: a container that sees its own cgroup alone.
    NobodyElse,
}

impl Reach {
    /// One word, for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Part => "part",
            Self::NobodyElse => "nobody_else",
        }
    }
}

/// A cgroup to attach to.
#[derive(Debug)]
pub struct Cgroup {
    name: String,
    file: File,
    reach: Reach,
}

impl Cgroup {
    fn new(name: impl Into<String>, file: File) -> Self {
        let folder = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        // The root alone has no type (cgroup-v2.rst, "Core Interface Files").
        let reach = if !folder.join("cgroup.type").exists() {
            Reach::All
        } else if holds_nobody_else(&folder, process::id()) {
            Reach::NobodyElse
        } else {
            Reach::Part
        };
        Self { name: name.into(), file, reach }
    }

    /// What is attached to.
    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// Whom it serves.
    pub const fn reach(&self) -> Reach {
        self.reach
    }
}

impl fmt::Display for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The cgroup to attach to: the one given, or one that is mounted below that folder; without any, the highest that can
/// be had.
pub fn find(given: Option<&Path>) -> Result<Cgroup, CgroupError> {
    let own =
        mounts::of_this_thread().map_err(|error| CgroupError::Files("read /proc/thread-self/mountinfo", error))?;
    if let Some(given) = given {
        if let Ok(file) = open(given) {
            return Ok(Cgroup::new(given.to_string_lossy(), file));
        }
        // A host with both versions has a folder of file systems there.
        let below = fs::canonicalize(given).unwrap_or_else(|_| given.to_owned());
        let found = highest(&own, Path::new("/"), |point| point.starts_with(&below));
        return found.ok_or_else(|| CgroupError::OtherFileSystem(given.to_owned()));
    }
    let first = mounts::of_first_process().unwrap_or_default();
    let mut found = highest(&own, Path::new("/"), |_| true);
    let is_all = |found: &Option<Cgroup>| found.as_ref().is_some_and(|found| found.reach == Reach::All);
    if !is_all(&found) {
        let elsewhere = highest(&first, Path::new("/proc/1/root"), |_| true);
        found = if is_all(&elsewhere) { elsewhere } else { found.or(elsewhere) };
    }
    if !is_all(&found)
        && let Some(mount) = own.iter().chain(&first).find(|mount| mount.kind == "cgroup2")
        && let Ok(root) = without_mount(&mount.options)
        && (root.reach == Reach::All || found.is_none())
    {
        found = Some(root);
    }
    found.ok_or(CgroupError::NotMounted)
}

/// The root of the hierarchy, as high as this process may see it, without a mount of it. Takes CAP_SYS_ADMIN.
///
/// `options` must be those that are in force, as a mount tells them: they are the whole machine's, and what is not named
/// here would be switched off (`apply_cgroup_root_flags` in the kernel's `kernel/cgroup/cgroup.c`).
pub fn without_mount(options: &[String]) -> io::Result<Cgroup> {
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for option in options.iter().filter(|option| !matches!(option.as_str(), "rw" | "ro" | "seclabel")) {
        fsconfig_set_flag(context.as_fd(), option.as_str())?;
    }
    fsconfig_create(context.as_fd())?;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let file = openat(&mount, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    Ok(Cgroup::new("the root, which is not mounted here", file.into()))
}

/// The highest cgroup among mounts that are seen below `seen_at`.
fn highest(mounts: &[Mount], seen_at: &Path, wanted: impl Fn(&Path) -> bool) -> Option<Cgroup> {
    let mut points: Vec<_> = mounts.iter().filter(|mount| mount.kind == "cgroup2" && wanted(&mount.point)).collect();
    points.sort_by_key(|mount| height(&mount.root));
    points.iter().rev().find_map(|mount| {
        let path = seen_at.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
        // Something else may be mounted above it.
        Some(Cgroup::new(path.to_string_lossy(), open(&path).ok()?))
    })
}

/// Orders roots of mounts, as they are seen from the agent's own cgroup: first those that the agent's is not in, then
/// the higher the later. `/../..` is above `/`, which is above `/part`.
fn height(root: &str) -> (bool, usize, std::cmp::Reverse<usize>) {
    let parts = root.split('/').filter(|part| !part.is_empty());
    let (up, down): (Vec<_>, Vec<_>) = parts.partition(|part| *part == "..");
    (down.is_empty(), up.len(), std::cmp::Reverse(down.len()))
}

fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    match fstatfs(&file)?.filesystem_type() {
        CGROUP2_SUPER_MAGIC => Ok(file),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Whether no process but `own` is in the cgroup or below. What cannot be read has others.
fn holds_nobody_else(folder: &Path, own: u32) -> bool {
    let own = own.to_string();
    let Ok(processes) = fs::read_to_string(folder.join("cgroup.procs")) else { return false };
    if processes.lines().any(|process| process != own) {
        return false;
    }
    let Ok(below) = fs::read_dir(folder) else { return false };
    below.flatten().all(|entry| !entry.path().is_dir() || holds_nobody_else(&entry.path(), process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_root_comes_last() {
        let mut roots = ["/part", "/", "/../..", "/../other", "/..", "/part/of/it"];
        roots.sort_by_key(|root| height(root));
        assert_eq!(roots, ["/part/of/it", "/part", "/../other", "/", "/..", "/../.."]);
    }

    #[test]
    fn an_ordinary_folder_is_no_cgroup() {
        let error = find(Some(Path::new("/proc/self"))).expect_err("it is none");
        assert!(error.to_string().contains("--socket-lb off"), "{error}");
    }

    #[test]
    fn a_cgroup_holds_nobody_else_when_all_below_it_is_one_process() {
        let root = tempfile::tempdir().expect("a folder");
        let own = process::id();
        let with = |folder: &str, processes: &str| {
            let folder = root.path().join(folder);
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join("cgroup.procs"), processes).expect("a file");
        };
        with("", &format!("{own}\n"));
        with("below", "");
        assert!(holds_nobody_else(root.path(), own));
        // A process of another PID namespace has no number here.
        with("below/deep", "0\n");
        assert!(!holds_nobody_else(root.path(), own));
    }
}
