//! A real Kubernetes control plane for tests, with nodes whose pods are network namespaces.
//!
//! etcd, API server, controller manager and scheduler are the real ones, built from their Go modules into
//! one binary ([`binary`]) and run as children in the namespace of the lab's control-plane host
//! ([`control_plane`]). What is ours is the kubelet ([`kubelet`]): it registers a node and turns the pods
//! that the scheduler binds to it into namespaces. So Deployments, `EndpointSlices`, RBAC, admission and
//! garbage collection behave as in any cluster, and nothing needs a container runtime.
//!
//! ```text
//!   kubectl, tests ──► kube-apiserver ◄── controller manager, scheduler
//!                        ▲        ▲
//!            svclb agents┘        └ kubelets (this process) ──► pods: namespaces of the lab
//! ```

pub mod binary;
mod certificates;
mod components;
pub mod control_plane;
pub(crate) mod daemon;
pub(crate) mod kube_proxy;
mod kube_proxy_pod;
mod kubeconfig;
pub mod kubelet;
pub mod lab_cluster;
mod lab_pods;
pub mod running;
pub mod runtime;
pub mod timeline;

pub use components::Controllers;
pub use control_plane::ControlPlane;
pub use kube_proxy_pod::KubeProxyConfig;
pub use kubelet::{Kubelet, NodeWanted, PodRuntime, PodWanted, RunningPod};
pub use lab_cluster::{EndpointState, LabCluster};
pub use lab_pods::{LabPods, PodPlace, PodRegister};
