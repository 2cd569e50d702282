//! MASQUERADE_ADDRESSES.

use crate::maps;
use svclb_common::addr::Address;
use svclb_common::config::Config;
use svclb_common::interest;
use svclb_common::schema::AddressSet;

/// The byte of an address in MASQUERADE_ADDRESSES.
#[inline(always)]
pub(crate) fn of_address<A: Address>(config: &Config, address: A) -> Option<*mut u8> {
    let set = maps::MASQUERADE_ADDRESSES.get_ptr_mut(u32::from(A::IS_V6))?;
    // SAFETY: the place is within the value.
    Some(unsafe { set.cast::<u8>().add(AddressSet::place(interest::address_hash(config.seed, address))) })
}
