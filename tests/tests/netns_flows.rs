//! The flows of kube-proxy's own tests that begin at a process of the node, with real processes: who answers, and from
//! which address the process seems to ask.
#![cfg(feature = "kernel")]
#![expect(clippy::print_stderr, reason = "how many rows there were is for people")]

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use svclb_common::wire::protocol::{SCTP, TCP};
use svclb_tests::{
    flows::{From, Outcome, Row, rows, twin},
    net::{Agent, AgentCommand, AgentSource, Answerer, Client, FailureKind, Lab, LabOptions, Netns, agent_binary},
    script::{Files, Script, Step, all, world::Settings},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(2);

/// Times that a row is asked. That one of two endpoints is not met then happens once in 2^23.
const TIMES: usize = 24;

/// What a row of a process of the node comes to, by asking again and again.
async fn ask(node: &Netns, row: &Row, settings: &Settings) -> Result<Outcome> {
    let client = Client::new(node, PATIENCE);
    let main: Vec<IpAddr> =
        settings.addresses.iter().copied().filter(|own| own.is_ipv4() == row.source.is_ipv4()).collect();
    let mut endpoints = BTreeSet::new();
    let mut others = Vec::new();
    for _ in 0..TIMES {
        let asked =
            if row.protocol == TCP { client.http(row.destination).await } else { client.udp(row.destination).await };
        match asked {
            Ok(reply) => {
                let source = reply.answer.client.ip();
                ensure!(main.first() == Some(&source), "{} is asked from {source}", reply.answer.local);
                endpoints.insert(reply.answer.local);
            }
            Err(failure) => others.push(match failure.kind {
                FailureKind::Refused => Outcome::Refused,
                // Somebody on the node itself answers, who is none of the endpoints.
                FailureKind::NotAnAnswer => Outcome::Untouched,
                _ => bail!("{failure}"),
            }),
        }
    }
    others.dedup();
    match (endpoints.is_empty(), others.as_slice()) {
        (false, []) => Ok(Outcome::To { endpoints, masqueraded: true }),
        (true, [one]) => Ok(one.clone()),
        _ => bail!("now {endpoints:?}, now {others:?}"),
    }
}

/// A node with the addresses of a script, and one namespace that answers for all of its endpoints.
struct Stage {
    lab: Lab,
    _endpoints: Answerer,
}

impl Stage {
    fn new(settings: &Settings, rows: &[Row]) -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let node = lab.node(1).netns();
        let pods = Netns::new("endpoints")?;
        pods.sysctls(&[("ipv6/conf/all/accept_dad", "0"), ("ipv6/conf/default/accept_dad", "0")])?;
        let mut here = format!("link add pods type veth peer name eth0 netns {}\nlink set pods up\n", pods.path());
        let mut there = "link set eth0 up\n".to_owned();
        // By the device with the default route, the agent knows the node's main address.
        here.push_str("address flush dev eth0 scope global\n");
        // The kernel lists IPv4 addresses as they came, IPv6 addresses the other way round.
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = settings.addresses.iter().partition(|own| own.is_ipv4());
        for own in v4.iter().chain(v6.iter().rev()) {
            writeln!(here, "address add {own}{} dev eth0", end(*own))?;
        }
        for own in v6 {
            // Neighbours are told of an IPv6 address only by the device that has it.
            writeln!(here, "address add {own}{} dev pods", end(own))?;
        }
        here.push_str("route add default dev eth0\n");
        // A load balancer address that a process of the node has as source is an address of the node.
        let sources: BTreeSet<IpAddr> = rows.iter().map(|row| row.source).collect();
        for own in sources.iter().filter(|own| !own.is_loopback() && !settings.addresses.contains(own)) {
            writeln!(here, "address add {own}{} dev lo", end(*own))?;
        }
        let main = |v4| settings.addresses.iter().find(|own| own.is_ipv4() == v4).context("no address of this family");
        let endpoints: BTreeSet<SocketAddr> = rows.iter().flat_map(|row| endpoints_of(row.expected())).collect();
        let addresses: BTreeSet<IpAddr> = endpoints.iter().map(SocketAddr::ip).collect();
        for endpoint in &addresses {
            writeln!(there, "address add {endpoint}{} dev eth0", end(*endpoint))?;
            writeln!(here, "route add {endpoint} dev pods src {}", main(endpoint.is_ipv4())?)?;
        }
        for own in &settings.addresses {
            writeln!(there, "route add {own} dev eth0")?;
        }
        node.ip(&here)?;
        pods.ip(&there)?;
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        let ports: BTreeSet<u16> = endpoints.iter().map(SocketAddr::port).collect();
        let endpoints = Answerer::start(&pods, "endpoint", &addresses, &Vec::from_iter(ports))?;
        Ok(Self { lab, _endpoints: endpoints })
    }
}

/// What makes an address one of a single host.
fn end(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "/32" } else { "/128 nodad" }
}

fn endpoints_of(outcome: &Outcome) -> Vec<SocketAddr> {
    match outcome {
        Outcome::To { endpoints, .. } => endpoints.iter().copied().collect(),
        Outcome::Refused | Outcome::Dropped | Outcome::Untouched => vec![],
    }
}

/// The agent's flags for these settings. What is local, or masqueraded, makes no difference to processes of the node.
fn flags(settings: &Settings) -> Vec<String> {
    let list = |items: Vec<String>| items.join(",");
    let mut flags = vec![
        "--nodeport-addresses".to_owned(),
        list(settings.node.node_ports.iter().map(ToString::to_string).collect()),
    ];
    if let Some(cidrs) = &settings.node.external_ip_cidrs {
        let cidrs = cidrs.iter().map(ToString::to_string).collect();
        flags.extend(["--external-ip-cidrs".to_owned(), list(cidrs)]);
    }
    if settings.masquerade_all {
        flags.push("--masquerade-all".to_owned());
    }
    flags
}

/// An agent and the folder of its manifests and its log.
struct Running {
    agent: Agent,
    _folder: TempDir,
}

impl Running {
    async fn start(lab: &Lab, flags: &[String], files: &Files) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let manifests = folder.path().join("manifests");
        fs::create_dir(&manifests)?;
        for (name, text) in files {
            fs::write(manifests.join(name), text)?;
        }
        let command = AgentCommand {
            binary: agent_binary()?,
            source: AgentSource::Manifests(manifests),
            more: flags.iter().map(Into::into).collect(),
            logs: folder.path().to_owned(),
        };
        Ok(Self { agent: Agent::start(lab, 1, &command).await?, _folder: folder })
    }
}

/// Asks the rows of a script that begin at the node. SCTP, of which svclb serves no sockets, is left out.
async fn ask_script(script: &Script) -> Result<usize> {
    let of_node = |row: &Row| row.from == From::Node && row.protocol != SCTP;
    let steps: Vec<(Step, Vec<Row>)> = rows(script)
        .into_iter()
        .map(|(step, rows)| (step, rows.into_iter().filter(of_node).collect::<Vec<_>>()))
        .filter(|(_, rows)| !rows.is_empty())
        .collect();
    let all_rows: Vec<Row> = steps.iter().flat_map(|(_, rows)| rows.clone()).collect();
    if all_rows.is_empty() {
        return Ok(0);
    }
    let stage = Stage::new(&script.settings(), &all_rows)?;
    // An agent that would be told nothing else goes on.
    let mut running: Option<(Vec<String>, Files, Running)> = None;
    for (step, rows) in &steps {
        let flags = flags(&step.settings);
        let agent = match running.take() {
            Some((own, files, agent)) if own == flags && files == step.files => agent,
            before => {
                if let Some((_, _, before)) = before {
                    before.agent.kill().await?;
                }
                Running::start(&stage.lab, &flags, &step.files).await?
            }
        };
        let (_, _, agent) = running.insert((flags, step.files.clone(), agent));
        for row in rows {
            let seen = ask(stage.lab.node(1).netns(), row, &step.settings).await;
            let seen = seen.with_context(|| format!("{row}, with {:?}", step.settings))?;
            let expected = row.expected();
            ensure!(row.agrees(&seen, expected), "{row} = {seen}\nmust be {expected}, with {:?}", step.settings);
        }
        agent.agent.check()?;
    }
    Ok(all_rows.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flow_of_kube_proxys_tests_from_the_node_goes_where_its_row_says() -> Result<()> {
    let mut asked = 0;
    let mut wanted = 0;
    for script in all("flows") {
        let in_ipv6 = script.settings().twin.then(|| twin(&script));
        for script in [Some(script), in_ipv6].into_iter().flatten() {
            let all: Vec<Row> = rows(&script).into_iter().flat_map(|(_, rows)| rows).collect();
            wanted += all.iter().filter(|row| row.from == From::Node && row.protocol != SCTP).count();
            asked += ask_script(&script).await.with_context(|| format!("script {}", script.name()))?;
        }
    }
    ensure!(asked == wanted && asked > 0, "{asked} of {wanted} rows were asked");
    eprintln!("{asked} rows of kube-proxy's flows, over all steps, were asked by processes of the node");
    Ok(())
}
