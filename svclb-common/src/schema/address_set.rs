//! Addresses that may be in a table that is costly to ask.

use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Value of `MASQUERADE_ADDRESSES` (one for each family): addresses of this node in MASQUERADE's keys, as one byte not 0
/// at the hash of each. Nearly all replies are to others, and need not be looked for in a hash table then. Bytes, as each
/// can be set by one store, whatever other CPUs do meanwhile; none is ever cleared.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, Immutable, KnownLayout)]
pub struct AddressSet(pub [u8; 64]);

impl AddressSet {
    /// Where an address with this [`crate::interest::address_hash`] stands.
    #[inline(always)]
    pub const fn place(hash: u64) -> usize {
        (hash >> 58) as usize
    }
}
