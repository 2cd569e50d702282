//! The scenarios, a file for each subject area.

mod affinity;
mod cluster_ip;
mod disruption;
mod external_addresses;
mod health;
mod hidden;
mod life;
mod load_balancers;
mod localhost;
mod node_port;
mod policies;
mod ports;
mod readiness;
mod slices;
mod topology;
mod tracking;
mod udp_flows;
mod without_endpoints;

use super::scenario::Scenario;

/// The areas, in the order in which their scenarios are played and shown.
const AREAS: &[&[Scenario]] = &[
    cluster_ip::SCENARIOS,
    ports::SCENARIOS,
    life::SCENARIOS,
    slices::SCENARIOS,
    hidden::SCENARIOS,
    readiness::SCENARIOS,
    without_endpoints::SCENARIOS,
    policies::SCENARIOS,
    node_port::SCENARIOS,
    affinity::SCENARIOS,
    localhost::SCENARIOS,
    load_balancers::SCENARIOS,
    external_addresses::SCENARIOS,
    udp_flows::SCENARIOS,
    topology::SCENARIOS,
    health::SCENARIOS,
    tracking::SCENARIOS,
    disruption::SCENARIOS,
];

/// All scenarios.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    AREAS.iter().copied().flatten()
}
