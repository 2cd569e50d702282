//! The result of a run for people.

use std::{collections::BTreeMap, fmt::Write as _};

use comfy_table::{Table, presets};
use svclb_tests::parity::{Report, Row, Subject, Verdict, catalogue};

/// A line for each scenario, what went wrong, what is not covered, and the counts.
pub(super) fn text(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["scenario"].into_iter().chain(report.subjects.iter().map(|subject| subject.name())));
    for (scenario, rows) in by_scenario(report) {
        let cells = report.subjects.iter().map(|&subject| cell(&rows, subject));
        table.add_row(std::iter::once(scenario.to_owned()).chain(cells));
    }
    let mut text = format!("Kubernetes {}, Linux {}\n{table}\n", report.kubernetes, report.kernel);
    for (said, cases) in remarks(report) {
        line(&mut text, &format!("{} ({}): {}", said.0, cases.join(", "), said.1));
    }
    line(&mut text, &coverage(report.without_scenario.iter().copied()));
    let (passed, failed) = report.counts();
    write!(text, "{passed} passed, {failed} failed").expect("a String takes everything");
    text
}

/// What did not simply pass: subject, verdict and scenario, and why; with the cases.
fn remarks(report: &Report) -> BTreeMap<(String, &str), Vec<String>> {
    let mut remarks = BTreeMap::<(String, &str), Vec<String>>::new();
    for row in &report.rows {
        for (subject, verdict) in &row.verdicts {
            let (what, why) = match verdict {
                Verdict::Pass => continue,
                Verdict::Differs { reason, .. } => ("differs", reason),
                Verdict::Fail { found } => ("FAILED", found),
            };
            let who = format!("{subject} {what}: {}", row.scenario);
            remarks.entry((who, why.as_str())).or_default().push(row.case.to_string());
        }
    }
    remarks
}

/// The tests of Kubernetes that no scenario stands for.
pub(super) fn coverage<'a>(without: impl Iterator<Item = &'a str>) -> String {
    let without: Vec<&str> = without.collect();
    let about_traffic = catalogue::all().filter(|test| matches!(test.about, catalogue::About::Traffic(_))).count();
    let mut text = format!("tests of Kubernetes about traffic: {about_traffic}, without a scenario: {}", without.len());
    for name in without {
        write!(text, "\n  {name}").expect("a String takes everything");
    }
    text
}

/// The rows of each scenario, in their order.
fn by_scenario(report: &Report) -> Vec<(&'static str, Vec<&Row>)> {
    let mut grouped: Vec<(&'static str, Vec<&Row>)> = Vec::new();
    for row in &report.rows {
        match grouped.last_mut() {
            Some((scenario, rows)) if *scenario == row.scenario => rows.push(row),
            _ => grouped.push((row.scenario, vec![row])),
        }
    }
    grouped
}

/// What came of the cases of one scenario with one subject: one word where they agree.
fn cell(rows: &[&Row], subject: Subject) -> String {
    let mut cases = BTreeMap::<&str, Vec<String>>::new();
    for row in rows {
        let word = match row.verdicts.get(&subject) {
            None => "not run",
            Some(Verdict::Pass) => "pass",
            Some(Verdict::Differs { .. }) => "differs",
            Some(Verdict::Fail { .. }) => "FAIL",
        };
        cases.entry(word).or_default().push(row.case.to_string());
    }
    if cases.len() == 1 {
        return cases.into_keys().collect();
    }
    let parts = cases.into_iter().map(|(word, cases)| format!("{word}: {}", cases.join(", ")));
    parts.collect::<Vec<_>>().join("\n")
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes everything");
}
