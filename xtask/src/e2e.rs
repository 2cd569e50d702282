//! `cargo xtask e2e`: Kubernetes' own tests of the network, on real kubelets.

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context, Result, bail, ensure};
use svclb_tests::{
    e2e::{
        Cluster, Options, Subject,
        images::Images,
        programs::Programs,
        suite::{self, Outcome, Part, Selection, Verdict},
    },
    net,
};
use svclb_userspace::model::Family;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    signal::unix::{SignalKind, signal},
};

use crate::{Outcome as End, process, progress::Progress, repository, setup, setup::items::Need};

/// Run Kubernetes' own end-to-end tests of the network against svclb, with real kubelets and containers.
///
/// The nodes are namespaces of this machine with kubelet and containerd in them; svclb is the DaemonSet of deploy/. The
/// first time everything is built from source, which takes half an hour on two cores; all tests take about half an hour
/// more. Ends with 1 when a test fails. Needs root, and control groups of version 1 beside an empty version 2.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Who is to serve.
    #[arg(long, value_enum, default_value_t)]
    subject: Who,
    /// Only tests whose name this regular expression matches.
    #[arg(long, value_name = "REGEX", default_value = r"\[sig-network\]")]
    focus: String,
    /// Leave out tests whose name this regular expression matches.
    #[arg(long, value_name = "REGEX")]
    skip: Option<String>,
    /// How many tests run at a time.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    parallel: u16,
    /// How many nodes there are: some tests of topology take six, two in each zone.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    nodes: u8,
    /// The family of the cluster's first addresses, in which most tests run. Nodes and pods have both.
    #[arg(long, value_enum, default_value_t)]
    family: First,
    /// Keep the cluster after the tests, until Ctrl-C, and say how it is reached.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Who {
    /// svclb, built from this source.
    #[default]
    Svclb,
    /// kube-proxy in its mode nftables.
    KubeProxyNftables,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum First {
    #[default]
    Ipv4,
    Ipv6,
}

impl From<First> for Family {
    fn from(first: First) -> Self {
        match first {
            First::Ipv4 => Self::V4,
            First::Ipv6 => Self::V6,
        }
    }
}

impl From<Who> for Subject {
    fn from(who: Who) -> Self {
        match who {
            Who::Svclb => Self::Svclb,
            Who::KubeProxyNftables => Self::KubeProxyNftables,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<End> {
    if !process::is_root() {
        bail!("containers, namespaces and BPF programs need root: run it again as root");
    }
    setup::ensure(&[Need::KernelObject, Need::Network, Need::Cluster, Need::EndToEnd])?;
    eprintln!("building svclb and the cluster's programs ...");
    let agent = net::agent_binary()?;
    let programs = Programs::build()?;
    let logs = repository::target().join("logs/e2e");
    clear(&logs)?;

    let progress = Progress::start("end-to-end tests");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcomes = (|| {
        progress.now("making images");
        let images = Images::make(&programs, &agent)?;
        let options = Options { nodes: args.nodes, subject: args.subject.into(), family: args.family.into() };
        let cluster = Cluster::start(options, &programs, &images, &logs, |line| progress.line(line))?;
        let outcomes = runtime.block_on(tests(args, &cluster, &programs, &logs, &progress))?;
        if args.keep {
            progress.line(&format!(
                "the cluster runs until Ctrl-C:\n  nsenter --net={} {} --kubeconfig {} get pods -A",
                cluster.plane().netns().path(),
                cluster.kubectl().display(),
                cluster.plane().admin_kubeconfig().display()
            ));
            runtime.block_on(interruption())?;
        }
        Ok::<_, anyhow::Error>(outcomes)
    })()
    .with_context(|| format!("all logs are in {}", logs.display()))?;
    progress.end(&format!("done; all logs are in {}", logs.display()));
    Ok(show(&outcomes))
}

/// An empty folder.
fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))
}

async fn interruption() -> Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    Ok(())
}

/// Runs the tests; what they print goes to `tests.log`.
async fn tests(
    args: &Args,
    cluster: &Cluster,
    programs: &Programs,
    logs: &Path,
    progress: &Progress,
) -> Result<Vec<Outcome>> {
    let selection = Selection { focus: args.focus.clone(), skip: args.skip.clone(), parallel: args.parallel };
    let log = logs.join("tests.log");
    let mut file = fs::File::create(&log).with_context(|| format!("make {}", log.display()))?;
    let mut counts = Counts::default();
    let mut outcomes = Vec::new();
    for part in Part::ALL {
        let command = suite::command(cluster, programs, &selection, part, logs)?;
        follow(command, &mut file, &mut counts, progress).await?;
        outcomes.extend(suite::read(logs, part, &args.focus)?);
    }
    ensure!(!outcomes.is_empty(), "no test has a name that `{}` matches", args.focus);
    Ok(outcomes)
}

/// Runs ginkgo to its end. Its exit code says no more than its report.
async fn follow(
    mut command: std::process::Command,
    log: &mut fs::File,
    counts: &mut Counts,
    progress: &Progress,
) -> Result<()> {
    let errors = log.try_clone().context("share the tests' log")?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    let mut child = Command::from(command).kill_on_drop(true).spawn().context("start ginkgo")?;
    let mut lines = BufReader::new(child.stdout.take().context("ginkgo has no output")?).lines();
    let interrupted = interruption();
    tokio::pin!(interrupted);
    loop {
        tokio::select! {
            biased;
            _ = &mut interrupted => bail!("interrupted after {counts}"),
            line = lines.next_line() => {
                let Some(line) = line.context("read what the tests print")? else { break };
                std::io::Write::write_all(log, format!("{line}\n").as_bytes()).context("write the tests' log")?;
                if let Some(said) = counts.take(&line) {
                    progress.line(&said);
                }
                progress.now(&counts.to_string());
            }
        }
    }
    child.wait().await.context("wait for ginkgo")?;
    Ok(())
}

/// What ginkgo has said so far: a line that begins with a dot ends a test, and the next one is the test's name.
#[derive(Default)]
struct Counts {
    passed: u32,
    failed: u32,
    /// How many there will be, of the parts that have begun.
    chosen: u32,
    named_next: bool,
}

/// Tests between two lines that say how many are done.
const LINE: u32 = 20;

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { passed, failed, chosen, .. } = self;
        write!(f, "{passed} passed, {failed} failed of {chosen}")
    }
}

impl Counts {
    /// Takes in a line; gives what is to be told at once.
    fn take(&mut self, line: &str) -> Option<String> {
        if let Some(number) =
            line.strip_prefix("Will run ").and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok())
        {
            self.chosen += number;
        }
        if std::mem::take(&mut self.named_next) {
            return Some(format!("FAILED {line}"));
        }
        let how = line.strip_prefix('•')?;
        if how.contains("FAIL") || how.contains("PANIC") || how.contains("TIMEDOUT") || how.contains("INTERRUPTED") {
            self.failed += 1;
            self.named_next = true;
        } else {
            self.passed += 1;
        }
        (!self.named_next && (self.passed + self.failed).is_multiple_of(LINE)).then(|| self.to_string())
    }
}

/// Prints what did not pass, and the counts.
fn show(outcomes: &[Outcome]) -> End {
    let mut counts = [0_u32; 3];
    for outcome in outcomes {
        let (place, line) = match &outcome.verdict {
            Verdict::Passed => (0, None),
            Verdict::Failed(why) => (1, Some(format!("FAILED   {}\n         {why}", outcome.name))),
            Verdict::Skipped(why) => (2, Some(format!("skipped  {}\n         {why}", outcome.name))),
        };
        counts[place] += 1;
        if let Some(line) = line {
            println!("{line}");
        }
    }
    for (tests, why) in suite::left_out() {
        println!("left out {tests}: {why}");
    }
    let [passed, failed, skipped] = counts;
    println!("{passed} passed, {failed} failed, {skipped} skipped by themselves");
    if failed == 0 { End::Done } else { End::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_counted_and_failures_are_told_with_the_name_that_follows() {
        let mut counts = Counts::default();
        assert_eq!(counts.take("• [12.345 seconds]"), None);
        assert_eq!(counts.take("[sig-network] Services should work"), None);
        assert_eq!(counts.take("• [FAILED] [2.1 seconds]"), None);
        assert_eq!(
            counts.take("[sig-network] Services should fail"),
            Some("FAILED [sig-network] Services should fail".into())
        );
        assert_eq!((counts.passed, counts.failed), (1, 1));
    }

    #[test]
    fn how_many_are_done_is_told_now_and_then() {
        let mut counts = Counts::default();
        assert_eq!(counts.take("Will run 167 of 1001 specs"), None);
        let told: Vec<_> = (0..LINE).filter_map(|_| counts.take("• [1.0 seconds]")).collect();
        assert_eq!(told, ["20 passed, 0 failed of 167"]);
    }
}
