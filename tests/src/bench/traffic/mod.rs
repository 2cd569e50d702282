//! What real traffic costs with svclb, with kube-proxy and with nobody between client and server.
//!
//! All that is compared is there at the same time, as nodes of one lab ([`stand`]). A *spot* is one workload at one of
//! them ([`spot`]); a *round* measures every spot for a moment, in another order each time; a *figure* is a number of each
//! round, mostly a ratio of two spots ([`figure`]). What counts is CPU time, not time: the machine may be busy with other
//! things, and a client that waits costs nobody anything. So a ratio of rates is one of what is done in the same CPU time.

mod exchange;
mod figure;
mod flood;
mod spot;
mod stage;
mod stand;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::Serialize;

pub use self::{
    figure::Round,
    spot::{Sample, Spot, Target, Workload},
    stand::{Services, Stand, Subject},
};
use self::{
    figure::{Figure, figures},
    stage::Stage,
};
use super::{
    finding::{Bound, Finding},
    spread::{Estimate, Spread, shuffle},
};

/// What is measured, and for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary `svclb`.
    pub binary: PathBuf,
    /// The reference object as an ELF file: it has the programs that flood a node.
    pub reference: Vec<u8>,
    /// Services that every node knows besides those that are asked.
    pub services: u32,
    /// Services of the largest node of row 10.
    pub most_services: u32,
    /// Rows of the table of goals; all of them, and what is shown besides, without any.
    pub rows: Vec<u8>,
    /// The most rounds.
    pub rounds: usize,
    /// No round begins after so long.
    pub time: Duration,
    /// How long a spot is measured in each round.
    pub sample: Duration,
    /// The CPU of the client, and of both where there is one; and that of the server where there are two.
    pub cpus: [usize; 2],
}

/// Who is told how far it is.
#[derive(Clone, Copy)]
pub struct Told<'a> {
    /// Lines that stay.
    pub line: &'a dyn Fn(&str),
    /// What is under way right now.
    pub now: &'a dyn Fn(&str),
}

/// What a spot cost over all rounds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Cost {
    /// The spot.
    pub spot: Spot,
    /// Nanoseconds of CPU time for one transaction, byte or packet.
    pub cost: Spread,
    /// Nanoseconds within which half of the connections of a round were established, where that was measured.
    pub connected: Option<Spread>,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Services that every node knew besides those that were asked.
    pub services: u32,
    /// The figures.
    pub findings: Vec<Finding>,
    /// The spots.
    pub costs: Vec<Cost>,
    /// What could not be measured, and why.
    pub missing: BTreeMap<Stand, String>,
    /// What was seen, round by round.
    pub rounds: Vec<Vec<(Spot, Sample)>>,
}

/// A figure is done when the interval of its median is within this share of it, or of 1 if it is smaller.
const WITHIN: f64 = 0.02;
/// No figure is done earlier than after so many rounds; what has no goal is done then.
const LEAST_ROUNDS: usize = 12;

/// The figures that are made when these rows are asked for.
fn wanted(rows: &[u8], most_services: u32) -> Vec<Figure> {
    let all = figures(most_services);
    if rows.is_empty() {
        return all;
    }
    let (mut wanted, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|figure| figure.row.is_some_and(|row| rows.contains(&row)));
    // With them come those by which their measurement is checked.
    let spots: BTreeSet<Spot> = wanted.iter().flat_map(|figure| figure.quotient.spots()).collect();
    wanted.extend(others.into_iter().filter(|figure| {
        let checks = matches!(figure.bound, Some(Bound::Same { .. }));
        checks && figure.quotient.spots().iter().any(|spot| spots.contains(spot))
    }));
    wanted
}

/// Measures. Needs root; all of it happens in namespaces of its own. Must be called within a tokio runtime with several
/// threads.
pub async fn run(options: &Options, told: &Told<'_>) -> Result<Report> {
    let figures = wanted(&options.rows, options.most_services);
    ensure!(!figures.is_empty(), "no row with traffic has such a number; they go from 4 to 12");
    let spots = figures.iter().flat_map(|figure| figure.quotient.spots()).collect();
    let mut stage = Stage::set_up(&spots, options, told).await?;
    let rounds = tokio::task::block_in_place(|| go_round(&mut stage, &figures, options, told))?;
    Ok(report(options, &figures, &stage, &rounds))
}

/// Goes on until all figures are done or the time is over.
fn go_round(stage: &mut Stage, figures: &[Figure], options: &Options, told: &Told<'_>) -> Result<Vec<Round>> {
    let since = Instant::now();
    let mut rounds = Vec::new();
    let mut failures = 0;
    while rounds.len() < options.rounds && since.elapsed() < options.time {
        let open: Vec<&Figure> = figures.iter().filter(|figure| is_open(figure, stage, &rounds)).collect();
        if open.is_empty() {
            break;
        }
        (told.now)(&format!(
            "round {}; {} of {} figures are open; {} of {} min",
            rounds.len() + 1,
            open.len(),
            figures.len(),
            since.elapsed().as_secs() / 60,
            options.time.as_secs() / 60
        ));
        let spots: BTreeSet<Spot> = open.iter().flat_map(|figure| figure.quotient.spots()).collect();
        let mut order: Vec<Spot> = spots.into_iter().collect();
        shuffle(&mut order);
        let mut round = Round::new();
        for spot in order {
            match stage.measure(&spot) {
                Ok(sample) => drop(round.insert(spot, sample)),
                Err(error) => {
                    failures += 1;
                    (told.line)(&format!("{spot}: {error:#}"));
                    ensure!(failures < 5 + rounds.len(), "too much fails; the last: {spot}: {error:#}");
                }
            }
        }
        rounds.push(round);
    }
    Ok(rounds)
}

/// Whether more rounds are wanted for a figure.
fn is_open(figure: &Figure, stage: &Stage, rounds: &[Round]) -> bool {
    if figure.quotient.spots().iter().any(|spot| stage.missing.contains_key(&spot.stand)) {
        return false;
    }
    if rounds.len() < LEAST_ROUNDS {
        return true;
    }
    figure.bound.is_some() && figure.quotient.estimate(rounds).is_none_or(|estimate| !is_narrow(&estimate))
}

fn is_narrow(estimate: &Estimate) -> bool {
    estimate.off() <= WITHIN * estimate.spread.median.abs().max(1.0)
}

fn report(options: &Options, figures: &[Figure], stage: &Stage, rounds: &[Round]) -> Report {
    let findings = figures.iter().map(|figure| {
        let with = if figure.cpus == 1 { "1 CPU" } else { "2 CPUs" };
        Finding::new(figure.row, &figure.what, with, figure.quotient.estimate(rounds), figure.bound)
    });
    let spots: BTreeSet<Spot> = rounds.iter().flat_map(|round| round.keys().copied()).collect();
    let costs = spots.into_iter().map(|spot| {
        let samples: Vec<&Sample> = rounds.iter().filter_map(|round| round.get(&spot)).collect();
        let connected: Vec<f64> = samples.iter().filter_map(|sample| sample.connected).map(f64::from).collect();
        Cost {
            spot,
            cost: Spread::of(&samples.iter().map(|sample| sample.cost()).collect::<Vec<_>>()),
            connected: (!connected.is_empty()).then(|| Spread::of(&connected)),
        }
    });
    let mut findings: Vec<Finding> = findings.collect();
    findings.sort_by_key(|finding| finding.row.unwrap_or(u8::MAX));
    Report {
        services: options.services,
        findings,
        costs: costs.collect(),
        missing: stage.missing.clone(),
        rounds: rounds.iter().map(|round| round.iter().map(|(spot, sample)| (*spot, *sample)).collect()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_with_the_check_of_its_measurement() {
        let figures = wanted(&[7], 50_000);
        assert!(figures.iter().all(|figure| figure.row == Some(7) || matches!(figure.bound, Some(Bound::Same { .. }))));
        assert_eq!(
            figures.iter().filter(|figure| figure.row.is_none()).count(),
            2,
            "connections, on one CPU and on two"
        );
        assert!(wanted(&[1], 50_000).is_empty(), "packets are no traffic");
    }

    #[test]
    fn a_median_is_sure_enough_within_a_fiftieth() {
        let estimate = |median: f64, off: f64| Estimate {
            rounds: 50,
            spread: Spread { low: 0.0, median, high: 0.0 },
            interval: [median - off, median + off],
        };
        assert!(is_narrow(&estimate(1.0, 0.019)));
        assert!(!is_narrow(&estimate(1.0, 0.021)));
        assert!(is_narrow(&estimate(0.1, 0.019)));
        assert!(is_narrow(&estimate(4.0, 0.079)));
        assert!(!is_narrow(&Estimate::of(&[1.0; 5])));
    }
}
