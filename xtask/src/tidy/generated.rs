//! Documents that are made from the code: a test compares them, `cargo xtask tidy --write` writes them.

use std::fs;

use anyhow::{Context, Result};

use crate::{
    repository,
    tidy::files::{File, Files},
};

/// One generated document.
pub(crate) struct Document {
    /// Its path from the top of the repository.
    path: &'static str,
    /// Its whole text.
    text: fn() -> String,
}

/// All generated documents. A new one is a line here.
pub(crate) const GENERATED: &[Document] = &[];

impl Document {
    pub(crate) fn write(&self) -> Result<()> {
        let file = repository::root().join(self.path);
        fs::write(&file, (self.text)()).with_context(|| format!("writing {}", file.display()))?;
        println!("{} written", self.path);
        Ok(())
    }
}

/// Generated documents say what the code says.
pub(crate) fn fresh(files: &Files) -> Vec<String> {
    GENERATED
        .iter()
        .filter(|document| {
            files
                .all()
                .find(|file| file.path == document.path)
                .and_then(File::text)
                != Some((document.text)().as_str())
        })
        .map(|document| {
            format!(
                "{} differs from what the code makes; `cargo xtask tidy --write` writes it anew",
                document.path
            )
        })
        .collect()
}
