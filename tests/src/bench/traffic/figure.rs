//! The figures that are made of the rounds, and what each must be.

use std::collections::BTreeMap;

use super::{
    spot::{Sample, Spot, Target, Workload},
    stand::{Stand, Subject},
};
use crate::bench::{finding::Bound, spread::Estimate};

/// One round: what was seen of each spot that could be measured.
pub type Round = BTreeMap<Spot, Sample>;

/// A number of each round.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Quotient {
    /// How much more the first does in the same CPU time than the second.
    Rate(Spot, Spot),
    /// What the first adds to a connection's latency over the last, as a share of what the second adds.
    Added(Spot, Spot, Spot),
}

impl Quotient {
    pub(super) fn spots(&self) -> Vec<Spot> {
        match self {
            Self::Rate(of, base) => vec![*of, *base],
            Self::Added(of, other, base) => vec![*of, *other, *base],
        }
    }

    /// Of a round that has all its spots.
    fn value(&self, round: &Round) -> Option<f64> {
        match self {
            Self::Rate(of, base) => Some(round.get(base)?.cost() / round.get(of)?.cost()),
            Self::Added(of, other, base) => {
                let latency = |spot| Some(f64::from(round.get(spot)?.connected?));
                let base = latency(base)?;
                Some((latency(of)? - base) / (latency(other)? - base))
            }
        }
    }

    /// Its median over the rounds that have it; nothing if there is none.
    pub(super) fn estimate(&self, rounds: &[Round]) -> Option<Estimate> {
        let values: Vec<f64> = rounds.iter().filter_map(|round| self.value(round)).collect();
        (!values.is_empty()).then(|| Estimate::of(&values))
    }
}

/// A figure of the table.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) row: Option<u8>,
    pub(super) what: String,
    pub(super) cpus: u8,
    pub(super) quotient: Quotient,
    pub(super) bound: Option<Bound>,
}

/// Services of the smallest node of row 10, and of those between it and the largest.
const FEWEST: u32 = 10;
const BETWEEN: [u32; 2] = [1_000, 10_000];
/// Flows of the rows 4 and 5.
const FLOWS: [u32; 2] = [1 << 10, 1 << 15];

const NOBODY: Stand = Stand::of(Subject::Nobody);
const STACK: Stand = Stand::of(Subject::Stack);
const DIRECT: Stand = Stand::of(Subject::Direct);
const NFTABLES: Stand = Stand::of(Subject::Nftables);

/// All figures: those of the table of goals, those by which the measurement is checked, and those that are only shown.
/// `most` are the Services of the largest node of row 10.
pub(super) fn figures(most: u32) -> Vec<Figure> {
    use Workload::{Bulk, Connect, Datagram, Exchange};
    let mut all = Vec::new();
    for flows in FLOWS {
        let workload = Workload::Forward { flows };
        let rows = [(4, Subject::Xdp, 4.0, 4.8), (5, Subject::Direct, 2.0, 2.4), (5, Subject::Stack, 1.15, 1.3)];
        for (row, subject, must, goal) in rows {
            all.push(rate(Some(row), workload, Stand::of(subject), NFTABLES, 1, Some(Bound::AtLeast { must, goal })));
        }
        all.push(rate(None, workload, Stand::of(Subject::Iptables), NFTABLES, 1, None));
    }
    for cpus in [1, 2] {
        let mut goal = |row, workload, of, base, must, goal| {
            all.push(rate(Some(row), workload, of, base, cpus, Some(Bound::AtLeast { must, goal })));
        };
        goal(6, Connect, DIRECT, NOBODY, 0.98, 1.02);
        goal(6, Connect, DIRECT, NFTABLES, 1.15, 1.25);
        goal(7, Connect, STACK, NOBODY, 0.94, 0.99);
        goal(7, Connect, STACK, NFTABLES, 1.10, 1.20);
        goal(7, Connect, STACK.with_policy(), NFTABLES.with_policy(), 1.02, 1.08);
        goal(9, Exchange, DIRECT, NOBODY, 1.00, 1.08);
        goal(9, Datagram, DIRECT, NFTABLES, 1.15, 1.25);
        goal(10, Connect, STACK.knowing(most), STACK.knowing(FEWEST), 0.95, 0.98);
        goal(12, Bulk, STACK, NOBODY, 0.97, 1.00);
        all.push(added_latency(cpus));
        let mut hooks = |row, subject, bound| all.push(hooks_alone(row, subject, cpus, bound));
        hooks(Some(11), Subject::Stack, Some(Bound::AtLeast { must: 0.97, goal: 0.99 }));
        hooks(None, Subject::Idle, None);
        for workload in [Connect, Exchange] {
            all.push(rate(None, workload, NOBODY.again(), NOBODY, cpus, Some(Bound::Same { within: 0.02 })));
        }
        for workload in [Exchange, Datagram, Workload::NewDatagram] {
            for subject in [Subject::Stack, Subject::Direct, Subject::Nftables, Subject::Iptables] {
                all.push(rate(None, workload, Stand::of(subject), NOBODY, cpus, None));
            }
        }
        for subject in [Subject::Nftables, Subject::Iptables] {
            all.push(rate(None, Connect, Stand::of(subject), NOBODY, cpus, None));
        }
        for subject in [Subject::Direct, Subject::Nftables, Subject::Iptables] {
            all.push(rate(None, Bulk, Stand::of(subject), NOBODY, cpus, None));
        }
        for size in BETWEEN.into_iter().filter(|size| *size < most) {
            all.push(rate(None, Connect, STACK.knowing(size), STACK.knowing(FEWEST), cpus, None));
        }
    }
    all
}

/// A spot at which all that serves is asked by its Service, and nobody's pod by its address.
fn spot(stand: Stand, workload: Workload, cpus: u8) -> Spot {
    let target = if stand.subject == Subject::Nobody { Target::Pod } else { Target::Service };
    Spot { stand, target, workload, cpus }
}

fn rate(row: Option<u8>, workload: Workload, of: Stand, base: Stand, cpus: u8, bound: Option<Bound>) -> Figure {
    let quotient = Quotient::Rate(spot(of, workload, cpus), spot(base, workload, cpus));
    Figure { row, what: format!("{}: {of} / {base}", workload.name()), cpus, quotient, bound }
}

/// Row 8.
fn added_latency(cpus: u8) -> Figure {
    let [stack, nftables, nobody] = [STACK, NFTABLES, NOBODY].map(|stand| spot(stand, Workload::Connect, cpus));
    Figure {
        row: Some(8),
        what: format!("what is added to the latency of connect: {STACK} / {NFTABLES}"),
        cpus,
        quotient: Quotient::Added(stack, nftables, nobody),
        bound: Some(Bound::AtMost { must: 0.25, goal: 0.10 }),
    }
}

/// Pods that ask each other past all Services, on a node with hooks and on one without.
fn hooks_alone(row: Option<u8>, subject: Subject, cpus: u8, bound: Option<Bound>) -> Figure {
    let nobody = spot(NOBODY, Workload::Exchange, cpus);
    Figure {
        row,
        what: format!("TCP request-response of pods, no Service: {} / no hooks", subject.name()),
        cpus,
        quotient: Quotient::Rate(Spot { stand: Stand::of(subject), ..nobody }, nobody),
        bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_that_is_about_traffic_has_its_figures() {
        let mut rows: Vec<u8> = figures(50_000).iter().filter_map(|figure| figure.row).collect();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows, (4..=12).collect::<Vec<_>>());
        assert!(figures(50_000).iter().all(|figure| figure.row.is_none() || figure.bound.is_some()));
    }

    fn sample(cpu: u64, connected: u32) -> Sample {
        Sample { done: 10, cpu, wall: 0, connected: Some(connected) }
    }

    #[test]
    fn a_rate_is_larger_where_less_time_is_taken() {
        let [of, base] = [STACK, NOBODY].map(|stand| spot(stand, Workload::Connect, 1));
        let round = Round::from([(of, sample(500, 0)), (base, sample(400, 0))]);
        assert_eq!(Quotient::Rate(of, base).value(&round).map(|value| value.to_string()).as_deref(), Some("0.8"));
        assert_eq!(Quotient::Rate(of, base).value(&Round::from([(of, sample(1, 0))])), None);
    }

    #[test]
    fn added_latency_is_what_is_above_that_without_a_proxy() {
        let figure = added_latency(1);
        let spots = figure.quotient.spots();
        let round: Round = spots.into_iter().zip([sample(1, 32), sample(1, 70), sample(1, 30)]).collect();
        assert_eq!(figure.quotient.value(&round).map(|value| value.to_string()).as_deref(), Some("0.05"));
    }
}
