//! Samples and what is said of them: quartiles, ratios taken round by round, and how sure a median is.
//!
//! The machine that measures is busy with other things as well, and more in one moment than in another. So all
//! subjects are measured in each round, in another order each time, and a ratio is the median of the rounds'
//! ratios. How far that median may be off is told by the rounds themselves, whatever their distribution is
//! ([`Estimate`]).

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
}

/// The median of some samples, and where it would lie if there were no end of samples.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Estimate {
    /// How many samples there are.
    pub rounds: usize,
    /// Their quartiles.
    #[serde(flatten)]
    pub spread: Spread,
    /// The median of all that could be measured lies between these two in 95 of 100 cases. Without end, as JSON has no
    /// number for it `null`, as long as there are fewer than 6 samples.
    pub interval: [f64; 2],
}

impl Estimate {
    /// Of samples in any order. The interval is the sign test's: each sample is as likely above the true median as below
    /// it, so that how many are below has a binomial distribution. Nothing is supposed of the samples but that.
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let interval = match unlikely(sorted.len()) {
            Some(outside) => [sorted.get(outside), sorted.get(sorted.len() - 1 - outside)]
                .map(|end| end.copied().unwrap_or(f64::NAN)),
            None => [f64::NEG_INFINITY, f64::INFINITY],
        };
        Self { rounds: sorted.len(), spread: Spread::of(&sorted), interval }
    }

    /// Of the quotients of two series that were taken in the same rounds.
    pub fn of_ratios(samples: &[f64], bases: &[f64]) -> Self {
        let ratios: Vec<f64> = samples.iter().zip(bases).map(|(sample, base)| sample / base).collect();
        Self::of(&ratios)
    }

    /// How far the farther end of the interval is from the median.
    pub fn off(&self) -> f64 {
        let [low, high] = self.interval;
        (self.spread.median - low).max(high - self.spread.median)
    }
}

/// How many of so many samples may be left out at either end of the interval: the most for which it is no more likely
/// than 2.5 % that so few, or fewer, are on the wrong side of the true median. Nothing if that is likelier with none.
fn unlikely(samples: usize) -> Option<usize> {
    // The share of a binomial distribution's weights, which are kept as logarithms: 2^-samples is no number soon.
    let count = f64::from(u32::try_from(samples).ok()?);
    let mut weight = -count * std::f64::consts::LN_2;
    let mut sum = weight.exp();
    let mut found = None;
    for outside in 0..samples {
        if sum > 0.025 {
            break;
        }
        found = Some(outside);
        let next = f64::from(u32::try_from(outside).ok()?);
        weight += ((count - next) / (next + 1.0)).ln();
        sum += weight.exp();
    }
    found
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
        let ratio = Estimate::of_ratios(&[10.0, 40.0, 30.0], &[5.0, 20.0, 10.0]);
        assert_eq!(ratio.spread.median.to_string(), "2");
    }

    #[test]
    fn the_interval_of_a_median_is_that_of_the_tables() {
        // Of 6 samples it goes from the first to the last, of 10 from the second to the ninth, of 25 from the eighth to
        // the eighteenth, of 100 from the 40th to the 61st.
        let of = |count: u32| Estimate::of(&(1..=count).rev().map(f64::from).collect::<Vec<_>>());
        for (count, low, high) in [(6, "1", "6"), (10, "2", "9"), (25, "8", "18"), (100, "40", "61")] {
            let [found_low, found_high] = of(count).interval;
            assert_eq!((&*found_low.to_string(), &*found_high.to_string()), (low, high), "of {count} samples");
        }
        assert!(of(2_000).off() < 50.0, "many samples leave a narrow interval: {:?}", of(2_000));
    }

    #[test]
    fn few_samples_say_nothing_about_their_median() {
        let estimate = Estimate::of(&[1.0; 5]);
        assert!(estimate.off().is_infinite(), "{estimate:?}");
        assert!(Estimate::of(&[]).off().is_infinite());
    }

    #[test]
    fn the_interval_holds_the_true_median_as_often_as_it_says() {
        // Samples of a skewed distribution whose median is 1/2.
        let mut state = 1_u64;
        let mut sample = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let uniform = f64::from((state >> 33) as u32) / f64::from(1_u32 << 31);
            if uniform < 0.5 { uniform } else { 0.5 + (uniform - 0.5).powi(2) * 100.0 }
        };
        let held = (0..2_000)
            .filter(|_| {
                let [low, high] =
                    Estimate::of(&std::iter::repeat_with(&mut sample).take(31).collect::<Vec<_>>()).interval;
                low <= 0.5 && 0.5 <= high
            })
            .count();
        // 31 samples give an interval of 97.1 %.
        assert!((1_900..=1_990).contains(&held), "{held} of 2000");
    }

    #[test]
    fn shuffling_loses_nothing() {
        let mut things: Vec<u32> = (0..100).collect();
        shuffle(&mut things);
        things.sort_unstable();
        assert!(things.into_iter().eq(0..100));
    }
}
