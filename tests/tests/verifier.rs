//! The kernel takes every program of the kernel object, at the cost that was last reviewed.
#![cfg(feature = "kernel")]

use std::{fs, path::Path};

use svclb_tests::verifier::{self, Report};

#[test]
fn every_program_loads_at_the_reviewed_cost() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verifier_report.txt");
    let reviewed = fs::read_to_string(&file).unwrap_or_else(|error| panic!("reading {}: {error}", file.display()));
    let reviewed = verifier::parse(&reviewed).expect("the report can be read");
    let now = Report::of_this_kernel().unwrap_or_else(|error| panic!("{error:#}"));
    // On a kernel that nobody has reviewed yet, that everything loads is what can be said.
    if let Some(reviewed) = reviewed.iter().find(|report| report.kernel == now.kernel) {
        let changes = now.compare(reviewed);
        assert!(
            changes.is_empty(),
            "the programs changed; if that is meant, `cargo xtask verifier --write` and review the file:\n{}",
            changes.join("\n")
        );
    }
}
