//! Numbers: which service number, backend numbers and slots belong to whom.
//!
//! Flows and affinity entries in the kernel hold backend numbers, and nothing tells the agent when the
//! last of them is gone. So a number keeps its owner as long as it can, rests for [`GRACE`] when it
//! is freed, and goes back to the same owner when that returns in time. Given to another owner, a
//! backend number gets another generation (see [`crate::plan`]), which is how old flows notice.
//!
//! Time is an argument everywhere: the time since some fixed moment.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::desired::Target;
use crate::hashing::{HashMap, HashSet};
use crate::model::{FamilyAddress, PortKey};

/// How long a freed number or slot rests: longer than any packet needs that still holds it.
pub const GRACE: Duration = Duration::from_secs(5);

/// Why no number could be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{what} is full: all {entries} entries are in use or were until {GRACE:?} ago; start the agent with larger maps"
)]
pub struct Full {
    /// The map.
    pub what: &'static str,
    /// Its size.
    pub entries: u32,
}

/// A pool of numbers from 1 up to a limit. Number 0 is never given, so that a map that was never
/// written names nobody.
#[derive(Clone, Debug)]
pub struct Numbers {
    what: &'static str,
    /// The lowest number never given.
    next: u32,
    limit: u32,
    /// Freed numbers, oldest first; an entry whose time differs from `freed` is void.
    queue: VecDeque<(Duration, u32)>,
    freed: HashMap<u32, Duration>,
}

impl Numbers {
    /// A pool for a map of `limit` entries.
    pub fn new(what: &'static str, limit: u32) -> Self {
        Self { what, next: 1, limit, queue: VecDeque::new(), freed: HashMap::default() }
    }

    /// Marks a number as in use that an earlier agent gave; those below it that nobody claims become
    /// free at `now`, to be called in ascending order.
    fn adopt(&mut self, number: u32, now: Duration) {
        while self.next < number {
            self.release(self.next, now);
            self.next += 1;
        }
        self.next = self.next.max(number + 1);
    }

    /// Gives a number: one that was never used, else the one that has been free for longest.
    fn take(&mut self, now: Duration) -> Result<u32, Full> {
        if self.next < self.limit {
            self.next += 1;
            return Ok(self.next - 1);
        }
        while let Some((since, number)) = self.queue.front().copied() {
            let current = self.freed.get(&number) == Some(&since);
            if current && now.saturating_sub(since) < GRACE {
                break;
            }
            self.queue.pop_front();
            if current {
                self.freed.remove(&number);
                return Ok(number);
            }
        }
        Err(Full { what: self.what, entries: self.limit })
    }

    /// Takes a freed number back for the owner that it had.
    fn retake(&mut self, number: u32) -> bool {
        self.freed.remove(&number).is_some()
    }

    fn release(&mut self, number: u32, now: Duration) {
        self.freed.insert(number, now);
        self.queue.push_back((now, number));
    }

    /// Numbers in use.
    pub fn used(&self) -> usize {
        self.next as usize - 1 - self.freed.len()
    }
}

/// A range of SLOTS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// First slot.
    pub first: u32,
    /// Number of slots.
    pub count: u32,
}

/// The free ranges of SLOTS.
#[derive(Clone, Debug)]
pub struct Ranges {
    entries: u32,
    free: BTreeMap<u32, u32>,
    resting: VecDeque<(Duration, Range)>,
}

impl Ranges {
    /// All of a map of `entries` slots but the ranges in use, which may overlap.
    pub fn new(entries: u32, in_use: impl Iterator<Item = Range>) -> Self {
        let mut used: Vec<Range> = in_use.filter(|range| range.count > 0).collect();
        used.sort_unstable_by_key(|range| range.first);
        let mut free = BTreeMap::new();
        let mut next = 0;
        for range in used {
            if range.first > next {
                free.insert(next, range.first - next);
            }
            next = next.max(range.first.saturating_add(range.count));
        }
        if next < entries {
            free.insert(next, entries - next);
        }
        Self { entries, free, resting: VecDeque::new() }
    }

    /// Gives the first range that is large enough.
    pub fn take(&mut self, count: u32, now: Duration) -> Result<Range, Full> {
        while self.resting.front().is_some_and(|(since, _)| now.saturating_sub(*since) >= GRACE) {
            if let Some((_, range)) = self.resting.pop_front() {
                self.merge(range);
            }
        }
        let Some((first, length)) = self.free.iter().find(|(_, length)| **length >= count) else {
            return Err(Full { what: "SLOTS", entries: self.entries });
        };
        let (first, length) = (*first, *length);
        self.free.remove(&first);
        if length > count {
            self.free.insert(first + count, length - count);
        }
        Ok(Range { first, count })
    }

    /// Frees a range that no record names any more.
    pub fn release(&mut self, range: Range, now: Duration) {
        if range.count > 0 {
            self.resting.push_back((now, range));
        }
    }

    /// Slots in ranges that were given and not freed.
    pub fn used(&self) -> usize {
        let free: u32 = self.free.values().sum();
        let resting: u32 = self.resting.iter().map(|(_, range)| range.count).sum();
        (self.entries - free - resting) as usize
    }

    fn merge(&mut self, range: Range) {
        let Range { mut first, mut count } = range;
        if let Some((before, length)) = self.free.range(..first).next_back().map(|(a, b)| (*a, *b))
            && before + length == first
        {
            self.free.remove(&before);
            first = before;
            count += length;
        }
        if let Some(length) = self.free.remove(&(first + count)) {
            count += length;
        }
        self.free.insert(first, count);
    }
}

/// Who owns which service and backend number in one family.
#[derive(Clone, Debug)]
pub struct Ids<A: FamilyAddress> {
    services: HashMap<PortKey, u32>,
    service_numbers: Numbers,
    /// By service number, ordered by endpoint.
    backends: HashMap<u32, Vec<(Target<A>, u32)>>,
    backend_numbers: Numbers,
    /// Free backend numbers by their last owner: service number, then endpoint.
    returning: HashMap<u32, BTreeMap<Target<A>, u32>>,
    /// Numbers given to a new owner whose record is not written yet.
    unwritten: HashSet<u32>,
    /// `returning` by number.
    last_owner: HashMap<u32, (u32, Target<A>)>,
}

/// A backend number and whether its owner had it before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Given {
    /// Same owner as when it was last in use: the generation stays.
    Kept(u32),
    /// Another owner, or none so far.
    New(u32),
}

impl Given {
    /// The number.
    pub const fn number(self) -> u32 {
        match self {
            Self::Kept(number) | Self::New(number) => number,
        }
    }
}

impl<A: FamilyAddress> Ids<A> {
    /// Nobody owns anything.
    pub fn new(services: u32, backends: u32) -> Self {
        Self {
            services: HashMap::default(),
            service_numbers: Numbers::new("SERVICE", services),
            backends: HashMap::default(),
            backend_numbers: Numbers::new("BACKENDS", backends),
            returning: HashMap::default(),
            unwritten: HashSet::default(),
            last_owner: HashMap::default(),
        }
    }

    /// Takes over numbers that an earlier agent gave, each list in any order.
    pub fn adopt(
        &mut self,
        mut services: Vec<(PortKey, u32)>,
        mut backends: Vec<(u32, Target<A>, u32)>,
        highest: (u32, u32),
        now: Duration,
    ) {
        services.sort_unstable_by_key(|(_, number)| *number);
        for (key, number) in services {
            self.service_numbers.adopt(number, now);
            self.services.insert(key, number);
        }
        self.service_numbers.adopt_up_to(highest.0, now);
        backends.sort_unstable_by_key(|(_, _, number)| *number);
        for (service, target, number) in backends {
            self.backend_numbers.adopt(number, now);
            let own = self.backends.entry(service).or_default();
            if let Err(place) = own.binary_search_by(|(own, _)| own.cmp(&target)) {
                own.insert(place, (target, number));
            }
        }
        self.backend_numbers.adopt_up_to(highest.1, now);
    }

    /// The service number of a port, if it has one.
    pub fn service(&self, key: &PortKey) -> Option<u32> {
        self.services.get(key).copied()
    }

    /// The service number of a port, given now if it has none.
    pub fn give_service(&mut self, key: &PortKey, now: Duration) -> Result<u32, Full> {
        if let Some(number) = self.service(key) {
            return Ok(number);
        }
        let number = self.service_numbers.take(now)?;
        self.services.insert(key.clone(), number);
        // Endpoints of the number's last owner are not this one's.
        for (_, backend) in self.returning.remove(&number).into_iter().flatten() {
            self.last_owner.remove(&backend);
        }
        Ok(number)
    }

    /// Frees a port's service number.
    pub fn release_service(&mut self, key: &PortKey, now: Duration) {
        if let Some(number) = self.services.remove(key) {
            self.service_numbers.release(number, now);
            self.backends.remove(&number);
        }
    }

    /// The backend number of an endpoint of a Service port, given now if it has none.
    pub fn give_backend(&mut self, service: u32, target: Target<A>, now: Duration) -> Result<Given, Full> {
        let own = self.backends.entry(service).or_default();
        let place = match own.binary_search_by(|(own, _)| own.cmp(&target)) {
            Ok(place) => {
                let number = own[place].1;
                let new = self.unwritten.contains(&number);
                return Ok(if new { Given::New(number) } else { Given::Kept(number) });
            }
            Err(place) => place,
        };
        let last = self.returning.get_mut(&service).and_then(|last| last.remove(&target));
        if let Some(number) = last
            && self.backend_numbers.retake(number)
        {
            self.last_owner.remove(&number);
            own.insert(place, (target, number));
            return Ok(Given::Kept(number));
        }
        let number = self.backend_numbers.take(now)?;
        own.insert(place, (target, number));
        self.unwritten.insert(number);
        if let Some((service, target)) = self.last_owner.remove(&number)
            && let Some(last) = self.returning.get_mut(&service)
        {
            last.remove(&target);
        }
        Ok(Given::New(number))
    }

    /// The record of a number was written for its owner: from now on it is [`Given::Kept`].
    pub fn written(&mut self, number: u32) {
        self.unwritten.remove(&number);
    }

    /// The endpoints of a service number and their backend numbers.
    pub fn backends(&self, service: u32) -> impl Iterator<Item = (&Target<A>, u32)> {
        self.backends.get(&service).into_iter().flatten().map(|(target, number)| (target, *number))
    }

    /// Frees an endpoint's backend number, if it is this one: tables left by an agent that died may hold the
    /// endpoint twice. Until another owner gets it, the endpoint can have it back.
    pub fn release_backend(&mut self, service: u32, target: &Target<A>, number: u32, now: Duration) {
        let Some(own) = self.backends.get_mut(&service) else { return };
        let Ok(place) = own.binary_search_by(|(own, _)| own.cmp(target)) else { return };
        if own[place].1 != number {
            return;
        }
        own.remove(place);
        self.backend_numbers.release(number, now);
        if self.unwritten.remove(&number) {
            return;
        }
        self.returning.entry(service).or_default().insert(*target, number);
        self.last_owner.insert(number, (service, *target));
    }

    /// Service numbers and backend numbers in use.
    pub fn used(&self) -> (usize, usize) {
        (self.service_numbers.used(), self.backend_numbers.used())
    }
}

impl Numbers {
    /// Makes every number up to `highest` one that was used before, so that it gets a new generation.
    fn adopt_up_to(&mut self, highest: u32, now: Duration) {
        while self.next <= highest && self.next < self.limit {
            self.release(self.next, now);
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn numbers_that_were_never_used_go_first_then_the_one_that_is_free_for_longest() {
        let mut numbers = Numbers::new("TEST", 4);
        let all: Vec<u32> = (0..3).map(|_| numbers.take(at(0)).expect("one is left")).collect();
        assert_eq!(all, [1, 2, 3]);
        numbers.release(2, at(1));
        numbers.release(1, at(2));
        assert_eq!(numbers.take(at(3)).expect_err("both rest").entries, 4);
        assert_eq!(numbers.take(at(6)), Ok(2));
        assert!(numbers.take(at(6)).is_err());
        assert_eq!(numbers.take(at(7)), Ok(1));
    }

    #[test]
    fn a_number_that_went_back_to_its_owner_is_not_given_away() {
        let mut numbers = Numbers::new("TEST", 2);
        assert_eq!(numbers.take(at(0)), Ok(1));
        numbers.release(1, at(0));
        assert!(numbers.retake(1));
        assert!(numbers.take(at(100)).is_err());
        numbers.release(1, at(100));
        assert!(numbers.take(at(103)).is_err(), "its rest began anew");
        assert_eq!(numbers.take(at(105)), Ok(1));
    }

    #[test]
    fn ranges_that_touch_become_one_again() {
        let range = |first, count| Range { first, count };
        let mut ranges = Ranges::new(10, [range(4, 2), range(4, 1)].into_iter());
        assert_eq!(ranges.take(4, at(0)), Ok(range(0, 4)));
        assert_eq!(ranges.take(4, at(0)), Ok(range(6, 4)));
        assert!(ranges.take(1, at(0)).is_err());
        for free in [range(6, 4), range(0, 4), range(4, 2)] {
            ranges.release(free, at(1));
        }
        assert!(ranges.take(10, at(2)).is_err(), "they rest");
        assert_eq!(ranges.take(10, at(6)), Ok(range(0, 10)));
    }

    #[test]
    fn a_number_with_a_new_owner_forgets_all_earlier_ones() {
        let target = |port| Target { address: svclb_common::addr::Addr4(1), port: svclb_common::addr::Be16::new(port) };
        let mut ids = Ids::new(8, 2);
        assert_eq!(ids.give_backend(1, target(1), at(0)), Ok(Given::New(1)));
        ids.written(1);
        ids.release_backend(1, &target(1), 1, at(0));
        assert_eq!(ids.give_backend(1, target(2), at(6)), Ok(Given::New(1)));
        ids.written(1);
        ids.release_backend(1, &target(2), 1, at(6));
        assert_eq!(ids.give_backend(1, target(1), at(12)), Ok(Given::New(1)), "it was another's in between");
    }
}
