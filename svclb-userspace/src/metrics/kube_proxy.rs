//! Metrics under kube-proxy's names and with its buckets, where they mean the same: dashboards and alarms
//! made for it go on.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::FamilyLabel;
use crate::model;

/// Histograms of each family.
pub type Histograms = Family<FamilyLabel, Histogram, fn() -> Histogram>;

/// Times of each family, in seconds since 1970.
pub type Times = Family<FamilyLabel, Gauge<f64, AtomicU64>>;

/// Labels of what is dropped for want of an endpoint on this node.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct PolicyLabels {
    /// IPv4 or IPv6.
    pub ip_family: String,
    /// internal or external.
    pub traffic_policy: &'static str,
}

/// Label of answers to questions about health.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct CodeLabel {
    /// Status of HTTP.
    pub code: u16,
}

/// kube-proxy's metrics.
#[derive(Clone, Debug)]
pub struct KubeProxy {
    /// Time that synchronizations took, in seconds. Both families are written in one: each has the whole.
    pub sync_seconds: Histograms,
    /// When a family's tables were last complete.
    pub last_sync: Times,
    /// When a change was last heard of.
    pub last_queued: Times,
    /// Changes of slices that were heard of.
    pub endpoint_changes: Counter,
    /// Those of them that are not yet taken in.
    pub endpoint_changes_pending: Gauge,
    /// Changes of Services that were heard of.
    pub service_changes: Counter,
    /// Those of them that are not yet taken in.
    pub service_changes_pending: Gauge,
    /// Time from a change of endpoints, as its slice tells it, to the tables, in seconds.
    pub programming_seconds: Histograms,
    /// Service ports of which this node drops packets: the policy is Local, and only others have endpoints.
    pub no_local_endpoints: Family<PolicyLabels, Gauge>,
    /// Answers of /healthz.
    pub healthz: Family<CodeLabel, Counter>,
    /// Answers of /livez.
    pub livez: Family<CodeLabel, Counter>,
}

impl KubeProxy {
    /// The metrics in a registry whose prefix is kube-proxy's. What is a counter gets `_total` behind its name.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            sync_seconds: Family::new_with_constructor(sync_histogram as fn() -> Histogram),
            last_sync: Family::default(),
            last_queued: Family::default(),
            endpoint_changes: Counter::default(),
            endpoint_changes_pending: Gauge::default(),
            service_changes: Counter::default(),
            service_changes_pending: Gauge::default(),
            programming_seconds: Family::new_with_constructor(programming_histogram as fn() -> Histogram),
            no_local_endpoints: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
        };
        let all = metrics.clone();
        let rules = |name: &str| format!("sync_proxy_rules_{name}");
        registry.register(rules("duration_seconds"), "Time that synchronizations took", all.sync_seconds);
        registry.register(rules("last_timestamp_seconds"), "Time of the last complete synchronization", all.last_sync);
        registry.register(rules("last_queued_timestamp_seconds"), "Time of the last change heard of", all.last_queued);
        registry.register(rules("endpoint_changes"), "Changes of EndpointSlices heard of", all.endpoint_changes);
        registry.register(
            rules("endpoint_changes_pending"),
            "Changes of EndpointSlices not yet taken in",
            all.endpoint_changes_pending,
        );
        registry.register(rules("service_changes"), "Changes of Services heard of", all.service_changes);
        registry.register(
            rules("service_changes_pending"),
            "Changes of Services not yet taken in",
            all.service_changes_pending,
        );
        registry.register(
            rules("no_local_endpoints_total"),
            "Service ports with policy Local and endpoints on other nodes alone",
            all.no_local_endpoints,
        );
        registry.register(
            "network_programming_duration_seconds",
            "Time from a change of endpoints to the tables",
            all.programming_seconds,
        );
        registry.register("proxy_healthz", "Answers of /healthz", all.healthz);
        registry.register("proxy_livez", "Answers of /livez", all.livez);
        metrics
    }

    /// Takes in that something was heard of, now or at another time in seconds since 1970.
    pub fn heard(&self, event: &model::Event, at: f64) {
        match event {
            model::Event::ServiceApplied(_) | model::Event::ServiceDeleted(_) => {
                self.service_changes.inc();
                self.service_changes_pending.inc();
            }
            model::Event::SliceApplied(_) | model::Event::SliceDeleted(_) => {
                self.endpoint_changes.inc();
                self.endpoint_changes_pending.inc();
            }
            _ => {}
        }
        for family in model::Family::ALL {
            self.last_queued.get_or_create(&family.into()).set(at);
        }
    }
}

/// 1 ms to 16 s.
fn sync_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// Seconds to a minute, then coarser to five minutes.
pub(super) fn programming_histogram() -> Histogram {
    let steps = |from: u32, to: u32, by: usize| (from..=to).step_by(by).map(f64::from);
    Histogram::new(std::iter::once(0.25).chain(steps(1, 59, 1)).chain(steps(60, 115, 5)).chain(steps(120, 300, 30)))
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;
    use crate::model::{Event, Family as Own, ServiceName, SliceName};

    fn shown(change: impl FnOnce(&KubeProxy)) -> String {
        let mut registry = Registry::with_prefix("kubeproxy");
        change(&KubeProxy::register(&mut registry));
        let mut shown = String::new();
        text::encode(&mut shown, &registry).expect("text");
        shown
    }

    #[test]
    fn names_labels_and_buckets_are_kube_proxys() {
        let shown = shown(|metrics| {
            metrics.sync_seconds.get_or_create(&Own::V4.into()).observe(0.002);
            metrics.last_sync.get_or_create(&Own::V6.into()).set(1.5);
            metrics.programming_seconds.get_or_create(&Own::V4.into()).observe(61.0);
            let labels = PolicyLabels { ip_family: Own::V4.to_string(), traffic_policy: "external" };
            metrics.no_local_endpoints.get_or_create(&labels).set(3);
            metrics.healthz.get_or_create(&CodeLabel { code: 503 }).inc();
            metrics.livez.get_or_create(&CodeLabel { code: 200 }).inc();
        });
        for line in [
            r#"kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.002",ip_family="IPv4"} 1"#,
            r#"kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="16.384",ip_family="IPv4"} 1"#,
            r#"kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv6"} 1.5"#,
            r#"kubeproxy_network_programming_duration_seconds_bucket{le="60.0",ip_family="IPv4"} 0"#,
            r#"kubeproxy_network_programming_duration_seconds_bucket{le="65.0",ip_family="IPv4"} 1"#,
            r#"kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 3"#,
            r#"kubeproxy_proxy_healthz_total{code="503"} 1"#,
            r#"kubeproxy_proxy_livez_total{code="200"} 1"#,
        ] {
            assert!(shown.lines().any(|own| own == line), "{line} is not in\n{shown}");
        }
    }

    #[test]
    fn changes_are_counted_by_kind_and_wait() {
        let service = ServiceName::new("default", "web");
        let slice = SliceName { namespace: "default".into(), name: "web-1".into() };
        let shown = shown(|metrics| {
            metrics.heard(&Event::ServiceDeleted(service), 1.0);
            metrics.heard(&Event::SliceDeleted(slice.clone()), 2.0);
            metrics.heard(&Event::SliceDeleted(slice), 3.0);
        });
        for line in [
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_service_changes_pending 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 2",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 2",
            r#"kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"} 3.0"#,
        ] {
            assert!(shown.lines().any(|own| own == line), "{line} is not in\n{shown}");
        }
    }
}
