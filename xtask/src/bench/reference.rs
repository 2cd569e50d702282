//! The reference programs, built when they are wanted.

#[path = "../../../svclb-userspace/build/kernel_compiler.rs"]
mod kernel_compiler;

use std::{env, fs};

use anyhow::{Context, Result};

use crate::{process, progress::Progress, repository};

/// Builds the reference object and gives its bytes. Takes a minute the first time.
pub(crate) fn object() -> Result<Vec<u8>> {
    let rustc = kernel_compiler::rustc().context("there is no compiler for BPF; `cargo xtask setup` installs one")?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = repository::root().join("svclb-ebpf/Cargo.toml");
    let target = repository::target().join("reference");
    let mut command = kernel_compiler::cargo_build(&cargo, &rustc, env::consts::ARCH, &manifest, &target);
    command.args(["--bin", "svclb-reference", "--features", "reference"]);
    let progress = Progress::start("building the reference programs");
    process::run(&mut command, &repository::log_file("bench")?, |line| progress.now(line))?;
    progress.end("done");
    let path = target.join("bpfel-unknown-none/release/svclb-reference");
    fs::read(&path).with_context(|| format!("reading {}", path.display()))
}
