//! The cases, and how a round of each goes.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use svclb_common::schema::{Bucket, Plain};
use svclb_common::verdict::Counter;
use svclb_common::wire::tcp::flag::{ACK, SYN};
use svclb_userspace::model::Family;

use super::Options;
use super::family::{Wire, receiver, segment};
use super::filled::Filled;
use super::reference::{PEERS, Plan, Reference};
use super::report::{Case, Line};
use crate::bench::cpu;
use crate::bench::population::Population;
use crate::bench::spread::{Estimate, Spread, random, shuffle};

/// A program under measurement. Its number is its place in the reference object's SUBJECTS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Subject {
    Empty,
    Lookup,
    NewFlow,
    AskedFlow,
    KnownFlow,
    Ingress,
    Egress,
}

use Subject::{AskedFlow, Egress, Empty, Ingress, KnownFlow, Lookup, NewFlow};

impl Subject {
    const ALL: [Self; 7] = [Empty, Lookup, NewFlow, AskedFlow, KnownFlow, Ingress, Egress];

    const fn name(self) -> &'static str {
        match self {
            Empty => "empty",
            Lookup => "lookup",
            NewFlow => "new_flow",
            AskedFlow => "asked_flow",
            KnownFlow => "known_flow",
            Ingress => "ingress",
            Egress => "egress",
        }
    }

    const fn of(self) -> &'static str {
        if matches!(self, Ingress | Egress) { "svclb" } else { "reference" }
    }
}

/// Flows of the cases with new ones.
const NEW_FLOWS: u32 = 1_000_000;
/// They are made in pieces of this many packets, the subjects in turn.
const PIECE: u32 = 50_000;
/// Clients of the other cases: as many as there are places for their other ends.
const CLIENTS: u32 = PEERS;
/// Odd, and far from the sizes of anything.
const STRIDE: u32 = 40_503;
/// Packets of a sample of the short cases, and how many more rounds these have than the long ones.
const PACKETS: u32 = 4 * CLIENTS;
const MORE_ROUNDS: u32 = 4;

/// Both objects in the kernel.
pub(super) struct Bench<'a> {
    object: &'a [u8],
    population: Population,
    rounds: u32,
    wanted: &'a [String],
    pub(super) filled: Filled,
    pub(super) reference: Reference,
}

/// A case without its figures.
struct Head {
    name: &'static str,
    about: &'static str,
    base: Subject,
    subjects: &'static [Subject],
    packets: u32,
    rounds: u32,
}

impl<'a> Bench<'a> {
    pub(super) fn new(object: &'a [u8], population: Population, options: &'a Options) -> Result<Self> {
        let filled = Filled::new(&population, Path::new("/sys/fs/bpf/bench"))?;
        let reference = Reference::load(object, Family::V4)?;
        Ok(Self { object, population, rounds: options.rounds, wanted: &options.cases, filled, reference })
    }

    /// All cases of a family.
    pub(super) fn all_cases<A: Wire>(&mut self, say: &dyn Fn(&str)) -> Result<Vec<Case>>
    where
        Bucket<A>: Plain,
    {
        let told = |case: &str| say(&format!("{}, {case}", A::FAMILY));
        self.reload::<A>()?;
        let mut cases = Vec::new();
        if self.wants("no-service") {
            told("a packet of no Service");
            cases.push(self.one_packet::<A>()?);
        }
        if self.wants("no-service-many") {
            told("packets of no Service");
            cases.push(self.many_packets::<A>()?);
        }
        if self.wants("request") || self.wants("reply") {
            told("packets of known flows");
            cases.extend(self.known_flows::<A>()?);
        }
        if self.wants("new-flow") {
            told("new flows");
            cases.push(self.new_flows::<A>(NewFlow)?);
        }
        if self.wants("new-flow-asked") {
            told("new flows that are looked for first");
            cases.push(self.new_flows::<A>(AskedFlow)?);
        }
        Ok(cases)
    }

    fn wants(&self, case: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| wanted == case)
    }

    /// One packet of no Service again and again, handed to the programs without the traffic in front.
    fn one_packet<A: Wire>(&mut self) -> Result<Case> {
        let head = Head {
            name: "no-service",
            about: "a packet of no Service",
            base: Lookup,
            subjects: &[Empty, Lookup, Ingress, Egress],
            packets: PACKETS,
            rounds: self.rounds * MORE_ROUNDS,
        };
        let [from, to] = [0, 1].map(|number| self.population.stranger(number, A::FAMILY));
        let packet = segment(from, to);
        let passed = self.filled.count(Counter::NoService)?;
        let case = self.rounds::<A>(&head, |bench, subject| {
            let program = match subject.of() {
                "svclb" => bench.filled.program(subject.name())?,
                _ => bench.reference.program(subject.name())?,
            };
            measured(program, &packet, PACKETS)
        })?;
        self.expect(Counter::NoService, passed, 2 * head.rounds * PACKETS)?;
        Ok(case)
    }

    /// Packets of no Service between many clients and many others.
    fn many_packets<A: Wire>(&mut self) -> Result<Case> {
        let head = Head {
            name: "no-service-many",
            about: "packets of no Service between 64k pairs",
            base: Lookup,
            subjects: &[Empty, Lookup, Ingress, Egress],
            packets: PACKETS,
            rounds: self.rounds * MORE_ROUNDS,
        };
        let strangers: Vec<_> = (0..PEERS).map(|number| self.population.stranger(number, A::FAMILY)).collect();
        self.reference.set_peers::<A>(&strangers)?;
        let passed = self.filled.count(Counter::NoService)?;
        let case = self.rounds::<A>(&head, |bench, subject| {
            bench.reference.set_plan(hits(subject, false, ACK))?;
            bench.send::<A>(PACKETS)
        })?;
        self.expect(Counter::NoService, passed, 2 * head.rounds * PACKETS)?;
        Ok(case)
    }

    /// New flows until there are a million, from empty tables in each round. `base` is the reference's way.
    fn new_flows<A: Wire>(&mut self, base: Subject) -> Result<Case>
    where
        Bucket<A>: Plain,
    {
        let (name, about, subjects): (_, _, &[Subject]) = match base {
            NewFlow => ("new-flow", "a new flow, up to 1M", &[Empty, NewFlow, Ingress]),
            _ => ("new-flow-asked", "a new flow, up to 1M, looked for first", &[Empty, AskedFlow, Ingress]),
        };
        let head = Head { name, about, base, subjects, packets: NEW_FLOWS, rounds: self.rounds };
        let frontends = self.frontends(A::FAMILY);
        self.rounds_of_all::<A>(&head, |bench| {
            bench.filled.forget_flows::<A>()?;
            bench.reload::<A>()?;
            bench.reference.set_peers::<A>(&frontends)?;
            let created = bench.filled.count(Counter::FlowCreated)?;
            let mut sums = vec![0.0; subjects.len()];
            let mut order: Vec<usize> = (0..subjects.len()).collect();
            for first in (0..NEW_FLOWS).step_by(PIECE as usize) {
                shuffle(&mut order);
                for at in &order {
                    let (Some(subject), Some(sum)) = (subjects.get(*at), sums.get_mut(*at)) else { continue };
                    bench.reference.set_plan(Plan { next: first, ..first_packets(*subject) })?;
                    *sum += bench.send::<A>(PIECE)? * f64::from(PIECE) / f64::from(NEW_FLOWS);
                }
            }
            bench.expect(Counter::FlowCreated, created, NEW_FLOWS)?;
            Ok(sums)
        })
    }

    /// Packets of 64k established flows: requests, then replies.
    fn known_flows<A: Wire>(&mut self) -> Result<[Case; 2]>
    where
        Bucket<A>: Plain,
    {
        self.filled.forget_flows::<A>()?;
        let frontends = self.frontends(A::FAMILY);
        self.reference.set_peers::<A>(&frontends)?;
        for subject in [NewFlow, Ingress] {
            self.reference.set_plan(Plan { clients: CLIENTS, ..first_packets(subject) })?;
            self.send::<A>(CLIENTS)?;
        }
        let backends = [self.receivers::<A>(KnownFlow)?, self.receivers::<A>(Ingress)?];
        // Replies make svclb's flows established.
        self.reference.set_peers::<A>(&backends[1])?;
        self.reference.set_plan(hits(Egress, true, SYN | ACK))?;
        self.send::<A>(CLIENTS)?;
        self.reference.set_peers::<A>(&frontends)?;
        self.reference.set_plan(hits(Ingress, false, ACK))?;
        self.send::<A>(CLIENTS)?;

        let mut head = Head {
            name: "request",
            about: "a request of 64k known flows",
            base: KnownFlow,
            subjects: &[Empty, KnownFlow, Ingress],
            packets: PACKETS,
            rounds: self.rounds * MORE_ROUNDS,
        };
        let before = self.filled.count(Counter::RequestTranslated)?;
        let requests = self.rounds::<A>(&head, |bench, subject| {
            bench.reference.set_plan(hits(subject, false, ACK))?;
            bench.send::<A>(PACKETS)
        })?;
        self.expect(Counter::RequestTranslated, before, head.rounds * PACKETS)?;

        (head.name, head.about) = ("reply", "a reply of 64k known flows");
        (head.subjects, head.rounds) = (&[Empty, KnownFlow, Egress], self.rounds);
        let before = self.filled.count(Counter::ReplyTranslated)?;
        let replies = self.rounds::<A>(&head, |bench, subject| {
            bench.reference.set_peers::<A>(&backends[usize::from(subject == Egress)])?;
            bench.reference.set_plan(hits(subject, true, ACK))?;
            bench.send::<A>(PACKETS)
        })?;
        self.expect(Counter::ReplyTranslated, before, head.rounds * PACKETS)?;
        Ok([requests, replies])
    }

    /// Where each client's requests go to, by the client's number.
    fn receivers<A: Wire>(&mut self, subject: Subject) -> Result<Vec<SocketAddr>> {
        self.reference.set_plan(Plan { next: 0, stride: 1, ..hits(subject, false, ACK) })?;
        let request = blank::<A>(&self.population);
        let traffic = self.reference.traffic(A::FAMILY)?;
        let mut answer = vec![0; request.len()];
        let mut all = Vec::with_capacity(CLIENTS as usize);
        for number in 0..CLIENTS {
            traffic.test_run(TestRunOptions {
                data_in: Some(&request),
                data_out: Some(&mut answer),
                ..TestRunOptions::new()
            })?;
            let to = receiver::<A>(&answer).context("a packet came back without a receiver")?;
            ensure!(
                to.port() == crate::bench::population::ENDPOINT_PORT,
                "{} did not translate the request of client {number}, it is still for {to}",
                subject.name()
            );
            all.push(to);
        }
        Ok(all)
    }

    fn frontends(&self, family: Family) -> Vec<SocketAddr> {
        (0..self.population.services).map(|service| self.population.frontend(service, family)).collect()
    }

    /// Loads the reference object afresh, with its table of flows empty.
    fn reload<A: Wire>(&mut self) -> Result<()> {
        self.reference = Reference::load(self.object, A::FAMILY)?;
        self.reference.populate::<A>(&self.population)?;
        for subject in Subject::ALL {
            let place = subject as u32;
            if subject.of() == "svclb" {
                self.reference.set_subject(place, self.filled.program(subject.name())?)?;
            } else {
                self.reference.set_own_subject(place, subject.name())?;
            }
        }
        Ok(())
    }

    /// Lets the traffic run. Nanoseconds for a packet.
    fn send<A: Wire>(&mut self, packets: u32) -> Result<f64> {
        let packet = blank::<A>(&self.population);
        measured(self.reference.traffic(A::FAMILY)?, &packet, packets)
            .with_context(|| format!("svclb has counted so far: {}", self.filled.counted().unwrap_or_default()))
    }

    /// Checks that svclb did with the packets what the case is about.
    fn expect(&self, counter: Counter, before: u64, wanted: u32) -> Result<()> {
        let found = self.filled.count(counter)? - before;
        ensure!(
            found == u64::from(wanted),
            "{} packets should have been counted as {}, {found} were: the figures would be of something else",
            wanted,
            counter.label()
        );
        Ok(())
    }

    /// Rounds in which each subject is measured by itself.
    fn rounds<A: Wire>(&mut self, head: &Head, mut one: impl FnMut(&mut Self, Subject) -> Result<f64>) -> Result<Case> {
        let mut order: Vec<usize> = (0..head.subjects.len()).collect();
        self.rounds_of_all::<A>(head, |bench| {
            shuffle(&mut order);
            let mut samples = vec![0.0; head.subjects.len()];
            for at in &order {
                let (Some(subject), Some(sample)) = (head.subjects.get(*at), samples.get_mut(*at)) else { continue };
                *sample = one(bench, *subject)?;
            }
            Ok(samples)
        })
    }

    /// Rounds that give a sample of each subject.
    fn rounds_of_all<A: Wire>(
        &mut self,
        head: &Head,
        mut round: impl FnMut(&mut Self) -> Result<Vec<f64>>,
    ) -> Result<Case> {
        let mut all: Vec<Vec<f64>> = vec![Vec::new(); head.subjects.len()];
        for _ in 0..head.rounds {
            for (samples, sample) in all.iter_mut().zip(round(self)?) {
                samples.push(sample);
            }
        }
        let base = head.subjects.iter().position(|subject| *subject == head.base).and_then(|at| all.get(at));
        let base = base.context("the base of a case is one of its subjects")?;
        let lines = head.subjects.iter().zip(&all).map(|(subject, samples)| Line {
            of: subject.of(),
            program: subject.name(),
            ns: Spread::of(samples),
            ratio: Estimate::of_ratios(samples, base),
        });
        Ok(Case {
            name: head.name,
            about: head.about,
            family: A::FAMILY.to_string(),
            base: head.base.name(),
            packets: head.packets,
            rounds: head.rounds,
            lines: lines.collect(),
        })
    }
}

/// First packets of flows, each of another client.
const fn first_packets(subject: Subject) -> Plan {
    Plan { next: 0, clients: 1 << 20, stride: 1, replies: false, subject: subject as u32, tcp_flags: SYN }
}

/// Packets of the same clients again and again.
fn hits(subject: Subject, replies: bool, tcp_flags: u8) -> Plan {
    let next = random() as u32;
    Plan { next, clients: CLIENTS, stride: STRIDE, replies, subject: subject as u32, tcp_flags }
}

/// A packet for the traffic to write into.
fn blank<A: Wire>(population: &Population) -> Vec<u8> {
    segment(population.stranger(0, A::FAMILY), population.frontend(0, A::FAMILY))
}

/// Runs a program over a packet. Nanoseconds of this thread's CPU time for one run: the kernel's own figure
/// is a whole number.
fn measured(program: &SchedClassifier, packet: &[u8], packets: u32) -> Result<f64> {
    /// What every program here answers: go on.
    const NEXT: u32 = u32::MAX;
    let before = cpu::time()?;
    let run = TestRunOptions { data_in: Some(packet), repeat: packets, ..TestRunOptions::new() };
    let answer = program.test_run(run)?.return_value;
    let took = cpu::time()?.saturating_sub(before);
    if answer != NEXT {
        bail!("a program answered {answer} where it should have let the packet go on");
    }
    Ok(took.as_secs_f64() * 1e9 / f64::from(packets))
}
