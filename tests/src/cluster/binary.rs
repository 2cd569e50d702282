//! Builds the control plane's binary from the Go module in `tests/cluster`, and other programs from Go modules of
//! this repository.
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

use anyhow::{Context, Result, bail, ensure};

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
    GoBuild {
        what: "the control plane",
        module: Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster"),
        packages: &["."],
        options: &["-ldflags", &linker_flags()],
        takes: "10 to 15 minutes",
    }
    .output("kube")
}

/// Programs made of a Go module of this repository.
pub(crate) struct GoBuild<'a> {
    /// What is built, for people.
    pub(crate) what: &'a str,
    /// The folder of the module.
    pub(crate) module: PathBuf,
    /// The packages: one gives a file, several a folder with a file for each.
    pub(crate) packages: &'a [&'a str],
    /// Options of `go build`; with `-test` a package's tests are built instead.
    pub(crate) options: &'a [&'a str],
    /// How long the first build takes on two cores, for people.
    pub(crate) takes: &'a str,
}

/// Asks for the tests of a package.
pub(crate) const TESTS: &str = "-test";

impl GoBuild<'_> {
    /// The file or folder below `target/cluster`, named after `name` and what goes into it. It is built if it is not
    /// there.
    pub(crate) fn output(&self, name: &str) -> Result<PathBuf> {
        let folder = folder()?;
        let output = folder.join(format!("{name}-{:016x}", self.hash_of_inputs()?));
        if output.exists() {
            return Ok(output);
        }
        let lock = fs::File::create(folder.join("lock")).context("open the lock of target/cluster")?;
        lock.lock().context("wait for the lock of target/cluster")?;
        if !output.exists() {
            self.build(&output)?;
        }
        Ok(output)
    }

    /// A hash of everything that the output is made of. It may differ between Rust releases, whose cost is a
    /// build from Go's cache.
    fn hash_of_inputs(&self) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        for path in sources(&self.module)? {
            fs::read(&path).with_context(|| format!("read {}", path.display()))?.hash(&mut hasher);
        }
        (self.packages, self.options).hash(&mut hasher);
        Ok(hasher.finish())
    }

    /// Builds `output`. It appears whole or not at all.
    fn build(&self, output: &Path) -> Result<()> {
        let packages = self.count_packages()?;
        say(&format!(
            "building {} (Kubernetes {KUBERNETES}, {packages} Go packages) into {}; \
             the first build takes {} on two cores, later ones seconds",
            self.what,
            output.display(),
            self.takes
        ));
        let unfinished = output.with_extension("part");
        let started = Instant::now();
        let mut command = go_command()?;
        command.current_dir(&self.module);
        if self.options.contains(&TESTS) {
            command.args(["test", "-c"]);
        } else {
            command.arg("build");
        }
        command.args(["-v", "-trimpath", "-buildvcs=false"]);
        command.args(self.options.iter().filter(|option| **option != TESTS)).arg("-o").arg(&unfinished);
        if self.packages.len() > 1 {
            fs::create_dir_all(&unfinished).with_context(|| format!("make {}", unfinished.display()))?;
        }
        let mut child = command.args(self.packages).stderr(Stdio::piped()).spawn().context("start Go's compiler")?;
        let lines = child.stderr.take().context("the output of Go's compiler is not piped")?;
        let last_lines = follow(lines, packages, started);
        let status = child.wait().context("wait for Go's compiler")?;
        if !status.success() {
            bail!("building {} in {} failed ({status}):\n{}", self.what, self.module.display(), last_lines.join("\n"));
        }
        fs::rename(&unfinished, output).with_context(|| format!("put {} in its place", output.display()))?;
        say(&format!("{}: built, in {}", self.what, minutes(started.elapsed())));
        Ok(())
    }

    /// How many packages it consists of. This also downloads the modules.
    fn count_packages(&self) -> Result<usize> {
        say(&format!("looking for the Go modules of {} (the first time they are downloaded)", self.what));
        let mut command = go_command()?;
        command.current_dir(&self.module).args(["list", "-deps"]);
        if self.options.contains(&TESTS) {
            command.arg(TESTS);
        }
        let output = command.args(self.packages).output().context("start `go list`")?;
        if !output.status.success() {
            bail!("`go list -deps` in {} failed:\n{}", self.module.display(), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().count())
    }
}

/// The folder of a module that another one needs, as Go keeps it.
pub(crate) fn module_folder(module: &Path, name: &str) -> Result<PathBuf> {
    let output = go_command()?
        .current_dir(module)
        .args(["list", "-m", "-f", "{{.Dir}}", name])
        .output()
        .context("start `go list`")?;
    ensure!(output.status.success(), "`go list -m {name}` failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// The files of a module, in a fixed order.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
        if path.is_dir() {
            found.append(&mut sources(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The folder below the target folder of this workspace for all that a control plane needs.
pub(crate) fn folder() -> Result<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let folder = target.join("cluster");
    fs::create_dir_all(&folder)
        .and_then(|()| folder.canonicalize())
        .with_context(|| format!("make the folder {}", folder.display()))
}

/// Without a version of its own a program calls itself v0.0.0, and kubectl refuses to compare versions.
pub(crate) fn linker_flags() -> String {
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
pub(crate) fn say(line: &str) {
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
    fn the_same_sources_give_the_same_name_and_other_options_another() {
        let module = || Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster");
        let hash = |options: &[&str]| {
            let build = GoBuild { what: "", module: module(), packages: &["."], options, takes: "" };
            build.hash_of_inputs().expect("sources are there")
        };
        assert_eq!(hash(&["-a"]), hash(&["-a"]));
        assert_ne!(hash(&["-a"]), hash(&["-b"]));
    }
}
