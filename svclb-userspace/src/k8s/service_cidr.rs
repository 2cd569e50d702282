//! `ServiceCIDRs`: which prefixes cluster IPs come from.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Problems, object};
use crate::model::Problem;

/// The name of an object; none for one without.
pub fn name(metadata: &ObjectMeta) -> Option<Arc<str>> {
    metadata.name.as_deref().map(Arc::from)
}

/// The prefixes of an object, and what is wrong with it.
pub fn project(cidr: &api::ServiceCIDR) -> (Vec<IpNet>, Vec<Problem>) {
    let mut problems = Problems::of(object("networking.k8s.io/v1", "ServiceCIDR", &cidr.metadata));
    let texts = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    let parsed = texts.filter_map(|text| match text.trim().parse::<IpNet>() {
        Ok(cidr) => Some(cidr.trunc()),
        Err(error) => {
            problems.add("InvalidCIDR", format!("{text:?} is no prefix and not used: {error}"));
            None
        }
    });
    (parsed.collect(), problems.into_vec())
}
