//! Rules about documents and about what is committed.

use std::{collections::BTreeSet, path::Path};

use crate::tidy::files::{File, Files};

/// Hosts of registries, in two parts so that this list does not find itself.
const REGISTRIES: [(&str, &str); 10] = [
    ("crates", ".io"),
    ("proxy.golang", ".org"),
    ("sum.golang", ".org"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("npmjs", ".org"),
    ("deb.debian", ".org"),
    ("registry.k8s", ".io"),
    ("ghcr", ".io"),
    ("docker", ".io"),
];

/// Every machine has its own mirrors; the tools know their registries by themselves.
pub(crate) fn registries(files: &Files) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.all() {
        // Written by the tools themselves.
        if file.path == "Cargo.lock" || file.path.ends_with("go.sum") {
            continue;
        }
        let Some(text) = file.text() else { continue };
        for (name, domain) in REGISTRIES {
            if text.contains(&format!("{name}{domain}")) {
                complaints.push(format!("{} names {name}{domain}", file.path));
            }
        }
    }
    complaints
}

/// Links of the documents to files and headings of this repository.
pub(crate) fn links(files: &Files) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.markdown() {
        for link in file.text().map(links_of).unwrap_or_default() {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { file.path.clone() } else { resolve(file.folder(), path) };
            if !files.has(&target) {
                complaints.push(format!("{} links to {link}, which is not there", file.path));
            } else if !heading.is_empty() && !has_heading(files, &target, heading) {
                complaints.push(format!("{} links to {link}, a heading that is not there", file.path));
            }
        }
    }
    complaints
}

/// The targets of all links of a document, outside of its code.
fn links_of(text: &str) -> Vec<String> {
    prose(text).split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.trim().to_owned())).collect()
}

/// A document without its code blocks and inline code.
fn prose(text: &str) -> String {
    let mut in_block = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    prose
}

/// `path`, seen from `folder`, from the top of the repository.
fn resolve(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

fn has_heading(files: &Files, path: &str, heading: &str) -> bool {
    files.all().find(|file| file.path == path).and_then(File::text).is_some_and(|text| {
        text.lines().filter(|line| line.starts_with('#')).any(|line| slug(line.trim_start_matches('#')) == heading)
    })
}

/// The anchor that a heading gets.
fn slug(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|character| match character {
            ' ' => Some('-'),
            '-' | '_' => Some(character),
            _ => character.is_alphanumeric().then_some(character),
        })
        .collect()
}

/// The document with the map of the code.
const CODE_MAP: &str = "ARCHITECTURE.md";

/// Paths that the code map names exist, and it names every folder of source.
pub(crate) fn code_map(files: &Files) -> Vec<String> {
    let Some(text) = files.all().find(|file| file.path == CODE_MAP).and_then(File::text) else {
        return vec![format!("there is no {CODE_MAP}")];
    };
    let mut complaints: Vec<_> = paths_of(text)
        .into_iter()
        .filter(|path| !files.has(path))
        .map(|path| format!("{CODE_MAP} names {path}, which is not there"))
        .collect();
    let folders: BTreeSet<_> = files
        .rust()
        .map(File::folder)
        .filter(|folder| folder.split('/').any(|part| part == "src" || part == "tests"))
        .collect();
    complaints.extend(
        folders
            .into_iter()
            .filter(|folder| !text.contains(folder))
            .map(|folder| format!("{CODE_MAP} does not name the folder {folder}")),
    );
    complaints
}

/// Everything in inline code that is a path from the top of the repository: it has a `/` and begins with
/// one of the folders there. Patterns (`*`, `{`) and places in code (`::`) are no paths.
fn paths_of(text: &str) -> BTreeSet<&str> {
    const TOPS: [&str; 9] = [
        "svclb-common/",
        "svclb-ebpf/",
        "svclb-userspace/",
        "tests/",
        "xtask/",
        "docs/",
        "deploy/",
        "examples/",
        ".ci/",
    ];
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter(|code| TOPS.iter().any(|top| code.starts_with(top)))
        .filter(|code| !code.contains(['*', '{', ' ', '<']) && !code.contains("::"))
        .collect()
}

/// Programs, libraries and objects come from the build, and large files do not belong here.
pub(crate) fn built_files(files: &Files) -> Vec<String> {
    const MOST_BYTES: usize = 1 << 20;
    const BUILT: [&str; 9] = ["o", "so", "a", "rlib", "rmeta", "d", "bin", "img", "profraw"];
    files
        .all()
        .filter_map(|file| {
            let extension = Path::new(&file.path)
                .extension()
                .map(|extension| extension.to_string_lossy().into_owned())
                .unwrap_or_default();
            let what = if file.bytes.starts_with(b"\x7fELF") || BUILT.contains(&extension.as_str()) {
                "is a built file"
            } else if file.path.starts_with("target/") || file.path.contains("/target/") {
                "lies in a target folder"
            } else if file.bytes.len() > MOST_BYTES {
                "is larger than 1 MiB"
            } else {
                return None;
            };
            Some(format!("{} {what}", file.path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_files_and_headings_are_followed() {
        let files = Files::given(&[
            (
                "docs/a.md",
                "[ok](../README.md) [ok](b.md#two-words) [bad](c.md) [bad](b.md#three)\n```\n[code](no.md)\n```\n`[x](y)`",
            ),
            ("docs/b.md", "# One\n## Two words\n"),
            ("README.md", ""),
        ]);
        let complaints = links(&files);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].contains("c.md"));
        assert!(complaints[1].contains("b.md#three"));
    }

    #[test]
    fn the_code_map_must_be_complete_and_true() {
        let files = Files::given(&[
            ("ARCHITECTURE.md", "`svclb-common/src/wire/` and `svclb-common/src/gone.rs` and `svclb-common::wire`"),
            ("svclb-common/src/wire/ipv4.rs", ""),
            ("svclb-common/src/select/random.rs", ""),
        ]);
        let complaints = code_map(&files);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].contains("gone.rs"));
        assert!(complaints[1].contains("svclb-common/src/select"));
    }

    #[test]
    fn built_files_are_known_by_name_and_content() {
        let files = Files::given(&[("a/svclb", "\x7fELF"), ("a/x.o", ""), ("tests/target/x", ""), ("src/main.rs", "")]);
        assert_eq!(built_files(&files).len(), 3);
    }
}
