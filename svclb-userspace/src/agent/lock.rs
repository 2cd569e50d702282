//! One agent for one folder of pins.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error(
        "another agent works with {}: stop it, or give another folder with --bpffs", .0.display()
    )]
    Taken(PathBuf),
    /// It cannot be opened or locked.
    #[error("lock {}: {source}", folder.display())]
    Failed {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A lock on the folder, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct FolderLock {
    _lock: Flock<File>,
}

impl FolderLock {
    /// Takes the lock of a folder that exists.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Failed { folder: folder.to_owned(), source };
        let file = File::open(folder).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => Err(LockError::Taken(folder.to_owned())),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}
