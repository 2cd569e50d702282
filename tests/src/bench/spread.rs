//! Samples and what is said of them: quartiles, and ratios taken round by round.
//!
//! The machine that measures is busy with other things as well, and more in one moment than in another. So all
//! subjects are measured in each round, in another order each time, and a ratio is the median of the rounds'
//! ratios.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use serde::Serialize;

/// Quartiles of some samples.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Spread {
    /// A quarter of the samples is below.
    pub low: f64,
    /// Half of the samples is below.
    pub median: f64,
    /// A quarter of the samples is above.
    pub high: f64,
}

impl Spread {
    /// Of samples in any order; all 0 without any.
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self { low: quantile(&sorted, 0.25), median: quantile(&sorted, 0.5), high: quantile(&sorted, 0.75) }
    }

    /// Of the quotients of two series that were taken in the same rounds.
    pub fn of_ratios(samples: &[f64], bases: &[f64]) -> Self {
        let ratios: Vec<f64> = samples.iter().zip(bases).map(|(sample, base)| sample / base).collect();
        Self::of(&ratios)
    }
}

/// The value below which this share of the samples lies; they must be in order.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1).and_then(|last| u32::try_from(last).ok()) else { return 0.0 };
    let place = share * f64::from(last);
    // The samples to both sides of the place.
    let below = (0..last).take_while(|at| f64::from(*at + 1) <= place).count();
    let at = |place: usize| sorted.get(place).copied().unwrap_or_default();
    let next = at((below + 1).min(sorted.len() - 1));
    at(below) + (next - at(below)) * place.fract()
}

/// A random number, for what must differ from run to run.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Puts things into a random order.
pub fn shuffle<T>(things: &mut [T]) {
    for last in (1..things.len()).rev() {
        let other = random() % (last as u64 + 1);
        things.swap(last, other as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_samples_where_they_must() {
        let of = |samples: &[f64]| {
            let Spread { low, median, high } = Spread::of(samples);
            format!("{low} {median} {high}")
        };
        assert_eq!(of(&[3.0, 1.0, 2.0, 5.0, 4.0]), "2 3 4");
        assert_eq!(of(&[1.0, 2.0]), "1.25 1.5 1.75");
        assert_eq!(of(&[7.0]), "7 7 7");
        assert_eq!(of(&[]), "0 0 0");
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let ratio = Spread::of_ratios(&[10.0, 40.0, 30.0], &[5.0, 20.0, 10.0]);
        assert_eq!(ratio.median.to_string(), "2");
    }

    #[test]
    fn shuffling_loses_nothing() {
        let mut things: Vec<u32> = (0..100).collect();
        shuffle(&mut things);
        things.sort_unstable();
        assert!(things.into_iter().eq(0..100));
    }
}
