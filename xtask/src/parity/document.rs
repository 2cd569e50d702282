//! docs/conformance.md, from a run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
};

use anyhow::{Context, Result};
use svclb_tests::parity::{Family, Report, Subject, Verdict, catalogue};

use crate::{process, repository};

/// The document, from the top of the repository.
const PATH: &str = "docs/conformance.md";

/// Writes the document.
pub(super) fn write(report: &Report) -> Result<()> {
    let date = process::answer("date", ["-u", "+%Y-%m-%d"]).context("ask for the date")?;
    let file = repository::root().join(PATH);
    fs::write(&file, text(report, &date)).with_context(|| format!("writing {}", file.display()))
}

/// How svclb stands beside one mode of kube-proxy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// Both do what the scenario asks for.
    Same,
    /// svclb does, kube-proxy does not.
    Better,
    /// svclb does not.
    Differs,
}

impl Standing {
    fn word(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Better => "better",
            Self::Differs => "differs",
        }
    }
}

/// One line of the table.
#[derive(Default)]
struct Line {
    standings: BTreeMap<Subject, BTreeSet<Standing>>,
    scenarios: BTreeSet<&'static str>,
}

fn text(report: &Report, date: &str) -> String {
    let others: Vec<Subject> = report.subjects.iter().copied().filter(|subject| *subject != Subject::Svclb).collect();
    let mut lines = BTreeMap::<(&str, &str, Family), Line>::new();
    for row in &report.rows {
        for (field, path) in row.fields.iter().flat_map(|field| row.paths.iter().map(move |path| (*field, *path))) {
            let entry = lines.entry((field, path, row.case.family)).or_default();
            entry.scenarios.insert(row.scenario);
            for &other in &others {
                let passes = |subject| row.verdicts.get(&subject) == Some(&Verdict::Pass);
                let standing = match (passes(Subject::Svclb), passes(other)) {
                    (false, _) => Standing::Differs,
                    (true, true) => Standing::Same,
                    (true, false) => Standing::Better,
                };
                entry.standings.entry(other).or_default().insert(standing);
            }
        }
    }
    let mut numbers = BTreeMap::new();
    for row in &report.rows {
        let next = numbers.len() + 1;
        numbers.entry(row.scenario).or_insert(next);
    }
    let heads: Vec<String> = others.iter().map(|other| format!(" {other} |")).collect();
    let mut text = format!(
        "# Conformance

What svclb does beside the real kube-proxy of Kubernetes {}, on Linux {}, on {date}. Written by
`cargo xtask parity --subject all --write`: the same scenarios, clients and pods for all, on one real API server.
*Same*: both do what the scenario asks for. *Better*: svclb does, and that mode of kube-proxy does not. *Differs*:
svclb does not. The numbers are those of the scenarios below.

| field | path | family |{} scenarios |
| --- | --- | --- |{} --- |
",
        report.kubernetes,
        report.kernel,
        heads.concat(),
        " --- |".repeat(others.len()),
    );
    for ((field, path, family), line) in &lines {
        let standings = others.iter().map(|other| {
            let words = line.standings.get(other).into_iter().flatten().map(|standing| standing.word());
            format!(" {} |", words.collect::<Vec<_>>().join(", "))
        });
        let shown = line.scenarios.iter().filter_map(|scenario| numbers.get(scenario)).map(ToString::to_string);
        writeln!(
            text,
            "| `{field}` | {path} | {} |{} {} |",
            family.name(),
            standings.collect::<String>(),
            shown.collect::<Vec<_>>().join(", ")
        )
        .expect("a String takes everything");
    }
    text.push_str("\n## Scenarios\n\n");
    let mut in_order: Vec<_> = numbers.iter().collect();
    in_order.sort_by_key(|(_, number)| **number);
    for (scenario, number) in in_order {
        writeln!(text, "{number}. {scenario}").expect("a String takes everything");
    }
    text.push_str("\n## Where svclb does otherwise\n\n");
    text.push_str(&list(failed(report, Subject::Svclb)));
    text.push_str("\n## Where kube-proxy does otherwise\n\n");
    let mut reasons = BTreeSet::new();
    for row in &report.rows {
        for (subject, verdict) in &row.verdicts {
            if let Verdict::Differs { reason, .. } = verdict {
                reasons.insert(format!("- {subject}, \"{}\": {reason}.\n", row.scenario));
            }
        }
    }
    text.extend(reasons);
    for &other in &others {
        text.extend(failed(report, other).map(|line| format!("- {other}, {line}; the reason is not known.\n")));
    }
    let tests = catalogue::all().filter(|test| matches!(test.about, catalogue::About::Traffic(_))).count();
    write!(
        text,
        "\n## Kubernetes' own tests\n\nOf the tests of Kubernetes' end-to-end suite for the network {tests} are about traffic \
         to Services. Without a scenario:\n\n{}",
        list(report.without_scenario.iter().map(|name| format!("`{name}`")))
    )
    .expect("a String takes everything");
    text
}

/// The scenarios that a subject failed, with their cases.
fn failed(report: &Report, subject: Subject) -> impl Iterator<Item = String> {
    let mut cases = BTreeMap::<&str, Vec<String>>::new();
    for row in report.rows.iter().filter(|row| row.verdicts.get(&subject).is_some_and(Verdict::is_failure)) {
        cases.entry(row.scenario).or_default().push(row.case.to_string());
    }
    cases.into_iter().map(|(scenario, cases)| format!("\"{scenario}\" ({})", cases.join(", ")))
}

/// A list in Markdown, which says so when it is empty.
fn list(lines: impl Iterator<Item = String>) -> String {
    let listed = lines.fold(String::new(), |text, line| text + "- " + &line + "\n");
    if listed.is_empty() { "None.\n".to_owned() } else { listed }
}
