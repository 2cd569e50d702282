//! The scenarios, a file for each subject area.

mod cluster_ip;
mod node_port;
mod policies;
mod without_endpoints;

use super::scenario::Scenario;

/// All scenarios, in the order of the areas.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    [cluster_ip::SCENARIOS, node_port::SCENARIOS, policies::SCENARIOS, without_endpoints::SCENARIOS]
        .into_iter()
        .flatten()
}
