//! Source ranges: which clients a load balancer address admits.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{FamilyAddress, Service};

/// The ranges of one family, or `None` where every client is admitted.
///
/// Only ranges of the family count: a Service whose ranges are all of the other family, or one of
/// whose ranges is everything (prefix length 0), does not filter this family. If a range holds an
/// address of this node, the load balancer addresses themselves are admitted too: the node's own
/// processes may have them as source.
pub fn ranges<A: FamilyAddress>(service: &Service, node_addresses: &[IpAddr]) -> Option<Vec<(A, u8)>> {
    let own: Vec<&IpNet> = service.source_ranges.iter().filter(|range| A::of(range.network()).is_some()).collect();
    if own.is_empty() || own.iter().any(|range| range.prefix_len() == 0) {
        return None;
    }
    let mut ranges: Vec<(A, u8)> =
        own.iter().filter_map(|range| Some((A::of(range.network())?, range.prefix_len()))).collect();
    if own.iter().any(|range| node_addresses.iter().any(|address| range.contains(address))) {
        let full = u8::try_from(A::BITS).unwrap_or(u8::MAX);
        ranges.extend(service.ingress_ips.iter().filter_map(|ip| Some((A::of(*ip)?, full))));
    }
    ranges.sort_unstable();
    ranges.dedup();
    Some(ranges)
}
