//! The store: what was told so far, and which Services a change concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::hashing::{HashMap, HashSet};

use super::{Event, Family, Kind, Node, Service, ServiceName, Slice, SliceName};

/// Everything the source told, and what changed since it was last asked.
#[derive(Default, Debug)]
pub struct Model {
    services: HashMap<ServiceName, Arc<Service>>,
    /// Of each Service, ordered by name.
    slices: HashMap<ServiceName, Vec<Arc<Slice>>>,
    /// Which Service each slice counts for: a slice that changes its label leaves the old one.
    slice_owner: HashMap<SliceName, ServiceName>,
    node: Option<Node>,
    service_cidrs: BTreeMap<Arc<str>, Vec<IpNet>>,
    listed: BTreeSet<Kind>,
    relist: Relist,
    changed: BTreeSet<ServiceName>,
    /// When the changes of slices happened; a slice that is gone has none.
    change_times: HashMap<SliceName, (Family, Vec<SystemTime>)>,
    node_changed: bool,
}

/// Objects not yet seen again in lists that are under way.
#[derive(Default, Debug)]
struct Relist {
    services: Option<HashSet<ServiceName>>,
    slices: Option<HashSet<SliceName>>,
    node: bool,
    service_cidrs: Option<BTreeSet<Arc<str>>>,
}

/// What changed, see [`Model::take_changes`].
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Changes {
    /// Services whose tables may differ now.
    pub services: BTreeSet<ServiceName>,
    /// The own Node changed: all Services may differ.
    pub node: bool,
    /// When the changes of endpoints happened, as far as the slices say so. Those of first lists are left
    /// out, as nobody waited for them, and those of slices that are gone.
    pub times: Vec<(Family, SystemTime)>,
}

impl Model {
    /// Takes in one event. A [`Event::Bad`] changes nothing here.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::ListStarted(kind) => self.list_started(kind),
            Event::Listed(kind) => self.list_done(kind),
            Event::ServiceApplied(service) => self.service_applied(service),
            Event::ServiceDeleted(name) => self.service_deleted(&name),
            Event::SliceApplied(slice) => self.slice_applied(slice),
            Event::SliceDeleted(name) => self.slice_deleted(&name),
            Event::NodeApplied(node) => {
                self.relist.node = false;
                self.set_node(Some(node));
            }
            Event::NodeDeleted => self.set_node(None),
            Event::ServiceCidrApplied(name, cidrs) => {
                if let Some(unseen) = &mut self.relist.service_cidrs {
                    unseen.remove(&name);
                }
                self.service_cidrs.insert(name, cidrs);
            }
            Event::ServiceCidrDeleted(name) => drop(self.service_cidrs.remove(&name)),
            Event::Bad(_) => {}
        }
    }

    /// Whether every required kind was listed completely at least once.
    pub fn complete(&self) -> bool {
        Kind::REQUIRED.iter().all(|kind| self.listed.contains(kind))
    }

    /// Required kinds whose first list is still missing.
    pub fn missing(&self) -> Vec<Kind> {
        Kind::REQUIRED.into_iter().filter(|kind| !self.listed.contains(kind)).collect()
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        Changes {
            services: std::mem::take(&mut self.changed),
            node: std::mem::take(&mut self.node_changed),
            times: std::mem::take(&mut self.change_times)
                .into_values()
                .flat_map(|(family, times)| times.into_iter().map(move |time| (family, time)))
                .collect(),
        }
    }

    /// A Service.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name).map(Arc::as_ref)
    }

    /// The slices of a Service, ordered by name.
    pub fn slices(&self, name: &ServiceName) -> impl Iterator<Item = &Slice> + Clone {
        self.slices.get(name).into_iter().flatten().map(Arc::as_ref)
    }

    /// The names of all Services.
    pub fn service_names(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// The own Node, if it exists.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// The prefixes that cluster IPs come from, ordered, each once. `None` before they are known, or if they never will
    /// be.
    pub fn service_cidrs(&self) -> Option<Vec<IpNet>> {
        let all: BTreeSet<IpNet> = self.service_cidrs.values().flatten().copied().collect();
        self.listed.contains(&Kind::ServiceCidr).then(|| all.into_iter().collect())
    }

    /// Number of Services and of slices.
    pub fn sizes(&self) -> (usize, usize) {
        (self.services.len(), self.slice_owner.len())
    }

    fn list_started(&mut self, kind: Kind) {
        match kind {
            Kind::Service => self.relist.services = Some(self.services.keys().cloned().collect()),
            Kind::Slice => self.relist.slices = Some(self.slice_owner.keys().cloned().collect()),
            Kind::Node => self.relist.node = true,
            Kind::ServiceCidr => self.relist.service_cidrs = Some(self.service_cidrs.keys().cloned().collect()),
        }
    }

    fn list_done(&mut self, kind: Kind) {
        match kind {
            Kind::Service => {
                for name in self.relist.services.take().unwrap_or_default() {
                    self.service_deleted(&name);
                }
            }
            Kind::Slice => {
                for name in self.relist.slices.take().unwrap_or_default() {
                    self.slice_deleted(&name);
                }
            }
            Kind::Node => {
                if std::mem::take(&mut self.relist.node) {
                    self.set_node(None);
                }
            }
            Kind::ServiceCidr => {
                for name in self.relist.service_cidrs.take().unwrap_or_default() {
                    self.service_cidrs.remove(&name);
                }
            }
        }
        self.listed.insert(kind);
    }

    fn service_applied(&mut self, service: Arc<Service>) {
        if let Some(unseen) = &mut self.relist.services {
            unseen.remove(&service.name);
        }
        if self.services.get(&service.name) != Some(&service) {
            self.changed.insert(service.name.clone());
            self.services.insert(service.name.clone(), service);
        }
    }

    fn service_deleted(&mut self, name: &ServiceName) {
        if self.services.remove(name).is_some() {
            self.changed.insert(name.clone());
        }
    }

    fn slice_applied(&mut self, slice: Arc<Slice>) {
        if let Some(unseen) = &mut self.relist.slices {
            unseen.remove(&slice.name);
        }
        if self.slice_owner.get(&slice.name).is_some_and(|owner| *owner != slice.service) {
            self.slice_deleted(&slice.name);
        }
        let owner = slice.service.clone();
        let (name, family) = (slice.name.clone(), slice.family);
        let changed = slice.changed.filter(|_| self.listed.contains(&Kind::Slice));
        let slices = self.slices.entry(owner.clone()).or_insert_with(|| Vec::with_capacity(1));
        match slices.binary_search_by(|own| own.name.cmp(&slice.name)) {
            Ok(place) if slices[place] == slice => return,
            Ok(place) => slices[place] = slice,
            Err(place) => {
                self.slice_owner.insert(slice.name.clone(), owner.clone());
                slices.insert(place, slice);
            }
        }
        self.changed.insert(owner);
        if let Some(changed) = changed {
            self.change_times.entry(name).or_insert((family, Vec::new())).1.push(changed);
        }
    }

    fn slice_deleted(&mut self, name: &SliceName) {
        let Some(owner) = self.slice_owner.remove(name) else { return };
        self.change_times.remove(name);
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.retain(|slice| slice.name != *name);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        self.changed.insert(owner);
    }

    fn set_node(&mut self, node: Option<Node>) {
        if self.node != node {
            self.node = node;
            self.node_changed = true;
        }
    }
}

#[cfg(test)]
mod tests;
