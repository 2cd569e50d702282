//! What came of a run.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{catalogue, scenario::Case, subject::Subject};

/// What came of one case with one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// The subject did what it must.
    Pass,
    /// It is known to do otherwise, and did.
    Differs {
        /// Why it does.
        reason: String,
        /// What it did.
        found: String,
    },
    /// It did otherwise.
    Fail {
        /// What it did.
        found: String,
    },
}

impl Verdict {
    /// Whether it is a failure.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Fail { .. })
    }
}

/// One case of one scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The case.
    #[serde(flatten)]
    pub case: Case,
    /// The tests of Kubernetes for which it stands.
    pub upstream: &'static [&'static str],
    /// The fields that it is about.
    pub fields: &'static [&'static str],
    /// The paths that were asked.
    pub paths: &'static [&'static str],
    /// What came of it, by subject.
    pub verdicts: BTreeMap<Subject, Verdict>,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The release of Kubernetes.
    pub kubernetes: &'static str,
    /// The kernel's release.
    pub kernel: String,
    /// Who served.
    pub subjects: Vec<Subject>,
    /// The cases, in the order of the scenarios.
    pub rows: Vec<Row>,
    /// Tests of Kubernetes that are about traffic and for which no scenario stands.
    pub without_scenario: Vec<&'static str>,
}

impl Report {
    pub(super) fn new(subjects: &[Subject], rows: Vec<Row>) -> Self {
        let kernel = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
        Self {
            kubernetes: crate::cluster::binary::KUBERNETES,
            kernel: kernel.unwrap_or_default(),
            subjects: subjects.to_owned(),
            rows,
            without_scenario: catalogue::without_scenario().map(|test| test.name).collect(),
        }
    }

    /// How many cases passed or differ as they are known to, and how many failed, of all subjects.
    pub fn counts(&self) -> (usize, usize) {
        let verdicts = self.rows.iter().flat_map(|row| row.verdicts.values());
        let (failed, passed): (Vec<_>, Vec<_>) = verdicts.partition(|verdict| verdict.is_failure());
        (passed.len(), failed.len())
    }

    /// Whether svclb did everything that it must; where it did not take part, whether the others did.
    pub fn is_good(&self) -> bool {
        let judged = |subject: Subject| subject == Subject::Svclb || !self.subjects.contains(&Subject::Svclb);
        let verdicts = self.rows.iter().flat_map(|row| &row.verdicts);
        !self.rows.is_empty()
            && !verdicts.into_iter().any(|(subject, verdict)| judged(*subject) && verdict.is_failure())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{net::Protocol, parity::Family};

    fn report(verdicts: &[(Subject, Verdict)]) -> Report {
        let row = Row {
            scenario: "a scenario",
            case: Case { family: Family::IPv4, protocol: Protocol::Tcp },
            upstream: &[],
            fields: &[],
            paths: &[],
            verdicts: verdicts.iter().cloned().collect(),
        };
        let subjects: Vec<Subject> = verdicts.iter().map(|(subject, _)| *subject).collect();
        Report::new(&subjects, vec![row])
    }

    fn fail() -> Verdict {
        Verdict::Fail { found: "no answer".to_owned() }
    }

    #[test]
    fn a_failure_of_kube_proxy_is_counted_and_judged_only_without_svclb() {
        let both = report(&[(Subject::Svclb, Verdict::Pass), (Subject::KubeProxyNftables, fail())]);
        assert_eq!(both.counts(), (1, 1));
        assert!(both.is_good());
        assert!(!report(&[(Subject::KubeProxyNftables, fail())]).is_good());
        assert!(!report(&[(Subject::Svclb, fail())]).is_good());
    }
}
