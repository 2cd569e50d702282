//! Random numbers that can be thrown again.

use std::collections::VecDeque;

/// Where the numbers come from.
#[derive(Clone, Debug)]
pub struct Dice(Source);

#[derive(Clone, Debug)]
enum Source {
    /// A small generator (SplitMix64, Steele et al. 2014), so that a seed says all.
    Seed(u64),
    /// Bytes that somebody chose.
    Script(VecDeque<u8>),
}

impl Dice {
    /// All that follows depends on this number alone.
    pub const fn new(seed: u64) -> Self {
        Self(Source::Seed(seed))
    }

    /// All that follows is in these bytes: one for a choice among up to 256, more for others. When they are over, every
    /// number is 0.
    pub fn script(bytes: &[u8]) -> Self {
        Self(Source::Script(bytes.iter().copied().collect()))
    }

    /// Nothing is left of a script.
    pub fn is_over(&self) -> bool {
        matches!(&self.0, Source::Script(bytes) if bytes.is_empty())
    }

    /// A number of so many bytes, at most eight.
    fn number(&mut self, bytes: u32) -> u64 {
        match &mut self.0 {
            Source::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
            Source::Script(left) => {
                (0..bytes).fold(0, |number, _| number << 8 | u64::from(left.pop_front().unwrap_or(0)))
            }
        }
    }

    /// Eight bits.
    pub(super) fn byte(&mut self) -> u8 {
        self.number(1) as u8
    }

    /// A number below `n`, which is at most 65,536.
    pub(super) fn below(&mut self, n: usize) -> usize {
        let bytes = if n > 256 { 2 } else { 1 };
        (self.number(bytes) % n as u64) as usize
    }

    /// True once in `n` times.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub(super) fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// A copy of one of these.
    pub(super) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        *self.one_of(choices)
    }
}
