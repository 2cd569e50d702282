//! Kernels for the emulator: Debian's packages, unpacked below target/vm/ and kept there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{process, progress::Progress};

/// The kernels that svclb must work on besides the one it is developed on.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Version {
    /// Debian 12's own: no TCX, so clsact; calls under a lock are refused.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's: TCX.
    #[value(name = "6.12")]
    V6_12,
}

impl Version {
    /// The package that depends on the newest build of this kernel. The flavour for clouds has all that
    /// is needed and is a third of the size.
    fn meta_package(self) -> &'static str {
        match self {
            Self::V6_1 => "linux-image-cloud-amd64",
            Self::V6_12 => "linux-image-6.12-cloud-amd64",
        }
    }

    /// How the name of the package with this kernel begins.
    fn package_prefix(self) -> &'static str {
        match self {
            Self::V6_1 => "linux-image-6.1.",
            Self::V6_12 => "linux-image-6.12.",
        }
    }
}

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// The file to boot.
    pub(crate) image: PathBuf,
    /// The folder with its modules and their index.
    pub(crate) modules: PathBuf,
}

/// Downloads and unpacks the newest build of `version` unless that was done before.
pub(crate) fn fetch(version: Version, folder: &Path, log: &Path) -> Result<Kernel> {
    let package = package(version)?;
    let release = package.trim_start_matches("linux-image-");
    let root = folder.join(&package);
    let kernel = Kernel {
        image: root.join("boot").join(format!("vmlinuz-{release}")),
        modules: root.join("lib/modules").join(release),
    };
    if kernel.modules.join("modules.dep").is_file() {
        return Ok(kernel);
    }
    let progress = Progress::start(format!("fetching {package}"));
    fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
    process::run(Command::new("apt-get").current_dir(&root).args(["download", "-q", &package]), log, |line| {
        progress.now(line);
    })?;
    let archive = fs::read_dir(&root)
        .with_context(|| format!("reading {}", root.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|file| file.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get left no package in {}", root.display()))?;
    progress.now("unpacking");
    process::run(Command::new("dpkg").arg("-x").arg(&archive).arg(&root), log, |line| progress.now(line))?;
    process::run(Command::new("depmod").arg("-b").arg(&root).arg(release), log, |line| progress.now(line))?;
    fs::remove_file(&archive).with_context(|| format!("removing {}", archive.display()))?;
    progress.end("done");
    Ok(kernel)
}

/// The name of the package with the newest build of `version`.
fn package(version: Version) -> Result<String> {
    let meta = version.meta_package();
    let depends = process::answer("apt-cache", ["depends", meta])
        .with_context(|| format!("apt does not know {meta}; `apt-get update`, or this is no Debian 12 on amd64"))?;
    match depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(version.package_prefix()))
    {
        Some(name) => Ok(name.to_owned()),
        None => bail!(
            "{meta} of this system does not bring {}*; kernels come from Debian 12 and its security updates",
            version.package_prefix()
        ),
    }
}
