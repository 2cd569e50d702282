//! The machine around the agent: devices, addresses and routes of its network namespace.
//!
//! [`watch()`] follows them through rtnetlink. What is read ([`decode`]) is kept in a [`topology`]; from
//! that, pure functions decide which [`devices`] get hooks and which addresses the node has. Nothing here
//! knows of BPF: the caller gives a function that hooks a device.

pub mod address;
pub mod decode;
pub mod devices;
pub mod link;
pub mod netdev;
pub mod netfilter;
mod netlink;
pub mod sock_diag;
pub mod sysctl;
pub mod topology;
pub mod watch;

pub use self::{
    address::{NodeAddress, NodeAddresses},
    devices::{Attachment, Egress, Hooks, LocalDevices, Options, Role},
    watch::{Device, DeviceEvent, Hooking, HostEvent, Watch, WatchError, watch},
};

/// What is there now in the network namespace of the calling thread.
pub fn snapshot() -> std::io::Result<topology::Topology> {
    netlink::dump()
}
