//! Child processes: finding programs, asking them something, and following their output.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};

/// The program `name` as the shell would find it, or nothing.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What `program args` prints on stdout, trimmed; nothing if it cannot be run or fails.
pub(crate) fn answer(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs `command` to its end. What it prints on stdout and stderr goes in its order to the file `log`
/// (which is extended) and line by line to `each`.
pub(crate) fn follow(
    command: &mut Command,
    log: &Path,
    mut each: impl FnMut(&str),
) -> Result<ExitStatus> {
    let shown = shown(command);
    let mut log_file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("opening the log {}", log.display()))?;
    writeln!(log_file, "$ {shown}").with_context(|| format!("writing {}", log.display()))?;
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    let errors = writer.try_clone().context("making a pipe")?;
    let child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(errors)
        .spawn();
    // The command holds the writing ends; the reader sees the end only when they are gone.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.with_context(|| format!("starting `{shown}`"))?;
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .with_context(|| format!("reading from `{shown}`"))?
        > 0
    {
        log_file
            .write_all(&line)
            .with_context(|| format!("writing {}", log.display()))?;
        each(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    child
        .wait()
        .with_context(|| format!("waiting for `{shown}`"))
}

/// Runs `command` as [`follow`] does, and makes a failure an error that shows the end of its output.
pub(crate) fn run(command: &mut Command, log: &Path, mut each: impl FnMut(&str)) -> Result<()> {
    const SHOWN_LINES: usize = 40;
    let mut last = std::collections::VecDeque::new();
    let status = follow(command, log, |line| {
        if last.len() == SHOWN_LINES {
            last.pop_front();
        }
        last.push_back(line.to_owned());
        each(line);
    })?;
    if !status.success() {
        bail!(
            "`{}` ended with {status}; its last lines:\n{}\nall of its output: {}",
            shown(command),
            Vec::from(last).join("\n"),
            log.display()
        );
    }
    Ok(())
}

/// `command` as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| {
        value.map(|value| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()))
    });
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            if word.contains([' ', '*', '$', '\'']) {
                format!("'{}'", word.replace('\'', r"'\''"))
            } else {
                word.into_owned()
            }
        });
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

/// Whether this process may do everything on this machine.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
