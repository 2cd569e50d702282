//! `EndpointSlices`: which count, and what of them.

use std::time::SystemTime;

use k8s_openapi::api::discovery::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use super::address::parse_address;
use super::names::shared;
use super::{Problems, object};
use crate::model::{Endpoint, Family, Hints, Problem, Protocol, ServiceName, Slice, SliceName, SlicePort};

/// Label that names the Service of a slice.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Label that hides a slice: its Service has no cluster IP.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Annotation with the time of the change that led to a slice's state.
pub const CHANGED_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The name of a slice; none for an object without one.
pub fn name(metadata: &ObjectMeta) -> Option<SliceName> {
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    Some(SliceName { namespace: shared(namespace), name: metadata.name.as_deref()?.into() })
}

/// What a slice says, and what is wrong with it. `None` if it does not count: it is hidden, belongs to
/// no Service, or holds host names.
pub fn project(slice: &api::EndpointSlice) -> (Option<Slice>, Vec<Problem>) {
    let mut problems = Problems::of(object("discovery.k8s.io/v1", "EndpointSlice", &slice.metadata));
    let projected = project_parts(slice, &mut problems);
    (projected, problems.into_vec())
}

fn project_parts(slice: &api::EndpointSlice, problems: &mut Problems) -> Option<Slice> {
    let name = name(&slice.metadata)?;
    let label = |label: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(label));
    if label(HEADLESS_LABEL).is_some() {
        return None;
    }
    let family = match slice.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        _ => return None,
    };
    let Some(service) = label(SERVICE_NAME_LABEL).filter(|service| !service.is_empty()) else {
        problems.add("NoService", format!("the label {SERVICE_NAME_LABEL} is missing: the slice is not used"));
        return None;
    };
    Some(Slice {
        service: ServiceName::new(name.namespace.clone(), service.as_str()),
        name,
        family,
        ports: slice.ports.iter().flatten().filter_map(|port| slice_port(port, problems)).collect(),
        endpoints: slice.endpoints.iter().flatten().filter_map(|own| endpoint(own, problems)).collect(),
        changed: changed(&slice.metadata),
    })
}

/// The annotation is for measuring only: one that cannot be read is no problem.
fn changed(metadata: &ObjectMeta) -> Option<SystemTime> {
    let text = metadata.annotations.as_ref()?.get(CHANGED_ANNOTATION)?;
    text.parse::<Timestamp>().ok().map(SystemTime::from)
}

/// Ports without a name or number stand for "all ports", which no Service port can use.
fn slice_port(port: &api::EndpointPort, problems: &mut Problems) -> Option<SlicePort> {
    let name = port.name.as_deref()?;
    let number = u16::try_from(port.port?).ok().filter(|number| *number != 0)?;
    let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else {
        let message = format!("port {name:?}: protocol {:?} is not known: the port is not used", port.protocol);
        problems.add("UnknownProtocol", message);
        return None;
    };
    Some(SlicePort { name: shared(name), protocol, port: number })
}

fn endpoint(endpoint: &api::Endpoint, problems: &mut Problems) -> Option<Endpoint> {
    let text = endpoint.addresses.first()?;
    let Some(address) = parse_address(text) else {
        problems.add("BadAddress", format!("{text:?} is no IP address: the endpoint is not used"));
        return None;
    };
    let conditions = endpoint.conditions.as_ref();
    let hints = endpoint.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_ref()).into_iter().flatten();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_ref()).into_iter().flatten();
    Some(Endpoint {
        address,
        ready: conditions.and_then(|own| own.ready).unwrap_or(true),
        serving: conditions.and_then(|own| own.serving).unwrap_or(true),
        terminating: conditions.and_then(|own| own.terminating).unwrap_or(false),
        node: endpoint.node_name.as_deref().map(shared),
        hints: Hints::of(
            zones.map(|hint| shared(&hint.name)).collect(),
            nodes.map(|hint| shared(&hint.name)).collect(),
        ),
    })
}
