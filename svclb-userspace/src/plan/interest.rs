//! Interest bits of what a plan writes.
//!
//! Bits are only set. A bitmap therefore fills up as endpoints come and go; its other half is rebuilt
//! from what is there plus what was there until [`KEPT`] ago, as flows may still use that, and then
//! becomes the active one.

use std::collections::VecDeque;
use std::time::Duration;

use svclb_common::addr::Endpoint;
use svclb_common::config::Config;
use svclb_common::interest;
use svclb_common::schema::ServiceKey;
use svclb_common::service::scope;

use super::Bitmap;
use crate::desired::Target;
use crate::model::FamilyAddress;

/// How long bits of removed frontends and endpoints survive a rebuild: as long as an idle TCP flow.
pub(crate) const KEPT: Duration = Duration::from_hours(24);

/// What a bit stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Member<A: FamilyAddress> {
    /// A frontend. Node ports have their own bits; every other frontend is known by its address.
    Frontend(ServiceKey<A>, u8),
    /// A backend endpoint and its protocol.
    Backend(Target<A>, u8),
}

impl<A: FamilyAddress> Member<A> {
    /// Bitmap, word and bit of the member in the given half.
    pub(crate) fn place(&self, config: &Config, half: bool) -> (Bitmap, u32, u64) {
        let (bitmap, bit) = match self {
            Self::Frontend(key, scope::NODE_PORT) => {
                let bit = interest::node_port(config, half, key.address, key.port, key.protocol);
                (Bitmap::Frontends, bit)
            }
            Self::Frontend(key, _) => (Bitmap::Frontends, interest::frontend_address(config, half, key.address)),
            Self::Backend(Target { address, port }, protocol) => {
                let hash = interest::endpoint_hash(config, Endpoint::new(*address, *port), *protocol);
                (Bitmap::Backends, interest::backend::<A>(config, half, hash))
            }
        };
        let (word, bit) = interest::word(bit);
        (bitmap, word, bit)
    }
}

/// Members that are gone but whose bits must survive.
#[derive(Clone, Debug)]
pub(crate) struct Retired<A: FamilyAddress> {
    members: VecDeque<(Duration, Member<A>)>,
}

impl<A: FamilyAddress> Default for Retired<A> {
    fn default() -> Self {
        Self { members: VecDeque::new() }
    }
}

impl<A: FamilyAddress> Retired<A> {
    /// A member is gone from now on.
    pub(crate) fn add(&mut self, member: Member<A>, now: Duration) {
        self.forget_old(now);
        self.members.push_back((now, member));
    }

    /// The members that were there until less than [`KEPT`] ago.
    pub(crate) fn iter(&mut self, now: Duration) -> impl Iterator<Item = &Member<A>> {
        self.forget_old(now);
        self.members.iter().map(|(_, member)| member)
    }

    fn forget_old(&mut self, now: Duration) {
        while self.members.front().is_some_and(|(since, _)| now.saturating_sub(*since) >= KEPT) {
            self.members.pop_front();
        }
    }
}
