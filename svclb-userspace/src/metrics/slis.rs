//! /metrics/slis: results of health checks under the names that all of Kubernetes' components have (KEP-3466).
//!
//! As kube-proxy's, they are about the `/healthz` of the same server, which is only a sign of life ("ping"); what the
//! tables are like is told by `/healthz` and `/livez` of the other one, and counted in `kubeproxy_proxy_healthz_total`
//! and `kubeproxy_proxy_livez_total`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Which check.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Check {
    name: &'static str,
    r#type: &'static str,
}

/// Which check, and how it ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Ended {
    name: &'static str,
    r#type: &'static str,
    status: &'static str,
}

/// Results of health checks.
#[derive(Clone, Default, Debug)]
pub struct Slis {
    last: Family<Check, Gauge>,
    all: Family<Ended, Counter>,
}

impl Slis {
    /// A registry with these alone.
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("kubernetes");
        registry.register("healthcheck", "Result of the last health check", self.last.clone());
        registry.register("healthchecks", "Results of all health checks", self.all.clone());
        registry
    }

    /// A check ended well, or not.
    pub fn observe(&self, name: &'static str, r#type: &'static str, well: bool) {
        self.last.get_or_create(&Check { name, r#type }).set(i64::from(well));
        let status = if well { "success" } else { "error" };
        self.all.get_or_create(&Ended { name, r#type, status }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_names_of_kubernetes() {
        let slis = Slis::default();
        slis.observe("ping", "healthz", false);
        slis.observe("ping", "healthz", true);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &slis.registry()).expect("memory can be written");
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(lines.contains(&r#"kubernetes_healthcheck{name="ping",type="healthz"} 1"#), "{text}");
        for status in ["success", "error"] {
            let line = format!(r#"kubernetes_healthchecks_total{{name="ping",type="healthz",status="{status}"}} 1"#);
            assert!(lines.contains(&&*line), "{text}");
        }
    }
}
