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
use crate::model::{Endpoint, Family, Protocol, ServiceName, Slice, SliceName, SlicePort};

/// Names, protocols and numbers of the Service's ports on a Pod.
type Ports = Vec<(Arc<str>, Protocol, u16)>;

/// The slices of a Service, from all Pods of its namespace.
pub fn slices<'a>(name: &ServiceName, service: &api::Service, pods: impl Iterator<Item = &'a api::Pod>) -> Vec<Slice> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else { return Vec::new() };
    let publish_all = spec.publish_not_ready_addresses == Some(true);
    let mut groups: BTreeMap<(Family, Ports), Vec<Endpoint>> = BTreeMap::new();
    for pod in pods.filter(|pod| matches(pod, selector)) {
        let ports = resolve_ports(spec, pod);
        for endpoint in endpoints(pod, publish_all) {
            let group = (Family::of(endpoint.address), ports.clone());
            groups.entry(group).or_default().push(endpoint);
        }
    }
    let numbered = groups.into_iter().enumerate();
    let slice = |(index, ((family, ports), endpoints)): (usize, ((Family, Ports), Vec<Endpoint>))| Slice {
        // No file can hold this name: a slash is not valid in one.
        name: SliceName { namespace: name.namespace.clone(), name: format!("{}/{index}", name.name).into() },
        service: name.clone(),
        family,
        ports: ports.into_iter().map(|(name, protocol, port)| SlicePort { name, protocol, port }).collect(),
        endpoints,
    };
    numbered.map(slice).collect()
}

fn matches(pod: &api::Pod, selector: &BTreeMap<String, String>) -> bool {
    let labels = pod.metadata.labels.as_ref();
    selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// The number that each Service port has on a Pod; ports that the Pod does not name are left out.
fn resolve_ports(spec: &api::ServiceSpec, pod: &api::Pod) -> Ports {
    let resolve = |port: &api::ServicePort| {
        let protocol = Protocol::parse(port.protocol.as_deref())?;
        let number = match &port.target_port {
            None => port.port,
            Some(IntOrString::Int(0)) => port.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(name)) => container_port(pod, name, protocol)?,
        };
        let number = u16::try_from(number).ok().filter(|number| *number != 0)?;
        Some((port.name.as_deref().unwrap_or_default().into(), protocol, number))
    };
    spec.ports.iter().flatten().filter_map(resolve).collect()
}

fn container_port(pod: &api::Pod, name: &str, protocol: Protocol) -> Option<i32> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let mut named = ports.filter(|port| port.name.as_deref() == Some(name));
    named.find(|port| Protocol::parse(port.protocol.as_deref()) == Some(protocol)).map(|port| port.container_port)
}

/// A Pod that has ended has no endpoints; one without addresses has none yet. `publish_all` stands for
/// `publishNotReadyAddresses`.
fn endpoints(pod: &api::Pod, publish_all: bool) -> Vec<Endpoint> {
    let Some(status) = &pod.status else { return Vec::new() };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let is_ready = |condition: &api::PodCondition| condition.type_ == "Ready" && condition.status == "True";
    let serving = status.conditions.iter().flatten().any(is_ready);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let node: Option<Arc<str>> = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).map(Arc::from);
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut texts: Vec<&str> = listed.collect();
    if texts.is_empty() {
        texts.extend(status.pod_ip.as_deref());
    }
    let endpoint = |text: &str| {
        Some(Endpoint {
            address: parse_address(text)?,
            ready: publish_all || (serving && !terminating),
            serving,
            terminating,
            node: node.clone(),
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        })
    };
    texts.into_iter().filter_map(endpoint).collect()
}
