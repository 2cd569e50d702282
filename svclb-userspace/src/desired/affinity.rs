//! Session affinity: how long a client stays with its endpoint.

use crate::model::Service;

/// The longest timeout that Kubernetes admits: a day.
pub const MAX_SECONDS: u32 = 86_400;

/// The value for SERVICE: 0 without affinity, else seconds from 1 to [`MAX_SECONDS`]. Each port of a
/// Service keeps its own clients, as they are kept by service number.
pub fn seconds(service: &Service) -> u32 {
    service.affinity_seconds.map_or(0, |seconds| seconds.clamp(1, MAX_SECONDS))
}
