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
    Node {
        addresses: texts.filter_map(|address| parse_address(&address.address)).collect(),
        zone: zone.filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into()),
        leaving: node.metadata.deletion_timestamp.is_some() || taints.iter().any(|taint| taint.key == LEAVING_TAINT),
    }
}
