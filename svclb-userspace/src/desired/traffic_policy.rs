//! Traffic policy: which endpoints new connections may go to.

use svclb_common::service::backend_flag;

use super::topology;
use crate::model::Endpoint;

/// What of a Service's policy decides about its lists, in one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// It has a node port, a load balancer address or an external IP.
    pub external: bool,
}

impl Policy {
    /// Whether some frontend uses the list of the whole cluster.
    pub const fn uses_cluster(self) -> bool {
        !self.internal_local || self.external
    }

    /// Whether some frontend uses the list of this node.
    pub const fn uses_local(self) -> bool {
        self.internal_local || (self.external_local && self.external)
    }
}

/// Result of [`categorize`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lists {
    /// For each endpoint, in the order given, the lists that hold it: bits of
    /// `svclb_common::service::backend_flag`.
    pub of_endpoint: Vec<u8>,
    /// Some endpoint could be used by somebody: what this node cannot serve is then dropped, as it may
    /// be served elsewhere; without any it is refused.
    pub any: bool,
}

/// Chooses the endpoints of both lists.
///
/// 1. The **cluster list** holds the ready endpoints that topology hints leave to this node. If there
///    are none, it holds the terminating endpoints that still serve, wherever they are.
/// 2. The **local list** holds this node's ready endpoints, or, failing that, this node's terminating
///    ones that still serve. Hints have no say in it.
/// 3. A list that no frontend of the Service uses stays empty.
/// 4. `any` is true if some endpoint, on any node, is ready or terminating and still serving.
pub fn categorize(endpoints: &[&Endpoint], policy: Policy, node: &str, zone: Option<&str>) -> Lists {
    let last_resort = |endpoint: &Endpoint| endpoint.serving && endpoint.terminating && !endpoint.ready;
    let local = |endpoint: &Endpoint| endpoint.node.as_deref() == Some(node);
    let mut of_endpoint = vec![0; endpoints.len()];

    if policy.uses_cluster() {
        let mode = topology::mode(endpoints.iter().copied(), node, zone);
        fill(
            endpoints,
            &mut of_endpoint,
            backend_flag::IN_CLUSTER,
            &[&|endpoint| endpoint.ready && mode.admits(endpoint), &last_resort],
        );
    }
    if policy.uses_local() {
        fill(
            endpoints,
            &mut of_endpoint,
            backend_flag::IN_LOCAL,
            &[&|endpoint| endpoint.ready && local(endpoint), &|endpoint| last_resort(endpoint) && local(endpoint)],
        );
    }
    Lists { of_endpoint, any: endpoints.iter().any(|endpoint| endpoint.ready || last_resort(endpoint)) }
}

/// Gives `flag` to the endpoints that the first of `choices` admits, if it admits any; else tries the
/// next.
fn fill(endpoints: &[&Endpoint], lists: &mut [u8], flag: u8, choices: &[&dyn Fn(&Endpoint) -> bool]) {
    for choice in choices {
        let mut found = false;
        for (endpoint, lists) in endpoints.iter().zip(lists.iter_mut()) {
            if choice(endpoint) {
                *lists |= flag;
                found = true;
            }
        }
        if found {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
