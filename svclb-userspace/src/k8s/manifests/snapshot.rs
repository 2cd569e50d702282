//! What the files say, as a whole, and how that differs from what they said before.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1 as core;

use super::document::{Document, Id};
use crate::k8s::{node, pods, service, slice};
use crate::model::{Event, Node, Problem, Service, ServiceName, Slice, SliceName};

/// All objects of the model that the files describe.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Snapshot {
    /// Services.
    pub services: BTreeMap<ServiceName, Service>,
    /// Slices, those made from Pods included.
    pub slices: BTreeMap<SliceName, Slice>,
    /// The own Node.
    pub node: Option<Node>,
}

impl Snapshot {
    /// What some objects say, and what is wrong with them. `node_name` tells which Node is the own one.
    pub fn of(documents: BTreeMap<&Id, &Document>, node_name: &str) -> (Self, Vec<Problem>) {
        let mut snapshot = Self::default();
        let mut all_problems = Vec::new();
        let mut pods_of: HashMap<&str, Vec<&core::Pod>> = HashMap::new();
        let mut selecting = Vec::new();
        for ((_, namespace, name), document) in documents {
            match document {
                Document::Service(object) => {
                    let (projected, problems) = service::project(object, service::WithoutClusterIp::Served);
                    all_problems.extend(problems);
                    if let Some(service) = projected {
                        selecting.push((service.name.clone(), object));
                        snapshot.services.insert(service.name.clone(), service);
                    }
                }
                Document::Slice(object) => {
                    let (projected, problems) = slice::project(object);
                    all_problems.extend(problems);
                    snapshot.slices.extend(projected.map(|slice| (slice.name.clone(), slice)));
                }
                Document::Pod(pod) => pods_of.entry(namespace).or_default().push(pod),
                Document::Node(object) => {
                    if name.to_lowercase() == node_name {
                        snapshot.node = Some(node::project(object));
                    }
                }
            }
        }
        for (name, object) in selecting {
            let pods = pods_of.get(&*name.namespace).into_iter().flatten().copied();
            let slices = pods::slices(&name, object, pods);
            snapshot.slices.extend(slices.into_iter().map(|slice| (slice.name.clone(), slice)));
        }
        (snapshot, all_problems)
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
        if self.node != old.node {
            events.push(self.node.clone().map_or(Event::NodeDeleted, Event::NodeApplied));
        }
        events
    }
}
