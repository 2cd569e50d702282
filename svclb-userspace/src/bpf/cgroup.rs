//! Attaches the programs that serve the node's own processes to a cgroup.
//!
//! They run for every socket of every process in the cgroup, which mostly is the root of all, and look only at those
//! of the agent's own network namespace: agents of several nodes on one machine do not meet. Their links are pinned
//! under the number of the cgroup and the name of the program, so they survive the agent, and the next one puts its
//! own programs into them.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use tracing::debug;

use super::{
    load::{LoadError, Object, SOCKET_PROGRAMS},
    pin::PinFolder,
    sys,
    tcx::cause,
};

/// Why the node's own processes cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No root of cgroups is mounted.
    #[error("no cgroup2 file system is mounted here: mount the node's /sys/fs/cgroup, and name it with --cgroup")]
    NotMounted,
    /// The folder is no cgroup of version 2.
    #[error("{0} is in no cgroup2 file system: name another with --cgroup, or do without: --socket-lb off")]
    OtherFileSystem(PathBuf),
    /// Looking at files failed.
    #[error("{0}: {1}")]
    Files(&'static str, #[source] io::Error),
    /// The kernel refused a program.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A program could not be attached.
    #[error("attach program {program} to the cgroup {cgroup}: {source}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Folder of the cgroup.
        cgroup: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The cgroup to attach to: the one given, else the root of all as far as this process sees them.
pub fn find(given: Option<&Path>) -> Result<PathBuf, CgroupError> {
    let Some(given) = given else {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| CgroupError::Files("read /proc/self/mountinfo", error))?;
        return root_in(&mounts).ok_or(CgroupError::NotMounted);
    };
    match statfs(given) {
        Ok(found) if found.filesystem_type() == CGROUP2_SUPER_MAGIC => Ok(given.to_owned()),
        Ok(_) | Err(_) => Err(CgroupError::OtherFileSystem(given.to_owned())),
    }
}

/// Where the root of a cgroup2 file system is mounted, from the text of `/proc/self/mountinfo`. The last mount of
/// several lies above the others.
fn root_in(mounts: &str) -> Option<PathBuf> {
    let mut roots = mounts.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        (kind.split(' ').next() == Some("cgroup2") && root == "/").then(|| PathBuf::from(point))
    });
    roots.next_back()
}

/// Attaches all programs to a cgroup, and removes what an agent before has attached elsewhere. CONFIG must be written.
pub fn attach(object: &mut Object, cgroup: &Path, folder: &Path) -> Result<(), CgroupError> {
    let pins = PinFolder::make(folder).map_err(|error| CgroupError::Files("make the pin folder", error))?;
    object.load_socket_programs()?;
    let opened = File::open(cgroup).and_then(|file| Ok((file.metadata()?.ino(), file)));
    let (number, opened) = opened.map_err(|error| CgroupError::Files("open the cgroup", error))?;
    for name in SOCKET_PROGRAMS {
        let program = object.socket_program(name)?;
        attach_one(program, &opened, &pins.socket_link(number, name)).map_err(|source| CgroupError::Attach {
            program: name,
            cgroup: cgroup.to_owned(),
            source,
        })?;
    }
    pins.remove_socket_links(Some(number)).map_err(|error| CgroupError::Files("remove links of before", error))?;
    Ok(())
}

/// Removes what an agent before has attached to cgroups.
pub fn detach(folder: &Path) -> io::Result<()> {
    PinFolder::existing(folder).remove_socket_links(None).map(drop)
}

/// Puts the program into the link of an agent before, so that no process meets none, or makes a link.
fn attach_one(program: &mut CgroupSockAddr, cgroup: &File, pin: &Path) -> io::Result<()> {
    let descriptor = program.fd().map_err(cause)?.as_fd().try_clone_to_owned()?;
    match sys::update_pinned_link(pin, &descriptor) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // Its cgroup is gone, or it is no link of ours: it serves nobody.
        Err(error) => {
            debug!(%error, path = %pin.display(), "pinned link is of no use");
            fs::remove_file(pin)?;
        }
    }
    // With links each cgroup takes many programs, whatever this mode says.
    let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(cause)?;
    let link = FdLink::try_from(program.take_link(id).map_err(cause)?).map_err(io::Error::other)?;
    link.pin(pin).map_err(io::Error::other)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_found_among_mounts() {
        let mounts = "24 30 0:22 / /sys rw - sysfs sysfs rw\n\
                      35 24 0:30 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      36 35 0:31 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw\n\
                      37 35 0:31 /system.slice /part rw - cgroup2 cgroup2 rw\n";
        assert_eq!(root_in(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(root_in("24 30 0:22 / /sys rw - sysfs sysfs rw\n"), None);
    }

    #[test]
    fn an_ordinary_folder_is_no_cgroup() {
        let error = find(Some(Path::new("/proc/self"))).expect_err("it is none");
        assert!(error.to_string().contains("--socket-lb off"), "{error}");
    }
}
