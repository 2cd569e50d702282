//! Sources: where objects come from, and how they become the [`model`](crate::model).
//!
//! Two sources send the same [`Event`](crate::model::Event)s: [`manifests`] reads YAML files, [`api`]
//! watches an API server, and [`intake`] says what a watch's items mean. Both decode Kubernetes' own types and project them at once to the model's
//! small structs; the projections ([`service`], [`slice`], [`node`]) hold the rules about which
//! objects count. No other module of the agent knows Kubernetes' types.

pub mod address;
pub mod api;
mod failover;
pub mod intake;
pub mod manifests;
mod names;
pub mod node;
pub mod pods;
pub mod service;
pub mod service_cidr;
pub mod slice;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::model::{Object, Problem};

/// The reference to an object for messages about it.
pub(crate) fn object(api_version: &'static str, kind: &'static str, metadata: &ObjectMeta) -> Object {
    let text = |value: &Option<String>| Arc::from(value.as_deref().unwrap_or_default());
    Object {
        api_version,
        kind,
        namespace: text(&metadata.namespace),
        name: text(&metadata.name),
        uid: text(&metadata.uid),
    }
}

/// Collects what is wrong with one object.
pub(crate) struct Problems {
    object: Object,
    found: Vec<Problem>,
}

impl Problems {
    pub(crate) fn of(object: Object) -> Self {
        Self { object, found: Vec::new() }
    }

    pub(crate) fn add(&mut self, reason: &'static str, message: String) {
        self.found.push(Problem { object: self.object.clone(), reason, message });
    }

    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.found
    }
}
