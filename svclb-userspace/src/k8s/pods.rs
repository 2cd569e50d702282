//! Pods become endpoints: what the cluster's controllers do for an API server, done for files.
//!
//! A Service with a selector gets slices from the Pods of its namespace whose labels match. Pods whose
//! ports resolve alike share a slice. A Service without a selector gets none: its slices are in the
//! files.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::address::parse_address;
use super::names::shared;
use crate::model::{Endpoint, Family, Protocol, ServiceName, Slice, SliceName, SlicePort};

/// What a Service with a selector says of its endpoints.
#[derive(Clone, PartialEq, Debug)]
pub struct Selection {
    labels: BTreeMap<String, String>,
    /// `publishNotReadyAddresses`.
    publish_all: bool,
    ports: Vec<(Arc<str>, Protocol, TargetPort)>,
}

/// Where a Service port is on a Pod.
#[derive(Clone, PartialEq, Debug)]
enum TargetPort {
    Number(u16),
    Name(String),
}

/// What a Pod says.
#[derive(Clone, PartialEq, Debug)]
pub struct Pod {
    labels: BTreeMap<String, String>,
    /// Container ports that have a name.
    ports: Vec<(String, Protocol, u16)>,
    /// One for each address; not ready if the Pod is not.
    endpoints: Vec<Endpoint>,
}

/// Names, protocols and numbers of the Service's ports on a Pod.
type Ports = Vec<(Arc<str>, Protocol, u16)>;

impl Selection {
    /// What a Service says; none without a selector.
    pub fn of(service: &api::Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let labels = spec.selector.clone().filter(|labels| !labels.is_empty())?;
        let port = |port: &api::ServicePort| {
            let target = match &port.target_port {
                None | Some(IntOrString::Int(0)) => TargetPort::Number(valid(port.port)?),
                Some(IntOrString::Int(number)) => TargetPort::Number(valid(*number)?),
                Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
            };
            let protocol = Protocol::parse(port.protocol.as_deref())?;
            Some((port.name.as_deref().unwrap_or_default().into(), protocol, target))
        };
        Some(Self {
            labels,
            publish_all: spec.publish_not_ready_addresses == Some(true),
            ports: spec.ports.iter().flatten().filter_map(port).collect(),
        })
    }

    /// The slices of the Service, from all Pods of its namespace.
    pub fn slices<'a>(&self, name: &ServiceName, pods: impl Iterator<Item = &'a Pod>) -> Vec<Slice> {
        let mut groups: BTreeMap<(Family, Ports), Vec<Endpoint>> = BTreeMap::new();
        for pod in pods.filter(|pod| self.matches(pod)) {
            let ports = self.resolve(pod);
            for endpoint in &pod.endpoints {
                let mut endpoint = endpoint.clone();
                endpoint.ready |= self.publish_all;
                let group = (Family::of(endpoint.address), ports.clone());
                groups.entry(group).or_default().push(endpoint);
            }
        }
        let slice = |(index, ((family, ports), endpoints)): (usize, ((Family, Ports), Vec<Endpoint>))| Slice {
            // No file can hold this name: a slash is not valid in one.
            name: SliceName { namespace: name.namespace.clone(), name: format!("{}/{index}", name.name).into() },
            service: name.clone(),
            family,
            ports: ports.into_iter().map(|(name, protocol, port)| SlicePort { name, protocol, port }).collect(),
            endpoints,
            changed: None,
        };
        groups.into_iter().enumerate().map(slice).collect()
    }

    fn matches(&self, pod: &Pod) -> bool {
        self.labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    }

    /// The number that each Service port has on a Pod; ports that the Pod does not name are left out.
    fn resolve(&self, pod: &Pod) -> Ports {
        let number = |(name, protocol, target): &(Arc<str>, Protocol, TargetPort)| {
            let number = match target {
                TargetPort::Number(number) => *number,
                TargetPort::Name(wanted) => {
                    pod.ports.iter().find(|(name, own, _)| name == wanted && own == protocol)?.2
                }
            };
            Some((name.clone(), *protocol, number))
        };
        self.ports.iter().filter_map(number).collect()
    }
}

impl Pod {
    /// What a Pod says. One that has ended has no endpoints; one without addresses has none yet.
    pub fn of(pod: &api::Pod) -> Self {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let ports = containers.flat_map(|container| container.ports.iter().flatten());
        let named = |port: &api::ContainerPort| {
            let protocol = Protocol::parse(port.protocol.as_deref())?;
            Some((port.name.clone()?, protocol, valid(port.container_port)?))
        };
        Self {
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            ports: ports.filter_map(named).collect(),
            endpoints: endpoints(pod),
        }
    }
}

fn valid(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn endpoints(pod: &api::Pod) -> Vec<Endpoint> {
    let Some(status) = &pod.status else { return Vec::new() };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let is_ready = |condition: &api::PodCondition| condition.type_ == "Ready" && condition.status == "True";
    let serving = status.conditions.iter().flatten().any(is_ready);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let node: Option<Arc<str>> = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).map(shared);
    let mut texts: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if texts.is_empty() {
        texts.extend(status.pod_ip.as_deref());
    }
    let endpoint = |text: &str| {
        Some(Endpoint {
            address: parse_address(text)?,
            ready: serving && !terminating,
            serving,
            terminating,
            node: node.clone(),
            hints: None,
        })
    };
    texts.into_iter().filter_map(endpoint).collect()
}
