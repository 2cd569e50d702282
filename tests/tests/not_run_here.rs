//! Names what a plain `cargo test` does not run, and why: tests that need root, the kernel object or a
//! control plane are compiled only with the features that `cargo xtask test` sets.
#![expect(clippy::print_stdout, reason = "it is there to print")]

use std::{fs, path::Path};

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut lines: Vec<String> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("reading {}: {error}", folder.display()))
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(|file| reason(&file))
        .collect();
    lines.sort();
    if !lines.is_empty() {
        println!("\nnot run here; `cargo xtask test` as root runs all of it:");
        println!("{}", lines.join("\n"));
    }
}

/// The line for a file of tests that the features of this build leave out.
fn reason(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let tests = text.matches("#[test]").count() + text.matches("#[tokio::test").count();
    let needs = [
        ("kernel", cfg!(feature = "kernel"), "root and the kernel object"),
        ("cluster", cfg!(feature = "cluster"), "root, the kernel object and a Kubernetes control plane"),
    ]
    .into_iter()
    .find(|(feature, is_on, _)| !is_on && text.contains(&format!("#![cfg(feature = \"{feature}\")]")))?
    .2;
    let name = file.file_stem()?.to_string_lossy();
    Some(format!("  {name} ({tests} tests) needs {needs}"))
}
