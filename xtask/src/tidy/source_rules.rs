//! Rules about Rust source.

use std::path::Path;

use crate::tidy::{
    files::{File, Files},
    rust_source::{code_of, has_word},
};

/// Files and folders are named after what is in them.
pub(crate) fn telling_names(files: &Files) -> Vec<String> {
    const NAMES: [&str; 7] = ["util", "utils", "misc", "common", "helper", "helpers", "stuff"];
    files
        .rust()
        .filter(|file| {
            let path = Path::new(&file.path);
            path.with_extension("").components().any(|part| NAMES.iter().any(|name| part.as_os_str() == *name))
        })
        .map(|file| format!("{} says nothing about what is in it", file.path))
        .collect()
}

/// A file that grows too long is about more than one thing.
pub(crate) fn short_files(files: &Files) -> Vec<String> {
    const MOST_LINES: usize = 600;
    files
        .rust()
        .filter_map(|file| {
            let lines = file.text()?.lines().count();
            (lines > MOST_LINES).then(|| format!("{} has {lines} lines, more than {MOST_LINES}", file.path))
        })
        .collect()
}

/// Where `unsafe` may stand, and why.
const UNSAFE: &[(&str, &str)] = &[
    ("svclb-ebpf/src/", "pointers into packets and maps are the kernel's interface"),
    ("svclb-userspace/src/bpf/pod.rs", "implements aya's Pod for one wrapper"),
    ("tests/src/net/netns.rs", "children enter a network namespace between fork and exec"),
    ("tests/src/net/bpffs.rs", "children enter a mount namespace between fork and exec"),
    ("svclb-userspace/src/bpf/sys.rs", "bpf calls that aya lacks"),
    ("svclb-userspace/src/heap.rs", "two calls of the C library that nobody wraps"),
];

/// `unsafe` is kept in few files, so that it can be read through.
pub(crate) fn unsafe_code(files: &Files) -> Vec<String> {
    files
        .rust()
        .filter(|file| !UNSAFE.iter().any(|(place, _)| file.path.starts_with(place)))
        .filter(|file| file.text().is_some_and(|text| has_word(&code_of(text), "unsafe", "")))
        .map(|file| {
            format!(
                "{} holds unsafe code; it may stand in {}",
                file.path,
                UNSAFE.iter().map(|(place, why)| format!("{place} ({why})")).collect::<Vec<_>>().join(", ")
            )
        })
        .collect()
}

/// What a developer leaves for later is not committed.
pub(crate) fn no_left_overs(files: &Files) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.rust() {
        let Some(text) = file.text() else { continue };
        let code = code_of(text);
        for word in ["todo", "unimplemented", "dbg"] {
            if has_word(&code, word, "!") {
                complaints.push(format!("{} has {word}!", file.path));
            }
        }
    }
    complaints
}

/// The agent's sources of objects are replaceable, so only one folder knows kube.
pub(crate) fn kube_imports(files: &Files) -> Vec<String> {
    files
        .rust()
        .filter(|file| {
            file.path.starts_with("svclb-userspace/src/")
                && !file.path.starts_with("svclb-userspace/src/k8s/")
                && file.path != "svclb-userspace/src/k8s.rs"
        })
        .filter(|file| {
            file.text().is_some_and(|text| {
                let code = code_of(text);
                has_word(&code, "kube", "::") || has_word(&code, "use kube", "")
            })
        })
        .map(|file| format!("{} imports kube", file.path))
        .collect()
}

/// Which part of the agent may not import which others. The stream is
/// `k8s, host -> model <- desired <- plan <- tables`; an arrow points at what is imported.
const STREAM: &[(&str, &[&str])] = &[
    ("model", &["desired", "plan", "tables", "k8s", "host", "bpf", "agent", "cli"]),
    ("desired", &["plan", "tables", "k8s", "host", "bpf", "agent", "cli"]),
    ("plan", &["tables", "k8s", "host", "bpf", "agent", "cli"]),
    ("tables", &["k8s", "host", "agent", "cli"]),
    ("k8s", &["desired", "plan", "tables", "host", "bpf", "agent", "cli"]),
    ("host", &["desired", "plan", "tables", "k8s", "agent", "cli"]),
];

/// The agent's parts import each other in one direction.
pub(crate) fn one_way_imports(files: &Files) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.rust() {
        let Some((part, forbidden)) = part_of_stream(file) else {
            continue;
        };
        let Some(text) = file.text() else { continue };
        let code = code_of(text);
        let dense: String = code.split_whitespace().collect();
        for other in forbidden {
            let named = has_word(&code, &format!("crate::{other}"), "")
                || dense.split("usecrate::{").skip(1).any(|import| {
                    let import = import.split(';').next().unwrap_or_default();
                    import.starts_with(&format!("{other}::"))
                        || import.contains(&format!(",{other}::"))
                        || import.contains(&format!(",{other},"))
                });
            if named {
                complaints.push(format!("{} of `{part}` imports `{other}`", file.path));
            }
        }
    }
    complaints
}

fn part_of_stream(file: &File) -> Option<(&'static str, &'static [&'static str])> {
    let rest = file.path.strip_prefix("svclb-userspace/src/")?;
    // Tests of a part may build what comes after it, to see that both fit.
    if rest.contains("/tests/") || rest.ends_with("/tests.rs") {
        return None;
    }
    let part = rest.split('/').next()?.trim_end_matches(".rs");
    STREAM.iter().find(|(name, _)| *name == part).map(|(name, forbidden)| (*name, *forbidden))
}

/// Tests that need root are compiled only where they can run, so that `cargo test` works for everyone.
pub(crate) fn features_of_tests(files: &Files) -> Vec<String> {
    const FEATURES: [(&str, &str); 3] = [("netns", "kernel"), ("verifier", "kernel"), ("cluster", "cluster")];
    files
        .rust()
        .filter_map(|file| {
            let name = file.path.strip_prefix("tests/tests/")?;
            let (_, feature) = FEATURES
                .iter()
                .find(|(rung, _)| name.starts_with(rung) && (!name.contains('/') || name.ends_with("/main.rs")))?;
            let line = format!("#![cfg(feature = \"{feature}\")]");
            (!file.text()?.contains(&line)).then(|| format!("{} lacks the line {line}", file.path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_against_the_stream_are_found_in_every_form() {
        for (text, complaints) in [
            ("use crate::plan::Op;", 1),
            ("use crate::{model::Service, plan::Op};", 1),
            ("use crate::{\n    plan::{self, Op},\n    ids,\n};", 1),
            ("use crate::model::Service; // not crate::plan", 0),
            ("use crate::planets::Mars;", 0),
        ] {
            let files = Files::given(&[("svclb-userspace/src/desired/frontends.rs", text)]);
            assert_eq!(one_way_imports(&files).len(), complaints, "{text}");
        }
    }

    #[test]
    fn unsafe_in_prose_is_no_unsafe_code() {
        let files = Files::given(&[
            ("xtask/src/a.rs", "//! nothing unsafe here\nconst A: &str = \"unsafe\";"),
            ("xtask/src/b.rs", "fn f() { unsafe { g() } }"),
            ("svclb-ebpf/src/packet.rs", "unsafe fn f() {}"),
        ]);
        let complaints = unsafe_code(&files);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].starts_with("xtask/src/b.rs"));
    }

    #[test]
    fn the_crate_name_svclb_common_is_no_bad_name() {
        let files = Files::given(&[
            ("svclb-common/src/hash.rs", ""),
            ("tests/src/common/x.rs", ""),
            ("xtask/src/utils.rs", ""),
        ]);
        assert_eq!(telling_names(&files).len(), 2);
    }
}
