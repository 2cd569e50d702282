//! Topology hints: which endpoints of the cluster list this node should use.

use crate::model::Endpoint;

/// How hints narrow the cluster list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode<'a> {
    /// Hints are not used.
    Everywhere,
    /// Only endpoints with a hint for this node.
    SameNode(&'a str),
    /// Only endpoints with a hint for this zone.
    SameZone(&'a str),
}

impl Mode<'_> {
    /// Whether the mode lets this node use an endpoint.
    pub fn admits(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Everywhere => true,
            Self::SameNode(node) => endpoint.node_hints().iter().any(|hint| **hint == *node),
            Self::SameZone(zone) => endpoint.zone_hints().iter().any(|hint| **hint == *zone),
        }
    }
}

/// The mode for the endpoints of one Service port, seen from `node` in `zone`.
///
/// Hints count only when every ready endpoint has them and at least one names this node (or, failing
/// that, this zone): a half-written set of hints, or one that leaves this node with nothing, is no
/// reason to overload or to starve anyone. Node hints go before zone hints. Neither the Service's
/// `trafficDistribution` nor its annotations are asked; whoever made the slices did.
pub fn mode<'a, 'e>(
    endpoints: impl Iterator<Item = &'e Endpoint> + Clone,
    node: &'a str,
    zone: Option<&'a str>,
) -> Mode<'a> {
    let mut ready = endpoints.filter(|endpoint| endpoint.ready);
    let usable = |mode: Mode<'a>, hinted: fn(&Endpoint) -> bool| {
        let (mut all, mut one) = (true, false);
        for endpoint in ready.clone() {
            all &= hinted(endpoint);
            one |= mode.admits(endpoint);
        }
        (all && one).then_some(mode)
    };
    let by_node = usable(Mode::SameNode(node), |endpoint| !endpoint.node_hints().is_empty());
    let by_zone = || {
        let zone = zone.filter(|zone| !zone.is_empty())?;
        usable(Mode::SameZone(zone), |endpoint| !endpoint.zone_hints().is_empty())
    };
    let mode = by_node.or_else(by_zone);
    if ready.next().is_none() {
        return Mode::Everywhere;
    }
    mode.unwrap_or(Mode::Everywhere)
}
