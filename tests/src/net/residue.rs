//! What a test must not leave behind on the machine.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Network devices, named namespaces, pins and control groups of the machine at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory(BTreeSet<PathBuf>);

/// The folders looked at, and how deep.
const PLACES: [(&str, u8); 5] =
    [("/sys/class/net", 1), ("/run/netns", 1), ("/var/run/netns", 1), ("/sys/fs/bpf", 4), ("/sys/fs/cgroup", 4)];

impl Inventory {
    /// Looks at the machine now. Folders that do not exist are empty.
    pub fn take() -> Self {
        let mut found = BTreeSet::new();
        for (place, depth) in PLACES {
            collect(Path::new(place), depth, &mut found);
        }
        Self(found)
    }

    /// What is there now and was not there at the time of `self`.
    pub fn left_since(&self) -> Vec<PathBuf> {
        Self::take().0.difference(&self.0).cloned().collect()
    }
}

fn collect(folder: &Path, depth: u8, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let whole = !folder.starts_with("/sys/fs/cgroup");
    for entry in entries.flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder || whole {
            found.insert(entry.path());
        }
        if is_folder && depth > 1 {
            collect(&entry.path(), depth - 1, found);
        }
    }
}
