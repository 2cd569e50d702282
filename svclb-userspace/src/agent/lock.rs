//! One agent for one folder of pins.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{major, minor};
use tokio::time::{Instant, sleep};
use tracing::info;

/// How long an agent waits for the one before it: longer than a Pod may take to end.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// How often it looks whether the other one is gone.
const PAUSE: Duration = Duration::from_millis(100);

/// The folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error(
        "another agent works with {}{}: stop it, or give this one a folder of its own with --bpffs",
        folder.display(),
        holder.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Taken {
        /// The folder.
        folder: PathBuf,
        /// The process that has it, if it can be seen from here.
        holder: Option<u32>,
    },
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
    /// Takes the lock of a folder that exists, at once or not at all.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Failed { folder: folder.to_owned(), source };
        let file = File::open(folder).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((file, Errno::EWOULDBLOCK)) => {
                Err(LockError::Taken { folder: folder.to_owned(), holder: holder(&file) })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// Takes the lock, and waits as long as `patience` for another agent to end: the one of a Pod that was deleted
    /// may still be about to.
    pub async fn wait(folder: &Path, patience: Duration) -> Result<Self, LockError> {
        let until = Instant::now() + patience;
        let mut told = false;
        loop {
            match Self::take(folder) {
                Err(error @ LockError::Taken { .. }) if Instant::now() < until => {
                    if !told {
                        told = true;
                        info!(holder = %error, "waiting for another agent to end, {} s at most", patience.as_secs());
                    }
                    sleep(PAUSE).await;
                }
                taken => return taken,
            }
        }
    }
}

/// The process that holds a lock on the file. None if it is in another PID namespace.
fn holder(file: &File) -> Option<u32> {
    let of = file.metadata().ok()?;
    let file = format!("{:02x}:{:02x}:{}", major(of.dev()), minor(of.dev()), of.ino());
    holder_in(&fs::read_to_string("/proc/locks").ok()?, &file)
}

/// From the text of `/proc/locks`: `1: FLOCK  ADVISORY  WRITE 1234 00:2a:5678 0 EOF`. Lines of processes that wait
/// have an arrow after the number.
fn holder_in(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (kind, _, _, pid, of) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        (kind == "FLOCK" && of == file).then(|| pid.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    #[test]
    fn a_folder_that_is_taken_names_who_has_it_and_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let lock = FolderLock::take(folder.path()).expect("nobody has it");
        let refused = FolderLock::take(folder.path()).expect_err("it is taken").to_string();
        for part in [format!("process {}", process::id()), "--bpffs".to_owned()] {
            assert!(refused.contains(&part), "{refused}");
        }
        drop(lock);
        FolderLock::take(folder.path()).expect("nobody has it any more");
    }

    #[test]
    fn of_several_locks_the_one_of_the_file_counts() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:2a:56 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 8 00:2a:5 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 9 00:2a:56 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 10 00:2a:57 0 EOF\n";
        assert_eq!(holder_in(locks, "00:2a:56"), Some(9));
        assert_eq!(holder_in(locks, "00:2a:57"), None);
    }

    #[tokio::test]
    async fn an_agent_waits_for_the_one_before_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let before = FolderLock::take(folder.path()).expect("nobody has it");
        let mut waits = Box::pin(FolderLock::wait(folder.path(), PATIENCE));
        assert!(futures::poll!(&mut waits).is_pending(), "it neither has the folder nor has given up");
        drop(before);
        waits.await.expect("the other one has ended in time");
    }

    #[tokio::test]
    async fn an_agent_gives_up_when_the_one_before_it_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let _before = FolderLock::take(folder.path()).expect("nobody has it");
        let patience = PAUSE * 2;
        let begin = Instant::now();
        let refused = FolderLock::wait(folder.path(), patience).await.expect_err("it stays taken");
        assert!(matches!(refused, LockError::Taken { .. }), "{refused}");
        assert!(begin.elapsed() >= patience, "it gave up after {:?}", begin.elapsed());
    }
}
