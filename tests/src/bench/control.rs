//! What a cluster of some size costs the agent: its first synchronization, its memory, and one change.
//!
//! The real agent runs in a lab's node on a folder of YAML files or on a real API server. What it says of itself in
//! its log (how long it took from having all lists, or a change, to the last write) is what is measured; the time
//! from making a change to having it in the maps is measured from outside. With files it holds the pause for which
//! the folder must be quiet, with the API server the request and the watch.

mod log;
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use serde::Serialize;
use svclb_common::schema::MAPS;
use svclb_userspace::model::Family;
use tempfile::TempDir;

use self::log::SyncLog;
use self::source::Source;
use super::population::Population;
use super::spread::quantile;
use crate::net::{Agent, AgentCommand, Lab, LabOptions};

/// Where the agent has its Services from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A folder of YAML files.
    Files,
    /// An API server, with its etcd.
    Api,
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// The source.
    pub source: Kind,
    /// The binary `svclb`, built for release.
    pub binary: PathBuf,
    /// Services, with three endpoints each.
    pub services: u32,
    /// Changes of one endpoint.
    pub changes: u32,
}

/// Endpoints of each Service.
const ENDPOINTS: u32 = 3;
/// Maps whose size follows the traffic and not the cluster.
const OF_TRAFFIC: [&str; 6] = ["FLOW", "SPILL", "MASQUERADE", "AFFINITY", "SOCKETS", "FRAGMENTS"];

/// Times of many changes, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    /// Half of them took less.
    pub p50: f64,
    /// Of a hundred, one took longer.
    pub p99: f64,
}

/// A goal.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    /// What is measured.
    pub what: &'static str,
    /// What was found.
    pub found: f64,
    /// The most that it may be.
    pub limit: f64,
    /// Of both.
    pub unit: &'static str,
    /// Whether it is met.
    pub met: bool,
}

/// The figures.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where the agent had its Services from.
    pub source: Kind,
    /// Services.
    pub services: u32,
    /// Endpoints in all.
    pub endpoints: u32,
    /// Seconds from the start of the agent to its `ready`.
    pub ready: f64,
    /// Writes of the first synchronization.
    pub first_writes: u64,
    /// Milliseconds from having all lists to the last write.
    pub first_sync: f64,
    /// Bytes of the agent that are in memory, and of these those that no file backs.
    pub resident: u64,
    /// See `resident`.
    pub anonymous: u64,
    /// Bytes of each map, the largest first.
    pub maps: Vec<(&'static str, u64)>,
    /// Bytes of all maps but those whose size follows the traffic.
    pub maps_of_cluster: u64,
    /// From a change in the agent's hands to the last write.
    pub change: Times,
    /// From making the change, in a file or by a request, to the last write.
    pub whole_change: Times,
    /// The goals.
    pub bars: Vec<Bar>,
}

/// Bytes as MiB.
pub fn mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}

/// Measures. Needs root; all of it happens in namespaces of its own.
pub async fn run(options: &Options, say: impl Fn(&str)) -> Result<Report> {
    let population = Population { services: options.services, endpoints: ENDPOINTS, families: vec![Family::V4] };
    let folder = TempDir::new().context("make a folder for manifests and logs")?;
    let lab = Lab::new(LabOptions { control_plane: options.source == Kind::Api, ..LabOptions::default() })?;
    let source = Source::filled(options.source, &population, &lab, folder.path(), &say)?;
    say("starting the agent");
    let how = AgentCommand {
        binary: talkative(&options.binary, folder.path())?,
        source: source.of_agent(),
        more: vec!["--log-format".into(), "json".into()],
        logs: folder.path().to_owned(),
    };
    let began = Instant::now();
    let agent = Agent::start(&lab, 1, &how).await?;
    let ready = began.elapsed().as_secs_f64();
    let mut log = SyncLog::new(agent.log());
    let first = log.next().await?;
    ensure!(first.services >= u64::from(options.services), "the first synchronization was not of all Services");

    let pid = agent.pid().context("the agent has ended")?;
    let (resident, anonymous) = (memory(pid, "VmRSS:")?, memory(pid, "RssAnon:")?);
    let pins = lab.bpffs().folder(lab.node(1).name());
    let mut maps = lab.bpffs().run(|| map_bytes(&pins))?;
    maps.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let of_cluster = |name: &str| !OF_TRAFFIC.iter().any(|start| name.starts_with(start));
    let maps_of_cluster = maps.iter().filter(|(name, _)| of_cluster(name)).map(|(_, bytes)| bytes).sum();

    say("changing an endpoint");
    let (mut changes, mut whole_changes) = (Vec::new(), Vec::new());
    for number in 0..options.changes {
        let since = Instant::now();
        source.change(&population, ENDPOINTS - 1 + number % 2)?;
        changes.push(log.next().await?.took * 1000.0);
        whole_changes.push(since.elapsed().as_secs_f64() * 1000.0);
    }
    agent.terminate().await?;
    let change = times(changes);
    let memory = mib(resident + maps_of_cluster);
    Ok(Report {
        source: options.source,
        services: options.services,
        endpoints: options.services * ENDPOINTS,
        ready,
        first_writes: first.writes,
        first_sync: first.took * 1000.0,
        resident,
        anonymous,
        maps,
        maps_of_cluster,
        change,
        whole_change: times(whole_changes),
        bars: vec![
            bar("from the last list to maps complete", first.took * 1000.0, 300.0, "ms"),
            bar("memory of the agent and of the maps that follow the cluster", memory, 64.0, "MiB"),
            bar("one endpoint's change, p99", change.p99, 2.0, "ms"),
        ],
    })
}

pub(super) fn bar(what: &'static str, found: f64, limit: f64, unit: &'static str) -> Bar {
    Bar { what, found, limit, unit, met: found <= limit }
}

pub(super) fn times(mut samples: Vec<f64>) -> Times {
    samples.sort_by(f64::total_cmp);
    Times { p50: quantile(&samples, 0.5), p99: quantile(&samples, 0.99) }
}

/// A program that runs the agent with a log that tells of every synchronization.
fn talkative(binary: &Path, folder: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let binary = binary.canonicalize().with_context(|| format!("find the agent {}", binary.display()))?;
    let script = folder.join("svclb");
    let text = format!("#!/bin/sh\nRUST_LOG=info,svclb_userspace::agent=debug exec '{}' \"$@\"\n", binary.display());
    fs::write(&script, text).context("write the agent's script")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("make the agent's script executable")?;
    Ok(script)
}

/// A line of `/proc/PID/status` that is in kB, as bytes.
fn memory(pid: u32, line: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let value =
        status.lines().find_map(|own| own.strip_prefix(line)).with_context(|| format!("{path} has no {line}"))?;
    let kib: u64 = value.trim().trim_end_matches("kB").trim().parse().with_context(|| format!("{line} in {path}"))?;
    Ok(kib * 1024)
}

/// What the kernel says that each pinned map takes.
fn map_bytes(pins: &Path) -> Result<Vec<(&'static str, u64)>> {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    MAPS.iter()
        .map(|info| {
            let map =
                MapData::from_pin(pins.join(info.name)).with_context(|| format!("open the pin of {}", info.name))?;
            let path = format!("/proc/thread-self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
            let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
            let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"));
            let bytes = bytes.with_context(|| format!("{path} does not say how much memory {} takes", info.name))?;
            Ok((info.name, bytes.trim().parse()?))
        })
        .collect()
}
