//! Internet checksums (RFC 1071) and their incremental update (RFC 1624).
//!
//! A checksum is a one's complement sum of 16-bit words. Two of its properties carry this module:
//! it does not depend on the byte order in which the words are read, so everything here works on raw
//! words as they stand in memory; and 32-bit words may be added first and folded later. A difference
//! `new - old` is kept as such a 32-bit sum and fits every checksum that covers the changed bytes.

/// Folds a sum to 32 bits, end-around carry included.
#[inline(always)]
pub const fn fold32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// Folds a sum to 16 bits, not complemented.
#[inline(always)]
pub const fn fold16(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Adds two 32-bit sums.
#[inline(always)]
pub const fn add(a: u32, b: u32) -> u32 {
    fold32(a as u64 + b as u64)
}

/// The difference that replacing `old` by `new` (both sums of 16-bit aligned words) makes.
#[inline(always)]
pub const fn difference(old: u32, new: u32) -> u32 {
    fold32(!old as u64 + new as u64)
}

/// A full checksum field after the bytes that it covers changed by `difference` (RFC 1624, eqn. 3).
#[inline(always)]
pub const fn update(field: u16, difference: u32) -> u16 {
    !fold16(add(!(field as u32), difference))
}

/// A partial checksum field (the sum of the pseudo header, to be completed by the device) after the
/// pseudo header changed by `difference`.
#[inline(always)]
pub const fn update_partial(field: u16, difference: u32) -> u16 {
    fold16(add(field as u32, difference))
}

/// Whether a difference changes no checksum: it folds to one of the two zeros.
#[inline(always)]
pub const fn is_zero(difference: u32) -> bool {
    matches!(fold16(difference), 0 | 0xffff)
}

/// The sum of `bytes`, a trailing odd byte padded with zero.
#[inline(always)]
pub fn sum(bytes: &[u8]) -> u32 {
    let mut total = 0u64;
    for pair in bytes.chunks(2) {
        let word = match *pair {
            [a, b] => u16::from_ne_bytes([a, b]),
            [a] => u16::from_ne_bytes([a, 0]),
            _ => 0,
        };
        total += word as u64;
    }
    fold32(total)
}
