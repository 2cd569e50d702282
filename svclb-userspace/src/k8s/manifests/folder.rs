//! The files of a folder and the last good state of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::document::{Document, Documents, Id, parse};
use crate::model::{Object, Problem};

/// A folder of manifests.
pub(super) struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
    problems: Vec<Problem>,
}

struct File {
    /// Time of change, size and inode at the last look: whether to read it again.
    stamp: Option<(SystemTime, u64, u64)>,
    documents: Documents,
    /// What was reported of this file, so that it is not reported again.
    reported: BTreeSet<String>,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, files: BTreeMap::new(), problems: Vec::new() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the files that changed; whether there were any.
    pub(super) fn scan(&mut self) -> io::Result<bool> {
        let mut present = BTreeSet::new();
        let mut changed = false;
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if is_manifest(&path) {
                changed |= self.read(&path);
                present.insert(path);
            }
        }
        let before = self.files.len();
        self.files.retain(|path, _| present.contains(path));
        Ok(changed || self.files.len() != before)
    }

    /// All objects; where two files hold the same one, the last file by name counts.
    pub(super) fn documents(&self) -> BTreeMap<&Id, &Document> {
        self.files.values().flat_map(|file| &file.documents).collect()
    }

    pub(super) fn take_problems(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.problems)
    }

    fn read(&mut self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let stamp = fs::metadata(path).ok().and_then(|data| Some((data.modified().ok()?, data.len(), data.ino())));
        let file = self.files.entry(path.to_owned()).or_insert_with(|| File {
            stamp: None,
            documents: Documents::new(),
            reported: BTreeSet::new(),
        });
        if stamp.is_some() && file.stamp == stamp {
            return false;
        }
        file.stamp = stamp;
        let mut messages = BTreeSet::new();
        let read = fs::read_to_string(path).map_err(|error| format!("cannot read it: {error}"));
        match read.and_then(|text| parse(&text).map_err(|error| format!("it is no YAML: {error}"))) {
            Ok((mut documents, faults)) => {
                for fault in faults {
                    if let Some(id) = &fault.id
                        && let Some(last) = file.documents.remove(id)
                    {
                        documents.entry(id.clone()).or_insert(last);
                    }
                    messages.insert(fault.message);
                }
                // A tree that grew entry by entry is half empty; one that is made at once is not.
                file.documents = documents.into_iter().collect();
            }
            Err(message) => {
                messages.insert(format!("{message}: its last good state stays"));
            }
        }
        let object = Object {
            api_version: "",
            kind: "file",
            namespace: path.parent().map(|folder| folder.to_string_lossy().into()).unwrap_or_default(),
            name: path.file_name().map(|name| name.to_string_lossy().into()).unwrap_or_default(),
            uid: "".into(),
        };
        for message in messages.difference(&file.reported) {
            let object = object.clone();
            self.problems.push(Problem { object, reason: "BadManifest", message: message.clone() });
        }
        file.reported = messages;
        true
    }
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    !hidden && matches!(extension, "yaml" | "yml" | "json")
}
