//! What the agent says of its work: logs, metrics, Events, readiness.

use std::io::Write as _;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::Agent;
use super::engine::SyncReport;
use crate::metrics::{FamilyLabel, ProblemLabels};
use crate::model::{Family, Object, Problem};

/// Failures of one synchronization that are logged one by one.
const LOGGED: usize = 10;

impl Agent {
    /// Logs and counts a problem and passes it on to become an Event.
    pub(super) fn report(&self, problem: Problem) {
        warn!(object = %problem.object, reason = problem.reason, "{}", problem.message);
        let labels = ProblemLabels { kind: problem.object.kind, reason: problem.reason };
        self.metrics.bad_objects.get_or_create(&labels).inc();
        if self.problems.send(problem).is_err() {
            debug!("objects from files get no Events");
        }
    }

    pub(super) fn note_sync(&self, report: &SyncReport, took: Duration) {
        if report.services == 0 && report.writes == 0 {
            return;
        }
        self.metrics.sync_seconds.observe(took.as_secs_f64());
        self.metrics.writes.inc_by(report.writes as u64);
        let (services, writes, failures) = (report.services, report.writes, report.failures.len());
        if self.ready {
            debug!(services, writes, failures, ?took, "tables written");
        } else {
            info!(services, writes, failures, ?took, "tables written for the first time");
        }
    }

    pub(super) fn report_failures(&self, report: &SyncReport) {
        for (index, (family, port, failure)) in report.failures.iter().enumerate() {
            self.metrics.failures.get_or_create(&label(*family)).inc();
            let port = port.as_ref().map(ToString::to_string);
            if index < LOGGED {
                error!(%family, port, "{failure}; trying again in {:?}", self.pause);
            }
        }
        if report.failures.len() > LOGGED {
            error!("{} more failures of this kind", report.failures.len() - LOGGED);
        }
    }

    pub(super) fn note_state(&self, report: &SyncReport) {
        let (services, slices) = self.engine.model().sizes();
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.services.set(count(services));
        self.metrics.slices.set(count(slices));
        let (v4, v6) = self.engine.families();
        for (family, (services, backends)) in [(Family::V4, v4.planner().used()), (Family::V6, v6.planner().used())] {
            self.metrics.service_numbers.get_or_create(&label(family)).set(count(services));
            self.metrics.backend_numbers.get_or_create(&label(family)).set(count(backends));
        }
        if report.failures.is_empty() {
            let now = k8s_openapi::jiff::Timestamp::now();
            self.metrics.last_sync.set(now.as_duration().as_secs_f64());
        }
        let eligible = self.engine.model().node().map_or(!self.needs_node, |node| !node.leaving);
        self.health.set_node_eligible(eligible);
    }

    /// Time from a change of endpoints to its tables. With a failure nobody knows which are written.
    pub(super) fn note_latency(&self, report: &SyncReport) {
        if report.failures.is_empty() {
            for time in &report.change_times {
                // A clock ahead of this node's gives no time that could be counted.
                if let Ok(latency) = time.elapsed() {
                    self.metrics.programming_seconds.observe(latency.as_secs_f64());
                }
            }
        }
    }

    pub(super) fn report_rivals(&self, report: &SyncReport) {
        for (port, rival) in &report.rivals {
            let object = Object {
                api_version: "v1",
                kind: "Service",
                namespace: port.service.namespace.clone(),
                name: port.service.name.clone(),
                uid: "".into(),
            };
            let message = format!(
                "{port} wants an address and port that {rival} has as well: a cluster IP goes before other \
                 addresses, then the name that comes first"
            );
            self.report(Problem { object, reason: "AddressTaken", message });
        }
    }

    pub(super) fn tell_ready(&self) {
        let mut stdout = std::io::stdout();
        if let Err(error) = writeln!(stdout, "ready").and_then(|()| stdout.flush()) {
            warn!(%error, "nobody reads stdout");
        }
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            warn!(%error, "cannot tell the service manager that the agent is ready");
        }
        info!(after = ?self.started.elapsed(), "ready: all Services are in the kernel");
    }
}

pub(super) fn label(family: Family) -> FamilyLabel {
    FamilyLabel { ip_family: family.to_string() }
}
