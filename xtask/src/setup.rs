//! `cargo xtask setup`: what this machine lacks to build, run and test svclb, and its installation.
//!
//! What there is to need is the table of [`items`]. The other commands call [`ensure`] for what they
//! need. It installs what this machine never had, so that one command is enough on a new machine; what
//! setup once found here and what has gone since was taken away by somebody, so that [`ensure`] names it
//! and stops, and only `cargo xtask setup` itself puts it back.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    Outcome, process,
    progress::Progress,
    repository,
    setup::items::{Install, Item, Need},
};

mod bpf_linker;
mod go;
pub(crate) mod items;

/// Install what this machine lacks to build, run and test svclb.
///
/// Says what is missing, what it is needed for and what will be done, then does it with apt-get, cargo
/// and pip. On systems without apt-get, and for ordinary users, it prints the list to install by hand
/// instead and ends with 1. What is there already is left alone.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only report what is there and what is missing; ends with 1 if something is missing.
    #[arg(long)]
    check: bool,
    /// Also the programs that `cargo xtask vm` needs to start other kernels.
    #[arg(long)]
    vm: bool,
    /// Also the programs that `cargo xtask e2e` needs to start containers.
    #[arg(long)]
    e2e: bool,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let mut needs = vec![Need::KernelObject, Need::Network, Need::Cluster];
    if args.vm {
        needs.push(Need::Vm);
    }
    if args.e2e {
        needs.push(Need::EndToEnd);
    }
    if args.check {
        return Ok(check(&needs));
    }
    let missing = missing(&needs);
    if missing.is_empty() {
        remember(&needs)?;
        println!("nothing is missing");
        return Ok(Outcome::Done);
    }
    install(&missing)?;
    remember(&needs)?;
    Ok(Outcome::Done)
}

/// Makes sure that everything behind `needs` is there, installing what this machine never had.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing = missing(needs);
    let known = remembered()?;
    let gone: Vec<_> = missing.iter().filter(|(item, _)| known.contains(item.name)).collect();
    if !gone.is_empty() {
        bail!(
            "missing on this machine, though it was here at the last setup:\n{}\n`cargo xtask setup` puts it back",
            gone.iter()
                .map(|(item, reason)| format!("  {}: {reason}; needed for {}; {}", item.name, item.why, item.by_hand()))
                .collect::<Vec<_>>()
                .join("\n")
        );
    }
    if !missing.is_empty() {
        install(&missing)?;
    }
    remember(needs)
}

/// The items of `needs` that are missing, each with the reason why it counts as missing.
fn missing(needs: &[Need]) -> Vec<(&'static Item, String)> {
    items::of(needs).filter_map(|item| (item.find)().err().map(|reason| (item, reason))).collect()
}

fn check(needs: &[Need]) -> Outcome {
    let mut outcome = Outcome::Done;
    for &need in needs {
        println!("{}:", need.title());
        for item in items::of(&[need]) {
            match (item.find)() {
                Ok(found) => println!("  found    {:<28} {found}", item.name),
                Err(reason) => {
                    outcome = Outcome::Failed;
                    println!("  MISSING  {:<28} {reason}", item.name);
                    println!("           for {}; {}", item.why, item.by_hand());
                }
            }
        }
    }
    if outcome == Outcome::Failed {
        println!("`cargo xtask setup` as root installs what is missing");
    }
    outcome
}

/// Says what is missing and what will be done, then does it, and looks again.
fn install(missing: &[(&'static Item, String)]) -> Result<()> {
    println!("missing on this machine:");
    for (item, reason) in missing {
        println!("  {:<28} {reason}; needed for {}", item.name, item.why);
    }
    if process::on_path("apt-get").is_none() {
        bail!("there is no apt-get here, so install by hand:\n{}", by_hand(missing));
    }
    let packages = packages(missing);
    if !packages.is_empty() && !process::is_root() {
        bail!(
            "only root can install packages. Run `cargo xtask setup` as root, or have installed by hand:\n{}",
            by_hand(missing)
        );
    }
    println!("what will be done now:");
    if !packages.is_empty() {
        println!("  apt-get install --no-install-recommends {}", packages.join(" "));
    }
    for (item, _) in missing {
        if let Some(step) = item.install.step() {
            println!("  {step}");
        }
    }
    let log = repository::log_file("setup")?;
    if !packages.is_empty() {
        install_packages(&packages, &log)?;
    }
    for (item, _) in missing {
        match item.install {
            Install::Packages(_) | Install::BpfCompiler => {}
            Install::BpfLinker => bpf_linker::install(&log)?,
            Install::Go => go::install(&log)?,
        }
    }
    let still: Vec<_> = missing
        .iter()
        .filter_map(|(item, _)| (item.find)().err().map(|reason| format!("  {}: {reason}", item.name)))
        .collect();
    if !still.is_empty() {
        bail!("still missing after the installation:\n{}\nwhat was done is in {}", still.join("\n"), log.display());
    }
    Ok(())
}

fn by_hand(missing: &[(&'static Item, String)]) -> String {
    missing.iter().map(|(item, _)| format!("  {}: {}", item.name, item.by_hand())).collect::<Vec<_>>().join("\n")
}

fn packages(missing: &[(&'static Item, String)]) -> Vec<&'static str> {
    let all: BTreeSet<_> = missing.iter().flat_map(|(item, _)| item.install.packages()).copied().collect();
    all.into_iter().collect()
}

fn install_packages(packages: &[&str], log: &std::path::Path) -> Result<()> {
    let progress = Progress::start(format!("installing {} Debian packages", packages.len()));
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    process::run(apt().args(["update", "-q"]), log, |line| progress.now(line))?;
    process::run(
        apt().args(["install", "-q", "-y", "--reinstall", "--no-install-recommends"]).args(packages),
        log,
        |line| progress.now(line),
    )?;
    progress.end("done");
    Ok(())
}

/// The file with the names of all items that were once found on this machine.
fn memory() -> Result<PathBuf> {
    Ok(repository::home()?.join("setup"))
}

fn remembered() -> Result<BTreeSet<String>> {
    let file = memory()?;
    match fs::read_to_string(&file) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

fn remember(needs: &[Need]) -> Result<()> {
    let mut names = remembered()?;
    let before = names.len();
    names.extend(items::of(needs).map(|item| item.name.to_owned()));
    if names.len() == before {
        return Ok(());
    }
    let file = memory()?;
    fs::create_dir_all(repository::home()?)
        .and_then(|()| fs::write(&file, names.into_iter().collect::<Vec<_>>().join("\n")))
        .with_context(|| format!("writing {}", file.display()))
}
