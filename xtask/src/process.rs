//! Child processes: finding programs, asking them something, and following their output.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The program `name` as the shell would find it, or nothing.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What `program args` prints on stdout, trimmed; nothing if it cannot be run or fails.
pub(crate) fn answer(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Option<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs `command` to its end. What it prints on stdout and stderr goes in its order to the file `log`
/// (which is extended) and line by line to `each`. It and what it started are killed when it is silent
/// for longer than `longest_silence`.
pub(crate) fn follow(
    command: &mut Command,
    log: &Path,
    longest_silence: Duration,
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
    let child = command.stdin(Stdio::null()).stdout(writer).stderr(errors).spawn();
    // The command holds the writing ends; the reader sees the end only when they are gone.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.with_context(|| format!("starting `{shown}`"))?;

    let (sender, lines) = mpsc::channel();
    let listener = thread::spawn(move || send_lines(reader, &sender));
    let mut silent = false;
    loop {
        match lines.recv_timeout(longest_silence) {
            Ok(line) => {
                log_file.write_all(&line).with_context(|| format!("writing {}", log.display()))?;
                each(String::from_utf8_lossy(&line).trim_end());
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                silent = true;
                kill_tree(child.id());
                break;
            }
        }
    }
    let status = child.wait().with_context(|| format!("waiting for `{shown}`"))?;
    if silent {
        bail!(
            "`{shown}` printed nothing for {} s and was killed; its output: {}",
            longest_silence.as_secs(),
            log.display()
        );
    }
    if listener.join().is_err() {
        bail!("the thread that reads from `{shown}` panicked");
    }
    Ok(status)
}

/// Sends each line of `reader`, with its end of line, until the end of either side.
fn send_lines(reader: impl Read, sender: &mpsc::Sender<Vec<u8>>) {
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                if sender.send(line).is_err() {
                    return;
                }
            }
        }
    }
}

/// Kills the process `id` and all that descend from it, children first.
fn kill_tree(id: u32) {
    let children = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|child| parent(*child) == Some(id));
    for child in children {
        kill_tree(child);
    }
    if let Ok(id) = i32::try_from(id)
        && let Err(error) = kill(Pid::from_raw(id), Signal::SIGKILL)
    {
        eprintln!("process {id} could not be killed: {error}");
    }
}

/// The parent of the process `id`.
fn parent(id: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

/// The capabilities that loading programs and making namespaces takes and this process lacks.
pub(crate) fn lacking_capabilities() -> Vec<&'static str> {
    const NEEDED: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (39, "CAP_BPF")];
    let held = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(0);
    NEEDED.into_iter().filter(|(bit, _)| held & (1 << bit) == 0).map(|(_, name)| name).collect()
}

/// Runs `command` as [`follow`] does, and makes a failure an error that shows the end of its output.
pub(crate) fn run(command: &mut Command, log: &Path, mut each: impl FnMut(&str)) -> Result<()> {
    const SHOWN_LINES: usize = 40;
    const LONGEST_SILENCE: Duration = Duration::from_mins(15);
    let mut last = std::collections::VecDeque::new();
    let status = follow(command, log, LONGEST_SILENCE, |line| {
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
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(|word| {
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
