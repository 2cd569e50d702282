//! Clusters of network namespaces: real packets, real sockets, the kernel's own forwarding.
//!
//! [`Lab`] is two nodes, a router and a client outside; [`Node::pod`] makes pods that answer, [`Client`]
//! asks, [`Load`] asks a lot. Everything needs root and vanishes with the process, however it ends.

mod address;
mod agent;
mod answerer;
mod bpffs;
mod lab;
mod link;
mod load;
mod netns;
mod node;
mod pod;
mod policy;
mod probe;
mod residue;

pub use address::{CLUSTER_CIDR, Pair};
pub use agent::{Agent, AgentCommand};
pub use answerer::{Answer, Answerer};
pub use bpffs::Bpffs;
pub use lab::{Host, Lab, LabOptions, NODES, Offload, Underlay};
pub use load::{Load, LoadPlan, LoadReport};
pub use netns::Netns;
pub use node::Node;
pub use pod::{Pod, PodNetwork};
pub use policy::Policy;
pub use probe::{Client, Connection, Datagrams, Failure, FailureKind, Outcome, Reply, SourcePort};
pub use residue::Inventory;
