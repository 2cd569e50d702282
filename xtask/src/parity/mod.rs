//! `cargo xtask parity`: every scenario once, against svclb and against the real kube-proxy.

use anyhow::{Context, Result, bail};
use svclb_tests::{
    cluster::binary,
    net,
    parity::{self, Options, Scenario, Subject, catalogue},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Outcome, process, progress::Progress, repository, setup, setup::items::Need};

mod document;
mod table;

/// Run the same scenarios against svclb and against the real kube-proxy, on one real API server.
///
/// Three nodes, their pods and a client outside are network namespaces of this machine; the subjects serve them one
/// after the other. Ends with 1 when svclb fails a scenario (where svclb does not take part: when kube-proxy does).
/// Where kube-proxy is known to do otherwise than a scenario asks for, it says so with the reason. Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Who is to serve.
    #[arg(long, value_enum, default_value_t)]
    subject: Who,
    /// Only scenarios whose name, or the name of a test of Kubernetes for which they stand, contains this text.
    #[arg(long, value_name = "TEXT")]
    scenario: Option<String>,
    /// List the scenarios and the tests of Kubernetes for which there is none, and run nothing.
    #[arg(long)]
    list: bool,
    /// How the result is shown.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    /// Write docs/conformance.md from this run, which must be one of all scenarios against all subjects.
    #[arg(long)]
    write: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Who {
    /// svclb, built from this source.
    #[default]
    Svclb,
    /// kube-proxy in its mode nftables.
    KubeProxyNftables,
    /// kube-proxy in its mode iptables.
    KubeProxyIptables,
    /// One after the other.
    All,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Table,
    /// One JSON object.
    Json,
}

impl Who {
    fn subjects(self) -> Vec<Subject> {
        match self {
            Self::Svclb => vec![Subject::Svclb],
            Self::KubeProxyNftables => vec![Subject::KubeProxyNftables],
            Self::KubeProxyIptables => vec![Subject::KubeProxyIptables],
            Self::All => Subject::ALL.into(),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let scenarios = parity::selected(args.scenario.as_deref());
    if args.list {
        list(&scenarios);
        return Ok(Outcome::Done);
    }
    if args.write && (args.scenario.is_some() || args.subject != Who::All) {
        bail!("--write takes a run of all scenarios against all subjects: `cargo xtask parity --subject all --write`");
    }
    if !process::is_root() {
        bail!("network namespaces and BPF programs need root: run it again as root");
    }
    setup::ensure(&[Need::KernelObject, Need::Network, Need::Cluster])?;
    eprintln!("building svclb and the control plane ...");
    net::agent_binary()?;
    binary::kube_binary()?;

    let logs = repository::target().join("logs/parity");
    let options = Options { subjects: args.subject.subjects(), scenarios, logs: logs.clone() };
    let progress = (args.output == Output::Table).then(|| Progress::start("parity"));
    let said = |line: &str| match &progress {
        Some(progress) if line.contains("FAILED") => progress.line(line),
        Some(progress) => progress.now(line),
        None => eprintln!("{line}"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            biased;
            _ = interrupted.recv() => bail!("interrupted"),
            _ = terminated.recv() => bail!("terminated"),
            report = parity::run(&options, said) => report,
        }
    });
    let report = report.with_context(|| format!("the subjects' logs are in {}", logs.display()))?;
    if let Some(progress) = progress {
        progress.end(&format!("done; the subjects' logs are in {}", logs.display()));
    }
    if args.write {
        document::write(&report)?;
    }
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => println!("{}", table::text(&report)),
    }
    Ok(if report.is_good() { Outcome::Done } else { Outcome::Failed })
}

/// The scenarios, and what is not covered.
fn list(scenarios: &[&'static Scenario]) {
    for scenario in scenarios {
        println!("{}", scenario.name);
        let cases: Vec<String> = scenario.cases().map(|case| case.to_string()).collect();
        println!("    cases: {}", cases.join(", "));
        for test in scenario.upstream {
            println!("    for {test}");
        }
        for known in scenario.differs {
            println!("    {} differs: {}", known.subject, known.reason);
        }
    }
    println!("\n{}", table::coverage(catalogue::without_scenario().map(|test| test.name)));
}
