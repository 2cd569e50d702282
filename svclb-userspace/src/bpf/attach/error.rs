//! What can go wrong when programs are attached, and what to do about it.

use std::io;

use nix::errno::Errno;

use super::super::{clsact::ClsactError, tcx::Pair};
use crate::host::Device;

/// A hook could not be attached or removed.
#[derive(Debug, thiserror::Error)]
#[error("device {device} (index {index}): {doing}: {source}{}", advice(source))]
pub struct AttachError {
    /// Name of the device.
    pub device: String,
    /// Its interface index.
    pub index: u32,
    /// What was tried: program, hook, way.
    pub doing: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl AttachError {
    /// Whether the device went away meanwhile, which is no failure.
    pub fn device_is_gone(&self) -> bool {
        [Errno::ENODEV, Errno::ENXIO].map(|errno| Some(errno as i32)).contains(&self.source.raw_os_error())
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => "; the agent needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN",
        Some(Errno::ENOSPC | Errno::ENOMEM) => "; the kernel has no memory for it: raise the agent's memory limit",
        Some(Errno::EINVAL | Errno::EOPNOTSUPP) => "; this kernel may lack it: try --attach clsact",
        Some(Errno::EBUSY) => "; another program holds the hook exclusively: `bpftool net` names it",
        _ => "",
    }
}

/// The attacher could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AttacherError {
    /// A program that every node needs cannot be loaded.
    #[error("{0}")]
    Program(String),
    /// The folder for pins cannot be made.
    #[error("make {0}: {1}; is a BPF file system mounted there? (mount -t bpf bpf /sys/fs/bpf)")]
    Folder(String, #[source] io::Error),
    /// No TCX, though asked for.
    #[error("--attach tcx: this kernel has no TCX (that takes Linux 6.6); use --attach auto")]
    NoTcx,
    /// No socket or thread.
    #[error("prepare to attach programs: {0}")]
    Prepare(#[source] io::Error),
}

pub(super) fn failed(device: &Device, doing: &str, source: io::Error) -> AttachError {
    AttachError { device: device.name.clone(), index: device.index, doing: doing.to_owned(), source }
}

pub(super) fn clsact_failed(device: &Device, programs: Pair, error: ClsactError) -> AttachError {
    let doing = format!("attach programs {} at ingress and {} at egress by clsact", programs.ingress, programs.egress);
    match error {
        ClsactError::Kernel(source) => failed(device, &doing, source),
        ClsactError::IngressQdisc => failed(
            device,
            &doing,
            io::Error::other(format!("{error}; remove it: tc qdisc delete dev {} ingress", device.name)),
        ),
        ClsactError::Taken(_) => failed(device, &doing, io::Error::other(error)),
    }
}
