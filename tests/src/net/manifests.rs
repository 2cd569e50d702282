//! Kubernetes objects from YAML files, as `kubectl apply -f` takes them.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The objects of some files, in their order.
#[derive(Debug, Clone, Default)]
pub struct Manifests {
    /// All of them as they were written, with the namespace filled in.
    pub objects: Vec<Value>,
    /// The Services.
    pub services: Vec<Service>,
    /// The Deployments.
    pub deployments: Vec<Deployment>,
    /// Pods that belong to no Deployment.
    pub pods: Vec<Pod>,
    /// `EndpointSlices` that were written by hand.
    pub slices: Vec<Value>,
    /// Objects that mean nothing to a lab, in words.
    pub passed_over: Vec<String>,
}

impl Manifests {
    /// Reads files of one or more YAML documents each. The first fault ends it and names file and object.
    pub fn read(files: &[impl AsRef<Path>]) -> Result<Self> {
        let mut all = Self::default();
        for file in files {
            let file = file.as_ref();
            let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            all.add(&text).with_context(|| format!("in {}", file.display()))?;
        }
        Ok(all)
    }

    /// The objects of a text.
    pub fn parse(text: &str) -> Result<Self> {
        let mut all = Self::default();
        all.add(text)?;
        Ok(all)
    }

    fn add(&mut self, text: &str) -> Result<()> {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|e| anyhow::anyhow!("this is not YAML: {e}"))?;
        for document in documents {
            match document.get("kind").and_then(Value::as_str) {
                None if document.is_null() => {}
                None => bail!("a document has no `kind`: {document}"),
                Some("List") => {
                    let items = document.get("items").and_then(Value::as_array).cloned();
                    items.unwrap_or_default().into_iter().try_for_each(|item| self.take(item))?;
                }
                Some(_) => self.take(document)?,
            }
        }
        Ok(())
    }

    fn take(&mut self, mut object: Value) -> Result<()> {
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = object.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
        let Some(name) = name else { bail!("a {kind} has no metadata.name") };
        if object.pointer("/metadata/namespace").is_none() && kind != "Namespace" {
            object["metadata"]["namespace"] = json!("default");
        }
        match kind.as_str() {
            "Service" => self.services.push(typed(&kind, &name, &object)?),
            "Deployment" => self.deployments.push(typed(&kind, &name, &object)?),
            "Pod" => self.pods.push(typed(&kind, &name, &object)?),
            "EndpointSlice" => self.slices.push(object.clone()),
            _ => self.passed_over.push(format!("{kind} {name}")),
        }
        self.objects.push(object);
        Ok(())
    }
}

fn typed<T: DeserializeOwned>(kind: &str, name: &str, object: &Value) -> Result<T> {
    serde_json::from_value(object.clone()).with_context(|| format!("the {kind} {name} is not valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_documents_become_typed_objects() {
        let read = Manifests::parse(
            "kind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n---\n---\n\
             kind: Deployment\nmetadata: {name: web, namespace: shop}\nspec:\n  replicas: 2\n  \
             selector: {matchLabels: {app: web}}\n  template: {metadata: {labels: {app: web}}}\n---\n\
             kind: ConfigMap\nmetadata: {name: other}\n",
        )
        .expect("it is valid");
        assert_eq!(read.services[0].metadata.namespace.as_deref(), Some("default"));
        assert_eq!(read.deployments[0].metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(read.passed_over, ["ConfigMap other"]);
        assert_eq!(read.objects.len(), 3);
    }

    #[test]
    fn a_fault_names_the_object() {
        let error = Manifests::parse("kind: Service\nmetadata: {name: web}\nspec: {ports: 7}\n");
        let error = format!("{:#}", error.expect_err("ports must be a list"));
        assert!(error.contains("the Service web is not valid"), "{error}");
        let error = Manifests::parse("kind: [").expect_err("not YAML");
        assert!(error.to_string().contains("not YAML"), "{error}");
    }
}
