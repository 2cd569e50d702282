//! Whose the service numbers are that an earlier agent gave.

use std::cmp::Reverse;

use svclb_common::schema::ServiceKey;
use svclb_common::service::{backend_state, scope};

use crate::desired::{PortTables, Target};
use crate::hashing::{HashMap, HashSet};
use crate::model::{FamilyAddress, PortKey};
use crate::plan::Content;

/// How well a port fits a number, what counts more first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Fit {
    /// The port will get a frontend that names the number. Who gets none has no flows to keep.
    reached: bool,
    /// Endpoints that both have: flows name them together with the number.
    endpoints: usize,
    /// Frontends that the port wants and that name the number.
    frontends: usize,
    /// Those of them that the port will get. The others it lost to another port, perhaps long ago.
    own: usize,
}

/// The owner of each service number: the port that fits it best, among those that want a frontend which names it.
///
/// Services may have changed since the tables were written. One that got a frontend of another must not get its
/// number as well, or the flows of that other one would be cut.
pub(super) fn owners<A: FamilyAddress>(
    content: &Content<A>,
    wanted: &HashMap<PortKey, PortTables<A>>,
    claims: &HashMap<ServiceKey<A>, Vec<(u8, PortKey)>>,
) -> HashMap<u32, PortKey> {
    let mut endpoints: HashMap<u32, HashSet<Target<A>>> = HashMap::default();
    for backend in content.backends.iter().filter(|backend| backend.state == backend_state::SERVING) {
        let target = Target { address: backend.address, port: backend.port };
        endpoints.entry(backend.service).or_default().insert(target);
    }
    let mut candidates = Vec::with_capacity(wanted.len());
    for (key, tables) in wanted {
        let mut fits: HashMap<u32, Fit> = HashMap::default();
        for frontend in tables.frontends.keys() {
            let found = content.frontends.get(frontend).filter(|found| !scope::is_mark(found.scope));
            let Some(number) = found.map(|found| found.number).filter(|number| *number != 0) else { continue };
            let best = claims.get(frontend).and_then(|claims| claims.first()).map(|(_, owner)| owner);
            let fit = fits.entry(number).or_default();
            fit.frontends += 1;
            fit.own += usize::from(best == Some(key));
            fit.reached = fit.own > 0;
        }
        for (number, mut fit) in fits {
            let there = endpoints.get(&number);
            fit.endpoints = there.map_or(0, |there| tables.backends.keys().filter(|own| there.contains(*own)).count());
            candidates.push((Reverse(fit), key, number));
        }
    }
    candidates.sort_unstable();
    let mut owners = HashMap::default();
    let mut served = HashSet::default();
    for (_, key, number) in candidates {
        if !owners.contains_key(&number) && served.insert(key) {
            owners.insert(number, key.clone());
        }
    }
    owners
}
