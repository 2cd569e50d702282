//! Carrying out plans. Steps of one kind that follow each other are written with one call.

use std::time::Duration;

use crate::hashing::HashMap;
use crate::model::{FamilyAddress, PortKey};
use crate::plan::{Action, Bitmap, Content, Planner, Step};

use super::{Cut, Failure, TableError, Tables};

/// What [`run()`] did.
#[derive(Default, Debug)]
pub struct Report {
    /// Steps that were carried out.
    pub writes: usize,
    /// Backends that serve no more.
    pub retired: usize,
    /// What failed, with the Service port if one is concerned. It stays pending.
    pub failures: Vec<(Option<PortKey>, Failure)>,
}

/// Service ports in one plan. Bounds the memory of a first sync; less would break no promise.
const CHUNK: usize = 1024;

/// Plans for everything that is pending and carries the plans out.
pub fn run<A: FamilyAddress>(planner: &mut Planner<A>, tables: &mut impl Tables<A>, now: Duration) -> Report {
    let mut report = Report::default();
    let pending = planner.pending();
    if pending.is_empty() && !planner.is_settled() {
        run_plan(planner, &[], tables, now, &mut report);
    }
    for keys in pending.chunks(CHUNK) {
        run_plan(planner, keys, tables, now, &mut report);
    }
    report
}

fn run_plan<A: FamilyAddress>(
    planner: &mut Planner<A>,
    keys: &[PortKey],
    tables: &mut impl Tables<A>,
    now: Duration,
    report: &mut Report,
) {
    let mut plan = planner.plan(keys, now);
    let refused = std::mem::take(&mut plan.refused);
    report.failures.extend(refused.into_iter().map(|(key, full)| (Some(key), full.into())));
    let steps = std::mem::take(&mut plan.steps);
    for alike in steps.chunk_by(|one, other| are_alike(&one.action, &other.action)) {
        // What a step waits for is of another kind, so nothing in this loop changes it.
        let mut left: Vec<&Step<A>> = alike.iter().filter(|step| !planner.must_wait(&plan, step)).collect();
        loop {
            left.retain(|step| !plan.is_cancelled(step));
            let (done, in_part, error) = match write(planner.content(), tables, &left) {
                Ok(()) => (left.len(), 0, None),
                Err(Cut { done, error }) => {
                    let (done, in_part) = whole_steps(&left, done);
                    (done, in_part, Some(error))
                }
            };
            for step in left.drain(..done) {
                planner.done(&mut plan, step, now);
                report.writes += 1;
                report.retired += usize::from(step.action.retires());
            }
            let Some(error) = error else { break };
            if !left.is_empty() {
                let failed = left.remove(0);
                planner.done_in_part(failed, in_part);
                report.failures.push((plan.fail(failed.port), error.into()));
            }
        }
    }
    planner.finish(plan, now);
}

/// Whether two steps can be written with one call.
fn are_alike<A: FamilyAddress>(one: &Action<A>, other: &Action<A>) -> bool {
    match (one, other) {
        (Action::SetInterest { bitmap: one, .. }, Action::SetInterest { bitmap: other, .. }) => one == other,
        _ => std::mem::discriminant(one) == std::mem::discriminant(other),
    }
}

/// How many steps so many entries are, and how many entries of the next step are left over.
fn whole_steps<A: FamilyAddress>(steps: &[&Step<A>], mut entries: usize) -> (usize, usize) {
    for (done, step) in steps.iter().enumerate() {
        let own = if let Action::WriteSlots { list, .. } = &step.action { list.len() } else { 1 };
        if entries < own {
            return (done, entries);
        }
        entries -= own;
    }
    (steps.len(), 0)
}

/// Entries of one map.
struct Entries<K, V>(Vec<K>, Vec<V>);

impl<K, V> Entries<K, V> {
    fn of<A: FamilyAddress>(steps: &[&Step<A>], entry: impl FnMut(&Action<A>) -> Option<(K, V)>) -> Self {
        let (keys, values) = steps.iter().map(|step| &step.action).filter_map(entry).unzip();
        Self(keys, values)
    }
}

/// Writes what steps that are all alike say.
fn write<A: FamilyAddress>(content: &Content<A>, tables: &mut impl Tables<A>, steps: &[&Step<A>]) -> Result<(), Cut> {
    let Some(first) = steps.first() else { return Ok(()) };
    match &first.action {
        Action::SetInterest { bitmap, .. } => {
            let Entries(words, values) = interest(content, *bitmap, steps);
            tables.write_interest(*bitmap, &words, &values)
        }
        Action::WriteBackend { .. } => {
            let Entries(numbers, values) = Entries::of(steps, |action| match action {
                Action::WriteBackend { number, value } => Some((*number, *value)),
                _ => None,
            });
            tables.write_backends(&numbers, &values)
        }
        Action::WriteSlots { .. } => {
            let lists = steps.iter().filter_map(|step| match &step.action {
                Action::WriteSlots { first, list } => Some((*first..).zip(list.iter().copied())),
                _ => None,
            });
            let (slots, values): (Vec<_>, Vec<_>) = lists.flatten().unzip();
            tables.write_slots(&slots, &values)
        }
        Action::WriteService { .. } => {
            let Entries(numbers, values) = Entries::of(steps, |action| match action {
                Action::WriteService { number, value } => Some((*number, *value)),
                _ => None,
            });
            tables.write_services(&numbers, &values)
        }
        Action::PutFrontend { .. } => {
            let Entries(keys, values) = Entries::of(steps, |action| match action {
                Action::PutFrontend { key, value } => Some((*key, *value)),
                _ => None,
            });
            tables.put_frontends(&keys, &values)
        }
        Action::RemoveFrontend { .. } | Action::AddSourceRange { .. } | Action::RemoveSourceRange { .. } => {
            for (done, step) in steps.iter().enumerate() {
                write_alone(tables, &step.action).map_err(|error| Cut { done, error })?;
            }
            Ok(())
        }
    }
}

/// The words of a bitmap after each step: several steps may set bits of the same word.
fn interest<A: FamilyAddress>(content: &Content<A>, bitmap: Bitmap, steps: &[&Step<A>]) -> Entries<u32, u64> {
    let mut words: HashMap<u32, u64> = HashMap::default();
    Entries::of(steps, |action| match action {
        Action::SetInterest { word, bits, .. } => {
            let value = words.entry(*word).or_insert_with(|| content.interest(bitmap, *word));
            *value |= bits;
            Some((*word, *value))
        }
        _ => None,
    })
}

/// Actions that come in small numbers.
fn write_alone<A: FamilyAddress>(tables: &mut impl Tables<A>, action: &Action<A>) -> Result<(), TableError> {
    match action {
        Action::RemoveFrontend { key } => tables.remove_frontend(key),
        Action::AddSourceRange { service, range } => tables.add_source_range(*service, *range),
        Action::RemoveSourceRange { service, range } => tables.remove_source_range(*service, *range),
        _ => Ok(()),
    }
}
