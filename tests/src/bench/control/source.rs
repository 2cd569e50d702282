//! Where the agent has its Services from: a folder of files, or an API server.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, api::PostParams};
use serde::Serialize;
use serde_json::json;
use svclb_userspace::model::Family;

use super::Kind;
use crate::{
    bench::population::{NAMESPACE, Population, name},
    cluster::{ControlPlane, Controllers},
    net::{AgentSource, Lab},
};

/// Services of one file.
const SERVICES_OF_FILE: u32 = 100;
/// Services that are made between two words on how far it is.
const SERVICES_OF_STEP: u32 = 1000;
/// Requests to the API server that are under way at a time.
const REQUESTS: usize = 64;
/// The Service whose endpoints change.
const CHANGING: u32 = 0;

/// A source that holds a population.
pub(super) enum Source {
    Files { folder: PathBuf },
    Api { plane: Box<ControlPlane> },
}

impl Source {
    /// Fills a source. `folder` is for files.
    pub(super) fn filled(
        kind: Kind,
        population: &Population,
        lab: &Lab,
        folder: &Path,
        say: &impl Fn(&str),
    ) -> Result<Self> {
        match kind {
            Kind::Files => {
                say("writing the manifests");
                let folder = folder.join("manifests");
                write_all(population, &folder)?;
                Ok(Self::Files { folder })
            }
            Kind::Api => {
                say("starting the control plane");
                let host = lab.control_plane().context("the lab has a host for the control plane")?;
                let plane = Box::new(ControlPlane::start(&host.netns, &host.address.both(), Controllers::OfServices)?);
                plane.apply([Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/rbac.yaml")])?;
                create_all(&plane, population, say)?;
                Ok(Self::Api { plane })
            }
        }
    }

    /// The same, for the agent.
    pub(super) fn of_agent(&self) -> AgentSource {
        match self {
            Self::Files { folder } => AgentSource::Manifests(folder.clone()),
            Self::Api { plane } => AgentSource::Kubeconfig(plane.agent_kubeconfig()),
        }
    }

    /// Gives one Service so many endpoints.
    pub(super) fn change(&self, population: &Population, endpoints: u32) -> Result<()> {
        let slice = population.slice(CHANGING, Family::V4, endpoints);
        match self {
            Self::Files { folder } => replace(&folder.join("changing.yaml"), &yaml(&slice)?),
            Self::Api { plane } => {
                let slices: Api<EndpointSlice> = Api::namespaced(plane.client(), NAMESPACE);
                let name = slice.metadata.name.clone().context("a slice has a name")?;
                let replaced =
                    plane.runtime().run(async move { slices.replace(&name, &PostParams::default(), &slice).await });
                replaced.map(drop).context("change an EndpointSlice")
            }
        }
    }
}

/// Makes all objects through the API server.
fn create_all(plane: &ControlPlane, population: &Population, say: &impl Fn(&str)) -> Result<()> {
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

fn yaml<T: Serialize>(object: &T) -> Result<String> {
    // JSON is YAML.
    Ok(format!("{}\n", serde_json::to_string(object)?))
}

/// Writes all objects, some hundred to a file; the slice that will change has a file of its own.
fn write_all(population: &Population, folder: &Path) -> Result<()> {
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
    let slice = population.slice(CHANGING, Family::V4, population.endpoints);
    replace(&folder.join("changing.yaml"), &yaml(&slice)?)
}

/// Writes a file in one step.
fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, file)).with_context(|| format!("write {}", file.display()))
}
