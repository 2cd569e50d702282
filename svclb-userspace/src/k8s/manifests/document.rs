//! YAML text becomes typed objects.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An object of a kind that matters.
#[derive(Clone, PartialEq, Debug)]
pub enum Document {
    /// A Service.
    Service(Box<core::Service>),
    /// An `EndpointSlice`.
    Slice(Box<discovery::EndpointSlice>),
    /// A Pod.
    Pod(Box<core::Pod>),
    /// A Node.
    Node(Box<core::Node>),
}

/// Kind, namespace and name of an object.
pub type Id = (&'static str, String, String);

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
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let name = text("/metadata/name");
    let namespace = text("/metadata/namespace").unwrap_or_else(|| "default".to_owned());
    let fault = |message: String| Fault { id: None, message };
    let Some(name) = name else {
        if !value.is_null() {
            found.1.push(fault(format!("an object of kind {kind:?} has no metadata.name: it is not used")));
        }
        return;
    };
    let typed = match kind.as_str() {
        "Service" => typed(value, namespace, name, "Service", Document::Service),
        "EndpointSlice" => typed(value, namespace, name, "EndpointSlice", Document::Slice),
        "Pod" => typed(value, namespace, name, "Pod", Document::Pod),
        "Node" => typed(value, String::new(), name, "Node", Document::Node),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => Err(fault(format!(
            "{kind} {namespace}/{name}: nobody makes its pods here; whoever runs them adds Pod objects with \
             status.podIPs to the folder"
        ))),
        _ => Err(fault(format!("{kind} {namespace}/{name}: objects of this kind are not used"))),
    };
    match typed {
        Ok((id, document)) => {
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
    namespace: String,
    name: String,
    kind: &'static str,
    wrap: fn(Box<T>) -> Document,
) -> Result<(Id, Document), Fault> {
    match serde_json::from_value(value) {
        Ok(object) => Ok(((kind, namespace, name), wrap(Box::new(object)))),
        Err(error) => Err(Fault {
            message: format!("{kind} {namespace}/{name}: {error}: its last good state stays"),
            id: Some((kind, namespace, name)),
        }),
    }
}
