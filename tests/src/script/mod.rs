//! Behaviour scripts: objects in, and what comes of them out.
//!
//! A script is a text of sections. What comes before the first section are remarks (`#`) and settings of
//! the node, one a line, see [`world::Settings`]. A section begins with a line `-- NAME --`:
//!
//! - `-- FILE.yaml --` puts a file into the folder of manifests, or replaces it;
//! - `-- remove FILE.yaml --` takes it away;
//! - `-- settings --` holds settings that are others from here on: of another node, that has the same files;
//! - `-- tables --` holds what the tables must show after all that;
//! - `-- flows --` holds what must become of packets after all that, see [`crate::flows`];
//! - `-- same flows --` holds the rows of the last `flows` that are others now; the rest is as it was.
//!
//! `SVCLB_UPDATE_SCRIPTS=1` writes what the tables do show into the scripts; read the difference before
//! you keep it.

mod dump;
mod parse;
pub mod world;

use std::collections::BTreeMap;

pub use parse::{Check, Script, Step, all};
use svclb_common::addr::{Addr4, Addr6};
use svclb_userspace::tables::Tables;

/// The text of the tables of both families.
///
/// # Panics
/// If they cannot be read, or hold what no agent writes.
pub fn show<T4: Tables<Addr4>, T6: Tables<Addr6>>(v4: &T4, v6: &T6) -> String {
    let mut text = dump::dump::<Addr4>(&v4.read().expect("the tables can be read"));
    text.push_str(&dump::dump::<Addr6>(&v6.read().expect("the tables can be read")));
    text
}

/// The files of a folder.
pub type Files = BTreeMap<String, String>;
