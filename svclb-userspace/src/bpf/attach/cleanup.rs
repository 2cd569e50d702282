//! Leaves the devices as they were found.

use std::{io, path::Path};

use super::super::{clsact::Clsact, pin::PinFolder};
use crate::host;

/// What [`clean_up`] has removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    /// Devices of which links were pinned, by index.
    pub links: Vec<u32>,
    /// Names of devices that had clsact filters of ours.
    pub filters: Vec<String>,
}

/// Removes all hooks of an agent that does not run any more from the devices of the calling thread's
/// network namespace, and their pins from `folder`. Filters and qdiscs of others stay.
pub fn clean_up(folder: &Path) -> io::Result<Removed> {
    let pins = PinFolder::existing(folder);
    let mut removed = Removed { links: pins.devices_with_links()?, filters: Vec::new() };
    let clsact = Clsact::new()?;
    for link in host::snapshot()?.links() {
        let had_filters = clsact.remove(link.index)?;
        if had_filters {
            removed.filters.push(link.name.clone());
        }
        if had_filters || removed.links.contains(&link.index) {
            clsact.remove_qdisc_if_empty(link.index)?;
        }
    }
    pins.remove_all()?;
    Ok(removed)
}
