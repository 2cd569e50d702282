//! SERVICES: from what a client addresses to the Service port behind it.
//!
//! A table of buckets in an array, so that most frontends are found with one load, where a hash of the kernel's
//! takes two or three, one after the other. Every first packet of a flow asks it. A frontend stands in the bucket
//! that its hash picks; when that is full, in a second one that the other half of the hash picks, and the first
//! counts it in `spilled`, so that only few ever look into the second.
//!
//! The agent alone writes, whole buckets. A reader compares the bucket's two versions, which each write changes, and
//! reads again if they differ. Writes are small besides: a frontend is entered with everything but its mark of being
//! there, which a second write sets, and it goes by the loss of that mark alone; so whatever mixture of before and
//! after a single write a reader sees, it never sees one frontend with another's Service.

use crate::addr::Address;
use crate::config::Config;
use crate::env::{Env, Peek, Tables};
use crate::hash;
use crate::schema::{FrontendWay, ServiceKey, ServiceRef};

/// Times that a bucket is read at most, should a writer be inside.
const ATTEMPTS: u32 = 3;

/// First and second bucket of a frontend.
#[inline(always)]
pub fn places<A: Address>(config: &Config, key: &ServiceKey<A>) -> [u32; 2] {
    let hash = hash::endpoint(config.seed, key.address, key.port, key.protocol);
    [(hash >> 32) as u32 & config.frontends, hash as u32 & config.frontends]
}

impl<A: Address> FrontendWay<A> {
    /// Whether it holds this frontend.
    #[inline(always)]
    pub fn holds(&self, key: &ServiceKey<A>) -> bool {
        self.used != 0 && self.port == key.port && self.protocol == key.protocol && self.address == key.address
    }

    /// The Service port.
    #[inline(always)]
    pub const fn service_ref(&self) -> ServiceRef {
        ServiceRef { number: self.number, scope: self.used - 1, zero: [0; 3] }
    }
}

/// Looks for a frontend in one bucket, again while a writer is inside.
#[inline(always)]
fn find_in<A: Address, T: Tables<A>>(tables: &T, bucket: u32, key: &ServiceKey<A>, found: &mut ServiceRef) -> Peek {
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let seen = tables.peek_frontend(bucket, key, found);
        if seen != Peek::BUSY {
            return seen;
        }
        attempt += 1;
    }
    Peek::BUSY
}

/// Looks a frontend up: what it belongs to is then in `found`. [`Peek::BUSY`] if the agent was writing each time.
#[inline(always)]
pub fn find<A: Address, E: Env + Tables<A>>(env: &E, key: &ServiceKey<A>, found: &mut ServiceRef) -> Peek {
    let [first, second] = places(env.config(), key);
    let seen = find_in(env, first, key, found);
    if seen == Peek::MISS_OVERFLOW { find_in(env, second, key, found) } else { seen }
}
