//! A network policy in netfilter's FORWARD hook, as policy engines put it there, and the rule that kubelet puts into
//! INPUT and OUTPUT.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};

use super::{address::Pair, lab::Lab, link::feed, netns::Netns, node::Node};

/// Who may talk to whom through a node. All else that is forwarded is dropped.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The sources that may begin.
    pub clients: BTreeSet<IpAddr>,
    /// The pods that they may begin to.
    pub backends: BTreeSet<IpAddr>,
    /// The ports of the backends, TCP and UDP.
    pub ports: BTreeSet<u16>,
}

/// The name of the table and its counter.
const TABLE: &str = "lab_policy";

/// Keeps a policy on all nodes of a lab in step with the pods, as a policy engine does: a pod is let in
/// before anybody learns of it.
#[derive(Debug)]
pub struct PolicyEngine {
    nodes: Vec<Netns>,
    policy: Mutex<Policy>,
}

impl PolicyEngine {
    /// Puts a policy into force that lets in the client outside and what nodes masquerade, to no pod yet.
    pub fn start(lab: &Lab) -> Result<Arc<Self>> {
        let mut policy = Policy::default();
        policy.clients.extend(lab.client().address.both());
        // Where one node masquerades, the other sees the first one's address.
        for node in lab.nodes() {
            policy.clients.extend(node.addresses_seen_elsewhere());
        }
        let nodes = lab.nodes().iter().map(|node| node.netns().clone()).collect();
        let engine = Self { nodes, policy: Mutex::new(policy) };
        engine.change(|_policy| ())?;
        Ok(Arc::new(engine))
    }

    /// Lets a pod begin to backends.
    pub fn admit_client(&self, pod: Pair) -> Result<()> {
        self.change(|policy| policy.clients.extend(pod.both()))
    }

    /// Lets a pod be a backend on these ports, and begin to others and to itself.
    pub fn admit_backend(&self, pod: Pair, ports: impl IntoIterator<Item = u16>) -> Result<()> {
        self.change(|policy| {
            policy.clients.extend(pod.both());
            policy.backends.extend(pod.both());
            policy.ports.extend(ports);
        })
    }

    fn change(&self, change: impl FnOnce(&mut Policy)) -> Result<()> {
        let mut policy = self.policy.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut policy);
        self.nodes.iter().try_for_each(|node| policy.enforce(node))
    }
}

impl Node {
    /// Puts the policy into force, in place of an earlier one.
    pub fn enforce(&self, policy: &Policy) -> Result<()> {
        policy.enforce(self.netns())
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
    fn enforce(&self, node: &Netns) -> Result<()> {
        let mut command = node.command("nft");
        command.args(["-f", "-"]);
        let complaint = feed(&mut command, &self.rules()).context("run nft (Debian: apt-get install nftables)")?;
        ensure!(complaint.is_empty(), "nft in {}: {complaint}", node.label());
        Ok(())
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
             ip saddr @clients4 ip daddr @backends4 meta l4proto { tcp, udp, sctp } th dport @ports accept\n\
             ip6 saddr @clients6 ip6 daddr @backends6 meta l4proto { tcp, udp, sctp } th dport @ports accept\n\
             counter name dropped\n\
             }\n",
        );
        // kubelet's KUBE-FIREWALL: nobody but loopback addresses begins to loopback addresses (CVE-2020-8558).
        for hook in ["input", "output"] {
            write!(
                rules,
                "chain {hook} {{\n\
                 type filter hook {hook} priority filter; policy accept;\n\
                 ip daddr 127.0.0.0/8 ip saddr != 127.0.0.0/8 ct state != {{ established, related }} \
                 ct status & dnat == 0 counter name dropped drop\n\
                 }}\n"
            )
            .expect("writing to a string cannot fail");
        }
        rules.push_str("}\n");
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
