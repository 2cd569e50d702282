//! What the files say, as a whole, and how that differs from what they said before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::document::{Document, Id};
use ipnet::IpNet;

use crate::k8s::pods;
use crate::model::{Event, Node, Service, ServiceName, Slice, SliceName};

/// All objects of the model that the files describe.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Snapshot {
    /// Services.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    /// Slices, those made from Pods included.
    pub slices: BTreeMap<SliceName, Arc<Slice>>,
    /// The own Node.
    pub node: Option<Node>,
    /// Prefixes of cluster IPs.
    pub service_cidrs: BTreeMap<Arc<str>, Vec<IpNet>>,
}

impl Snapshot {
    /// What some objects say. `node_name` tells which Node is the own one.
    pub fn of(documents: BTreeMap<&Id, &Document>, node_name: &str) -> Self {
        let (mut services, mut slices, mut own_node) = (Vec::new(), Vec::new(), None);
        let mut service_cidrs = BTreeMap::new();
        let mut pods_of: HashMap<&str, Vec<&pods::Pod>> = HashMap::new();
        let mut selecting = Vec::new();
        for ((_, namespace, name), document) in documents {
            match document {
                Document::Service(service, selection) => {
                    services.push((service.name.clone(), service.clone()));
                    selecting.extend(selection.as_ref().map(|selection| (&service.name, selection)));
                }
                Document::Slice(slice) => {
                    slices.push((slice.name.clone(), slice.clone()));
                }
                Document::Pod(pod) => pods_of.entry(&**namespace).or_default().push(pod),
                Document::Node(node) if name.to_lowercase() == node_name => own_node = Some(node.clone()),
                Document::ServiceCidr(cidrs) => drop(service_cidrs.insert(name.clone(), cidrs.clone())),
                Document::Node(_) | Document::Nothing => {}
            }
        }
        for (name, selection) in selecting {
            let pods = pods_of.get(&*name.namespace).into_iter().flatten().copied();
            let made = selection.slices(name, pods);
            slices.extend(made.into_iter().map(|slice| (slice.name.clone(), Arc::new(slice))));
        }
        // Made at once, a tree has no room that is not used.
        Self {
            services: services.into_iter().collect(),
            slices: slices.into_iter().collect(),
            node: own_node,
            service_cidrs,
        }
    }

    /// The events that lead from `old` to this.
    pub fn differences(&self, old: &Self) -> Vec<Event> {
        let mut events = Vec::new();
        for (name, service) in &self.services {
            if old.services.get(name) != Some(service) {
                events.push(Event::ServiceApplied(service.clone()));
            }
        }
        for (name, slice) in &self.slices {
            if old.slices.get(name) != Some(slice) {
                events.push(Event::SliceApplied(slice.clone()));
            }
        }
        let gone = old.slices.keys().filter(|name| !self.slices.contains_key(name));
        events.extend(gone.cloned().map(Event::SliceDeleted));
        let gone = old.services.keys().filter(|name| !self.services.contains_key(name));
        events.extend(gone.cloned().map(Event::ServiceDeleted));
        for (name, cidrs) in &self.service_cidrs {
            if old.service_cidrs.get(name) != Some(cidrs) {
                events.push(Event::ServiceCidrApplied(name.clone(), cidrs.clone()));
            }
        }
        let gone = old.service_cidrs.keys().filter(|name| !self.service_cidrs.contains_key(*name));
        events.extend(gone.cloned().map(Event::ServiceCidrDeleted));
        if self.node != old.node {
            events.push(self.node.clone().map_or(Event::NodeDeleted, Event::NodeApplied));
        }
        events
    }
}
