//! `svclb list backends`.

use std::path::Path;

use serde::Serialize;
use svclb_common::schema::{Backend, FrontendBucket, Plain, SourceRange};
use svclb_common::service::{backend_flag, backend_state};

use super::{Row, endpoint};
use crate::model::FamilyAddress;
use crate::tables::TableError;
use crate::tables::bpf::read_pinned;

/// A backend that serves. Those that are gone are left out.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct BackendRow {
    number: u32,
    generation: u16,
    service: u32,
    address: String,
    /// Gets new connections of clients anywhere.
    in_cluster_list: bool,
    /// Gets new connections that a policy keeps on this node.
    in_local_list: bool,
}

impl Row for BackendRow {
    const HEADERS: &'static [&'static str] = &["number", "generation", "service", "address", "new connections"];

    fn cells(&self) -> Vec<String> {
        let lists = match (self.in_cluster_list, self.in_local_list) {
            (true, true) => "cluster, local",
            (true, false) => "cluster",
            (false, true) => "local",
            (false, false) => "none",
        };
        vec![
            self.number.to_string(),
            self.generation.to_string(),
            self.service.to_string(),
            self.address.clone(),
            lists.to_owned(),
        ]
    }
}

pub(super) fn rows<A: FamilyAddress>(pins: &Path) -> Result<Vec<BackendRow>, TableError>
where
    FrontendBucket<A>: Plain,
    Backend<A>: Plain,
    SourceRange<A>: Plain,
{
    let content = read_pinned::<A>(pins)?;
    let serving = (0..).zip(content.backends).filter(|(_, backend)| backend.state == backend_state::SERVING);
    let row = |(number, backend): (u32, Backend<A>)| BackendRow {
        number,
        generation: backend.generation,
        service: backend.service,
        address: endpoint(backend.address, backend.port),
        in_cluster_list: backend.flags & backend_flag::IN_CLUSTER != 0,
        in_local_list: backend.flags & backend_flag::IN_LOCAL != 0,
    };
    Ok(serving.map(row).collect())
}
