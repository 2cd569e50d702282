//! The first question of every packet: can it concern a Service at all?
//!
//! Two bitmaps, small enough to stay in the cache, answer it without a hash lookup: one of hashed
//! frontends (addresses of cluster IPs, load balancers and external IPs; address, port and protocol
//! of node ports), one of hashed backend endpoints. A clear bit is a sure no; a set one means "look".
//! The agent sets a bit before it writes what the bit stands for. Bits are cleared, and a bitmap gets more or fewer of them,
//! only by filling the other half of it and then switching to that ([`crate::config::flag::SECOND_HALF`]).

use crate::addr::{Address, Be16, Endpoint};
use crate::config::{Config, Extent, flag};
use crate::env::{Env, Tables};
use crate::hash;

/// Index of the bitmap of frontends among a family's in [`Config::interest`].
pub const FRONTENDS: usize = 0;
/// Of that of backends.
pub const BACKENDS: usize = 1;

#[inline(always)]
fn position<A: Address>(config: &Config, which: usize, half: bool, hash: u64) -> u32 {
    let Extent { first, mask } = config.interest[A::IS_V6 as usize][half as usize][which];
    first + (hash as u32 & mask)
}

/// Hash of an address that is a frontend with all its ports (cluster IP, load balancer, external IP).
#[inline(always)]
pub fn address_hash<A: Address>(seed: u64, address: A) -> u64 {
    hash::endpoint(seed, address, Be16::ZERO, 0)
}

/// Bit of a frontend address in the given half.
#[inline(always)]
pub fn frontend_address<A: Address>(config: &Config, half: bool, address: A) -> u32 {
    position::<A>(config, FRONTENDS, half, address_hash(config.seed, address))
}

/// Bit of a node port on one address of the node.
#[inline(always)]
pub fn node_port<A: Address>(config: &Config, half: bool, address: A, port: Be16, protocol: u8) -> u32 {
    position::<A>(config, FRONTENDS, half, hash::endpoint(config.seed, address, port, protocol))
}

/// Hash of an endpoint of one protocol: it says where in the bitmaps, and where in the flow table.
#[inline(always)]
pub fn endpoint_hash<A: Address>(config: &Config, endpoint: Endpoint<A>, protocol: u8) -> u64 {
    hash::endpoint(config.seed, endpoint.address, endpoint.port, protocol)
}

/// Bit of a backend endpoint with this [`endpoint_hash`].
#[inline(always)]
pub fn backend<A: Address>(config: &Config, half: bool, hash: u64) -> u32 {
    position::<A>(config, BACKENDS, half, hash)
}

/// Whether the endpoint with this [`endpoint_hash`] may be a backend. Cost: one bit.
#[inline(always)]
pub fn is_backend<A: Address, E: Env + Tables<A>>(env: &E, hash: u64) -> bool {
    let config = env.config();
    Tables::<A>::interest_backend(env, backend::<A>(config, active_half(config), hash))
}

/// Whether an address may be a frontend with all its ports. Cost: a hash and a bit.
#[inline(always)]
pub fn is_frontend_address<A: Address, E: Env + Tables<A>>(env: &E, address: A) -> bool {
    let config = env.config();
    Tables::<A>::interest_frontend(env, frontend_address(config, active_half(config), address))
}

/// Whether an endpoint may be a frontend. Cost: two hashes and two bits.
#[inline(always)]
pub fn is_frontend<A: Address, E: Env + Tables<A>>(env: &E, endpoint: Endpoint<A>, protocol: u8) -> bool {
    let config = env.config();
    let half = active_half(config);
    is_frontend_address(env, endpoint.address)
        || Tables::<A>::interest_frontend(env, node_port(config, half, endpoint.address, endpoint.port, protocol))
}

/// The half in use.
#[inline(always)]
pub fn active_half(config: &Config) -> bool {
    config.has(flag::SECOND_HALF)
}

/// Word and bit within the word of a bit index.
#[inline(always)]
pub const fn word(bit: u32) -> (u32, u64) {
    (bit >> 6, 1 << (bit & 63))
}
