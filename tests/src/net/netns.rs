//! Anonymous network namespaces.
//!
//! A namespace lives as long as somebody holds a descriptor of it, a process or thread inside it, or a
//! socket made in it. [`Netns`] holds only a descriptor: nothing is mounted below `/run/netns`, so the
//! kernel takes the namespace away with the process, however the process ends.
//!
//! A socket belongs to the namespace in which it was made, for its whole life. So [`Netns::enter`] puts
//! the calling thread inside for the moment of a `socket()` or `bind()`; afterwards the socket may be used
//! from any thread, and one runtime can serve the sockets of all namespaces.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::{prctl, signal::Signal},
};

/// A network namespace without a name in the file system. Clones share it.
#[derive(Debug, Clone)]
pub struct Netns {
    fd: Arc<OwnedFd>,
    label: Arc<str>,
}

impl Netns {
    /// Makes an empty namespace with `lo` up. `label` appears in messages only.
    pub fn new(label: &str) -> Result<Self> {
        let made = thread::spawn(|| -> io::Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        })
        .join()
        .map_err(|_panic| anyhow::anyhow!("the thread that makes namespace {label} panicked"))?;
        let fd =
            made.with_context(|| format!("make the network namespace of {label} (this needs root: CAP_SYS_ADMIN)"))?;
        let netns = Self { fd: Arc::new(fd), label: label.into() };
        netns.ip("link set lo up\n")?;
        Ok(netns)
    }

    /// Opens a namespace that another process holds, by its [`Netns::path`] there.
    pub fn open(path: &Path, label: &str) -> Result<Self> {
        let file =
            File::open(path).with_context(|| format!("open the network namespace of {label} at {}", path.display()))?;
        Ok(Self { fd: Arc::new(file.into()), label: label.into() })
    }

    /// The label given to [`Netns::new`].
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The path by which another process can enter, for example `nsenter --net=PATH`. It is good as long
    /// as this process runs.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }

    /// Runs `work` with the calling thread inside this namespace and goes back afterwards. For short work
    /// that makes sockets or reads `/proc/sys/net`; the thread must not wait for anything meanwhile.
    ///
    /// # Panics
    /// When the thread cannot enter or leave: it would go on in the wrong namespace.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let home = File::open("/proc/thread-self/ns/net").expect("open the namespace of this thread");
        setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNET)
            .unwrap_or_else(|e| panic!("enter the network namespace of {}: {e}", self.label));
        let _back = Back(home);
        work()
    }

    /// Runs `work` on a thread of its own inside this namespace and waits for it. For work that takes long.
    ///
    /// # Panics
    /// When `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| match scope.spawn(|| self.enter(work)).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// A command that will run inside this namespace, and that the kernel kills when the thread that
    /// spawns it ends. So spawn from a thread that lives as long as the child is wanted.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let fd = Arc::clone(&self.fd);
        // SAFETY: between fork and exec the closure makes two system calls and nothing else: it allocates
        // no memory and takes no lock. The descriptor is open as long as the closure holds its `Arc`.
        unsafe {
            command.pre_exec(move || {
                setns(fd.as_fd(), CloneFlags::CLONE_NEWNET)?;
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                Ok(())
            });
        }
        command
    }
}

/// Puts the thread back where it was, also when the work inside panics.
struct Back(File);

impl Drop for Back {
    fn drop(&mut self) {
        setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).expect("go back to the namespace of this thread");
    }
}
