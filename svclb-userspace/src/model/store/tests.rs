//! What counts as a change, and what a list takes away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Model;
use crate::model::{Event, Family, Kind, Node, Service, ServiceKind, ServiceName, Slice, SliceName, WhenBackendGoes};

fn service(name: &str) -> Arc<Service> {
    Arc::new(Service {
        name: ServiceName::new("default", name),
        kind: ServiceKind::ClusterIp,
        families: [true, false],
        cluster_ips: [Some("10.96.0.1".parse().expect("an address")), None],
        external_ips: vec![],
        ingress_ips: vec![],
        source_ranges: vec![],
        internal_local: false,
        external_local: false,
        health_check_port: None,
        affinity_seconds: None,
        when_backend_goes: WhenBackendGoes::Drain,
        ports: vec![],
    })
}

fn slice(name: &str, service: &str) -> Arc<Slice> {
    Arc::new(Slice {
        name: SliceName { namespace: "default".into(), name: name.into() },
        service: ServiceName::new("default", service),
        family: Family::V4,
        ports: vec![],
        endpoints: vec![],
        changed: None,
    })
}

fn names(changed: &[&str]) -> BTreeSet<ServiceName> {
    changed.iter().map(|name| ServiceName::new("default", *name)).collect()
}

#[test]
fn the_same_object_again_is_no_change() {
    let mut model = Model::default();
    model.apply(Event::ServiceApplied(service("a")));
    model.apply(Event::SliceApplied(slice("a-1", "a")));
    assert_eq!(model.take_changes().services, names(&["a"]));
    model.apply(Event::ServiceApplied(service("a")));
    model.apply(Event::SliceApplied(slice("a-1", "a")));
    assert_eq!(model.take_changes().services, names(&[]));
}

#[test]
fn what_a_list_lacks_is_gone_when_it_is_complete() {
    let mut model = Model::default();
    for name in ["a", "b"] {
        model.apply(Event::ServiceApplied(service(name)));
        model.apply(Event::SliceApplied(slice(name, name)));
    }
    model.take_changes();
    model.apply(Event::ListStarted(Kind::Service));
    model.apply(Event::ServiceApplied(service("b")));
    assert!(model.service(&ServiceName::new("default", "a")).is_some(), "the list is not complete");
    model.apply(Event::Listed(Kind::Service));
    assert!(model.service(&ServiceName::new("default", "a")).is_none());
    assert_eq!(model.take_changes().services, names(&["a"]));
    model.apply(Event::ListStarted(Kind::Slice));
    model.apply(Event::Listed(Kind::Slice));
    assert_eq!(model.take_changes().services, names(&["a", "b"]));
    assert_eq!(model.sizes(), (1, 0));
}

#[test]
fn a_list_that_is_begun_again_takes_nothing_away_early() {
    let mut model = Model::default();
    model.apply(Event::ServiceApplied(service("a")));
    model.apply(Event::ListStarted(Kind::Service));
    model.apply(Event::ListStarted(Kind::Service));
    model.apply(Event::ServiceApplied(service("a")));
    model.apply(Event::Listed(Kind::Service));
    assert_eq!(model.sizes(), (1, 0));
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_old_one() {
    let mut model = Model::default();
    model.apply(Event::SliceApplied(slice("s", "a")));
    model.take_changes();
    model.apply(Event::SliceApplied(slice("s", "b")));
    assert_eq!(model.take_changes().services, names(&["a", "b"]));
    assert_eq!(model.slices(&ServiceName::new("default", "a")).count(), 0);
    assert_eq!(model.slices(&ServiceName::new("default", "b")).count(), 1);
}

#[test]
fn the_model_is_complete_when_every_kind_was_listed() {
    let mut model = Model::default();
    for kind in [Kind::Service, Kind::Node] {
        model.apply(Event::ListStarted(kind));
        model.apply(Event::Listed(kind));
    }
    assert_eq!(model.missing(), [Kind::Slice]);
    model.apply(Event::Listed(Kind::Slice));
    assert!(model.complete());
}

#[test]
fn a_node_that_is_not_listed_again_is_gone() {
    let mut model = Model::default();
    model.apply(Event::NodeApplied(Node::default()));
    assert!(model.take_changes().node);
    model.apply(Event::ListStarted(Kind::Node));
    model.apply(Event::NodeApplied(Node::default()));
    model.apply(Event::Listed(Kind::Node));
    assert!(!model.take_changes().node);
    model.apply(Event::ListStarted(Kind::Node));
    model.apply(Event::Listed(Kind::Node));
    assert!(model.node().is_none());
}

#[test]
fn changes_of_slices_have_times_unless_nobody_waited_or_the_slice_is_gone() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let changed = |name: &str, seconds| {
        let slice = Slice { changed: Some(at(seconds)), ..(*slice(name, "web")).clone() };
        Event::SliceApplied(Arc::new(slice))
    };
    let mut model = Model::default();
    model.apply(changed("a", 1));
    model.apply(Event::Listed(Kind::Slice));
    assert_eq!(model.take_changes().times, [], "of a first list");
    model.apply(changed("a", 2));
    model.apply(changed("a", 3));
    model.apply(changed("b", 4));
    model.apply(Event::SliceDeleted(SliceName { namespace: "default".into(), name: "b".into() }));
    assert_eq!(model.take_changes().times, [(Family::V4, at(2)), (Family::V4, at(3))]);
    assert_eq!(model.take_changes().times, []);
}
