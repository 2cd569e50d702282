//! bpf-linker: found, or built by cargo against an LLVM 22 that is on the machine already.
//!
//! bpf-linker needs no LLVM headers and no `llvm-config`, only a folder that holds `libLLVM.so`. Debian's
//! `rustc-web` brings that library along, and so does rustup's stable toolchain; a folder with a link to
//! it is enough.

use std::{fs, os::unix::fs::symlink, path::Path, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{process, progress::Progress, repository, setup::items};

/// The version that is installed. Its LLVM feature below must match the LLVM library.
pub(crate) const VERSION: &str = "0.13.0";
const LLVM_FEATURE: &str = "llvm-22";
const LIBRARY_PREFIX: &str = "libLLVM.so.22";

/// Where bpf-linker is and what it calls itself, or why it is of no use.
pub(crate) fn find() -> Result<String, String> {
    let file = items::program_of_cargo("bpf-linker")
        .ok_or_else(|| "no program `bpf-linker` in the folders of PATH".to_owned())?;
    let version =
        process::answer(&file, ["--version"]).ok_or_else(|| format!("`{} --version` fails", file.display()))?;
    let number = version.rsplit(' ').next().unwrap_or_default();
    if is_at_least(number, VERSION) {
        Ok(format!("{} ({version})", file.display()))
    } else {
        Err(format!("{} is {version}, and {VERSION} is the oldest that will do", file.display()))
    }
}

pub(crate) fn install(log: &Path) -> Result<()> {
    let library = llvm_library().with_context(|| {
        format!("no {LIBRARY_PREFIX} found, which bpf-linker is linked with; on Debian 12 it comes with the package rustc-web")
    })?;
    let prefix = repository::home()?.join("llvm");
    let folder = prefix.join("lib");
    let progress = Progress::start(format!("building bpf-linker {VERSION}"));
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    // A toolchain's own library is looked for under its own name at run time, so both names are there.
    let own_name = library.file_name().unwrap_or_default().to_owned();
    for name in ["libLLVM.so".into(), own_name] {
        let link = folder.join(name);
        if link.is_symlink() {
            fs::remove_file(&link).with_context(|| format!("removing {}", link.display()))?;
        }
        symlink(&library, &link).with_context(|| format!("linking {}", link.display()))?;
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["install", "bpf-linker", "--locked", "--force"])
        .args(["--version", VERSION])
        .args(["--no-default-features", "--features", LLVM_FEATURE])
        .env("LLVM_PREFIX", &prefix);
    process::run(&mut cargo, log, |line| progress.now(line))?;
    progress.end("done");
    Ok(())
}

pub(crate) fn by_hand() -> String {
    format!(
        "make a folder DIR/lib with a link libLLVM.so to your {LIBRARY_PREFIX}*, then \
         `LLVM_PREFIX=DIR cargo install bpf-linker --version {VERSION} --locked \
         --no-default-features --features {LLVM_FEATURE}`"
    )
}

fn llvm_library() -> Option<PathBuf> {
    items::library_folders()
        .into_iter()
        .filter_map(|folder| folder.read_dir().ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LIBRARY_PREFIX)))
}

/// Whether the version `have` is `want` or later, number by number.
pub(crate) fn is_at_least(have: &str, want: &str) -> bool {
    let numbers = |version: &str| -> Vec<u64> {
        version
            .split('.')
            .map(|part| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0))
            .collect()
    };
    numbers(have) >= numbers(want)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_number_by_number() {
        assert!(is_at_least("0.13.0", "0.13.0"));
        assert!(is_at_least("0.13.1", "0.13.0"));
        assert!(is_at_least("1.0", "0.13.0"));
        assert!(is_at_least("1.26.8", "1.21"));
        assert!(!is_at_least("0.9.20", "0.13.0"));
        assert!(!is_at_least("1.19rc1", "1.21"));
    }
}
