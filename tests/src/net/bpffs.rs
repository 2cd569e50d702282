//! A BPF file system of the lab's own.
//!
//! Agents pin their maps and links so that they outlive the agent. A mount namespace that only this
//! process holds, with a fresh BPF file system at the usual place, gives them that: pins stay while agents
//! come and go, and vanish with this process, however it ends.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// Where the BPF file system is mounted inside the namespace.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// A mount namespace with its own BPF file system. Clones share it.
#[derive(Debug, Clone)]
pub struct Bpffs {
    fd: Arc<OwnedFd>,
}

impl Bpffs {
    /// Makes the namespace and mounts the file system.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> io::Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let none = None::<&Path>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some("bpf"), MOUNT_POINT, Some("bpf"), MsFlags::empty(), none)?;
            Ok(File::open("/proc/thread-self/ns/mnt")?.into())
        })
        .join()
        .map_err(|_panic| anyhow::anyhow!("the thread that mounts the BPF file system panicked"))?;
        let fd = made.with_context(|| format!("mount a BPF file system of our own at {MOUNT_POINT}"))?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// The folder for the agent of a node, as seen from inside. The agent makes it.
    pub fn folder(&self, node: &str) -> PathBuf {
        Path::new(MOUNT_POINT).join(format!("svclb-{node}"))
    }

    /// The path by which another process can enter, for example `nsenter --mount=PATH`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }

    /// Makes `command` run inside.
    pub fn applied_to(&self, mut command: Command) -> Command {
        let fd = Arc::clone(&self.fd);
        // SAFETY: between fork and exec the closure makes one system call and nothing else. The descriptor
        // is open as long as the closure holds its `Arc`.
        unsafe {
            command.pre_exec(move || Ok(setns(fd.as_fd(), CloneFlags::CLONE_NEWNS)?));
        }
        command
    }

    /// Runs `work` on a thread of its own inside and waits for it: there the pins can be opened.
    ///
    /// # Panics
    /// When `work` panics or the thread cannot enter.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            // A thread that shares its working directory with others may not change its mounts.
            unshare(CloneFlags::CLONE_FS).expect("stop sharing the working directory");
            setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNS).expect("enter the mount namespace of the lab");
            work()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}
