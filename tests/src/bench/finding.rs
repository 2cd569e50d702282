//! What was found of a figure, held against what it must be and what it should be.

use serde::Serialize;

use super::spread::Estimate;

/// What a ratio must be, and what it should be.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Bound {
    /// It must be no smaller: of rates.
    AtLeast {
        /// What it must be.
        must: f64,
        /// What it should be.
        goal: f64,
    },
    /// It must be no larger: of times.
    AtMost {
        /// What it must be.
        must: f64,
        /// What it should be.
        goal: f64,
    },
    /// It must not differ from 1 by more: of one thing, measured twice.
    Same {
        /// By how much it may differ.
        within: f64,
    },
}

/// How a figure stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The interval of its median lies beyond the goal.
    Goal,
    /// The interval lies beyond what must be.
    Met,
    /// The interval lies on the wrong side of what must be.
    Missed,
    /// The interval holds what must be: the rounds do not tell.
    NotResolved,
    /// Something that it compares could not be measured.
    NotAvailable,
    /// There is nothing that it must be.
    Shown,
}

impl Verdict {
    /// For tables.
    pub fn words(self) -> &'static str {
        match self {
            Self::Goal => "goal met",
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::NotResolved => "not resolved",
            Self::NotAvailable => "not available",
            Self::Shown => "",
        }
    }
}

impl Bound {
    /// How an estimate stands.
    pub fn judge(self, estimate: &Estimate) -> Verdict {
        let [low, high] = estimate.interval;
        match self {
            Self::AtLeast { goal, .. } if low >= goal => Verdict::Goal,
            Self::AtLeast { must, .. } if low >= must => Verdict::Met,
            Self::AtLeast { must, .. } if high < must => Verdict::Missed,
            Self::AtMost { goal, .. } if high <= goal => Verdict::Goal,
            Self::AtMost { must, .. } if high <= must => Verdict::Met,
            Self::AtMost { must, .. } if low > must => Verdict::Missed,
            Self::Same { within } if low >= 1.0 - within && high <= 1.0 + within => Verdict::Met,
            Self::Same { within } if low > 1.0 + within || high < 1.0 - within => Verdict::Missed,
            _ => Verdict::NotResolved,
        }
    }

    /// What it must be and what it should be, for tables.
    pub fn words(self) -> [String; 2] {
        match self {
            Self::AtLeast { must, goal } => [must, goal].map(|value| format!("≥ {value:.2}")),
            Self::AtMost { must, goal } => [must, goal].map(|value| format!("≤ {value:.2}")),
            Self::Same { within } => [format!("1 ± {within:.2}"), String::new()],
        }
    }
}

/// One figure of the table.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Finding {
    /// Its row of the table of goals; nothing for what is shown beside.
    pub row: Option<u8>,
    /// What is compared with what.
    pub what: String,
    /// Under which circumstances: the family, the number of CPUs.
    pub with: String,
    /// What was found, if it could be measured.
    pub estimate: Option<Estimate>,
    /// What it is held against.
    pub bound: Option<Bound>,
    /// How it stands.
    pub verdict: Verdict,
}

impl Finding {
    /// Judges an estimate; without one nothing could be measured.
    pub fn new(
        row: Option<u8>,
        what: impl Into<String>,
        with: impl Into<String>,
        estimate: Option<Estimate>,
        bound: Option<Bound>,
    ) -> Self {
        let verdict = match (&estimate, bound) {
            (None, _) => Verdict::NotAvailable,
            (Some(_), None) => Verdict::Shown,
            (Some(estimate), Some(bound)) => bound.judge(estimate),
        };
        Self { row, what: what.into(), with: with.into(), estimate, bound, verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::spread::Spread;

    fn estimate(low: f64, high: f64) -> Estimate {
        let median = f64::midpoint(low, high);
        Estimate { rounds: 100, spread: Spread { low, median, high }, interval: [low, high] }
    }

    #[test]
    fn a_figure_is_met_when_its_whole_interval_lies_beyond() {
        let rate = Bound::AtLeast { must: 0.95, goal: 1.0 };
        for (low, high, verdict) in [
            (1.01, 1.03, Verdict::Goal),
            (0.96, 1.02, Verdict::Met),
            (0.94, 0.96, Verdict::NotResolved),
            (0.90, 0.94, Verdict::Missed),
            (f64::NEG_INFINITY, f64::INFINITY, Verdict::NotResolved),
        ] {
            assert_eq!(rate.judge(&estimate(low, high)), verdict, "{low} .. {high}");
        }
        let time = Bound::AtMost { must: 0.25, goal: 0.1 };
        assert_eq!(time.judge(&estimate(0.05, 0.09)), Verdict::Goal);
        assert_eq!(time.judge(&estimate(0.05, 0.2)), Verdict::Met);
        assert_eq!(time.judge(&estimate(0.2, 0.3)), Verdict::NotResolved);
        assert_eq!(time.judge(&estimate(0.26, 0.3)), Verdict::Missed);
    }

    #[test]
    fn one_thing_measured_twice_must_be_the_same() {
        let same = Bound::Same { within: 0.02 };
        assert_eq!(same.judge(&estimate(0.99, 1.01)), Verdict::Met);
        assert_eq!(same.judge(&estimate(0.97, 1.01)), Verdict::NotResolved);
        assert_eq!(same.judge(&estimate(1.03, 1.05)), Verdict::Missed);
    }

    #[test]
    fn what_could_not_be_measured_is_not_met() {
        let bound = Some(Bound::AtLeast { must: 0.0, goal: 0.0 });
        assert_eq!(Finding::new(Some(4), "XDP", "", None, bound).verdict, Verdict::NotAvailable);
    }
}
