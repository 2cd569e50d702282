//! The part of a pod that answers SCTP: over raw sockets, or with the kernel's own where it has SCTP.

pub(super) mod kernel;
pub(super) mod raw;
