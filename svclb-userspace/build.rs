//! Builds the kernel object from ../svclb-ebpf with a compiler that can, and puts it at `$OUT_DIR/svclb.o`
//! for `bpf::load` to embed.
//!
//! The compiler is, in this order: the rustc named by `SVCLB_BPF_RUSTC`, rustup's nightly with the component
//! rust-src, Debian's rustc with rust-web-src. `SVCLB_BPF_OBJECT` names an object that is built already. Where
//! none of them is there, or bpf-linker is missing, an empty object is embedded and the build goes on with a
//! warning: everything but loading it works, and `svclb agent` says what to install.

#[path = "build/kernel_compiler.rs"]
mod kernel_compiler;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Part of the symbol of every function through which core panics.
const PANIC_SYMBOL: &[u8] = b"4core9panicking";

fn main() {
    for name in ["SVCLB_BPF_OBJECT", "SVCLB_BPF_RUSTC", "PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for path in ["build.rs", "build", "../svclb-ebpf", "../svclb-common", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = match kernel_object(&out) {
        Ok(bytes) => bytes,
        Err(Missing(what)) => {
            println!("cargo::warning=the kernel object is not built: {what}; `cargo xtask setup` installs it");
            // A file that does not exist makes cargo run this again, so that the next build sees what was
            // installed in between.
            println!("cargo::rerun-if-changed=no-compiler-for-bpf");
            Vec::new()
        }
    };
    fs::write(out.join("svclb.o"), object).expect("the build folder is writable");
}

/// What keeps the object from being built here.
struct Missing(String);

fn kernel_object(out: &Path) -> Result<Vec<u8>, Missing> {
    if let Some(path) = env::var_os("SVCLB_BPF_OBJECT") {
        println!("cargo::rerun-if-changed={}", Path::new(&path).display());
        return fs::read(&path).map_err(|error| {
            Missing(format!("SVCLB_BPF_OBJECT={} cannot be read: {error}", Path::new(&path).display()))
        });
    }
    let rustc = kernel_compiler::rustc().ok_or_else(|| {
        Missing(String::from("no rustc with the source of its core library (Debian: rustc-web rust-web-src; rustup: nightly with rust-src)"))
    })?;
    if !runs("bpf-linker") {
        return Err(Missing(String::from("bpf-linker is not in PATH")));
    }
    build(&rustc, out)
}

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

fn build(rustc: &Path, out: &Path) -> Result<Vec<u8>, Missing> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let target = out.join("bpf");
    let cargo = env::var_os("CARGO").expect("cargo sets it");
    let output = kernel_compiler::cargo_build(&cargo, rustc, &arch, Path::new("../svclb-ebpf/Cargo.toml"), &target)
        .arg("--bins")
        .output()
        .map_err(|error| Missing(format!("cargo does not start: {error}")))?;
    assert!(
        output.status.success(),
        "building the kernel object with {} failed:\n{}",
        rustc.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let path = target.join("bpfel-unknown-none/release/svclb-ebpf");
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // A panic would become a jump to itself, which the verifier reports in words that help nobody.
    assert!(
        !bytes.windows(PANIC_SYMBOL.len()).any(|window| window == PANIC_SYMBOL),
        "the kernel object can panic: look for an index, a slice or a division that is not checked"
    );
    Ok(bytes)
}
