//! How svclb-ebpf is compiled. Part of the build script, and of `cargo xtask bench`, which builds the
//! reference programs.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Finds a rustc that can build core for BPF: the one named by `SVCLB_BPF_RUSTC`, rustup's nightly with the
/// component rust-src, Debian's with rust-web-src.
pub(crate) fn rustc() -> Option<PathBuf> {
    if let Some(path) = env::var_os("SVCLB_BPF_RUSTC") {
        return Some(path.into());
    }
    let nightly = sysroot(Command::new("rustup").args(["run", "nightly", "rustc"]));
    if let Some(root) = nightly.filter(|root| has_core(root)) {
        return Some(root.join("bin/rustc"));
    }
    let debian = PathBuf::from("/usr/bin/rustc");
    sysroot(&mut Command::new(&debian)).filter(|root| has_core(root)).map(|_| debian)
}

fn sysroot(command: &mut Command) -> Option<PathBuf> {
    let output = without_cargo(command).args(["--print", "sysroot"]).output().ok()?;
    output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn has_core(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
}

/// Takes away what cargo set for the build that this is part of.
fn without_cargo(command: &mut Command) -> &mut Command {
    for name in [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "RUSTUP_TOOLCHAIN",
    ] {
        command.env_remove(name);
    }
    command
}

/// The cargo call that compiles svclb-ebpf for kernels of `arch`; `manifest` is its Cargo.toml. The object is
/// then in the folder `bpfel-unknown-none/release` of `target`.
pub(crate) fn cargo_build(cargo: &OsStr, rustc: &Path, arch: &str, manifest: &Path, target: &Path) -> Command {
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        String::from("-Cdebuginfo=2"),
        String::from("-Ctarget-cpu=v3"),
        String::from("-Clink-arg=--btf"),
        // Without it memory copies become calls, which kernel 6.1 refuses under a spin lock.
        String::from("-Clink-arg=--disable-expand-memcpy-in-order"),
    ];
    let mut command = Command::new(cargo);
    without_cargo(&mut command)
        .args(["build", "--release", "--package", "svclb-ebpf", "-Zbuild-std=core", "--target", "bpfel-unknown-none"])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .env("RUSTC", rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    command
}
