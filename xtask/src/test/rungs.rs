//! The rungs of the ladder: which files belong to each, and what each needs.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::{repository, setup::items::Need};

/// The rungs, from cheap to dear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Rung {
    /// Tests beside the code, properties, documentation examples, the rules of the repository.
    Unit,
    /// Single packets, on the host and through the kernel object.
    Packet,
    /// Objects in, tables out; fake, faulty and real maps.
    Script,
    /// Every program of the kernel object loads, at which cost.
    Verifier,
    /// Real traffic between network namespaces.
    Netns,
    /// A real Kubernetes control plane.
    Cluster,
}

impl Rung {
    pub(crate) const ALL: [Self; 6] =
        [Self::Unit, Self::Packet, Self::Script, Self::Verifier, Self::Netns, Self::Cluster];

    /// How the names of its files in tests/tests begin.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Packet => "packet",
            Self::Script => "script",
            Self::Verifier => "verifier",
            Self::Netns => "netns",
            Self::Cluster => "cluster",
        }
    }

    pub(crate) fn needs_root(self) -> bool {
        self != Self::Unit
    }

    fn needs(self) -> &'static [Need] {
        match self {
            Self::Unit => &[],
            Self::Packet | Self::Script | Self::Verifier => &[Need::KernelObject],
            Self::Netns => &[Need::KernelObject, Need::Network],
            Self::Cluster => &[Need::KernelObject, Need::Network, Need::Cluster],
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.prefix())
    }
}

/// What `rungs` need together.
pub(crate) fn needs(rungs: &[Rung]) -> Vec<Need> {
    let mut needs: Vec<Need> = Vec::new();
    for need in rungs.iter().flat_map(|rung| rung.needs()) {
        if !needs.contains(need) {
            needs.push(*need);
        }
    }
    needs
}

/// The integration tests of the repository, by rung.
pub(crate) struct Files(BTreeMap<Rung, Vec<String>>);

impl Files {
    /// The names of the test targets of `rung`.
    pub(crate) fn of(&self, rung: Rung) -> &[String] {
        self.0.get(&rung).map_or(&[], Vec::as_slice)
    }
}

/// The file that prints what plain `cargo test` leaves out; it holds no tests.
const NOTICE: &str = "not_run_here";

/// Finds the integration tests of all packages. Those of other packages than tests/ belong to unit; one in
/// tests/ whose name begins like no rung is an error, because no rung would run it.
pub(crate) fn files() -> Result<Files> {
    let mut files = BTreeMap::<Rung, Vec<String>>::new();
    for package in ["svclb-common", "svclb-ebpf", "svclb-userspace", "xtask"] {
        let folder = repository::root().join(package).join("tests");
        if folder.is_dir() {
            files.entry(Rung::Unit).or_default().extend(targets(&folder)?);
        }
    }
    for name in targets(&repository::root().join("tests/tests"))? {
        if name == NOTICE {
            continue;
        }
        let Some(rung) = Rung::ALL.into_iter().find(|rung| name.starts_with(rung.prefix())) else {
            bail!(
                "tests/tests/{name}.rs belongs to no rung: its name must begin with one of {}",
                Rung::ALL.map(Rung::prefix).join(", ")
            );
        };
        files.entry(rung).or_default().push(name);
    }
    Ok(Files(files))
}

/// The test targets that cargo finds in `folder`: its .rs files, and its folders with a main.rs.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading the folder {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_target = path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file();
        if let (true, Some(name)) = (is_target, path.file_stem()) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_tests_belongs_to_a_rung() {
        files().expect("each file has the prefix of a rung");
    }

    #[test]
    fn needs_of_several_rungs_are_named_once() {
        assert_eq!(needs(&[Rung::Unit, Rung::Packet, Rung::Netns]), [Need::KernelObject, Need::Network]);
    }
}
