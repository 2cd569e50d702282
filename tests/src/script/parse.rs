//! Scripts as files.

use std::fs;
use std::path::{Path, PathBuf};

use super::Files;
use super::world::Settings;

/// A script.
#[derive(Clone, Debug)]
pub struct Script {
    path: PathBuf,
    head: String,
    sections: Vec<(String, String)>,
}

/// What a step looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    /// The tables.
    Tables,
    /// What becomes of packets.
    Flows,
    /// The same packets as before, but for some.
    SameFlows,
}

impl Check {
    fn of(section: &str) -> Option<Self> {
        match section {
            "tables" => Some(Self::Tables),
            "flows" => Some(Self::Flows),
            "same flows" => Some(Self::SameFlows),
            _ => None,
        }
    }
}

/// A step: the node and the files as they then are, and what must be seen.
#[derive(Clone, Debug)]
pub struct Step {
    /// Settings of the node.
    pub settings: Settings,
    /// Whether this is another node than that of the step before.
    pub is_new_node: bool,
    /// All files of the folder.
    pub files: Files,
    /// What is looked at.
    pub check: Check,
    /// What must be seen.
    pub expected: String,
    section: usize,
}

/// All scripts of a folder beside the tests, by name.
///
/// # Panics
/// If there are none; so does everything here on what is no script.
pub fn all(folder: &str) -> Vec<Script> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
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
        Self { path, head, sections }
    }

    /// Name for messages.
    ///
    /// # Panics
    /// Never: files have names.
    pub fn name(&self) -> String {
        self.path.file_stem().expect("a file has a name").to_string_lossy().into_owned()
    }

    /// The same script with its text changed, settings included.
    #[must_use]
    pub fn map(&self, change: impl Fn(&str) -> String) -> Self {
        let sections = self.sections.iter().map(|(name, body)| (name.clone(), change(body)));
        Self { path: self.path.clone(), head: change(&self.head), sections: sections.collect() }
    }

    /// The settings of the node at the beginning.
    pub fn settings(&self) -> Settings {
        Settings::parse(&self.head)
    }

    /// The steps.
    ///
    /// # Panics
    /// If there are none, or a file is to be removed that is not there.
    pub fn steps(&self) -> Vec<Step> {
        let mut settings = self.settings();
        let mut files = Files::new();
        let mut steps = Vec::new();
        let mut is_new_node = true;
        for (section, (name, body)) in self.sections.iter().enumerate() {
            if let Some(check) = Check::of(name) {
                let (settings, files, expected) = (settings.clone(), files.clone(), body.clone());
                steps.push(Step { settings, is_new_node, files, check, expected, section });
                is_new_node = false;
            } else if name == "settings" {
                settings = settings.with(body);
                is_new_node = true;
            } else if let Some(file) = name.strip_prefix("remove ") {
                assert!(files.remove(file).is_some(), "{}: no file {file} to remove", self.name());
            } else {
                files.insert(name.clone(), body.clone());
            }
        }
        assert!(!steps.is_empty(), "{} looks at nothing", self.name());
        steps
    }

    /// Compares what the tables show with what they must show, or, if the environment asks for it, takes
    /// it as what they must show from now on.
    ///
    /// # Panics
    /// If they show something else.
    #[track_caller]
    pub fn check_tables(&mut self, step: &Step, shown: &str, where_: &str) {
        assert_eq!(step.check, Check::Tables, "{} looks at something else there", self.name());
        if shown == step.expected {
            return;
        }
        if std::env::var_os("SVCLB_UPDATE_SCRIPTS").is_some() {
            shown.clone_into(&mut self.sections[step.section].1);
            let mut text = self.head.clone();
            for (name, body) in &self.sections {
                text.extend(["-- ", name, " --\n", body]);
            }
            // Other tests read it meanwhile.
            let beside = self.path.with_extension("new");
            fs::write(&beside, text).expect("a script can be written");
            fs::rename(&beside, &self.path).expect("a script can be replaced");
            return;
        }
        let name = self.name();
        let number = self.sections[..step.section].iter().filter(|(name, _)| name == "tables").count() + 1;
        panic!("{name}, tables number {number}, {where_}\n--- must be\n{}--- is\n{shown}", step.expected);
    }
}
