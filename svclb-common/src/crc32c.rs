//! CRC32c, the checksum of SCTP (RFC 9260 appendix A), and how it changes when a port changes.
//!
//! The CRC is the remainder of the message, taken as a polynomial over the field of two elements, modulo a fixed
//! polynomial of degree 32. So it is linear: two messages of one length differ in their CRCs by the remainder of their
//! difference, and that is the changed bytes times x to the power of the number of bits behind them. What a port
//! contributes is found by two multiplications, about 150 instructions, however long the packet is, and without
//! looking at the rest of it. The powers come from two tables, one for each byte of their exponent.
//!
//! Remainders are held in the order of the usual implementation, lowest power in the highest bit: 1 is `1 << 31`, and
//! multiplying by x is a shift to the right.

use crate::addr::Be16;

/// The polynomial without its highest power.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1.
const ONE: u32 = 1 << 31;

/// Multiplies by x. To make tables with, not for the kernel, see [`multiply`].
const fn times_x(a: u32) -> u32 {
    (a >> 1) ^ (POLYNOMIAL & (a & 1).wrapping_neg())
}

/// What each byte is to a CRC that moves on by one byte.
static STEPS: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = times_x(remainder);
            bit += 1;
        }
        table[byte] = remainder;
        byte += 1;
    }
    table
};

/// A remainder times x to the power of 32.
#[inline(always)]
const fn four_bytes_on(mut remainder: u32) -> u32 {
    let mut byte = 0;
    while byte < 4 {
        remainder = (remainder >> 8) ^ STEPS[(remainder & 0xff) as usize];
        byte += 1;
    }
    remainder
}

/// The product of two polynomials with coefficients 0 and 1, lowest power in the lowest bit (or, of both factors and the
/// product, in the highest).
///
/// Integer products would be right if nothing were carried. With three zeros between any two bits of a factor at most
/// eight bits meet in one place, and what is carried ends in the places between, which are cleared (the way of `ctmul` in
/// `BearSSL`). A loop over the bits takes three times as long.
#[inline(always)]
const fn carryless(a: u32, b: u32) -> u64 {
    const FOURTH: u64 = 0x1111_1111_1111_1111;
    let (a, b) = (a as u64, b as u64);
    let a = [a & FOURTH, a & FOURTH << 1, a & FOURTH << 2, a & FOURTH << 3];
    let b = [b & FOURTH, b & FOURTH << 1, b & FOURTH << 2, b & FOURTH << 3];
    let mut product = 0;
    let mut place = 0;
    while place < 4 {
        let sum =
            (a[0] * b[place]) ^ (a[1] * b[(place + 3) % 4]) ^ (a[2] * b[(place + 2) % 4]) ^ (a[3] * b[(place + 1) % 4]);
        product |= sum & FOURTH << place;
        place += 1;
    }
    product
}

/// The product of two remainders.
///
/// It is taken whole and reduced afterwards by a table. To reduce it bit by bit takes the polynomial as a constant under
/// masks that are 0 or all ones, and the verifier of newer kernels looks at both cases of each such mask (kernel commit
/// bffacdb80b93): two to the power of 64 in all.
#[inline(always)]
const fn multiply(a: u32, b: u32) -> u32 {
    // Of 63 coefficients the lowest stands in bit 62.
    let product = carryless(a, b) << 1;
    (product >> 32) as u32 ^ four_bytes_on(product as u32)
}

/// `N` powers of `base`.
const fn powers<const N: usize>(base: u32) -> [u32; N] {
    let mut table = [ONE; N];
    let mut n = 1;
    while n < N {
        table[n] = multiply(table[n - 1], base);
        n += 1;
    }
    table
}

/// x to the power of 8.
const BYTE: u32 = ONE >> 8;
/// Powers of [`BYTE`].
static BYTES: [u32; 256] = powers(BYTE);
/// Powers of [`BYTE`] to the power of 256: one more than a byte has values, as an IP packet may have 65,535 bytes behind
/// its header.
static PAGES: [u32; 257] = powers(multiply(BYTES[255], BYTE));

/// What a CRC is to be combined with (by exclusive or) when a 16-bit field of its message goes from `old` to `new`.
/// `to_end`: bytes from the start of the field to the end of the message, 2 to 65,535.
#[inline(always)]
pub fn difference(old: Be16, new: Be16, to_end: u32) -> u32 {
    let changed = u16::from_le(old.0 ^ new.0);
    // The first byte of the message is its highest power; within a byte the lowest bit is.
    let exponent = to_end + 2;
    let (byte, page) = (exponent as usize & 0xff, (exponent >> 8) as usize);
    let (Some(bytes), Some(pages)) = (BYTES.get(byte), PAGES.get(page)) else { return 0 };
    multiply((changed as u32) << 16, multiply(*bytes, *pages))
}

/// A CRC in the making, word by word; for answers only.
#[derive(Clone, Copy, Debug)]
pub struct Crc(u32);

impl Crc {
    /// Of nothing yet.
    pub const START: Self = Self(!0);

    /// Goes on over four bytes, as they stand in memory.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, word: u32) -> Self {
        Self(four_bytes_on(self.0 ^ u32::from_le(word)))
    }

    /// The checksum, as it stands in memory: SCTP sends its lowest byte first.
    #[inline(always)]
    pub const fn field(self) -> u32 {
        (!self.0).to_le()
    }
}

#[cfg(test)]
mod tests {
    use super::{Crc, difference};
    use crate::addr::Be16;

    /// Of RFC 3720 appendix B.4, which has examples of the same CRC.
    #[test]
    fn known_messages_have_their_known_crc() {
        let of = |word: u32| (0..8).fold(Crc::START, |crc, _| crc.and(word)).field().to_le_bytes();
        assert_eq!(of(0), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(of(!0), [0x43, 0xab, 0xa8, 0x62]);
    }

    #[test]
    fn a_change_is_right_for_every_length_of_a_packet() {
        let (old, new) = (Be16::new(0x1234), Be16::new(0xfedc));
        // CRCs of the field followed by more and more zeros, each from the one before.
        let raw = |field: Be16| {
            let mut state = !0;
            for byte in field.0.to_ne_bytes() {
                state = after_byte(state, byte);
            }
            state
        };
        let (mut a, mut b) = (raw(old), raw(new));
        for to_end in 2..=65_535 {
            assert_eq!(difference(old, new, to_end), a ^ b, "{to_end} bytes");
            (a, b) = (after_byte(a, 0), after_byte(b, 0));
        }
    }

    fn after_byte(state: u32, byte: u8) -> u32 {
        (0..8).fold(state ^ u32::from(byte), |state, _| super::times_x(state))
    }
}
