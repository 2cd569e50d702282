//! Interest bits of what a plan writes.
//!
//! Bits are only set. A bitmap therefore fills up as endpoints come and go; its other half is rebuilt
//! from what is there plus what was there until [`KEPT`] ago, as flows may still use that, and then
//! becomes the active one. The same is done when the members become too many for its bits, or so few that the bitmap
//! would push more useful things out of the processor's caches. What an earlier agent knew of the past is in the bits
//! alone: until this one has been there for as long, the active half is carried over to the other one's size.

use std::collections::VecDeque;
use std::time::Duration;

use svclb_common::addr::Endpoint;
use svclb_common::config::{Config, Extent};
use svclb_common::interest;
use svclb_common::schema::ServiceKey;
use svclb_common::service::scope;

use super::Bitmap;
use crate::desired::Target;
use crate::model::FamilyAddress;

/// How long bits of removed frontends and endpoints survive a rebuild: as long as an idle TCP flow.
pub(crate) const KEPT: Duration = Duration::from_hours(24);

/// Bits that a half gets for each of its members: 1 in 16 that are none looks like one then, and is looked up in vain.
const BITS_OF_MEMBER: usize = 16;

/// A half has at least so many bits, one kilobyte, for it is not worth being made anew for a few members.
const FEWEST_BITS: u32 = 8192;

/// The extent of a half for so many members, in a map of `words` 64-bit words.
pub(crate) fn extent(words: u32, half: bool, members: usize) -> Extent {
    let whole = Extent::whole(words, half);
    let bits = u32::try_from(members * BITS_OF_MEMBER).unwrap_or(u32::MAX / 2).next_power_of_two();
    Extent { mask: (bits.max(FEWEST_BITS) - 1).min(whole.mask), ..whole }
}

/// Whether an extent should become `wanted`: it is too small by half, or four times too big.
pub(crate) const fn fits_badly(extent: Extent, wanted: Extent) -> bool {
    extent.mask < wanted.mask / 2 || extent.mask / 4 > wanted.mask
}

/// What a half of this extent must hold to have all bits that stand for members of `active`, a half of whatever extent; in
/// words. A member's place is the end of its hash, so a half is folded, or repeated.
pub(crate) fn carried_over(active: &[u64], extent: Extent) -> Vec<u64> {
    let mut words = vec![0; (extent.mask as usize + 1) / 64];
    let (longer, fitting) = (active.len().max(words.len()), words.len());
    for (index, word) in active.iter().cycle().take(longer).enumerate() {
        if let Some(own) = words.get_mut(index % fitting) {
            *own |= word;
        }
    }
    words
}

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

    /// How many there are, some of which may be older.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    fn forget_old(&mut self, now: Duration) {
        while self.members.front().is_some_and(|(since, _)| now.saturating_sub(*since) >= KEPT) {
            self.members.pop_front();
        }
    }
}
