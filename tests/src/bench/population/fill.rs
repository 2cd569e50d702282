//! A population as files, and through an API server.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, api::PostParams};
use serde::Serialize;
use serde_json::json;

use super::{CHANGING, NAMESPACE, Population, name};
use crate::cluster::ControlPlane;

/// Services of one file.
const SERVICES_OF_FILE: u32 = 100;
/// Services that are made between two words on how far it is.
const SERVICES_OF_STEP: u32 = 1000;
/// Requests to the API server that are under way at a time.
const REQUESTS: usize = 64;
/// The file with the slice of the Service whose endpoints may change.
pub(in crate::bench) const CHANGING_FILE: &str = "changing.yaml";

/// Makes all objects through the API server.
pub(in crate::bench) fn create_all(plane: &ControlPlane, population: &Population, say: &impl Fn(&str)) -> Result<()> {
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": NAMESPACE } }))?;
    let namespaces: Api<Namespace> = Api::all(plane.client());
    plane
        .runtime()
        .run(async move { namespaces.create(&PostParams::default(), &namespace).await })
        .context("make the namespace")?;
    for first in (0..population.services).step_by(SERVICES_OF_STEP as usize) {
        say(&format!("making Services through the API server: {first} of {} are there", population.services));
        let services: Api<Service> = Api::namespaced(plane.client(), NAMESPACE);
        let slices: Api<EndpointSlice> = Api::namespaced(plane.client(), NAMESPACE);
        let population = population.clone();
        let numbers = first..population.services.min(first + SERVICES_OF_STEP);
        let made = plane.runtime().run(async move {
            let (services, slices, population) = (&services, &slices, &population);
            let one = |number| async move {
                services.create(&PostParams::default(), &population.service(number)).await?;
                for slice in population.slices(number) {
                    slices.create(&PostParams::default(), &slice).await?;
                }
                Ok::<_, kube::Error>(())
            };
            stream::iter(numbers).map(one).buffer_unordered(REQUESTS).try_collect::<Vec<()>>().await
        });
        made.map(drop).context("make Services and EndpointSlices")?;
    }
    Ok(())
}

/// An object as YAML.
pub(in crate::bench) fn yaml<T: Serialize>(object: &T) -> Result<String> {
    // JSON is YAML.
    Ok(format!("{}\n", serde_json::to_string(object)?))
}

/// Writes all objects, some hundred to a file; the slice that will change has a file of its own.
pub(in crate::bench) fn write_all(population: &Population, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
    for first in (0..population.services).step_by(SERVICES_OF_FILE as usize) {
        let mut text = String::new();
        for number in first..population.services.min(first + SERVICES_OF_FILE) {
            text.push_str(&yaml(&population.service(number))?);
            let slices: Vec<EndpointSlice> = if number == CHANGING { Vec::new() } else { population.slices(number) };
            for slice in slices {
                text.push_str("---\n");
                text.push_str(&yaml(&slice)?);
            }
            text.push_str("---\n");
        }
        replace(&folder.join(format!("{}.yaml", name(first))), &text)?;
    }
    let mut changing = String::new();
    for slice in population.slices(CHANGING) {
        changing.push_str(&yaml(&slice)?);
        changing.push_str("---\n");
    }
    replace(&folder.join(CHANGING_FILE), &changing)
}

/// Writes a file in one step.
pub(in crate::bench) fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, file)).with_context(|| format!("write {}", file.display()))
}
