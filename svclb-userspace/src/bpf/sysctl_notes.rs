//! What was in sysctls before svclb wrote to them, so that `svclb cleanup` can put it back.
//!
//! The notes lie beside the pins and go with them. A BPF file system has no ordinary files, but symbolic links: one for
//! each sysctl, that leads nowhere and whose text is the note.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// One sysctl.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    /// What was there before the first agent wrote.
    pub before: u64,
    /// What was written last.
    pub written: u64,
}

impl Note {
    fn parse(text: &str) -> Option<Self> {
        let (before, written) = text.strip_prefix("was-")?.split_once("-now-")?;
        Some(Self { before: before.parse().ok()?, written: written.parse().ok()? })
    }

    fn text(self) -> String {
        format!("was-{}-now-{}", self.before, self.written)
    }
}

/// The notes of an agent.
#[derive(Clone, Debug)]
pub struct Notes(PathBuf);

impl Notes {
    /// Those beside the pins in `root`.
    pub fn beside(root: &Path) -> Self {
        Self(root.join("sysctls"))
    }

    /// The note on a sysctl.
    pub fn get(&self, name: &str) -> io::Result<Option<Note>> {
        match fs::read_link(self.0.join(name)) {
            Ok(text) => Ok(text.to_str().and_then(Note::parse)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a note in place of the one that may be there. The folder is made if need be.
    pub fn put(&self, name: &str, note: Note) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        self.remove(name)?;
        symlink(note.text(), self.0.join(name))
    }

    /// Takes a note away, if it is there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The sysctls on which there are notes.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// Removes the folder, which must have no notes any more.
    pub fn remove_folder(&self) -> io::Result<()> {
        match fs::remove_dir(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
