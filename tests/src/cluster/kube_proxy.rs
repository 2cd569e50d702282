//! The real kube-proxy on a node.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;

use super::{LabCluster, daemon::Daemon};
use crate::net::{Client, Families, Netns};

/// Its mode, as `--proxy-mode` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Rules of nftables.
    Nftables,
    /// Rules of iptables.
    Iptables,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// Where it shows its metrics, on the node's loopback address.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);

/// How long until the first rules are in the kernel; those of ten thousand Services take most of it.
const READY_WITHIN: Duration = Duration::from_mins(10);

/// A kube-proxy that runs. Dropping it kills it; its rules stay.
#[derive(Debug)]
pub(crate) struct KubeProxy {
    daemon: Daemon,
    netns: Netns,
    name: String,
}

impl KubeProxy {
    /// Starts it on a node and waits until it has written all rules of both families. `flags` are further ones.
    pub(crate) async fn start(
        cluster: &LabCluster,
        node: u8,
        mode: Mode,
        flags: &[String],
        logs: &Path,
    ) -> Result<Self> {
        let node = cluster.lab().node(node);
        let mut command = command(cluster, node.netns());
        command.args([
            format!("--proxy-mode={}", mode.name()),
            format!("--kubeconfig={}", cluster.plane().kube_proxy_kubeconfig().display()),
            format!("--hostname-override={}", node.name()),
            "--detect-local-mode=ClusterCIDR".to_owned(),
            format!("--cluster-cidr={}", Families::Both.cluster_cidr()),
            // The size of conntrack is the machine's, which all nodes of the lab share.
            "--conntrack-max-per-core=0".to_owned(),
            "--bind-address-hard-fail".to_owned(),
            "--oom-score-adj=0".to_owned(),
            // Means nftables too.
            "--iptables-min-sync-period=0s".to_owned(),
            "-v=2".to_owned(),
        ]);
        command.args(flags);
        let name = format!("kube-proxy-{}", node.name());
        let daemon = Daemon::start(&name, command, logs)?;
        let mut proxy = Self { daemon, netns: node.netns().clone(), name };
        proxy.wait_until_written().await?;
        Ok(proxy)
    }

    /// Both families have a time of their last write, and no change waits for one.
    async fn wait_until_written(&mut self) -> Result<()> {
        let client = Client::new(&self.netns, Duration::from_secs(5));
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            self.check()?;
            let metrics = client.get(METRICS, "/metrics").await.map(|(_status, body)| body).unwrap_or_default();
            if ["IPv4", "IPv6"].into_iter().all(|family| is_written(&metrics, family)) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{} has not written its rules within {READY_WITHIN:?}. The end of its log:\n{}",
                self.name,
                self.daemon.last_lines()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// An error with the end of its log when it has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.daemon.check()
    }

    /// Asks it to end and waits until it has. Its rules stay.
    pub(crate) fn terminate(self) -> Result<()> {
        self.daemon.terminate()
    }

    /// Takes the rules of all modes away from a node on which none runs.
    pub(crate) fn clean_up(cluster: &LabCluster, node: u8) -> Result<()> {
        let node = cluster.lab().node(node);
        let mut command = command(cluster, node.netns());
        command.args(["--cleanup", "--oom-score-adj=0"]).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("start kube-proxy --cleanup in {}", node.name()))?;
        ensure!(
            output.status.success(),
            "kube-proxy --cleanup in {}: {}",
            node.name(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

/// kube-proxy of the binary that holds it, with nothing of this process's environment but the way to `nft` and
/// `iptables`.
fn command(cluster: &LabCluster, node: &Netns) -> Command {
    let mut command = node.command(cluster.plane().binary());
    command.arg("kube-proxy").env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// Whether kube-proxy's metrics say that a family's rules have been written.
fn is_written(metrics: &str, family: &str) -> bool {
    let name = format!("kubeproxy_sync_proxy_rules_last_timestamp_seconds{{ip_family=\"{family}\"}} ");
    metrics.lines().filter_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok()).any(|time| time > 0.0)
}

#[cfg(test)]
mod tests {
    use super::is_written;

    #[test]
    fn rules_are_written_once_there_is_a_time_for_the_family() {
        let metrics = "# TYPE kubeproxy_sync_proxy_rules_last_timestamp_seconds gauge\n\
                       kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} 1.79e+09\n\
                       kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"} 0\n";
        assert!(is_written(metrics, "IPv4"));
        assert!(!is_written(metrics, "IPv6"));
    }
}
