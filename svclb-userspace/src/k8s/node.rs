//! The own Node.

use k8s_openapi::api::core::v1 as api;

use super::address::parse_address;
use crate::model::Node;

/// Label with the node's zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Taint of a node that the cluster autoscaler is about to remove.
pub const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// What the Node says.
pub fn project(node: &api::Node) -> Node {
    let listed = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let of_type = |wanted: &'static str| listed.iter().filter(move |address| address.type_ == wanted);
    let texts = of_type("InternalIP").chain(of_type("ExternalIP"));
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL));
    let spec = node.spec.as_ref();
    // The list, or the one field that it took the place of.
    let cidrs = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    let cidr = spec.and_then(|spec| spec.pod_cidr.as_ref()).filter(|_| cidrs.is_empty());
    Node {
        pod_cidrs: cidrs.iter().chain(cidr).filter_map(|cidr| cidr.trim().parse().ok()).collect(),
        addresses: texts.filter_map(|address| parse_address(&address.address)).collect(),
        zone: zone.filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into()),
        leaving: node.metadata.deletion_timestamp.is_some() || taints.iter().any(|taint| taint.key == LEAVING_TAINT),
    }
}
