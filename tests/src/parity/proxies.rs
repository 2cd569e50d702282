//! A subject on every node: started, restarted, stopped without a trace.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;

use super::subject::Subject;
use crate::{
    cluster::{
        LabCluster,
        kube_proxy::{KubeProxy, Mode},
    },
    net::{Agent, AgentCommand, AgentSource, Node, agent_binary},
};

/// Timeouts of connection tracking, in seconds, as the kernel has them in a new namespace: kube-proxy leaves its own.
const KERNELS_TIMEOUTS: &[(&str, &str)] = &[
    ("netfilter/nf_conntrack_tcp_timeout_established", "432000"),
    ("netfilter/nf_conntrack_tcp_timeout_close_wait", "60"),
];

/// What runs on one node.
#[derive(Debug)]
enum Proxy {
    Svclb(Box<Agent>),
    KubeProxy(KubeProxy),
}

/// A subject that serves on all nodes of a cluster.
#[derive(Debug)]
pub(super) struct Proxies {
    subject: Subject,
    on_nodes: Vec<Proxy>,
}

impl Proxies {
    /// Starts it on every node and waits until all of them are in step.
    pub(super) async fn start(cluster: &LabCluster, subject: Subject, logs: &Path) -> Result<Self> {
        let starts = cluster.lab().nodes().iter().map(|node| start(cluster, node.number(), subject, logs));
        Ok(Self { subject, on_nodes: try_join_all(starts).await? })
    }

    /// The subject.
    pub(super) fn subject(&self) -> Subject {
        self.subject
    }

    /// An error when one has ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        self.on_nodes.iter_mut().try_for_each(|proxy| match proxy {
            Proxy::Svclb(agent) => agent.check(),
            Proxy::KubeProxy(proxy) => proxy.check(),
        })
    }

    /// Ends the processes on all nodes in good order. What they wrote into the kernel stays.
    pub(super) async fn terminate(&mut self) -> Result<()> {
        for proxy in self.on_nodes.drain(..) {
            match proxy {
                Proxy::Svclb(agent) => agent.terminate().await?,
                Proxy::KubeProxy(proxy) => proxy.terminate()?,
            }
        }
        Ok(())
    }

    /// Starts them again on all nodes.
    pub(super) async fn start_again(&mut self, cluster: &LabCluster, logs: &Path) -> Result<()> {
        ensure!(self.on_nodes.is_empty(), "{} runs", self.subject);
        *self = Self::start(cluster, self.subject, logs).await?;
        Ok(())
    }

    /// Ends them and leaves clean nodes: no rule, no program, no connection that another subject would find.
    pub(super) async fn stop(mut self, cluster: &LabCluster) -> Result<()> {
        self.terminate().await?;
        for node in cluster.lab().nodes() {
            match self.subject {
                Subject::Svclb => clean_up_svclb(cluster, node)?,
                Subject::KubeProxyNftables | Subject::KubeProxyIptables => {
                    KubeProxy::clean_up(cluster, node.number())?;
                }
            }
            let flushed = node.netns().command("conntrack").arg("-F").output().context("run conntrack")?;
            ensure!(flushed.status.success(), "conntrack -F: {}", String::from_utf8_lossy(&flushed.stderr));
            node.netns().sysctls(KERNELS_TIMEOUTS)?;
        }
        Ok(())
    }
}

async fn start(cluster: &LabCluster, node: u8, subject: Subject, logs: &Path) -> Result<Proxy> {
    let proxy = match subject {
        Subject::Svclb => {
            let how = AgentCommand {
                binary: agent_binary()?,
                source: AgentSource::Kubeconfig(cluster.plane().agent_kubeconfig()),
                more: vec!["--nodeport-addresses=primary".into()],
                logs: logs.to_owned(),
            };
            Proxy::Svclb(Box::new(Agent::start(cluster.lab(), node, &how).await?))
        }
        Subject::KubeProxyNftables => {
            // Node ports on loopback addresses are served only where they are asked for by name.
            let flags = [
                "--feature-gates=KubeProxyNFTablesLocalhostNodePorts=true".to_owned(),
                "--nodeport-addresses=primary,localhost".to_owned(),
            ];
            Proxy::KubeProxy(KubeProxy::start(cluster, node, Mode::Nftables, &flags, logs).await?)
        }
        Subject::KubeProxyIptables => {
            let flags = ["--nodeport-addresses=primary,localhost".to_owned()];
            Proxy::KubeProxy(KubeProxy::start(cluster, node, Mode::Iptables, &flags, logs).await?)
        }
    };
    Ok(proxy)
}

fn clean_up_svclb(cluster: &LabCluster, node: &Node) -> Result<()> {
    let bpffs = cluster.lab().bpffs();
    let mut command = bpffs.applied_to(node.netns().command(agent_binary()?));
    command.arg("cleanup").arg("--bpffs").arg(bpffs.folder(node.name()));
    let output = command.output().context("run svclb cleanup")?;
    if !output.status.success() {
        bail!("svclb cleanup in {}: {}", node.name(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
