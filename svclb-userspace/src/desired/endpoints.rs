//! Endpoints: the slices of a Service merged into one list for a port.

use std::collections::BTreeMap;

use svclb_common::addr::Be16;

use super::Target;
use crate::model::{Endpoint, FamilyAddress, ServicePort, Slice};

/// The endpoints of one Service port in one family, by address and port.
///
/// A slice counts for the ports that have the Service port's name and protocol; each may have another
/// number, as named ports differ from pod to pod. The same address and port in several slices is one
/// endpoint: one that is not terminating replaces what was there, a terminating one replaces nothing.
pub fn endpoints<'a, A: FamilyAddress>(
    port: &ServicePort,
    slices: impl Iterator<Item = &'a Slice>,
) -> BTreeMap<Target<A>, &'a Endpoint> {
    let mut merged = BTreeMap::new();
    for slice in slices.filter(|slice| slice.family == A::FAMILY) {
        let ports = slice.ports.iter().filter(|own| own.name == port.name && own.protocol == port.protocol);
        for number in ports.map(|port| Be16::new(port.port)) {
            for endpoint in &slice.endpoints {
                let Some(address) = A::of(endpoint.address) else { continue };
                let target = Target { address, port: number };
                if endpoint.terminating {
                    merged.entry(target).or_insert(endpoint);
                } else {
                    merged.insert(target, endpoint);
                }
            }
        }
    }
    merged
}
