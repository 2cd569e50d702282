//! Where things are: the repository, its target folder, the user's own folder of svclb.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The top folder of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// Cargo's target folder, where everything built or downloaded goes.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A file for the output of the command `name`; its folder is made.
pub(crate) fn log_file(name: &str) -> Result<PathBuf> {
    let folder = target().join("logs");
    std::fs::create_dir_all(&folder).with_context(|| format!("making the folder for logs {}", folder.display()))?;
    Ok(folder.join(format!("{name}.log")))
}

/// The folder of svclb in the user's home: what is built once for a machine and not once for a clone.
pub(crate) fn home() -> Result<PathBuf> {
    let home = env::var_os("HOME").context("the variable HOME is not set; set it to your home")?;
    Ok(Path::new(&home).join(".svclb"))
}

/// Cargo's own folder for installed programs.
pub(crate) fn cargo_bin() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(Path::new(&home).join("bin"));
    }
    let home = env::var_os("HOME").context("the variable HOME is not set; set it to your home")?;
    Ok(Path::new(&home).join(".cargo/bin"))
}
