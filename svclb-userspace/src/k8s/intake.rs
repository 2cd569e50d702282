//! What a watch brings, as events of the model. Pure: who watches is [`api`](super::api).

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use kube::Resource;
pub use kube::runtime::watcher::Event as Watched;
use serde::de::DeserializeOwned;

use super::{node, service, service_cidr, slice};
use crate::model::{Event, Kind, Problem};

/// A kind of object that the agent takes in.
pub trait Projected: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static {
    /// The same as a value.
    const KIND: Kind;

    /// The event for an object that is there, and what is wrong with it. An object of which nothing is to be
    /// served is one that is gone.
    fn applied(&self) -> (Option<Event>, Vec<Problem>);

    /// The event for an object that is gone.
    fn deleted(&self) -> Option<Event>;
}

impl Projected for core::Service {
    const KIND: Kind = Kind::Service;

    fn applied(&self) -> (Option<Event>, Vec<Problem>) {
        let (projected, problems) = service::project(self, service::WithoutClusterIp::Ignored);
        (projected.map(Arc::new).map(Event::ServiceApplied).or_else(|| self.deleted()), problems)
    }

    fn deleted(&self) -> Option<Event> {
        service::name(self).map(Event::ServiceDeleted)
    }
}

impl Projected for discovery::EndpointSlice {
    const KIND: Kind = Kind::Slice;

    fn applied(&self) -> (Option<Event>, Vec<Problem>) {
        let (projected, problems) = slice::project(self);
        (projected.map(Arc::new).map(Event::SliceApplied).or_else(|| self.deleted()), problems)
    }

    fn deleted(&self) -> Option<Event> {
        slice::name(&self.metadata).map(Event::SliceDeleted)
    }
}

impl Projected for core::Node {
    const KIND: Kind = Kind::Node;

    fn applied(&self) -> (Option<Event>, Vec<Problem>) {
        (Some(Event::NodeApplied(node::project(self))), Vec::new())
    }

    fn deleted(&self) -> Option<Event> {
        Some(Event::NodeDeleted)
    }
}

impl Projected for networking::ServiceCIDR {
    const KIND: Kind = Kind::ServiceCidr;

    fn applied(&self) -> (Option<Event>, Vec<Problem>) {
        let (cidrs, problems) = service_cidr::project(self);
        let name = service_cidr::name(&self.metadata);
        (name.map(|name| Event::ServiceCidrApplied(name, cidrs)), problems)
    }

    fn deleted(&self) -> Option<Event> {
        service_cidr::name(&self.metadata).map(Event::ServiceCidrDeleted)
    }
}

/// Problems of one object that are remembered, so that they are told once.
type Told = HashMap<(String, String), BTreeSet<Problem>>;

/// What is remembered of one watch.
#[derive(Debug, Default)]
pub struct Intake {
    told: Told,
}

impl Intake {
    /// What an item of the watch means, in order.
    pub fn take<K: Projected>(&mut self, item: Watched<K>) -> Vec<Event> {
        match item {
            Watched::Init => vec![Event::ListStarted(K::KIND)],
            Watched::InitDone => vec![Event::Listed(K::KIND)],
            Watched::InitApply(object) | Watched::Apply(object) => self.applied(&object),
            Watched::Delete(object) => {
                self.told.remove(&key(&object));
                object.deleted().into_iter().collect()
            }
        }
    }

    fn applied<K: Projected>(&mut self, object: &K) -> Vec<Event> {
        let (event, problems) = object.applied();
        let problems: BTreeSet<Problem> = problems.into_iter().collect();
        let known = self.told.remove(&key(object)).unwrap_or_default();
        let out = event.into_iter().chain(problems.difference(&known).cloned().map(Event::Bad)).collect();
        if !problems.is_empty() {
            self.told.insert(key(object), problems);
        }
        out
    }
}

fn key<K: Resource>(object: &K) -> (String, String) {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_once_while_it_lasts() {
        let mut object = core::Service::default();
        object.metadata.name = Some("web".into());
        object.spec = Some(core::ServiceSpec {
            cluster_ip: Some("10.96.0.5".into()),
            external_ips: Some(vec!["nonsense".into()]),
            ..core::ServiceSpec::default()
        });
        let mut intake = Intake::default();
        assert_eq!(intake.take(Watched::Apply(object.clone())).len(), 2);
        assert_eq!(intake.take(Watched::InitApply(object)).len(), 1);
    }
}
