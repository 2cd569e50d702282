//! Attaches the programs that serve the node's own processes to a cgroup.
//!
//! They run for every socket of every process in the cgroup, which mostly is the root of all, and look only at those
//! of the agent's own network namespace: agents of several nodes on one machine do not meet. Their links are pinned
//! under the number of the cgroup and the name of the program, so they survive the agent, and the next one puts its
//! own programs into them.

mod find;

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink};
use tracing::debug;

pub use self::find::{Cgroup, Reach, find, without_mount};
use super::{
    load::{LoadError, Object, SOCKET_PROGRAMS},
    pin::PinFolder,
    sys,
    tcx::cause,
};

/// Why the node's own processes cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup can be had.
    #[error("no cgroup2 file system is to be seen here: mount the node's /sys/fs/cgroup, and name it with --cgroup")]
    NotMounted,
    /// The folder is no cgroup of version 2.
    #[error(
        "{0} is in no cgroup2 file system, and none is below it: name another with --cgroup, or do without: --socket-lb off"
    )]
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
        /// The cgroup.
        cgroup: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Attaches all programs to a cgroup, and removes what an agent before has attached elsewhere. CONFIG must be written.
pub fn attach(object: &mut Object, cgroup: &Cgroup, folder: &Path) -> Result<(), CgroupError> {
    let pins = PinFolder::make(folder).map_err(|error| CgroupError::Files("make the pin folder", error))?;
    object.load_socket_programs()?;
    let number = cgroup.file().metadata().map_err(|error| CgroupError::Files("look at the cgroup", error))?.ino();
    for name in SOCKET_PROGRAMS {
        let program = object.socket_program(name)?;
        attach_one(program, cgroup.file(), &pins.socket_link(number, name)).map_err(|source| CgroupError::Attach {
            program: name,
            cgroup: cgroup.to_string(),
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
