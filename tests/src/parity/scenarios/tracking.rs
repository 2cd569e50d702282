//! The kernel's own connection tracking, whose timeouts are the proxy's to set.

use std::{
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::sleep;

use crate::{
    net::Netns,
    parity::{
        Family, Scenario,
        play::{Asker, Play},
        scenario::{ORDINARY, TCP},
    },
};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "a connection of which one side is closed is tracked for an hour",
    upstream: &["kube_proxy.go: should set TCP CLOSE_WAIT timeout [Privileged]"],
    fields: &["tcpCloseWaitTimeout"],
    paths: &["pod -> node"],
    protocols: TCP,
    run: |play| Box::pin(half_closed(play)),
    ..ORDINARY
}];

/// How long packets may be on their way.
const WITHIN: Duration = Duration::from_secs(10);

/// Seconds that are left of a half closed connection: an hour, less what it takes to look.
const LEFT: std::ops::RangeInclusive<u64> = 3540..=3600;

async fn half_closed(play: &Play<'_>) -> Result<()> {
    let (client, server, node) = (play.netns(Asker::Pod(1))?, play.netns(Asker::Node(2))?, play.netns(Asker::Node(1))?);
    let _rule = TrackingRule::add(&node, &play.name_of("tracked"))?;
    let own = SocketAddr::new(play.node_address(2)?, 0);
    let listener = server.run(|| TcpListener::bind(own)).with_context(|| format!("listen at {own}"))?;
    let to = listener.local_addr()?;
    let connection = client.run(|| TcpStream::connect_timeout(&to, WITHIN)).with_context(|| format!("reach {to}"))?;
    // The server holds its side, which it does not close.
    let _held = listener.accept()?;
    connection.shutdown(Shutdown::Write)?;
    let start = Instant::now();
    loop {
        match tracked(&node, play.family(), to.port())? {
            Some((state, left)) if state == "CLOSE_WAIT" => {
                ensure!(LEFT.contains(&left), "a half closed connection is forgotten in {left} s");
                return Ok(());
            }
            other if start.elapsed() > WITHIN => bail!("node1 tracks the connection to {to} as {other:?}"),
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The state, and the seconds that are left, of the connection to this port in a node's table.
fn tracked(node: &Netns, family: Family, port: u16) -> Result<Option<(String, u64)>> {
    let mut command = node.command("conntrack");
    command.args(["-L", "-p", "tcp", "--dport", &port.to_string(), "-f"]);
    let output = command.arg(family.name().to_lowercase()).output().context("run conntrack")?;
    ensure!(output.status.success(), "conntrack -L: {}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some(line) = listed.lines().next() else { return Ok(None) };
    // tcp 6 SECONDS STATE src=...
    let mut words = line.split_whitespace().skip(2);
    let left = words.next().context("a line of conntrack has its seconds")?.parse()?;
    Ok(Some((words.next().context("a line of conntrack has its state")?.to_owned(), left)))
}

/// A rule that asks for the states of connections, as each node has one of kubelet: without any, nothing is tracked.
struct TrackingRule {
    node: Netns,
    table: String,
}

impl TrackingRule {
    fn add(node: &Netns, table: &str) -> Result<Self> {
        let chain = "{ chain forward { type filter hook forward priority filter; ct state established accept; }; }";
        let rule = Self { node: node.clone(), table: table.to_owned() };
        rule.nft(&format!("add table inet {table} {chain}"))?;
        Ok(rule)
    }

    fn nft(&self, line: &str) -> Result<()> {
        let output = self.node.command("nft").arg(line).stdin(Stdio::null()).output().context("run nft")?;
        ensure!(output.status.success(), "nft {line}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for TrackingRule {
    fn drop(&mut self) {
        if let Err(error) = self.nft(&format!("delete table inet {}", self.table)) {
            tracing::warn!("{error:#}");
        }
    }
}
