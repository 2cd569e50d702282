//! Builds the control plane's binary from the Go module in `tests/cluster`.
//!
//! The first build compiles Kubernetes: ten minutes and more on two cores. So the binary is kept in
//! `target/cluster/` under a name that holds a hash of all that goes into it, and is built only when no
//! binary of that name is there. While it builds, progress goes to stderr, past the capture of the test
//! harness, because a test that is silent for ten minutes looks like one that hangs.

use std::{
    collections::VecDeque,
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The release of Kubernetes that `tests/cluster/go.mod` pins.
pub const KUBERNETES: &str = "v1.37.2";

/// How often the build says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(15);

/// How many of the compiler's last lines an error shows.
const LINES_SHOWN: usize = 20;

/// The path of the binary, which is built first if need be.
///
/// Threads and processes that ask at the same time wait for the one that builds.
pub fn kube_binary() -> Result<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster");
    let folder = folder()?;
    let binary = folder.join(format!("kube-{:016x}", hash_of_inputs(&sources)?));
    if binary.exists() {
        return Ok(binary);
    }
    let lock = fs::File::create(folder.join("lock")).context("open the lock of target/cluster")?;
    lock.lock().context("wait for the lock of target/cluster")?;
    if !binary.exists() {
        build(&sources, &binary)?;
    }
    Ok(binary)
}

/// The folder below the target folder of this workspace for all that a control plane needs.
pub(super) fn folder() -> Result<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let folder = target.join("cluster");
    fs::create_dir_all(&folder)
        .and_then(|()| folder.canonicalize())
        .with_context(|| format!("make the folder {}", folder.display()))
}

/// A hash of everything that the binary is made of. It may differ between Rust releases, whose cost is a
/// build from Go's cache.
fn hash_of_inputs(sources: &Path) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for name in ["go.mod", "go.sum", "main.go"] {
        let path = sources.join(name);
        fs::read(&path).with_context(|| format!("read {}", path.display()))?.hash(&mut hasher);
    }
    linker_flags().hash(&mut hasher);
    Ok(hasher.finish())
}

/// Without a version of its own the binary calls itself v0.0.0, and kubectl refuses to compare versions.
fn linker_flags() -> String {
    ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"]
        .iter()
        .fold("-s -w".to_owned(), |flags, package| flags + &format!(" -X {package}.gitVersion={KUBERNETES}"))
}

/// Go's command, from the path or from where its own packages put it.
fn go_command() -> Result<Command> {
    let on_path = env::var_os("PATH")
        .into_iter()
        .flat_map(|path| env::split_paths(&path).collect::<Vec<_>>())
        .map(|folder| folder.join("go"));
    let program =
        on_path.chain([PathBuf::from("/usr/local/go/bin/go")]).find(|candidate| candidate.is_file()).context(
            "Go is not on this machine, and the test control plane is built with it; `cargo xtask setup` installs it",
        )?;
    let mut command = Command::new(program);
    command.env("CGO_ENABLED", "0");
    Ok(command)
}

/// Builds `binary`. It appears whole or not at all.
fn build(sources: &Path, binary: &Path) -> Result<()> {
    let packages = count_packages(sources)?;
    say(&format!(
        "building the control plane (Kubernetes {KUBERNETES}, {packages} Go packages) into {}; \
         the first build takes 10 to 15 minutes on two cores, later ones seconds",
        binary.display()
    ));
    let unfinished = binary.with_extension("part");
    let started = Instant::now();
    let mut child = go_command()?
        .current_dir(sources)
        .args(["build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", &linker_flags(), "-o"])
        .arg(&unfinished)
        .arg(".")
        .stderr(Stdio::piped())
        .spawn()
        .context("start `go build`")?;
    let output = child.stderr.take().context("the output of `go build` is not piped")?;
    let last_lines = follow(output, packages, started);
    let status = child.wait().context("wait for `go build`")?;
    if !status.success() {
        bail!("`go build` in {} failed ({status}):\n{}", sources.display(), last_lines.join("\n"));
    }
    fs::rename(&unfinished, binary).with_context(|| format!("put {} in its place", binary.display()))?;
    say(&format!("the control plane is built, in {}", minutes(started.elapsed())));
    Ok(())
}

/// How many packages the binary consists of. This also downloads the modules.
fn count_packages(sources: &Path) -> Result<usize> {
    say("looking for the Go modules of the control plane (the first time they are downloaded)");
    let output = go_command()?.current_dir(sources).args(["list", "-deps", "."]).output().context("start `go list`")?;
    if !output.status.success() {
        bail!("`go list -deps` in {} failed:\n{}", sources.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().count())
}

/// Reads the names of compiled packages as `go build -v` prints them, and reports now and then. Gives back
/// the last lines.
fn follow(output: ChildStderr, packages: usize, started: Instant) -> Vec<String> {
    let mut last = VecDeque::with_capacity(LINES_SHOWN);
    let mut compiled = 0_usize;
    let mut reported = started;
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        compiled += 1;
        if last.len() == LINES_SHOWN {
            last.pop_front();
        }
        last.push_back(line);
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            say(&format!("compiled {compiled} of {packages} packages, {}", minutes(started.elapsed())));
        }
    }
    last.into()
}

/// Writes a line of progress. A stderr that is closed is no reason to stop building.
fn say(line: &str) {
    drop(writeln!(io::stderr(), "kube: {line}"));
}

/// A duration for people.
fn minutes(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{} min {:02} s", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_release_is_the_one_that_the_binary_will_name() {
        let go_mod = include_str!("../../cluster/go.mod");
        assert!(go_mod.contains(&format!("k8s.io/kubernetes {KUBERNETES}\n")));
    }

    #[test]
    fn the_same_sources_give_the_same_name() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster");
        assert_eq!(
            hash_of_inputs(&sources).expect("sources are there"),
            hash_of_inputs(&sources).expect("still there")
        );
    }
}
