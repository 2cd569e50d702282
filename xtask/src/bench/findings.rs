//! The table of figures and goals.

use comfy_table::Table;
use svclb_tests::bench::finding::{Bound, Finding, Verdict};

use crate::Outcome;

/// A table of figures: median, quartiles, the 95 % interval of the median, and what it is held against.
pub(super) fn table(findings: &[Finding]) -> Table {
    let mut table = super::table(["row", "figure", "with", "median [quartiles] (interval)", "must", "goal", ""], 3);
    for finding in findings {
        let row = finding.row.map_or_else(String::new, |row| row.to_string());
        let [must, goal] = finding.bound.map_or_else(Default::default, Bound::words);
        let verdict = finding.verdict.words().to_owned();
        table.add_row([row, finding.what.clone(), finding.with.clone(), found(finding), must, goal, verdict]);
    }
    table
}

/// What was found, in words.
pub(super) fn found(finding: &Finding) -> String {
    let Some(estimate) = &finding.estimate else { return "-".to_owned() };
    let ([low, high], spread) = (estimate.interval, estimate.spread);
    let ends = if low.is_finite() { format!("({low:.3} .. {high:.3})") } else { "(too few rounds)".to_owned() };
    format!("{:.3} [{:.2} .. {:.2}] {ends}", spread.median, spread.low, spread.high)
}

/// Failed if a figure is not what it must be.
pub(super) fn outcome(findings: &[Finding]) -> Outcome {
    if findings.iter().any(|finding| finding.verdict == Verdict::Missed) { Outcome::Failed } else { Outcome::Done }
}
