//! Making the steps of a plan: what each Service port needs, in the phases of [`crate::plan`].

use std::collections::BTreeSet;
use std::time::Duration;

use svclb_common::schema::{Backend, BackendRef, Service, ServiceRef};
use svclb_common::service::{backend_flag, backend_state, scope};

use super::{Plan, PlannedPort, Planner, holds_something, next_version, ranges};
use crate::desired::{PortTables, Target};
use crate::ids::{Full, Given, Range};
use crate::model::{FamilyAddress, PortKey};
use crate::plan::interest::Member;
use crate::plan::{Action, Step};

/// The steps of a plan by phase, see the [module](super).
struct Phases<A: FamilyAddress>([Vec<Step<A>>; 10]);

impl<A: FamilyAddress> Phases<A> {
    const INTEREST: usize = 0;
    const BACKENDS: usize = 1;
    const SLOTS: usize = 2;
    const RANGES: usize = 3;
    const SERVICE: usize = 4;
    const FRONTENDS: usize = 5;
    const FRONTENDS_GONE: usize = 6;
    const SERVICE_GONE: usize = 7;
    const BACKENDS_GONE: usize = 8;
    const RANGES_GONE: usize = 9;

    fn add(&mut self, phase: usize, port: Option<usize>, action: Action<A>) {
        if let Some(steps) = self.0.get_mut(phase) {
            steps.push(Step { port, action });
        }
    }

    /// Adds a step unless it is the same as the last one: the address of a frontend is often its mark's as well.
    fn add_once(&mut self, phase: usize, port: Option<usize>, action: Action<A>) {
        let step = Step { port, action };
        if let Some(steps) = self.0.get_mut(phase)
            && steps.last() != Some(&step)
        {
            steps.push(step);
        }
    }
}

impl<A: FamilyAddress> Planner<A> {
    /// Plans for some of the [pending](Self::pending) ports. The plan's steps are to be carried out in
    /// order, each reported with [`Self::done`], then the plan handed to [`Self::finish`].
    pub fn plan(&mut self, keys: &[PortKey], now: Duration) -> Plan<A> {
        let mut phases = Phases(Default::default());
        let mut plan = Plan { steps: Vec::new(), refused: Vec::new(), ports: Vec::with_capacity(keys.len()) };
        // Nobody looks at it meanwhile.
        let wanted = std::mem::take(&mut self.wanted);
        for key in keys {
            let planned = match wanted.get(key) {
                Some(tables) => self.plan_port(key, tables, plan.ports.len(), &mut phases, now).map(Some),
                None => Ok(self.plan_removal(key, plan.ports.len(), &mut phases, now)),
            };
            match planned {
                Ok(Some(port)) => plan.ports.push(port),
                Ok(None) => {
                    self.dirty.remove(key);
                }
                Err(full) => plan.refused.push((key.clone(), full)),
            }
        }
        self.wanted = wanted;
        self.plan_frontends(&plan.ports, &mut phases);
        for number in std::mem::take(&mut self.strays) {
            phases.add(Phases::<A>::BACKENDS_GONE, None, self.gone(number));
        }
        plan.steps = phases.0.into_iter().flatten().collect();
        plan
    }

    fn plan_port(
        &mut self,
        key: &PortKey,
        tables: &PortTables<A>,
        index: usize,
        phases: &mut Phases<A>,
        now: Duration,
    ) -> Result<PlannedPort, Full> {
        let port = Some(index);
        let number = self.ids.give_service(key, now)?;
        let mut lists = [Vec::new(), Vec::new()];
        let mut writes = Vec::new();
        for (target, flags) in &tables.backends {
            let given = self.ids.give_backend(number, *target, now)?;
            let current = self.content.backend(given.number());
            let generation = match given {
                Given::Kept(_) => current.generation,
                Given::New(_) if current == Backend::default() => 0,
                Given::New(_) => (current.generation + 1) % BackendRef::GENERATIONS,
            };
            let value = Backend {
                generation,
                port: target.port,
                state: backend_state::SERVING,
                flags: *flags,
                zero: 0,
                service: number,
                address: target.address,
            };
            for (list, flag) in lists.iter_mut().zip([backend_flag::IN_CLUSTER, backend_flag::IN_LOCAL]) {
                if flags & flag != 0 {
                    list.push(BackendRef::new(given.number(), generation));
                }
            }
            if current != value {
                let member = Member::Backend(*target, key.protocol.number());
                writes.push((member, Action::WriteBackend { number: given.number(), value }));
            }
        }

        let current = self.content.service(number);
        let mut planned = PlannedPort {
            key: key.clone(),
            number,
            wanted: true,
            old: Vec::new(),
            new: Vec::new(),
            switched: false,
            failed: false,
        };
        let mut switched = [Range { first: 0, count: 0 }; 2];
        for ((list, old), new) in lists.into_iter().zip(ranges(&current)).zip(&mut switched) {
            if self.content.list(old) == list.as_slice() {
                *new = old;
                continue;
            }
            planned.old.push(old);
            if list.is_empty() {
                continue;
            }
            let count = u32::try_from(list.len()).unwrap_or(u32::MAX);
            match self.slots.take(count, now) {
                Ok(range) => *new = range,
                Err(full) => {
                    planned.new.iter().for_each(|range| self.slots.release(*range, now));
                    return Err(full);
                }
            }
            planned.new.push(*new);
            phases.add(Phases::<A>::SLOTS, port, Action::WriteSlots { first: new.first, list });
        }
        for (member, action) in writes {
            self.plan_interest(&member, port, phases);
            phases.add(Phases::<A>::BACKENDS, port, action);
        }
        let value = Service {
            before: current.before,
            flags: tables.flags,
            affinity_seconds: tables.affinity_seconds,
            cluster_first: switched[0].first,
            cluster_count: switched[0].count,
            local_first: switched[1].first,
            local_count: switched[1].count,
            after: current.after,
        };
        if value != current || current.before == 0 {
            let value = next_version(value);
            phases.add(Phases::<A>::SERVICE, port, Action::WriteService { number, value });
        }
        let wanted = tables.source_ranges.iter().map(|(address, length)| (*length, *address)).collect();
        self.plan_source_ranges(number, &wanted, port, phases);
        let gone: Vec<Target<A>> = self
            .ids
            .backends(number)
            .filter(|(target, _)| !tables.backends.contains_key(target))
            .map(|(t, _)| *t)
            .collect();
        self.plan_gone(number, &gone, port, phases, now);
        Ok(planned)
    }

    fn plan_removal(
        &mut self,
        key: &PortKey,
        index: usize,
        phases: &mut Phases<A>,
        now: Duration,
    ) -> Option<PlannedPort> {
        let port = Some(index);
        let number = self.ids.service(key)?;
        let current = self.content.service(number);
        if holds_something(&current) {
            let empty = Service { before: current.before, after: current.after, ..Service::default() };
            phases.add(Phases::<A>::SERVICE_GONE, port, Action::WriteService { number, value: next_version(empty) });
        }
        self.plan_source_ranges(number, &BTreeSet::new(), port, phases);
        let gone: Vec<Target<A>> = self.ids.backends(number).map(|(target, _)| *target).collect();
        self.plan_gone(number, &gone, port, phases, now);
        Some(PlannedPort {
            key: key.clone(),
            number,
            wanted: false,
            old: ranges(&current).into(),
            new: Vec::new(),
            switched: false,
            failed: false,
        })
    }

    fn plan_source_ranges(
        &self,
        service: u32,
        wanted: &BTreeSet<(u8, A)>,
        port: Option<usize>,
        phases: &mut Phases<A>,
    ) {
        let none = BTreeSet::new();
        let current = self.content.source_ranges.get(&service).unwrap_or(&none);
        for range in wanted.difference(current) {
            phases.add(Phases::<A>::RANGES, port, Action::AddSourceRange { service, range: *range });
        }
        for range in current.difference(wanted) {
            phases.add(Phases::<A>::RANGES_GONE, port, Action::RemoveSourceRange { service, range: *range });
        }
    }

    fn plan_gone(
        &mut self,
        service: u32,
        targets: &[Target<A>],
        port: Option<usize>,
        phases: &mut Phases<A>,
        now: Duration,
    ) {
        for target in targets {
            let number = self.ids.backends(service).find(|(own, _)| *own == target).map(|(_, number)| number);
            let Some(number) = number else { continue };
            let current = self.content.backend(number);
            if current.state == backend_state::SERVING && current.service == service {
                phases.add(Phases::<A>::BACKENDS_GONE, port, self.gone(number));
            } else {
                // Given, but never written.
                self.ids.release_backend(service, target, number, now);
            }
        }
    }

    fn gone(&self, number: u32) -> Action<A> {
        let current = self.content.backend(number);
        Action::WriteBackend { number, value: Backend { state: backend_state::GONE, flags: 0, ..current } }
    }

    /// Plans the frontends of these ports that may be wrong, and those that nobody wants.
    fn plan_frontends(&mut self, ports: &[PlannedPort], phases: &mut Phases<A>) {
        let (content, claims) = (&self.content, &self.claims);
        self.unwanted.retain(|key| content.frontends.contains_key(key));
        for key in &self.unwanted {
            phases.add(Phases::<A>::FRONTENDS_GONE, None, Action::RemoveFrontend { key: *key });
        }
        let mut settled = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let wanted = self.wanted.get(&port.key).into_iter().flat_map(|tables| &tables.frontends);
            for (key, scope) in wanted.filter(|(key, _)| self.stale.contains(key)) {
                let is_best = |claims: &Vec<(u8, PortKey)>| claims.first().is_some_and(|(_, best)| *best == port.key);
                if !claims.get(key).is_some_and(is_best) {
                    continue;
                }
                let number = if scope::is_mark(*scope) { 0 } else { port.number };
                let value = ServiceRef { number, scope: *scope, zero: [0; 3] };
                if content.frontends.get(key) == Some(&value) {
                    settled.push(*key);
                    continue;
                }
                // Processes alone reach a loopback address: no packet may ask for it.
                if !key.address.is_loopback() {
                    let member = Member::Frontend(*key, *scope);
                    self.plan_interest(&member, Some(index), phases);
                }
                phases.add(Phases::<A>::FRONTENDS, Some(index), Action::PutFrontend { key: *key, value });
            }
        }
        for key in settled {
            self.stale.remove(&key);
        }
    }

    fn plan_interest(&self, member: &Member<A>, port: Option<usize>, phases: &mut Phases<A>) {
        let (bitmap, word, bits) = member.place(&self.config, self.active_half());
        if self.content.interest(bitmap, word) & bits == 0 {
            phases.add_once(Phases::<A>::INTEREST, port, Action::SetInterest { bitmap, word, bits });
        }
    }
}
