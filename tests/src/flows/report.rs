//! What the rows are and where svclb differs, as a document.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{From, Mark, Row, rows};
use crate::script::Script;

/// How many rows a script has.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Count {
    /// Different rows.
    pub rows: usize,
    /// Of them, rows of processes of the node.
    pub of_node: usize,
    /// Rows over all steps, as many of them hold in several.
    pub steps: usize,
}

/// Counts the rows of a script.
pub fn count(script: &Script) -> Count {
    let all: Vec<Row> = rows(script).into_iter().flat_map(|(_, rows)| rows).collect();
    let names = |of: &dyn Fn(&Row) -> bool| {
        all.iter().filter(|row| of(row)).map(|row| row.id.as_str()).collect::<BTreeSet<_>>().len()
    };
    Count { rows: names(&|_| true), of_node: names(&|row| row.from == From::Node), steps: all.len() }
}

const HEAD: &str = "# Flows: svclb and kube-proxy's own tests

kube-proxy has unit tests that say which endpoints a packet may reach and whether its source is changed. The facts of
these tests are rows in `tests/tests/flows`, with the objects that make them so. All of svclb between the objects and
the packets is asked for them: the agent's intake, policy and plan write the tables, and the datapath on the host and
the loaded programs get the packets (`tests/tests/packet_flows.rs`); rows of processes of the node are asked of the
datapath on the host, and of real sockets (`tests/tests/netns_flows.rs`). Each endpoint of a row must get the same
share, and no other any. Rows of pods are asked as from a pod of this node, and, where the prefix of pods is known, as
from one of another node. Rows in IPv6 are those in IPv4 with other addresses.

This file is written by `SVCLB_UPDATE_SCRIPTS=1 cargo test -p svclb-tests --test packet_flows`, and compared with the
rows by each test run.

| rows | different ones | of them, of processes of the node | over all steps | again in IPv6 |
| --- | --- | --- | --- | --- |
";

const DIFFERENCES: &str = "
## Where svclb differs

What kube-proxy does is what it does in its nftables mode; of rows that its iptables mode has alone, the scripts say so.

| row | kube-proxy | svclb | why |
| --- | --- | --- | --- |
";

const BEYOND: &str = "
Differences that no row can show:

- A refusal of TCP is a reset, where kube-proxy sends ICMP errors; a process of the node is told at its call.
- A process of the node is not masqueraded: its packets have the address from which the node reaches the endpoint. A
  socket that is bound to an address, as of a load balancer, keeps it; kube-proxy masquerades it.
- A UDP flow to a node port whose Service has no endpoint left is refused; kube-proxy leaves it with the last endpoint.
  Of other flows that kube-proxy deletes from the connection tracking table when endpoints change, the next packet
  picks another endpoint.
- There is no filter rule: none that accepts health check ports, none that drops what connection tracking finds
  invalid, none that keeps packets from outside away from 127.0.0.0/8 (the kernel drops these by itself, unless
  `route_localnet` is set, which svclb does not need).
- Health check ports are not answered on loopback addresses, also where `--nodeport-addresses` names these.
";

/// The document about these scripts.
pub fn report(scripts: &[Script]) -> String {
    let mut text = HEAD.to_owned();
    let mut total = Count::default();
    let mut twins = 0;
    let mut differences: BTreeMap<(bool, String), Row> = BTreeMap::new();
    for script in scripts {
        let Count { rows: own, of_node, steps } = count(script);
        let again = if script.settings().twin { steps } else { 0 };
        line(&mut text, &format!("| `{}` | {own} | {of_node} | {steps} | {again} |", script.name()));
        total = Count { rows: total.rows + own, of_node: total.of_node + of_node, steps: total.steps + steps };
        twins += again;
        for row in rows(script).into_iter().flat_map(|(_, rows)| rows) {
            if let Some(remark) = &row.remark {
                differences.entry((remark.mark == Mark::SoFar, row.id.clone())).or_insert(row);
            }
        }
    }
    line(&mut text, &format!("| all | {} | {} | {} | {twins} |", total.rows, total.of_node, total.steps));
    text.push_str(DIFFERENCES);
    for row in differences.values() {
        let Some(remark) = &row.remark else { continue };
        let still = if remark.mark == Mark::SoFar { ", so far" } else { "" };
        line(&mut text, &format!("| `{row}` | {} | {}{still} | {} |", row.outcome, remark.outcome, remark.reason));
    }
    text.push_str(BEYOND);
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a text takes everything");
}
