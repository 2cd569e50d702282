//! What the agent says of its work: logs, metrics, Events, readiness.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, error, info, warn};

use super::Agent;
use super::engine::SyncReport;
use crate::metrics::kube_proxy::PolicyLabels;
use crate::metrics::{FamilyLabel, ProblemLabels};
use crate::model::{Family, Notice, Object, Problem};

/// Failures of one synchronization that are logged one by one.
const LOGGED: usize = 10;

impl Agent {
    /// Logs and counts a problem and passes it on to become an Event.
    pub(super) fn report(&self, problem: Problem) {
        warn!(object = %problem.object, reason = problem.reason, "{}", problem.message);
        let labels = ProblemLabels { kind: problem.object.kind, reason: problem.reason };
        self.metrics.bad_objects.get_or_create(&labels).inc();
        self.notices.send(problem.into());
    }

    pub(super) fn note_sync(&self, report: &SyncReport, took: Duration) {
        if report.services == 0 && report.writes == 0 {
            return;
        }
        self.metrics.sync_seconds.observe(took.as_secs_f64());
        for family in Family::ALL {
            self.metrics.kube_proxy.sync_seconds.get_or_create(&label(family)).observe(took.as_secs_f64());
        }
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
        for (family, (services, backends, slots)) in
            [(Family::V4, v4.planner().used()), (Family::V6, v6.planner().used())]
        {
            self.metrics.service_numbers.get_or_create(&label(family)).set(count(services));
            self.metrics.backend_numbers.get_or_create(&label(family)).set(count(backends));
            self.metrics.slots.get_or_create(&label(family)).set(count(slots));
        }
        if report.failures.is_empty() {
            self.metrics.last_sync.set(unix_seconds());
        }
        let lacking = [(Family::V4, v4.no_local_endpoints()), (Family::V6, v6.no_local_endpoints())];
        for (family, ports) in lacking {
            for (traffic_policy, ports) in ["internal", "external"].into_iter().zip(ports) {
                let labels = PolicyLabels { ip_family: family.to_string(), traffic_policy };
                self.metrics.kube_proxy.no_local_endpoints.get_or_create(&labels).set(count(ports));
            }
        }
        self.metrics.kube_proxy.endpoint_changes_pending.set(0);
        self.metrics.kube_proxy.service_changes_pending.set(0);
        let eligible = self.engine.model().node().map_or(!self.needs_node, |node| !node.leaving);
        self.health.set_node_eligible(eligible);
    }

    /// Time from a change of endpoints to its tables. With a failure nobody knows which are written.
    pub(super) fn note_latency(&self, report: &SyncReport) {
        if report.failures.is_empty() {
            let now = SystemTime::now();
            for (family, time) in &report.change_times {
                if let Some(latency) = latency(*time, self.started_at, now) {
                    self.metrics.programming_seconds.observe(latency.as_secs_f64());
                    let of_family = self.metrics.kube_proxy.programming_seconds.get_or_create(&label(*family));
                    of_family.observe(latency.as_secs_f64());
                }
            }
        }
    }

    pub(super) fn report_rivals(&self, report: &SyncReport) {
        for (port, rival) in &report.rivals {
            let object = Object::service(&port.service);
            let message = format!(
                "{port} wants an address and port that {rival} has as well: a cluster IP goes before other \
                 addresses, then the name that comes first"
            );
            self.report(Problem { object, reason: "AddressTaken", message });
        }
    }

    /// External IPs that the operator does not admit, once while a Service has them.
    pub(super) fn report_not_admitted(&self, report: &SyncReport) {
        for (service, addresses) in &report.not_admitted {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let message = format!(
                "externalIPs: {} not within --external-ip-cidrs of the agent: not served",
                addresses.join(", ")
            );
            self.report(Problem { object: Object::service(service), reason: "ExternalIPNotAdmitted", message });
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

/// Where notices go to become Events.
#[derive(Clone)]
pub(super) struct Notices(pub(super) UnboundedSender<Notice>);

impl Notices {
    pub(super) fn send(&self, notice: Notice) {
        if self.0.send(notice).is_err() {
            debug!("objects from files get no Events");
        }
    }

    /// The agent has begun its work on this node.
    pub(super) fn starting(&self, node: &str) {
        let message = format!("svclb {} leads to the Services of this node", env!("CARGO_PKG_VERSION"));
        let object = Object::node(node);
        self.send(Notice { object, warns: false, reason: "Starting", action: ACTION, message });
    }

    /// A server of the agent cannot listen, for now.
    pub(super) fn no_server(&self, node: &str, reason: &'static str, message: String) {
        self.send(Notice { object: Object::node(node), warns: true, reason, action: ACTION, message });
    }
}

/// What the agent is doing when it says something of its node.
const ACTION: &str = "StartSvclb";

pub(super) fn label(family: Family) -> FamilyLabel {
    family.into()
}

/// Now, in seconds since 1970.
pub(super) fn unix_seconds() -> f64 {
    k8s_openapi::jiff::Timestamp::now().as_duration().as_secs_f64()
}

/// How long a change took to get into the tables. None for one from before the agent's start, which it did
/// not wait for, and for one from the future: somebody's clock is ahead.
fn latency(changed: SystemTime, started: SystemTime, now: SystemTime) -> Option<Duration> {
    (changed >= started).then(|| now.duration_since(changed).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_agent_was_there_for_has_a_latency() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(latency(at(10), at(10), at(13)), Some(Duration::from_secs(3)));
        assert_eq!(latency(at(9), at(10), at(13)), None);
        assert_eq!(latency(at(14), at(10), at(13)), None);
    }
}
