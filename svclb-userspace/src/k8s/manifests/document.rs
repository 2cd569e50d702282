//! YAML text becomes parts of the model.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::k8s::{node, pods, service, service_cidr, slice};
use crate::model::{Node, Problem, Service, Slice};

/// What is kept of an object of a kind that matters.
#[derive(Clone, PartialEq, Debug)]
pub enum Document {
    /// A Service that has something to serve, and how it finds endpoints among Pods.
    Service(Arc<Service>, Option<Box<pods::Selection>>),
    /// An `EndpointSlice`.
    Slice(Arc<Slice>),
    /// A Pod.
    Pod(Box<pods::Pod>),
    /// A Node.
    Node(Node),
    /// The prefixes of a `ServiceCIDR`.
    ServiceCidr(Vec<IpNet>),
    /// An object that does not count: a headless Service, say.
    Nothing,
}

/// Kind, namespace and name of an object.
pub type Id = (&'static str, Arc<str>, Arc<str>);

/// Objects by what they are called.
pub type Documents = BTreeMap<Id, Document>;

/// What is wrong with one object of a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Which object, as far as it is known; then its last good state stays.
    pub id: Option<Id>,
    /// What is wrong and what to do.
    pub message: String,
}

/// Reads all objects of a text. An error means that the text is no YAML; faults concern one object each
/// and leave the others alone. Objects without a namespace are in `default`.
pub fn parse(text: &str) -> Result<(Documents, Vec<Fault>), String> {
    let options = serde_saphyr::options! { budget: None };
    let values: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| error.to_string())?;
    let mut found = (Documents::new(), Vec::new());
    for value in values {
        take(value, &mut found);
    }
    Ok(found)
}

fn take(mut value: Value, found: &mut (Documents, Vec<Fault>)) {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind.ends_with("List") {
        let items = value.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take);
        for item in items.unwrap_or_default() {
            take(item, found);
        }
        return;
    }
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(Arc::<str>::from);
    let name = text("/metadata/name");
    let namespace = text("/metadata/namespace").unwrap_or_else(|| "default".into());
    let fault = |message: String| Fault { id: None, message };
    let Some(name) = name else {
        if !value.is_null() {
            found.1.push(fault(format!("an object of kind {kind:?} has no metadata.name: it is not used")));
        }
        return;
    };
    let typed = match kind.as_str() {
        "Service" => typed(value, namespace, name, "Service", service_document),
        "EndpointSlice" => typed(value, namespace, name, "EndpointSlice", slice_document),
        "Pod" => typed(value, namespace, name, "Pod", |pod: &core::Pod| {
            (Document::Pod(Box::new(pods::Pod::of(pod))), Vec::new())
        }),
        "Node" => {
            typed(value, "".into(), name, "Node", |node: &core::Node| (Document::Node(node::project(node)), Vec::new()))
        }
        "ServiceCIDR" => typed(value, "".into(), name, "ServiceCIDR", |cidr: &networking::ServiceCIDR| {
            let (cidrs, problems) = service_cidr::project(cidr);
            (Document::ServiceCidr(cidrs), problems)
        }),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => Err(fault(format!(
            "{kind} {namespace}/{name}: nobody makes its pods here; whoever runs them adds Pod objects with \
             status.podIPs to the folder"
        ))),
        _ => Err(fault(format!("{kind} {namespace}/{name}: objects of this kind are not used"))),
    };
    match typed {
        Ok((id, document, problems)) => {
            let part = |problem: Problem| fault(format!("{}: {}", problem.object, problem.message));
            found.1.extend(problems.into_iter().map(part));
            if found.0.contains_key(&id) {
                let message = format!("{} {}/{} is there twice: the last one counts", id.0, id.1, id.2);
                found.1.push(fault(message));
            }
            found.0.insert(id, document);
        }
        Err(fault) => found.1.push(fault),
    }
}

fn typed<T: DeserializeOwned>(
    value: Value,
    namespace: Arc<str>,
    name: Arc<str>,
    kind: &'static str,
    keep: fn(&T) -> (Document, Vec<Problem>),
) -> Result<(Id, Document, Vec<Problem>), Fault> {
    match serde_json::from_value(value) {
        Ok(object) => {
            let (document, problems) = keep(&object);
            // The texts that the object holds anyway, where there is one.
            let (namespace, name) = match &document {
                Document::Service(service, _) => (service.name.namespace.clone(), service.name.name.clone()),
                Document::Slice(slice) => (slice.name.namespace.clone(), slice.name.name.clone()),
                Document::Pod(_) | Document::Node(_) | Document::ServiceCidr(_) | Document::Nothing => {
                    (namespace, name)
                }
            };
            Ok(((kind, namespace, name), document, problems))
        }
        Err(error) => Err(Fault {
            message: format!("{kind} {namespace}/{name}: {error}: its last good state stays"),
            id: Some((kind, namespace, name)),
        }),
    }
}

fn service_document(object: &core::Service) -> (Document, Vec<Problem>) {
    let (projected, problems) = service::project(object, service::WithoutClusterIp::Served);
    let selection = pods::Selection::of(object).map(Box::new);
    (projected.map_or(Document::Nothing, |service| Document::Service(Arc::new(service), selection)), problems)
}

fn slice_document(object: &discovery::EndpointSlice) -> (Document, Vec<Problem>) {
    let (projected, problems) = slice::project(object);
    (projected.map_or(Document::Nothing, |slice| Document::Slice(Arc::new(slice))), problems)
}
