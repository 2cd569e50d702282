//! A network policy in netfilter's FORWARD hook, as policy engines put it there.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Context, Result, ensure};

use super::{lab::Lab, link::feed, node::Node, paths::Askers, state::ClusterState};

/// Who may talk to whom through a node. All else that is forwarded is dropped.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The sources that may begin.
    pub clients: Vec<IpAddr>,
    /// The pods that they may begin to.
    pub backends: Vec<IpAddr>,
    /// The ports of the backends, TCP and UDP.
    pub ports: Vec<u16>,
}

/// The name of the table and its counter.
const TABLE: &str = "lab_policy";

impl Node {
    /// Puts the policy into force, in place of an earlier one.
    pub fn enforce(&self, policy: &Policy) -> Result<()> {
        let mut command = self.netns().command("nft");
        command.args(["-f", "-"]);
        let complaint = feed(&mut command, &policy.rules()).context("run nft (Debian: apt-get install nftables)")?;
        ensure!(complaint.is_empty(), "nft in {}: {complaint}", self.name());
        Ok(())
    }

    /// How many packets the policy has dropped.
    pub fn dropped_by_policy(&self) -> Result<u64> {
        let output = self
            .netns()
            .command("nft")
            .args(["-j", "list", "counter", "inet", TABLE, "dropped"])
            .output()
            .context("run nft")?;
        ensure!(output.status.success(), "nft in {}: is a policy in force there?", self.name());
        let listed: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        listed
            .pointer("/nftables/1/counter/packets")
            .and_then(serde_json::Value::as_u64)
            .with_context(|| format!("no counter in {listed}"))
    }
}

impl Policy {
    /// Lets the asking pods, the client outside and the pods themselves in to the ports of the pods, and
    /// nobody else.
    pub fn for_services(lab: &Lab, askers: &Askers, state: &ClusterState) -> Self {
        let mut policy = Self::default();
        for pod in &state.pods {
            policy.backends.extend(pod.address.both());
            policy.ports.extend(pod.ports.iter().map(|port| port.port));
        }
        policy.ports.sort_unstable();
        policy.ports.dedup();
        policy.clients.clone_from(&policy.backends);
        policy.clients.extend(lab.client().address.both());
        for pod in &askers.pods {
            policy.clients.extend(pod.address().both());
        }
        // Where one node masquerades, the other sees the first one's address.
        for node in lab.nodes() {
            policy.clients.extend(node.addresses_seen_elsewhere());
        }
        policy
    }

    /// Puts the policy into force on all nodes.
    pub fn enforce(&self, lab: &Lab) -> Result<()> {
        lab.nodes().iter().try_for_each(|node| node.enforce(self))
    }

    /// The whole table, as `nft -f` takes it.
    fn rules(&self) -> String {
        let mut rules = format!(
            "table inet {TABLE} {{}}\n\
             delete table inet {TABLE}\n\
             table inet {TABLE} {{\n\
             counter dropped {{}}\n"
        );
        for (family, of_family) in [("4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool), ("6", IpAddr::is_ipv6)] {
            for (set, addresses) in [("clients", &self.clients), ("backends", &self.backends)] {
                let members = addresses.iter().copied().filter(of_family);
                write_set(&mut rules, &format!("{set}{family}"), &format!("ipv{family}_addr"), members);
            }
        }
        write_set(&mut rules, "ports", "inet_service", self.ports.iter());
        rules.push_str(
            "chain forward {\n\
             type filter hook forward priority filter; policy drop;\n\
             ct state established,related accept\n\
             ct state invalid counter name dropped drop\n\
             icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n\
             ip saddr @clients4 ip daddr @backends4 meta l4proto { tcp, udp } th dport @ports accept\n\
             ip6 saddr @clients6 ip6 daddr @backends6 meta l4proto { tcp, udp } th dport @ports accept\n\
             counter name dropped\n\
             }\n}\n",
        );
        rules
    }
}

fn write_set(rules: &mut String, name: &str, kind: &str, members: impl Iterator<Item = impl ToString>) {
    let members: Vec<String> = members.map(|member| member.to_string()).collect();
    write!(rules, "set {name} {{ type {kind};").expect("writing to a string cannot fail");
    if !members.is_empty() {
        write!(rules, " elements = {{ {} }}", members.join(", ")).expect("writing to a string cannot fail");
    }
    rules.push_str(" }\n");
}
