//! Runs scenarios against subjects.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, stream};
use tokio::time::timeout;

use super::{
    play::Play,
    report::{Report, Row, Verdict},
    scenario::{Case, Scenario, Turn},
    scenarios,
    stage::Stage,
    subject::Subject,
};

/// How many cases run at the same time. Most of their time they wait.
const AT_ONCE: usize = 8;

/// How long a case may take in all.
const CASE_WITHIN: Duration = Duration::from_mins(6);

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Against whom, in this order.
    pub subjects: Vec<Subject>,
    /// Which scenarios.
    pub scenarios: Vec<&'static Scenario>,
    /// The folder for the logs of the subjects.
    pub logs: PathBuf,
}

/// The scenarios whose name, or the name of a test of Kubernetes for which they stand, contains this text. All of them
/// without one.
pub fn selected(filter: Option<&str>) -> Vec<&'static Scenario> {
    let wanted = |scenario: &&'static Scenario| {
        filter
            .is_none_or(|text| scenario.name.contains(text) || scenario.upstream.iter().any(|test| test.contains(text)))
    };
    scenarios::all().filter(wanted).collect()
}

/// Runs the scenarios against each subject. `said` hears what is going on, a line at a time. Must be called within a
/// tokio runtime with several threads.
pub async fn run(options: &Options, mut said: impl FnMut(&str)) -> Result<Report> {
    ensure!(!options.scenarios.is_empty(), "there is no scenario of that name");
    said("starting the control plane, three nodes and their pods");
    let stage = Stage::set_up(&options.logs)?;
    let mut rows: Vec<Row> =
        options.scenarios.iter().flat_map(|scenario| scenario.cases().map(|case| row(scenario, case))).collect();
    for &subject in &options.subjects {
        said(&format!("{subject}: starting on every node"));
        stage.begin(subject).await.with_context(|| format!("start {subject}"))?;
        let verdicts = play_all(options, &stage, subject, &mut said).await;
        stage.check().await?;
        stage.end().await.with_context(|| format!("stop {subject}"))?;
        for (row, verdict) in rows.iter_mut().zip(verdicts) {
            row.verdicts.insert(subject, verdict);
        }
    }
    Ok(Report::new(&options.subjects, rows))
}

/// The verdicts of all cases on one subject, in the order of the rows.
async fn play_all(options: &Options, stage: &Stage, subject: Subject, said: &mut impl FnMut(&str)) -> Vec<Verdict> {
    let cases: Vec<(usize, &Scenario, Case)> = options
        .scenarios
        .iter()
        .flat_map(|scenario| scenario.cases().map(move |case| (*scenario, case)))
        .enumerate()
        .map(|(index, (scenario, case))| (index, scenario, case))
        .collect();
    let of_turn = |turn: Turn| cases.iter().filter(move |(_, scenario, _)| scenario.turn == turn).copied();
    let (total, mut done) = (cases.len(), 0);
    let mut verdicts = BTreeMap::new();
    for (turn, at_once) in [(Turn::Shared, AT_ONCE), (Turn::Alone, 1)] {
        let played = stream::iter(of_turn(turn)).map(|(index, scenario, case)| async move {
            let start = Instant::now();
            let verdict = play(stage, subject, index, scenario, case).await;
            (index, scenario, case, verdict, start.elapsed())
        });
        let mut played = std::pin::pin!(played.buffer_unordered(at_once));
        while let Some((index, scenario, case, verdict, took)) = played.next().await {
            done += 1;
            let outcome = match &verdict {
                Verdict::Pass => "ok".to_owned(),
                Verdict::Differs { .. } => "differs".to_owned(),
                Verdict::Fail { found } => format!("FAILED: {found}"),
            };
            said(&format!(
                "{subject} {done}/{total}: {} ({case}): {outcome} ({:.1} s)",
                scenario.name,
                took.as_secs_f64()
            ));
            verdicts.insert(index, verdict);
        }
    }
    verdicts.into_values().collect()
}

/// Plays one case and takes away what it made.
async fn play(stage: &Stage, subject: Subject, index: usize, scenario: &Scenario, case: Case) -> Verdict {
    let id = format!("{}{index}", subject.letter());
    let differs = scenario.differs(subject, case);
    let play = Play::new(stage, subject, case, id, differs.is_some());
    let outcome = match timeout(CASE_WITHIN, (scenario.run)(&play)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(anyhow::anyhow!("not done within {CASE_WITHIN:?}")),
    };
    let cleaned = play.clean_up().await.context("take away what the case made");
    judge(outcome.and(cleaned), differs)
}

/// The verdict on what came of a case, if the subject is known to do otherwise for this reason.
fn judge(outcome: Result<()>, differs: Option<&str>) -> Verdict {
    match (outcome, differs) {
        (Ok(()), None) => Verdict::Pass,
        (Ok(()), Some(reason)) => Verdict::Fail { found: format!("passed, though it is said to differ: {reason}") },
        (Err(found), Some(reason)) => Verdict::Differs { reason: reason.to_owned(), found: format!("{found:#}") },
        (Err(found), None) => Verdict::Fail { found: format!("{found:#}") },
    }
}

fn row(scenario: &Scenario, case: Case) -> Row {
    Row {
        scenario: scenario.name,
        case,
        upstream: scenario.upstream,
        fields: scenario.fields,
        paths: scenario.paths,
        verdicts: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_said_to_differ_must_differ() {
        assert_eq!(judge(Ok(()), None), Verdict::Pass);
        assert!(judge(Ok(()), Some("a reason")).is_failure());
        assert!(judge(Err(anyhow::anyhow!("silence")), None).is_failure());
        assert!(!judge(Err(anyhow::anyhow!("silence")), Some("a reason")).is_failure());
    }

    #[test]
    fn a_filter_finds_scenarios_by_the_tests_that_they_stand_for() {
        assert!(selected(Some("should allow pods to hairpin")).iter().any(|found| found.name.contains("itself")));
        assert!(selected(Some("no scenario has this text")).is_empty());
        assert_eq!(selected(None).len(), scenarios::all().count());
    }
}
