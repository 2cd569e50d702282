//! Clusters of network namespaces: real packets, real sockets, the kernel's own forwarding.
//!
//! [`Lab`] is two nodes, a router and a client outside; [`Node::pod`] makes pods that answer, [`Client`]
//! asks, [`Load`] asks a lot. Everything needs root and vanishes with the process, however it ends.

mod address;
mod agent;
mod allocate;
mod answerer;
mod bpffs;
mod file_cluster;
mod frames;
mod kernel_sctp;
mod lab;
mod link;
mod load;
mod manifests;
mod netns;
mod node;
mod paths;
mod pod;
mod policy;
mod probe;
mod raw_sctp;
mod residue;
mod round;
mod scene;
mod state;
mod stray;
mod tracer;

pub use address::{Families, Pair};
pub use agent::{Agent, AgentCommand, AgentSource};
pub use allocate::{Added, Allocator, SERVICE_CIDR};
pub use answerer::{Answer, Answerer};
pub use bpffs::Bpffs;
pub use file_cluster::{Ending, FileCluster};
pub use lab::{Host, Lab, LabOptions, NODES, Offload, Underlay};
pub use load::{Load, LoadPlan, LoadReport};
pub use manifests::Manifests;
pub use netns::Netns;
pub use node::Node;
pub use paths::{Askers, Expect, Line, Path, PathKind, Protocol, Seen, all_paths};
pub use pod::{Pod, PodNetwork};
pub use policy::{Policy, PolicyEngine};
pub use probe::{Association, Client, Connection, Datagrams, Failure, FailureKind, Outcome, Reply, SourcePort};
pub use residue::Inventory;
pub use round::{Effort, Fault, Found, go_round};
pub use scene::{Scene, SceneOptions, agent_binary, agent_in};
pub use state::{ClusterState, NamedPort, PodState, ports_of};
pub use stray::StrayServer;
pub use tracer::{Heard, Probe, Tracer};
