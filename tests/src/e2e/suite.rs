//! Running Kubernetes' tests of the network, and what came of it.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use anyhow::{Context, Result};
use regex::Regex;
use serde::Deserialize;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Cluster, programs::Programs};

/// What the lab cannot run, and why.
const NOT_HERE: &[(&str, &str)] = &[
    ("NetworkPolicy|Netpol", "nobody enforces network policies"),
    ("Feature:LoadBalancer", "no cloud makes load balancers"),
    ("IPerf2", "Debian's iperf prints other fields than the test reads"),
    (
        "Feature:Networking-IPv4|Feature:Networking-IPv6|Feature:Networking-DNS|Forward PTR lookup",
        "no way to the Internet",
    ),
];

/// What to run.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Tests whose name this regular expression matches.
    pub focus: String,
    /// But those whose name this one matches, beside those that cannot run here.
    pub skip: Option<String>,
    /// How many at a time.
    pub parallel: u16,
}

/// The tests that may run beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Those that leave alone what others use.
    Peaceful,
    /// Those that restart it (`[Disruptive]`), one at a time.
    Disruptive,
}

impl Part {
    /// All, in the order in which they are run.
    pub const ALL: [Self; 2] = [Self::Peaceful, Self::Disruptive];

    const fn labels(self) -> &'static str {
        match self {
            Self::Peaceful => "!Disruptive",
            Self::Disruptive => "Disruptive",
        }
    }

    const fn report(self) -> &'static str {
        match self {
            Self::Peaceful => "report.json",
            Self::Disruptive => "report-disruptive.json",
        }
    }

    const fn at_a_time(self, parallel: u16) -> u16 {
        match self {
            Self::Peaceful => parallel,
            Self::Disruptive => 1,
        }
    }
}

/// The command that runs a part of the tests. It writes a report into `folder`, for [`read`].
pub fn command(
    cluster: &Cluster,
    programs: &Programs,
    selection: &Selection,
    part: Part,
    folder: &Path,
) -> Result<Command> {
    // ginkgo takes a program for tests by the end of its name.
    let tests = folder.join("network.test");
    if !tests.exists() {
        symlink(programs.suite(), &tests).with_context(|| format!("link {}", tests.display()))?;
    }
    let mut skip: Vec<&str> = NOT_HERE.iter().map(|(tests, _)| *tests).collect();
    if !kernel_has_sctp() {
        skip.push("Feature:SCTPConnectivity");
    }
    skip.extend(selection.skip.as_deref());
    let mut command = cluster.plane().netns().command(programs.of_kubernetes("ginkgo"));
    command
        .args(["--no-color", "--timeout=6h", "--output-interceptor-mode=none", "-v"])
        .arg(format!("--procs={}", part.at_a_time(selection.parallel)))
        .arg(format!("--label-filter={}", part.labels()))
        .arg(format!("--focus={}", selection.focus))
        .arg(format!("--skip={}", skip.join("|")))
        .arg(format!("--json-report={}", part.report()))
        .arg(format!("--output-dir={}", folder.display()))
        .arg(tests)
        .arg("--")
        .args(["--provider=skeleton", "--disable-log-dump"])
        .arg(format!("--kubeconfig={}", cluster.plane().admin_kubeconfig().display()))
        .arg(format!("--kubectl-path={}", cluster.kubectl().display()))
        .arg(format!("--num-nodes={}", cluster.lab().nodes().len()))
        .arg(format!("--report-dir={}", folder.display()))
        .current_dir(folder)
        .env("HOME", folder);
    Ok(command)
}

/// The reasons for which tests are left out.
pub fn left_out() -> impl Iterator<Item = (&'static str, &'static str)> {
    let sctp = (!kernel_has_sctp()).then_some(("Feature:SCTPConnectivity", "this machine's kernel has no SCTP"));
    NOT_HERE.iter().copied().chain(sctp)
}

/// Whether processes can talk SCTP here.
fn kernel_has_sctp() -> bool {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::SCTP)).is_ok()
}

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it should.
    Passed,
    /// The test itself found that it has no place here, for this reason.
    Skipped(String),
    /// For this reason.
    Failed(String),
}

/// One test that was selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its name, with those of the groups that it is in.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
}

/// Reads ginkgo's report on a part: the tests that matched `focus` and were not left out.
pub fn read(folder: &Path, part: Part, focus: &str) -> Result<Vec<Outcome>> {
    let file = folder.join(part.report());
    let text = fs::read_to_string(&file)
        .with_context(|| format!("read {}: the tests ended before they wrote it", file.display()))?;
    outcomes(&text, focus).with_context(|| format!("read {}", file.display()))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

fn outcomes(report: &str, focus: &str) -> Result<Vec<Outcome>> {
    let focus = Regex::new(focus).context("the focus is no regular expression")?;
    let suites: Vec<Suite> = serde_json::from_str(report)?;
    let specs = suites.into_iter().filter_map(|suite| suite.spec_reports).flatten();
    Ok(specs
        .filter_map(|spec| {
            let mut name = spec.container_hierarchy_texts.unwrap_or_default();
            // What is done before and after all tests has no name. It counts when it fails.
            name.push(if spec.leaf_node_text.is_empty() { spec.leaf_node_type.clone() } else { spec.leaf_node_text });
            let name = name.join(" ");
            let is_test = spec.leaf_node_type == "It";
            let message = spec.failure.map(|failure| failure.message).unwrap_or_default();
            let verdict = match spec.state.as_str() {
                "passed" if is_test => Verdict::Passed,
                // Without a reason: it was not selected.
                "skipped" | "pending" if message.is_empty() || !focus.is_match(&name) => return None,
                "skipped" => Verdict::Skipped(message),
                "passed" => return None,
                state => Verdict::Failed(if message.is_empty() { state.to_owned() } else { message }),
            };
            Some(Outcome { name, verdict })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_ran_or_skipped_themselves_are_read_and_others_are_not() {
        let spec = |kind: &str, name: &str, state: &str, message: &str| {
            serde_json::json!({
                "ContainerHierarchyTexts": ["Services"], "LeafNodeType": kind, "LeafNodeText": name,
                "State": state, "Failure": {"Message": message},
            })
        };
        let specs = [
            spec("It", "a", "passed", ""),
            spec("It", "b", "failed", "no answer"),
            spec("It", "c", "skipped", ""),
            spec("It", "d", "skipped", "needs three zones"),
            spec("SynchronizedBeforeSuite", "", "passed", ""),
            spec("SynchronizedBeforeSuite", "", "panicked", ""),
        ];
        let report = serde_json::json!([{"SpecReports": specs}]).to_string();
        let read = outcomes(&report, "Services").expect("a report");
        let outcome = |name: &str, verdict| Outcome { name: format!("Services {name}"), verdict };
        assert_eq!(
            read,
            [
                outcome("a", Verdict::Passed),
                outcome("b", Verdict::Failed("no answer".to_owned())),
                outcome("d", Verdict::Skipped("needs three zones".to_owned())),
                outcome("SynchronizedBeforeSuite", Verdict::Failed("panicked".to_owned())),
            ]
        );
    }
}
