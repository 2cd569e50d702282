//! The API server as the agent's watches show it.

use std::collections::{BTreeMap, VecDeque};

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use svclb_userspace::k8s::intake::{Intake, Projected, Watched};
use svclb_userspace::model::{Event, Kind};

use super::objects::{NodeWords, ServiceWords, SliceWords};
use super::steps::{SERVICES, What};

/// All objects, and the watches of one agent.
#[derive(Default)]
pub(super) struct ApiServer {
    services: BTreeMap<u8, ServiceWords>,
    slices: BTreeMap<u8, SliceWords>,
    node: Option<NodeWords>,
    uids: u32,
    watches: (Watch<Service>, Watch<EndpointSlice>, Watch<Node>),
}

/// The watch of one kind.
struct Watch<K> {
    /// On its way.
    coming: VecDeque<Watched<K>>,
    /// What came since the last list.
    came: Vec<Watched<K>>,
    intake: Intake,
}

impl<K> Default for Watch<K> {
    fn default() -> Self {
        Self { coming: VecDeque::new(), came: Vec::new(), intake: Intake::default() }
    }
}

impl<K: Projected> Watch<K> {
    /// An object that the watch shows, or showed, changes.
    fn changed(&mut self, before: Option<K>, after: Option<K>) {
        self.coming.extend(match (before, after) {
            (_, Some(after)) => Some(Watched::Apply(after)),
            (Some(before), None) => Some(Watched::Delete(before)),
            (None, None) => None,
        });
    }

    /// What is on its way is lost; a list of everything takes its place, after one that broke off.
    fn list(&mut self, all: Vec<K>, broken_off_after: Option<usize>) {
        self.coming.clear();
        if let Some(count) = broken_off_after {
            self.coming.push_back(Watched::Init);
            self.coming.extend(all.iter().take(count).cloned().map(Watched::InitApply));
        }
        self.coming.push_back(Watched::Init);
        self.coming.extend(all.into_iter().map(Watched::InitApply));
        self.coming.push_back(Watched::InitDone);
    }

    /// The last items come again before all that is on its way.
    fn again(&mut self, items: usize) {
        let from = self.came.len().saturating_sub(items);
        for item in self.came.iter().skip(from).rev() {
            self.coming.push_front(clone(item));
        }
    }

    /// So many items arrive.
    fn arrive(&mut self, items: usize, events: &mut Vec<Event>) {
        for _ in 0..items {
            let Some(item) = self.coming.pop_front() else { return };
            match &item {
                Watched::Apply(_) | Watched::Delete(_) => self.came.push(clone(&item)),
                Watched::Init | Watched::InitApply(_) | Watched::InitDone => self.came.clear(),
            }
            events.extend(self.intake.take(item));
        }
    }
}

fn clone<K: Clone>(item: &Watched<K>) -> Watched<K> {
    match item {
        Watched::Init => Watched::Init,
        Watched::InitApply(object) => Watched::InitApply(object.clone()),
        Watched::InitDone => Watched::InitDone,
        Watched::Apply(object) => Watched::Apply(object.clone()),
        Watched::Delete(object) => Watched::Delete(object.clone()),
    }
}

fn shown_service((number, service): (&u8, &ServiceWords)) -> Option<Service> {
    service.is_shown().then(|| service.object(*number))
}

fn shown_slice((number, slice): (&u8, &SliceWords)) -> Option<EndpointSlice> {
    (!slice.headless).then(|| slice.object(*number))
}

impl ApiServer {
    /// A server whose objects are listed to an agent that knows of nothing.
    pub(super) fn listed(&self) -> Self {
        let mut server = Self {
            services: self.services.clone(),
            slices: self.slices.clone(),
            node: self.node.clone(),
            uids: self.uids,
            watches: Default::default(),
        };
        for kind in Kind::REQUIRED {
            server.list(kind, None);
        }
        server
    }

    /// An agent that knows of nothing begins to watch.
    pub(super) fn restart(&mut self) {
        *self = self.listed();
    }

    /// Everything is deleted.
    pub(super) fn delete_all(&mut self) {
        for number in 0..SERVICES {
            self.set_service(number, None);
        }
        for number in self.slices.keys().copied().collect::<Vec<_>>() {
            self.set_slice(number, None);
        }
    }

    /// What happens to objects and watches.
    pub(super) fn happens(&mut self, what: &What) {
        match what {
            What::Service(number, edit) => {
                let mut service = self.services.get(number).cloned().unwrap_or_else(|| self.new_service(*number));
                edit.apply(&mut service);
                self.set_service(*number, Some(service));
            }
            What::NoService(number) => self.set_service(*number, None),
            What::AnotherService(number) => {
                if let Some(service) = self.services.get(number).cloned() {
                    self.set_service(*number, None);
                    let uid = self.new_service(*number).uid;
                    self.set_service(*number, Some(ServiceWords { uid, ..service }));
                }
            }
            What::Slice(number, edit) => {
                let slice = self.slices.get(number).cloned();
                let mut slice = slice.unwrap_or_else(|| SliceWords::new(*number, SERVICES));
                edit.apply(&mut slice);
                self.set_slice(*number, Some(slice));
            }
            What::NoSlice(number) => self.set_slice(*number, None),
            What::Split(from, to) => self.split(*from, *to),
            What::Merge(to, from) => self.merge(*to, *from),
            What::Node(node) => {
                let before = std::mem::replace(&mut self.node, node.clone());
                self.watches.2.changed(before.map(|node| node.object()), node.as_ref().map(NodeWords::object));
            }
            What::Relist(kind) => self.list(*kind, None),
            What::BrokenList(kind, after) => self.list(*kind, Some(*after)),
            What::Again(Kind::Service, items) => self.watches.0.again(*items),
            What::Again(Kind::Slice, items) => self.watches.1.again(*items),
            What::Again(Kind::Node, items) => self.watches.2.again(*items),
            What::Again(Kind::ServiceCidr, _)
            | What::Addresses(_)
            | What::Restart
            | What::Die(_)
            | What::Fail(_)
            | What::Clear(_) => {}
        }
    }

    fn new_service(&mut self, number: u8) -> ServiceWords {
        self.uids += 1;
        ServiceWords::new(number, self.uids)
    }

    fn set_service(&mut self, number: u8, service: Option<ServiceWords>) {
        let before = self.services.get(&number).and_then(|before| shown_service((&number, before)));
        let after = service.as_ref().and_then(|after| shown_service((&number, after)));
        self.watches.0.changed(before, after);
        match service {
            Some(service) => drop(self.services.insert(number, service)),
            None => drop(self.services.remove(&number)),
        }
    }

    fn set_slice(&mut self, number: u8, slice: Option<SliceWords>) {
        let before = self.slices.get(&number).and_then(|before| shown_slice((&number, before)));
        let after = slice.as_ref().and_then(|after| shown_slice((&number, after)));
        self.watches.1.changed(before, after);
        match slice {
            Some(slice) => drop(self.slices.insert(number, slice)),
            None => drop(self.slices.remove(&number)),
        }
    }

    fn split(&mut self, from: u8, to: u8) {
        let Some(mut whole) = self.slices.get(&from).cloned().filter(|_| from != to) else { return };
        let half = whole.endpoints.split_off(whole.endpoints.len() / 2);
        self.set_slice(to, Some(SliceWords { endpoints: half, ..whole.clone() }));
        self.set_slice(from, Some(whole));
    }

    fn merge(&mut self, to: u8, from: u8) {
        let slices = self.slices.get(&to).cloned().zip(self.slices.get(&from).cloned());
        let Some((mut merged, gone)) = slices.filter(|_| from != to) else { return };
        merged.endpoints.extend(gone.endpoints);
        self.set_slice(to, Some(merged));
        self.set_slice(from, None);
    }

    fn list(&mut self, kind: Kind, broken_off_after: Option<usize>) {
        match kind {
            Kind::Service => {
                let all = self.services.iter().filter_map(shown_service).collect();
                self.watches.0.list(all, broken_off_after);
            }
            Kind::Slice => {
                let all = self.slices.iter().filter_map(shown_slice).collect();
                self.watches.1.list(all, broken_off_after);
            }
            Kind::Node => {
                let all = self.node.iter().map(NodeWords::object).collect();
                self.watches.2.list(all, broken_off_after);
            }
            // No table depends on them.
            Kind::ServiceCidr => {}
        }
    }

    /// What arrives: at most so many items of each kind. `turn` says which kind comes first.
    pub(super) fn arrive(&mut self, items: usize, turn: usize) -> Vec<Event> {
        let mut events = Vec::new();
        for kind in 0..3 {
            match (kind + turn) % 3 {
                0 => self.watches.0.arrive(items, &mut events),
                1 => self.watches.1.arrive(items, &mut events),
                _ => self.watches.2.arrive(items, &mut events),
            }
        }
        events
    }
}
