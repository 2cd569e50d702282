//! Scripts as files.

use std::fs;
use std::path::{Path, PathBuf};

use super::Files;
use super::world::Settings;

/// A script.
pub(crate) struct Script {
    path: PathBuf,
    /// Settings of the node.
    pub(crate) settings: Settings,
    head: String,
    sections: Vec<(String, String)>,
}

/// A step: the files as they then are, and what the tables must show.
pub(crate) struct Step {
    /// All files of the folder.
    pub(crate) files: Files,
    /// The expected text.
    pub(crate) tables: String,
    section: usize,
}

/// All scripts, by name.
pub(crate) fn all() -> Vec<Script> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let entries = fs::read_dir(&folder).expect("there is a folder of scripts");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txtar"));
    assert!(!paths.is_empty(), "no scripts in {}", folder.display());
    paths.into_iter().map(Script::read).collect()
}

impl Script {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).expect("a script can be read");
        let mut head = String::new();
        let mut sections: Vec<(String, String)> = Vec::new();
        for line in text.lines() {
            let name = line.strip_prefix("-- ").and_then(|rest| rest.strip_suffix(" --"));
            match (name, sections.last_mut()) {
                (Some(name), _) => sections.push((name.to_owned(), String::new())),
                (None, Some((_, body))) => body.extend([line, "\n"]),
                (None, None) => head.extend([line, "\n"]),
            }
        }
        Self { settings: Settings::parse(&head), path, head, sections }
    }

    /// Name for messages.
    pub(crate) fn name(&self) -> String {
        self.path.file_stem().expect("a file has a name").to_string_lossy().into_owned()
    }

    /// The steps.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut files = Files::new();
        let mut steps = Vec::new();
        for (section, (name, body)) in self.sections.iter().enumerate() {
            if name == "tables" {
                steps.push(Step { files: files.clone(), tables: body.clone(), section });
            } else if let Some(file) = name.strip_prefix("remove ") {
                assert!(files.remove(file).is_some(), "{}: no file {file} to remove", self.name());
            } else {
                files.insert(name.clone(), body.clone());
            }
        }
        assert!(!steps.is_empty(), "{} looks at no tables", self.name());
        steps
    }

    /// Compares what the tables show with what they must show, or, if the environment asks for it, takes
    /// it as what they must show from now on.
    #[track_caller]
    pub(crate) fn check(&mut self, step: &Step, shown: &str, where_: &str) {
        if shown == step.tables {
            return;
        }
        if std::env::var_os("SVCLB_UPDATE_SCRIPTS").is_some() {
            shown.clone_into(&mut self.sections[step.section].1);
            let mut text = self.head.clone();
            for (name, body) in &self.sections {
                text.extend(["-- ", name, " --\n", body]);
            }
            fs::write(&self.path, text).expect("a script can be written");
            return;
        }
        let name = self.name();
        let number = self.sections[..step.section].iter().filter(|(name, _)| name == "tables").count() + 1;
        panic!("{name}, tables number {number}, {where_}\n--- must be\n{}--- is\n{shown}", step.tables);
    }
}
