//! The kernel's side as the agent handles it: the object, its maps and programs, hooks, pins.

pub mod attach;
pub mod bpffs;
pub mod cgroup;
mod clsact;
pub mod load;
mod mounts;
pub mod pin;
pub mod pod;
pub mod probe;
pub mod sys;
pub mod sysctl_notes;
mod tcx;
pub mod xdp;
