//! /metrics, /metrics/slis, /configz and /proxyMode. Metrics under svclb's own names are here, those under kube-proxy's in
//! [`kube_proxy`].

pub mod kube_proxy;
pub mod slis;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use serde_json::json;
use svclb_common::verdict;

use crate::model;
use kube_proxy::KubeProxy;
use slis::Slis;

/// Label of metrics about a family.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct FamilyLabel {
    /// IPv4 or IPv6.
    pub ip_family: String,
}

impl From<model::Family> for FamilyLabel {
    fn from(family: model::Family) -> Self {
        Self { ip_family: family.to_string() }
    }
}

/// Labels of bad objects.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct ProblemLabels {
    /// Kind of the object.
    pub kind: &'static str,
    /// What is wrong, as one word.
    pub reason: &'static str,
}

/// Labels of the hooks at sockets.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct SocketLbLabels {
    /// Whose sockets they serve: `all` processes of the node, a `part`, `nobody_else` than the agent; or `off`.
    pub state: &'static str,
    /// The cgroup.
    pub cgroup: String,
}

/// The agent's own metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Those under kube-proxy's names.
    pub kube_proxy: KubeProxy,
    /// Time that synchronizations took, in seconds.
    pub sync_seconds: Histogram,
    /// Time from a change of endpoints, as its slice tells it, to the tables, in seconds.
    pub programming_seconds: Histogram,
    /// Writes to tables.
    pub writes: Counter,
    /// Writes that failed, and Service ports for which there was no room.
    pub failures: Family<FamilyLabel, Counter>,
    /// Services known.
    pub services: Gauge,
    /// `EndpointSlices` known.
    pub slices: Gauge,
    /// Service numbers in use.
    pub service_numbers: Family<FamilyLabel, Gauge>,
    /// Backend numbers in use.
    pub backend_numbers: Family<FamilyLabel, Gauge>,
    /// Slots in use.
    pub slots: Family<FamilyLabel, Gauge>,
    /// Unix time of the last complete synchronization, in seconds.
    pub last_sync: Gauge<f64, AtomicU64>,
    /// Times that tables were found to differ from what was written.
    pub drift: Family<FamilyLabel, Counter>,
    /// Bad objects, or bad parts of objects, that were reported.
    pub bad_objects: Family<ProblemLabels, Counter>,
    /// Addresses and ports on which load balancers are told of local endpoints.
    pub health_check_listeners: Gauge,
    /// 1 for what the hooks at sockets are.
    pub socket_lb: Family<SocketLbLabels, Gauge>,
    /// Sockets of the node's own processes that were closed, as their endpoint serves no more.
    pub sockets_closed: Counter,
    /// Devices with hooks.
    pub devices: Gauge<i64, AtomicI64>,
    /// Time from the kernel's message about a device to its hooks, in seconds.
    pub hook_seconds: Histogram,
}

impl Metrics {
    /// Metrics in a registry, the datapath's counters with them. `counters` reads COUNTERS, summed over
    /// CPUs.
    pub fn register(counters: impl CounterSource) -> (Self, Arc<Registry>) {
        let mut root = Registry::default();
        let metrics = Self {
            kube_proxy: KubeProxy::register(root.sub_registry_with_prefix("kubeproxy")),
            sync_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            programming_seconds: kube_proxy::programming_histogram(),
            writes: Counter::default(),
            failures: Family::default(),
            services: Gauge::default(),
            slices: Gauge::default(),
            service_numbers: Family::default(),
            backend_numbers: Family::default(),
            slots: Family::default(),
            last_sync: Gauge::default(),
            drift: Family::default(),
            bad_objects: Family::default(),
            health_check_listeners: Gauge::default(),
            socket_lb: Family::default(),
            sockets_closed: Counter::default(),
            devices: Gauge::default(),
            hook_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 14)),
        };
        let registry = root.sub_registry_with_prefix("svclb");
        let all = metrics.clone();
        registry.register("sync_duration_seconds", "Time that synchronizations took", all.sync_seconds);
        registry.register(
            "network_programming_duration_seconds",
            "Time from a change of endpoints to the tables",
            all.programming_seconds,
        );
        registry.register("table_writes", "Writes to tables", all.writes);
        registry.register("table_failures", "Writes that failed and ports without room", all.failures);
        registry.register("services", "Services known", all.services);
        registry.register("endpoint_slices", "EndpointSlices known", all.slices);
        registry.register("service_numbers", "Service numbers in use", all.service_numbers);
        registry.register("backend_numbers", "Backend numbers in use", all.backend_numbers);
        registry.register("slots", "Slots in use", all.slots);
        registry.register("last_sync_timestamp_seconds", "Time of the last complete synchronization", all.last_sync);
        registry.register("table_drift", "Times that tables differed from what was written", all.drift);
        registry.register("bad_objects", "Bad objects or parts of objects", all.bad_objects);
        registry.register(
            "health_check_listeners",
            "Addresses and health check ports that are listened on",
            all.health_check_listeners,
        );
        registry.register("socket_lb", "Which processes of the node are served, by which cgroup", all.socket_lb);
        registry.register(
            "sockets_closed",
            "Sockets of the node's own processes that were closed, as their endpoint serves no more",
            all.sockets_closed,
        );
        registry.register("devices", "Devices with hooks", all.devices);
        registry.register("hook_duration_seconds", "Time from news of a device to its hooks", all.hook_seconds);
        registry.register_collector(Box::new(PacketCounters(counters)));
        (metrics, Arc::new(root))
    }
}

/// Something that has the datapath's counters.
pub trait CounterSource: Send + Sync + 'static {
    /// The value of each counter, summed over CPUs; none if it cannot be read.
    fn read(&self, counter: verdict::Counter) -> Option<u64>;
}

struct PacketCounters<S>(S);

impl<S> fmt::Debug for PacketCounters<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PacketCounters")
    }
}

impl<S: CounterSource> Collector for PacketCounters<S> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let zero = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor(
            "packets",
            "Packets and events that the datapath counts",
            None,
            zero.metric_type(),
        )?;
        for counter in verdict::Counter::ALL {
            if let Some(value) = self.0.read(*counter) {
                let labels = [("counter", counter.label())];
                ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// The server's paths. `options` are those in force.
pub fn router(registry: Arc<Registry>, options: &serde_json::Value) -> axum::Router {
    let configz = Json(json!({ "svclb": options }));
    let slis = Slis::default();
    let of_slis = Arc::new(slis.registry());
    let metrics = get(move || async move { encoded(&registry) });
    let indicators = get(move || async move { encoded(&of_slis) });
    // As with kube-proxy, this one only says that the server is there.
    let healthz = get(move || async move {
        slis.observe("ping", "healthz", true);
        "ok"
    });
    let mode = get(|| async { "svclb" });
    axum::Router::new()
        .route("/metrics", metrics)
        .route("/metrics/slis", indicators)
        .route("/configz", get(|| async { configz }))
        .route("/proxyMode", mode)
        .route("/healthz", healthz)
}

/// All metrics of a registry.
fn encoded(registry: &Registry) -> Response {
    let mut body = String::new();
    match text::encode(&mut body, registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
