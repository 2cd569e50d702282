//! What exists in a cluster at one moment, as far as requests can show it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::{
    api::core::v1::{Container, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    address::Pair,
    netns::Netns,
    pod::{Pod, PodNetwork},
};

/// The Services and the pods.
#[derive(Debug, Clone, Default)]
pub struct ClusterState {
    /// The Services, with their addresses.
    pub services: Vec<Service>,
    /// The pods that run.
    pub pods: Vec<PodState>,
}

/// A pod that runs.
#[derive(Debug, Clone)]
pub struct PodState {
    /// Its name, which is how its answerer signs.
    pub name: String,
    /// Its namespace in the cluster.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The number of its node.
    pub node: u8,
    /// How it is wired.
    pub network: PodNetwork,
    /// Its addresses.
    pub address: Pair,
    /// Its network namespace, to ask from.
    pub netns: Netns,
    /// Its ports.
    pub ports: Vec<NamedPort>,
    /// Whether it is ready and not about to end.
    pub ready: bool,
    /// Whether it is about to end; it still answers.
    pub terminating: bool,
}

/// A port of a pod's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The number.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

impl PodState {
    /// A pod of the lab with what the cluster knows of it; ready.
    pub fn new(pod: &Pod, namespace: &str, labels: BTreeMap<String, String>, ports: Vec<NamedPort>) -> Self {
        Self {
            name: pod.name().to_owned(),
            namespace: namespace.to_owned(),
            labels,
            node: pod.node(),
            network: pod.network(),
            address: pod.address(),
            netns: pod.netns().clone(),
            ports,
            ready: true,
            terminating: false,
        }
    }

    /// Where a request to this port of a Service arrives in the pod; `None` when the pod lacks the port
    /// that is named.
    pub fn endpoint(&self, port: &ServicePort, family: IpAddr) -> Option<SocketAddr> {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let number = match &port.target_port {
            None => u16::try_from(port.port).ok()?,
            Some(IntOrString::Int(number)) => u16::try_from(*number).ok()?,
            Some(IntOrString::String(name)) => {
                let named = |own: &&NamedPort| own.name.as_ref() == Some(name) && own.protocol == protocol;
                self.ports.iter().find(named)?.port
            }
        };
        Some(SocketAddr::new(self.address.of_family(family), number))
    }
}

impl ClusterState {
    /// The pods that serve a Service now: those that are ready, and where there is none, those that are
    /// about to end.
    pub fn backends(&self, service: &Service) -> Vec<&PodState> {
        let selected: Vec<&PodState> =
            self.pods.iter().filter(|pod| selects(service, &pod.namespace, &pod.labels)).collect();
        let ready: Vec<&PodState> = selected.iter().copied().filter(|pod| pod.ready).collect();
        if ready.is_empty() { selected.into_iter().filter(|pod| pod.terminating).collect() } else { ready }
    }
}

impl ClusterState {
    /// The pods of a Service that are about to end while others serve. New clients do not come to them; a
    /// UDP client that takes up a source port again goes on with the pod that it had.
    pub fn lingering(&self, service: &Service) -> Vec<&PodState> {
        let backends = self.backends(service);
        let selected = self.pods.iter().filter(|pod| selects(service, &pod.namespace, &pod.labels));
        selected.filter(|pod| pod.terminating && !backends.iter().any(|other| other.name == pod.name)).collect()
    }
}

/// Whether the Service's selector matches labels. A Service without selector selects none.
pub(super) fn selects(service: &Service, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let same_namespace = service.metadata.namespace.as_deref().unwrap_or("default") == namespace;
    same_namespace
        && selector.is_some_and(|selector| {
            !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        })
}

/// The ports that containers declare.
pub fn ports_of(containers: &[Container]) -> Vec<NamedPort> {
    containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(NamedPort {
                name: port.name.clone(),
                port: u16::try_from(port.container_port).ok()?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            })
        })
        .collect()
}
