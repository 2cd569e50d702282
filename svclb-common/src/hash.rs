//! The seeded hash behind the flow table and the interest bitmaps.
//!
//! Two rounds of multiply and xor-shift per 64-bit word, about 2 ns: it must spread endpoints whose
//! bits differ in few places, and not be predictable without the seed, so that nobody outside can
//! fill one bucket on purpose. It is no cryptographic hash.

use crate::addr::{Address, Be16};

const K1: u64 = 0x9e37_79b9_7f4a_7c15;
const K2: u64 = 0xd6e8_feb8_6659_fd93;

#[inline(always)]
const fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(K1);
    hash ^ (hash >> 32)
}

/// Hashes an endpoint of one protocol. The upper and lower halves are independent enough to serve as
/// two hashes.
#[inline(always)]
pub fn endpoint<A: Address>(seed: u64, address: A, port: Be16, protocol: u8) -> u64 {
    let (low, high) = address.words();
    let mut hash = seed ^ (port.0 as u64) << 8 ^ protocol as u64;
    if A::IS_V6 {
        hash = mix(mix(hash, low), high);
    } else {
        // port and protocol above the address: one word
        hash = mix(seed, low | (port.0 as u64) << 32 | (protocol as u64) << 48);
    }
    let hash = (hash ^ (hash >> 29)).wrapping_mul(K2);
    hash ^ (hash >> 32)
}

/// The next number of the generator that replaces the kernel's random numbers in tests, the same on the
/// host and in the kernel (constants of Numerical Recipes).
#[inline(always)]
pub const fn next_test_random(state: u32) -> u32 {
    state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)
}
