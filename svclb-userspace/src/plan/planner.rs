//! The planner of one family: what is wanted, what the tables hold, and the steps between.

use std::collections::BTreeSet;
use std::time::Duration;

use svclb_common::config::{Config, Extent, flag as config_flag};
use svclb_common::interest::{BACKENDS, FRONTENDS};
use svclb_common::schema::{BackendRef, Service, ServiceKey};
use svclb_common::service::{backend_state, scope};

use super::interest::{self, Member, Retired};
use super::{Action, Bitmap, Content, Limits, Step};
use crate::desired::sorted::Sorted;
use crate::desired::{PortTables, Target};
use crate::hashing::{HashMap, HashSet};
use crate::ids::{Full, Ids, Range, Ranges};
use crate::model::{FamilyAddress, PortKey, Protocol, ServiceName};

mod adopt;
mod steps;

/// The state between two plans.
pub struct Planner<A: FamilyAddress> {
    config: Config,
    content: Content<A>,
    ids: Ids<A>,
    slots: Ranges,
    wanted: HashMap<PortKey, PortTables<A>>,
    /// Who wants a frontend, best first: the lower scope, then the lower name. The others get it when
    /// the best goes.
    claims: HashMap<ServiceKey<A>, Vec<(u8, PortKey)>>,
    /// How many frontends name a service number. A number is not free before none does.
    references: HashMap<u32, u32>,
    dirty: BTreeSet<PortKey>,
    /// Frontends that somebody wants and whose entry may be wrong. The best claimant of each is dirty.
    stale: HashSet<ServiceKey<A>>,
    /// Frontends that nobody wants and that may have an entry.
    unwanted: HashSet<ServiceKey<A>>,
    /// Serving backends in the tables that nobody owns, found when they were adopted.
    strays: Vec<u32>,
    retired: Retired<A>,
    /// No agent was there before this one.
    is_first: bool,
}

/// A list of steps and the Service ports that they belong to.
#[derive(Debug)]
pub struct Plan<A: FamilyAddress> {
    /// The writes, in order.
    pub steps: Vec<Step<A>>,
    /// Ports that the plan could not serve, as a map has no room.
    pub refused: Vec<(PortKey, Full)>,
    ports: Vec<PlannedPort>,
}

#[derive(Debug)]
struct PlannedPort {
    key: PortKey,
    number: u32,
    wanted: bool,
    /// Ranges that the record names no more once it is switched.
    old: Vec<Range>,
    /// Ranges that nobody names until then.
    new: Vec<Range>,
    switched: bool,
    failed: bool,
}

impl<A: FamilyAddress> Plan<A> {
    /// Whether the steps of this step's port are to be left out.
    pub fn is_cancelled(&self, step: &Step<A>) -> bool {
        step.port.and_then(|port| self.ports.get(port)).is_some_and(|port| port.failed)
    }

    /// Cancels the later steps of this step's port, and names the port.
    pub fn fail(&mut self, port: Option<usize>) -> Option<PortKey> {
        let port = self.ports.get_mut(port?)?;
        port.failed = true;
        Some(port.key.clone())
    }
}

impl<A: FamilyAddress> Planner<A> {
    /// A planner for tables with this content. If they are not empty, [`Self::adopt`] must be called
    /// once when all that is wanted is known, before the first plan.
    pub fn new(content: Content<A>, config: Config, limits: &Limits) -> Self {
        let in_use = content.services.iter().flat_map(ranges);
        let slots = Ranges::new(limits.slots, in_use);
        Self {
            config,
            ids: Ids::new(limits.services, limits.backends),
            slots,
            wanted: HashMap::default(),
            claims: HashMap::default(),
            references: HashMap::default(),
            dirty: BTreeSet::new(),
            stale: HashSet::default(),
            unwanted: HashSet::default(),
            strays: Vec::new(),
            retired: Retired::default(),
            is_first: content.frontends.is_empty() && content.backends.is_empty(),
            content,
        }
    }

    /// What the tables hold.
    pub fn content(&self) -> &Content<A> {
        &self.content
    }

    /// What is wanted.
    pub fn wanted(&self) -> &HashMap<PortKey, PortTables<A>> {
        &self.wanted
    }

    /// Service numbers, backend numbers and slots in use.
    pub fn used(&self) -> (usize, usize, usize) {
        let (services, backends) = self.ids.used();
        (services, backends, self.slots.used())
    }

    /// The service number of a port.
    pub fn number(&self, key: &PortKey) -> Option<u32> {
        self.ids.service(key)
    }

    /// The reference by which flows know an endpoint of a port, once it is in the tables.
    pub fn reference(&self, key: &PortKey, target: &Target<A>) -> Option<BackendRef> {
        let service = self.number(key)?;
        let (_, number) = self.ids.backends(service).find(|(own, _)| *own == target)?;
        let backend = self.content.backend(number);
        let is_written = backend.service == service && backend.state == backend_state::SERVING;
        is_written.then(|| BackendRef::new(number, backend.generation))
    }

    /// Wants these tables for a port from now on, or nothing. Returns other owners of its frontends.
    pub fn want(&mut self, key: &PortKey, tables: Option<PortTables<A>>) -> Vec<PortKey> {
        if self.wanted.get(key) == tables.as_ref() {
            return Vec::new();
        }
        self.dirty.insert(key.clone());
        let old = match tables {
            Some(tables) => self.wanted.insert(key.clone(), tables),
            None => self.wanted.remove(key),
        };
        let empty = Sorted::default();
        let old = old.map(|tables| tables.frontends).unwrap_or_default();
        let new = self.wanted.get(key).map_or(&empty, |tables| &tables.frontends);
        let mut rivals = Vec::new();
        for (frontend, scope) in &old {
            if new.get(frontend) != Some(scope)
                && let Some(claims) = self.claims.get_mut(frontend)
            {
                claims.retain(|(_, owner)| owner != key);
                // Whoever is next must be planned together with the frontend.
                self.dirty.extend(claims.first().map(|(_, owner)| owner.clone()));
                if claims.is_empty() {
                    self.claims.remove(frontend);
                    self.stale.remove(frontend);
                    self.unwanted.insert(*frontend);
                } else {
                    self.stale.insert(*frontend);
                }
            }
        }
        for (frontend, scope) in new {
            if old.get(frontend) != Some(scope) {
                // Nearly always one: a vector that grows by itself would make room for four.
                let claims = self.claims.entry(*frontend).or_insert_with(|| Vec::with_capacity(1));
                let claim = (*scope, key.clone());
                let place = claims.binary_search(&claim).unwrap_or_else(|place| place);
                claims.insert(place, claim);
                let others = claims.iter().map(|(_, owner)| owner);
                rivals.extend(others.filter(|owner| owner.service != key.service).cloned());
                if place == 0 {
                    self.unwanted.remove(frontend);
                    self.stale.insert(*frontend);
                }
            }
        }
        rivals
    }

    /// Gives the numbers in the tables to those who are served by them, see [`adopt`]; and an endpoint the
    /// backend number that has its address and the port's number. What is left belongs to nobody and will be
    /// removed.
    pub fn adopt(&mut self, now: Duration) {
        let mut services = adopt::owners(&self.content, &self.wanted, &self.claims);
        let mut orphans: BTreeSet<u32> = BTreeSet::new();
        for found in self.content.frontends.values().filter(|found| !scope::is_mark(found.scope)) {
            *self.references.entry(found.number).or_default() += 1;
            orphans.insert(found.number);
        }
        orphans.extend((0..).zip(&self.content.services).filter(|(_, record)| holds_something(record)).map(|(n, _)| n));
        orphans.extend(self.content.source_ranges.keys());
        for number in orphans {
            if number != 0 && !services.contains_key(&number) {
                services.insert(number, orphan(number));
            }
        }
        let mut backends = Vec::new();
        let mut seen = HashSet::default();
        for (number, backend) in (0..).zip(&self.content.backends) {
            if backend.state != backend_state::SERVING {
                continue;
            }
            let target = Target { address: backend.address, port: backend.port };
            if number != 0 && services.contains_key(&backend.service) && seen.insert((backend.service, target)) {
                backends.push((backend.service, target, number));
            } else {
                self.strays.push(number);
            }
        }
        self.dirty.extend(services.values().cloned());
        self.doubt_all();
        let highest = |entries: usize| u32::try_from(entries).unwrap_or(u32::MAX).saturating_sub(1);
        let highest = (highest(self.content.services.len()), highest(self.content.backends.len()));
        let services = services.into_iter().map(|(number, key)| (key, number)).collect();
        self.ids.adopt(services, backends, highest, now);
    }

    /// Whether tables that were read back hold something else than what was written.
    pub fn differs_from(&self, found: &Content<A>) -> bool {
        // Arrays end behind the last entry that is not zero when they are read.
        fn same<T: PartialEq + Default>(one: &[T], other: &[T]) -> bool {
            let (short, long) = if one.len() < other.len() { (one, other) } else { (other, one) };
            let (start, rest) = long.split_at(short.len());
            start == short && rest.iter().all(|entry| *entry == T::default())
        }
        let own = &self.content;
        own.frontends != found.frontends
            || own.source_ranges != found.source_ranges
            || own.interest_frontends != found.interest_frontends
            || own.interest_backends != found.interest_backends
            || !same(&own.services, &found.services)
            || !same(&own.slots, &found.slots)
            || !same(&own.backends, &found.backends)
    }

    /// Takes tables as they were found. Numbers stay with their owners; everything is planned anew, so
    /// that the next plans put back what is missing and remove what is too much.
    pub fn found(&mut self, content: Content<A>) {
        self.content = content;
        self.references.clear();
        for found in self.content.frontends.values().filter(|found| !scope::is_mark(found.scope)) {
            *self.references.entry(found.number).or_default() += 1;
        }
        self.doubt_all();
    }

    /// Everything is planned anew.
    fn doubt_all(&mut self) {
        self.dirty.extend(self.wanted.keys().cloned());
        self.stale.extend(self.claims.keys());
        self.unwanted.extend(self.content.frontends.keys().filter(|key| !self.claims.contains_key(key)));
    }

    /// Ports that wait for a plan, those with something to serve first.
    pub fn pending(&self) -> Vec<PortKey> {
        let (first, last): (Vec<_>, Vec<_>) = self.dirty.iter().cloned().partition(|key| self.wanted.contains_key(key));
        first.into_iter().chain(last).collect()
    }

    /// Whether everything wanted is in the tables.
    pub fn is_settled(&self) -> bool {
        self.dirty.is_empty() && self.stale.is_empty() && self.unwanted.is_empty() && self.strays.is_empty()
    }

    fn active_half(&self) -> bool {
        self.config.has(config_flag::SECOND_HALF)
    }

    /// Whether a step must not be carried out yet, as an earlier one failed: a port that is gone keeps its
    /// endpoints while some frontend leads to it, because its new owner could not be written.
    pub fn must_wait(&self, plan: &Plan<A>, step: &Step<A>) -> bool {
        let port = step.port.and_then(|port| plan.ports.get(port));
        port.is_some_and(|port| !port.wanted && self.references.contains_key(&port.number))
    }

    /// Notes that a step was carried out.
    pub fn done(&mut self, plan: &mut Plan<A>, step: &Step<A>, now: Duration) {
        match &step.action {
            Action::WriteBackend { number, value } if value.state == backend_state::GONE => {
                let target = Target { address: value.address, port: value.port };
                self.ids.release_backend(value.service, &target, *number, now);
                if let Some(port) = step.port.and_then(|port| plan.ports.get(port)) {
                    self.retired.add(Member::Backend(target, port.key.protocol.number()), now);
                }
                debug_assert_eq!(self.content.backend(*number).service, value.service);
            }
            Action::WriteBackend { number, .. } => self.ids.written(*number),
            Action::WriteService { .. } => {
                if let Some(port) = step.port.and_then(|port| plan.ports.get_mut(port)) {
                    port.switched = true;
                }
            }
            Action::PutFrontend { key, value } => {
                self.unreference(key, Some(value.scope), now);
                if !scope::is_mark(value.scope) {
                    *self.references.entry(value.number).or_default() += 1;
                }
                self.stale.remove(key);
            }
            Action::RemoveFrontend { key } => {
                self.unreference(key, None, now);
                self.unwanted.remove(key);
            }
            Action::SetInterest { .. }
            | Action::WriteSlots { .. }
            | Action::AddSourceRange { .. }
            | Action::RemoveSourceRange { .. } => {}
        }
        self.content.apply(&step.action);
    }

    /// Notes that of the entries that a failed step writes the first `entries` are written.
    pub fn done_in_part(&mut self, step: &Step<A>, entries: usize) {
        if let Action::WriteSlots { first, list } = &step.action {
            let list = list.get(..entries).unwrap_or(list).to_vec();
            self.content.apply(&Action::WriteSlots { first: *first, list });
        }
    }

    /// Forgets what a frontend named until now; its interest bit stays if the new scope has another.
    fn unreference(&mut self, key: &ServiceKey<A>, new_scope: Option<u8>, now: Duration) {
        let Some(old) = self.content.frontends.get(key).copied() else { return };
        if !scope::is_mark(old.scope)
            && let Some(count) = self.references.get_mut(&old.number)
        {
            *count -= 1;
            if *count == 0 {
                self.references.remove(&old.number);
            }
        }
        if new_scope != Some(old.scope) {
            self.retired.add(Member::Frontend(*key, old.scope), now);
        }
    }

    /// Ends a plan, whether or not all its steps were carried out.
    pub fn finish(&mut self, plan: Plan<A>, now: Duration) {
        for port in plan.ports {
            for range in if port.switched { port.old } else { port.new } {
                self.slots.release(range, now);
            }
            let referenced = self.references.contains_key(&port.number);
            if port.failed || (!port.wanted && referenced) {
                continue;
            }
            if !port.wanted {
                self.ids.release_service(&port.key, now);
            }
            self.dirty.remove(&port.key);
        }
    }

    /// Whether the active half has far too few bits for its members, or far too many.
    pub fn fits_badly(&self) -> bool {
        let half = self.active_half();
        self.extents(half).into_iter().zip(self.fitting(half)).any(|(is, wanted)| interest::fits_badly(is, wanted))
    }

    /// The extents that fit the idle half, of frontends and of backends.
    pub fn idle_extents(&self) -> [Extent; 2] {
        self.fitting(!self.active_half())
    }

    fn fitting(&self, half: bool) -> [Extent; 2] {
        let backends: usize = self.wanted.values().map(|tables| tables.backends.count()).sum();
        let members = [self.content.frontends.len(), backends];
        let maps = [&self.content.interest_frontends, &self.content.interest_backends];
        // In which bitmap those were that are gone does not matter: they are few beside those that are there.
        let of = |which: usize| interest::extent(maps[which].len() as u32, half, members[which] + self.retired.len());
        [of(FRONTENDS), of(BACKENDS)]
    }

    /// Extents of a half in CONFIG, of frontends and of backends.
    fn extents(&self, half: bool) -> [Extent; 2] {
        let [first, second] = self.config.interest[usize::from(A::IS_V6)];
        if half { second } else { first }
    }

    /// Words of the bitmaps' idle half that must change before it can become the active one.
    pub fn idle_half(&mut self, now: Duration) -> Vec<(Bitmap, u32, u64)> {
        let half = !self.active_half();
        let mut fresh: HashMap<(Bitmap, u32), u64> = HashMap::default();
        if !self.is_first && now < interest::KEPT {
            self.carry_over(&mut fresh);
        }
        let mut set = |member: &Member<A>| {
            let (bitmap, word, bits) = member.place(&self.config, half);
            *fresh.entry((bitmap, word)).or_default() |= bits;
        };
        for (key, found) in self.content.frontends.iter().filter(|(key, _)| !key.address.is_loopback()) {
            set(&Member::Frontend(*key, found.scope));
        }
        for (key, tables) in &self.wanted {
            for target in tables.backends.keys() {
                set(&Member::Backend(*target, key.protocol.number()));
            }
        }
        for member in self.retired.iter(now) {
            set(member);
        }
        // What waits to be removed, as a write failed, serves until it is.
        for (key, number) in self.dirty.iter().filter_map(|key| Some((key, self.ids.service(key)?))) {
            for (target, _) in self.ids.backends(number) {
                for protocol in protocols(key) {
                    set(&Member::Backend(*target, protocol.number()));
                }
            }
        }
        let mut words = Vec::new();
        let bitmaps = [
            (Bitmap::Frontends, &self.content.interest_frontends),
            (Bitmap::Backends, &self.content.interest_backends),
        ];
        for (bitmap, current) in bitmaps {
            let middle = current.len() / 2;
            let (from, to) = if half { (middle, current.len()) } else { (0, middle) };
            for (index, value) in (0..).zip(current).skip(from).take(to - from) {
                let wanted = fresh.get(&(bitmap, index)).copied().unwrap_or(0);
                if wanted != *value {
                    words.push((bitmap, index, wanted));
                }
            }
        }
        words
    }

    /// Adds what the active half says of members that this agent may not know.
    fn carry_over(&self, fresh: &mut HashMap<(Bitmap, u32), u64>) {
        let half = self.active_half();
        let bitmaps = [
            (Bitmap::Frontends, &self.content.interest_frontends),
            (Bitmap::Backends, &self.content.interest_backends),
        ];
        for (((bitmap, words), active), idle) in bitmaps.into_iter().zip(self.extents(half)).zip(self.extents(!half)) {
            let (from, length) = (active.first as usize / 64, (active.mask as usize + 1) / 64);
            let active = words.get(from..from + length).unwrap_or_default();
            for (word, bits) in (idle.first / 64..).zip(interest::carried_over(active, idle)) {
                *fresh.entry((bitmap, word)).or_default() |= bits;
            }
        }
    }

    /// Notes that a word of a bitmap was written.
    pub fn interest_written(&mut self, (bitmap, word, value): (Bitmap, u32, u64)) {
        let words = match bitmap {
            Bitmap::Frontends => &mut self.content.interest_frontends,
            Bitmap::Backends => &mut self.content.interest_backends,
        };
        if let Some(word) = words.get_mut(word as usize) {
            *word = value;
        }
    }

    /// Takes over another CONFIG: after the halves were switched, or with other settings.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }
}

/// The ranges of both lists of a record.
fn ranges(service: &Service) -> [Range; 2] {
    [
        Range { first: service.cluster_first, count: service.cluster_count },
        Range { first: service.local_first, count: service.local_count },
    ]
}

/// Whether a record is more than an emptied one.
fn holds_something(service: &Service) -> bool {
    let Service {
        before: _,
        flags,
        affinity_seconds,
        cluster_first: _,
        cluster_count,
        local_first: _,
        local_count,
        after: _,
    } = *service;
    flags != 0 || affinity_seconds != 0 || cluster_count != 0 || local_count != 0
}

fn next_version(service: Service) -> Service {
    let version = service.before.wrapping_add(1).max(1);
    Service { before: version, after: version, ..service }
}

/// Owner of a number that nobody wants any more. No Service has an empty name.
fn orphan(number: u32) -> PortKey {
    PortKey::new(ServiceName::new("", ""), number.to_string(), Protocol::Tcp)
}

/// The protocols that an owner may have: nothing says which an [`orphan`] had.
fn protocols(owner: &PortKey) -> &[Protocol] {
    const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    if owner.service.name.is_empty() { &ALL } else { std::slice::from_ref(&owner.protocol) }
}
