//! Services: which count, and what of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;

use super::address::{parse_address, parse_prefix};
use super::names::shared;
use super::{Problems, object};
use crate::model::service::DEFAULT_AFFINITY_SECONDS;
use crate::model::{Family, Problem, Protocol, Service, ServiceKind, ServiceName, ServicePort, WhenBackendGoes};

/// Label that hides a Service: somebody else serves it.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// Annotation that says what becomes of TCP connections when their endpoint serves no more: `drain` or `cut`.
pub const WHEN_BACKEND_GOES_ANNOTATION: &str = "svclb.io/when-backend-goes";

/// Whether a Service without a cluster IP counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WithoutClusterIp {
    /// No: the API server has not given it one yet.
    Ignored,
    /// Yes: it comes from a file, and its node ports and other addresses can be served.
    Served,
}

/// The name of a Service; none for an object without one.
pub fn name(service: &api::Service) -> Option<ServiceName> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
    Some(ServiceName::new(shared(namespace), service.metadata.name.as_deref()?))
}

/// What a Service says, and what is wrong with it. `None` if there is nothing to serve: it is headless,
/// an `ExternalName`, hidden by [`PROXY_NAME_LABEL`], or has no cluster IP.
pub fn project(service: &api::Service, without: WithoutClusterIp) -> (Option<Service>, Vec<Problem>) {
    let mut problems = Problems::of(object("v1", "Service", &service.metadata));
    let projected = project_parts(service, without, &mut problems);
    (projected, problems.into_vec())
}

fn project_parts(service: &api::Service, without: WithoutClusterIp, problems: &mut Problems) -> Option<Service> {
    let spec = service.spec.as_ref()?;
    let hidden = service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL));
    let kind = match spec.type_.as_deref() {
        None | Some("" | "ClusterIP") => ServiceKind::ClusterIp,
        Some("NodePort") => ServiceKind::NodePort,
        Some("LoadBalancer") => ServiceKind::LoadBalancer,
        Some("ExternalName") => return None,
        Some(other) => {
            problems.add("UnknownType", format!("type {other:?} is not known: the Service is not served"));
            return None;
        }
    };
    if hidden || spec.cluster_ip.as_deref() == Some("None") {
        return None;
    }
    let cluster_ips = cluster_ips(spec);
    if without == WithoutClusterIp::Ignored && cluster_ips == [None, None] {
        return None;
    }
    let source_ranges: Vec<_> =
        spec.load_balancer_source_ranges.iter().flatten().map(|text| (text, parse_prefix(text))).collect();
    let mut ingress_ips = ingress_ips(service, problems);
    if let Some((text, _)) = source_ranges.iter().find(|(_, range)| range.is_none()) {
        let message = format!(
            "loadBalancerSourceRanges: {text:?} is no prefix such as 10.0.0.0/8: the load balancer addresses \
             are not served until it is corrected"
        );
        problems.add("BadSourceRange", message);
        ingress_ips.clear();
    }
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    Some(Service {
        name: name(service)?,
        kind,
        families: families(spec, cluster_ips),
        cluster_ips,
        external_ips: addresses(spec.external_ips.iter().flatten(), "externalIPs", problems),
        ingress_ips,
        source_ranges: source_ranges.into_iter().filter_map(|(_, range)| range).collect(),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local,
        health_check_port: health_check_port(spec, problems)
            .filter(|_| external_local && kind == ServiceKind::LoadBalancer),
        affinity_seconds: affinity_seconds(spec),
        when_backend_goes: when_backend_goes(service, problems),
        ports: ports(spec, problems),
    })
}

/// The cluster IP of each family: by the order of `ipFamilies` where that is set.
fn cluster_ips(spec: &api::ServiceSpec) -> [Option<IpAddr>; 2] {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let first = spec.cluster_ip.as_ref();
    let all = if listed.is_empty() { first.map(std::slice::from_ref).unwrap_or_default() } else { listed };
    let mut found = [None, None];
    for (index, text) in all.iter().enumerate() {
        let Some(ip) = parse_address(text) else { continue };
        let family = Family::of(ip);
        let declared = spec.ip_families.as_deref().unwrap_or_default();
        if declared.is_empty() || declared.get(index).map(String::as_str) == Some(&family.to_string()) {
            found[family.index()] = Some(ip);
        }
    }
    found
}

/// Without any cluster IP a Service serves the families that it names, or both.
fn families(spec: &api::ServiceSpec, cluster_ips: [Option<IpAddr>; 2]) -> [bool; 2] {
    if cluster_ips != [None, None] {
        return cluster_ips.map(|ip| ip.is_some());
    }
    let declared = spec.ip_families.as_deref().unwrap_or_default();
    Family::ALL.map(|family| declared.is_empty() || declared.contains(&family.to_string()))
}

fn addresses<'a>(texts: impl Iterator<Item = &'a String>, field: &'static str, problems: &mut Problems) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for text in texts {
        match parse_address(text) {
            Some(ip) => addresses.push(ip),
            None => problems.add("BadAddress", format!("{field}: {text:?} is no IP address: it is not served")),
        }
    }
    addresses
}

/// Addresses of `status.loadBalancer.ingress` that the node captures: those with `ipMode` absent or
/// `VIP`. In mode `Proxy` the load balancer wants to see the traffic itself; entries with a host name
/// alone have no address to capture.
fn ingress_ips(service: &api::Service, problems: &mut Problems) -> Vec<IpAddr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let captured = entries.filter(|entry| matches!(entry.ip_mode.as_deref(), None | Some("" | "VIP")));
    let texts: Vec<&String> = captured.filter_map(|entry| entry.ip.as_ref()).filter(|ip| !ip.is_empty()).collect();
    addresses(texts.into_iter(), "status.loadBalancer.ingress", problems)
}

fn health_check_port(spec: &api::ServiceSpec, problems: &mut Problems) -> Option<u16> {
    let number = spec.health_check_node_port.filter(|number| *number != 0)?;
    let port = u16::try_from(number).ok();
    if port.is_none() {
        let message =
            format!("healthCheckNodePort: {number} is not within 1 to 65535: load balancers are not answered");
        problems.add("BadPort", message);
    }
    port
}

fn affinity_seconds(spec: &api::ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).and_then(|seconds| seconds.try_into().ok());
    Some(seconds.unwrap_or(DEFAULT_AFFINITY_SECONDS))
}

/// An unknown value means what none means.
fn when_backend_goes(service: &api::Service, problems: &mut Problems) -> WhenBackendGoes {
    let annotations = service.metadata.annotations.as_ref();
    match annotations.and_then(|all| all.get(WHEN_BACKEND_GOES_ANNOTATION)).map(String::as_str) {
        None | Some("drain") => WhenBackendGoes::Drain,
        Some("cut") => WhenBackendGoes::Cut,
        Some(other) => {
            let message = format!(
                "annotation {WHEN_BACKEND_GOES_ANNOTATION}: {other:?} is neither \"drain\" nor \"cut\": TCP \
                 connections whose endpoint goes are drained"
            );
            problems.add("BadAnnotation", message);
            WhenBackendGoes::Drain
        }
    }
}

fn ports(spec: &api::ServiceSpec, problems: &mut Problems) -> Vec<ServicePort> {
    let mut seen = BTreeSet::new();
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let name = port.name.as_deref().unwrap_or_default();
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else {
            let message = format!("port {name:?}: protocol {:?} is not known: the port is not served", port.protocol);
            problems.add("UnknownProtocol", message);
            continue;
        };
        let (number, node_port) = (u16::try_from(port.port), u16::try_from(port.node_port.unwrap_or(0)));
        let (Ok(number @ 1..), Ok(node_port)) = (number, node_port) else {
            let message = format!("port {name:?}: a number is not within 1 to 65535: the port is not served");
            problems.add("BadPort", message);
            continue;
        };
        if !seen.insert((name, protocol)) {
            let message = format!("port {name:?} with protocol {protocol} is there twice: only the first is served");
            problems.add("DuplicatePort", message);
            continue;
        }
        ports.push(ServicePort { name: shared(name), protocol, port: number, node_port });
    }
    ports
}

#[cfg(test)]
mod tests;
