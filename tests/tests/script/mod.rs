//! Behaviour scripts: objects in, tables out.
//!
//! A script is a text of sections. What comes before the first section are remarks (`#`) and settings of
//! the node, one a line: `node`, `addresses`, `nodeport-addresses`, `external-ip-cidrs`. A section begins
//! with a line `-- NAME --`:
//!
//! - `-- FILE.yaml --` puts a file into the folder of manifests, or replaces it;
//! - `-- remove FILE.yaml --` takes it away;
//! - `-- tables --` holds what the tables must show after all that.
//!
//! `SVCLB_UPDATE_SCRIPTS=1` writes what the tables do show into the scripts; read the difference before
//! you keep it.

mod dump;
pub(crate) mod parse;
pub(crate) mod world;

use std::collections::BTreeMap;

use dump::dump;
use svclb_common::addr::{Addr4, Addr6};
use svclb_userspace::tables::Tables;

/// The text of the tables of both families.
pub(crate) fn show<T4: Tables<Addr4>, T6: Tables<Addr6>>(v4: &T4, v6: &T6) -> String {
    let mut text = dump::<Addr4>(&v4.read().expect("the tables can be read"));
    text.push_str(&dump::<Addr6>(&v6.read().expect("the tables can be read")));
    text
}

/// The files of a folder.
pub(crate) type Files = BTreeMap<String, String>;
