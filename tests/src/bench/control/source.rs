//! Where the agent has its Services from: a folder of files, or an API server.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, api::PostParams};
use svclb_userspace::model::Family;

use super::Kind;
use crate::{
    bench::population::{
        NAMESPACE, Population,
        fill::{CHANGING_FILE, create_all, replace, write_all, yaml},
    },
    cluster::{ControlPlane, Controllers},
    net::{AgentSource, Lab},
};

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
        let slice = population.changing(Family::V4, endpoints);
        match self {
            Self::Files { folder } => replace(&folder.join(CHANGING_FILE), &yaml(&slice)?),
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
