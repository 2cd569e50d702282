//! /healthz and /livez, with kube-proxy's meaning.
//!
//! A family is healthy unless a change has waited for more than [`STUCK`] to get into its tables. /livez
//! says just that; /healthz says 503 as well while the node must not get traffic from load balancers: it
//! is being removed, or the API server does not know it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use k8s_openapi::jiff::Timestamp;
use prometheus_client::metrics::{counter::Counter, family};
use serde::Serialize;

use crate::metrics::kube_proxy::CodeLabel;
use crate::model::Family;

/// How long a change may wait.
pub const STUCK: Duration = Duration::from_mins(1);

/// Answers by their status.
type Counters = family::Family<CodeLabel, Counter>;

/// What the agent tells and the server reads.
#[derive(Clone, Default, Debug)]
pub struct Health(Arc<Mutex<Status>>);

#[derive(Debug)]
struct Status {
    families: [FamilyStatus; 2],
    node_eligible: bool,
}

#[derive(Default, Debug)]
struct FamilyStatus {
    /// When the oldest change that is not in the tables was heard of.
    waiting_since: Option<Instant>,
    /// When the tables were last complete.
    updated: Option<Timestamp>,
}

impl FamilyStatus {
    /// Until the tables were complete once the agent is only starting.
    fn is_stuck(&self, now: Instant) -> bool {
        self.updated.is_some() && self.waiting_since.is_some_and(|since| now.duration_since(since) > STUCK)
    }
}

impl Default for Status {
    fn default() -> Self {
        Self { families: Default::default(), node_eligible: true }
    }
}

/// The answer of both paths; `nodeEligible` only in /healthz.
///
/// `lastUpdated` is now where the answer is 200, else the last time that the tables of a family were complete; in the
/// status of a family it is always that family's.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Answer {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: BTreeMap<String, FamilyAnswer>,
}

#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct FamilyAnswer {
    last_updated: String,
    healthy: bool,
}

impl Health {
    /// A change was heard of.
    pub fn waiting(&self, now: Instant) {
        self.with(|status| {
            for family in &mut status.families {
                family.waiting_since.get_or_insert(now);
            }
        });
    }

    /// A family's tables are complete, or not.
    pub fn synced(&self, family: Family, complete: bool) {
        if complete {
            self.completed(family, Timestamp::now());
        }
    }

    fn completed(&self, family: Family, at: Timestamp) {
        let status = FamilyStatus { waiting_since: None, updated: Some(at) };
        self.with(|all| all.families[family.index()] = status);
    }

    /// Whether load balancers may send traffic to this node.
    pub fn set_node_eligible(&self, eligible: bool) {
        self.with(|status| status.node_eligible = eligible);
    }

    /// Whether the tables keep up with what is heard, in both families. The node's state has no say in it.
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.with(|status| status.families.iter().all(|family| !family.is_stuck(now)))
    }

    fn with<R>(&self, change: impl FnOnce(&mut Status) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn answer(&self, about_node: bool, now: Instant, current: Timestamp) -> (StatusCode, Answer) {
        self.with(|status| {
            let mut families = BTreeMap::new();
            let mut healthy = true;
            for (family, own) in Family::ALL.into_iter().zip(&status.families) {
                let Some(updated) = own.updated else { continue };
                let own_healthy = !own.is_stuck(now);
                healthy &= own_healthy;
                let answer = FamilyAnswer { last_updated: updated.to_string(), healthy: own_healthy };
                families.insert(family.to_string(), answer);
            }
            let good = healthy && (!about_node || status.node_eligible);
            let latest = status.families.iter().filter_map(|own| own.updated).max();
            let last_updated = latest.filter(|_| !good).unwrap_or(current);
            let answer = Answer {
                last_updated: last_updated.to_string(),
                current_time: current.to_string(),
                node_eligible: about_node.then_some(status.node_eligible),
                healthy,
                status: families,
            };
            (if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, answer)
        })
    }

    fn response(&self, about_node: bool, counters: &Counters) -> impl IntoResponse + use<> {
        let (status, answer) = self.answer(about_node, Instant::now(), Timestamp::now());
        counters.get_or_create(&CodeLabel { code: status.as_u16() }).inc();
        (status, [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")], Json(answer))
    }

    /// The server's paths. Their answers are counted.
    pub fn router(self, healthz: Counters, livez: Counters) -> axum::Router {
        let healthz = get(|State(health): State<Self>| async move { health.response(true, &healthz) });
        let livez = get(|State(health): State<Self>| async move { health.response(false, &livez) });
        axum::Router::new().route("/healthz", healthz).route("/livez", livez).with_state(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_leaves_is_alive_but_not_healthy() {
        let health = Health::default();
        let (now, current) = (Instant::now(), Timestamp::now());
        assert_eq!(health.answer(true, now, current).0, StatusCode::OK, "before the first sync");
        health.synced(Family::V4, true);
        health.set_node_eligible(false);
        let (status, answer) = health.answer(true, now, current);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(health.answer(false, now, current).0, StatusCode::OK);
        assert!(health.is_healthy(now));
        let text = serde_json::to_value(answer).expect("it is JSON");
        assert_eq!((&text["nodeEligible"], &text["healthy"]), (&false.into(), &true.into()));
        assert_eq!(text["status"]["IPv4"]["healthy"], true);
        assert!(text["status"].get("IPv6").is_none());
    }

    /// What happens, seconds that then pass, the status that is answered, whether IPv4 and IPv6 are healthy, and the
    /// second of `lastUpdated`. Seconds are those of kube-proxy's own test, whose changes may wait for 10.
    const STEPS: &[(&str, u64, u16, &str, u64)] = &[
        ("", 0, 200, "", 0),
        ("4 updated, 6 updated", 25, 200, "4 6", 25),
        ("4 queued", 25, 503, "6", 0),
        ("4 updated, 6 updated", 5, 200, "4 6", 55),
        ("6 queued", 25, 503, "4", 50),
        ("4 queued", 25, 503, "", 50),
        ("4 updated", 0, 503, "4", 105),
        ("6 updated", 0, 200, "4 6", 105),
        ("4 queued, 6 queued", 5, 200, "4 6", 110),
        ("4 queued, 6 queued", 4, 200, "4 6", 114),
        ("4 queued, 6 queued", 2, 503, "", 105),
    ];

    #[test]
    fn answers_are_kube_proxys_at_every_step_of_its_test() {
        let scale = STUCK.as_secs() / 10;
        let health = Health::default();
        let (start, epoch) = (Instant::now(), Timestamp::now());
        let mut seconds = 0;
        let at = |seconds: u64| start + Duration::from_secs(seconds * scale);
        let time = |seconds: u64| epoch + Duration::from_secs(seconds * scale);
        for (number, (events, pause, code, healthy, updated)) in STEPS.iter().enumerate() {
            for event in events.split(", ").filter(|event| !event.is_empty()) {
                let family = if event.starts_with('4') { Family::V4 } else { Family::V6 };
                if event.ends_with("updated") {
                    health.completed(family, time(seconds));
                } else {
                    health.with(|all| *all.families[family.index()].waiting_since.get_or_insert(at(seconds)));
                }
            }
            seconds += pause;
            for about_node in [true, false] {
                let (status, answer) = health.answer(about_node, at(seconds), time(seconds));
                assert_eq!(status.as_u16(), *code, "step {number}");
                assert_eq!(answer.healthy, *code == 200, "step {number}");
                let of: Vec<&str> =
                    answer.status.iter().filter(|(_, own)| own.healthy).map(|(family, _)| &family[3..]).collect();
                assert_eq!(of.join(" "), *healthy, "step {number}");
                assert_eq!(answer.last_updated, time(*updated).to_string(), "step {number}");
            }
        }
    }

    #[test]
    fn a_change_that_waits_for_more_than_a_minute_is_not_healthy() {
        let health = Health::default();
        let (now, current) = (Instant::now(), Timestamp::now());
        health.waiting(now);
        let late = now + STUCK + Duration::from_secs(1);
        assert!(health.is_healthy(late), "before the first sync");
        health.synced(Family::V4, true);
        health.waiting(now);
        health.waiting(late);
        assert!(health.is_healthy(now + STUCK));
        assert!(!health.is_healthy(late));
        let (status, answer) = health.answer(false, late, current);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(!answer.healthy && !answer.status["IPv4"].healthy);
        health.synced(Family::V4, true);
        assert!(health.is_healthy(late));
    }
}
