//! What a cluster of some size costs the agent: its first synchronization, its memory, and one change.
//!
//! The real agent runs in a lab's node on a folder of YAML files. What it says of itself in its log (how long it
//! took from having all lists, or a change, to the last write) is what is measured; the time until a change of a
//! file is in the maps is measured from outside, and holds the pause for which the folder must be quiet.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Serialize;
use serde_json::Value;
use svclb_common::schema::MAPS;
use svclb_userspace::model::Family;
use tempfile::TempDir;

use super::population::{Population, name};
use super::spread::quantile;
use crate::net::{Agent, AgentCommand, Lab, LabOptions};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary `svclb`, built for release.
    pub binary: PathBuf,
    /// Services, with three endpoints each.
    pub services: u32,
    /// Changes of one endpoint.
    pub changes: u32,
}

/// Services of one file.
const SERVICES_OF_FILE: u32 = 100;
/// Endpoints of each Service.
const ENDPOINTS: u32 = 3;
/// How long a change may take.
const WITHIN: Duration = Duration::from_secs(30);
/// How often the log is looked at.
const POLL: Duration = Duration::from_micros(200);
/// The Service whose endpoints change.
const CHANGING: u32 = 0;
/// Maps whose size follows the traffic and not the cluster.
const OF_TRAFFIC: [&str; 4] = ["FLOW", "SPILL", "MASQUERADE", "AFFINITY"];

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
    /// From a file's change to the last write.
    pub file_change: Times,
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
    say("writing the manifests");
    let folder = TempDir::new().context("make a folder for manifests and logs")?;
    let manifests = folder.path().join("manifests");
    write_all(&population, &manifests)?;
    let lab = Lab::new(LabOptions::default())?;
    say("starting the agent");
    let how = AgentCommand {
        binary: talkative(&options.binary, folder.path())?,
        source: vec!["--manifests".into(), manifests.clone().into()],
        attach: "auto".to_owned(),
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
    let (mut changes, mut file_changes) = (Vec::new(), Vec::new());
    for number in 0..options.changes {
        let slice = population.slice(CHANGING, Family::V4, ENDPOINTS - 1 + number % 2);
        let since = Instant::now();
        replace(&manifests.join("changing.yaml"), &yaml(&slice)?)?;
        changes.push(log.next().await?.took * 1000.0);
        file_changes.push(since.elapsed().as_secs_f64() * 1000.0);
    }
    agent.terminate().await?;
    let change = times(changes);
    let memory = mib(resident + maps_of_cluster);
    let bar = |what, found: f64, limit: f64, unit| Bar { what, found, limit, unit, met: found <= limit };
    Ok(Report {
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
        file_change: times(file_changes),
        bars: vec![
            bar("from the last list to maps complete", first.took * 1000.0, 300.0, "ms"),
            bar("memory of the agent and of the maps that follow the cluster", memory, 64.0, "MiB"),
            bar("one endpoint's change, p99", change.p99, 2.0, "ms"),
        ],
    })
}

fn times(mut samples: Vec<f64>) -> Times {
    samples.sort_by(f64::total_cmp);
    Times { p50: quantile(&samples, 0.5), p99: quantile(&samples, 0.99) }
}

fn yaml<T: Serialize>(object: &T) -> Result<String> {
    // JSON is YAML.
    Ok(format!("{}\n", serde_json::to_string(object)?))
}

/// Writes all objects, some hundred to a file; the slice that will change has a file of its own.
fn write_all(population: &Population, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
    for first in (0..population.services).step_by(SERVICES_OF_FILE as usize) {
        let mut text = String::new();
        for number in first..population.services.min(first + SERVICES_OF_FILE) {
            text.push_str(&yaml(&population.service(number))?);
            let slices: Vec<EndpointSlice> = if number == CHANGING { Vec::new() } else { population.slices(number) };
            for slice in slices {
                text.push_str("---\n");
                text.push_str(&yaml(&slice)?);
            }
            text.push_str("---\n");
        }
        replace(&folder.join(format!("{}.yaml", name(first))), &text)?;
    }
    let slice = population.slice(CHANGING, Family::V4, ENDPOINTS);
    replace(&folder.join("changing.yaml"), &yaml(&slice)?)
}

/// Writes a file in one step.
fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, file)).with_context(|| format!("write {}", file.display()))
}

/// A program that runs the agent with a log that tells of every synchronization.
fn talkative(binary: &Path, folder: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let binary = binary.canonicalize().with_context(|| format!("find the agent {}", binary.display()))?;
    let script = folder.join("svclb");
    let text = format!("#!/bin/sh\nRUST_LOG=info,svclb_userspace::agent=debug exec '{}' \"$@\"\n", binary.display());
    replace(&script, &text)?;
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

/// One synchronization, as the agent tells of it.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Sync {
    services: u64,
    writes: u64,
    /// Seconds.
    took: f64,
}

/// The synchronizations in an agent's log, one after the other.
struct SyncLog<'a> {
    file: &'a Path,
    read: usize,
}

impl<'a> SyncLog<'a> {
    const fn new(file: &'a Path) -> Self {
        Self { file, read: 0 }
    }

    /// Waits for the next one.
    async fn next(&mut self) -> Result<Sync> {
        let deadline = Instant::now() + WITHIN;
        loop {
            let text = fs::read_to_string(self.file).with_context(|| format!("read {}", self.file.display()))?;
            while let Some((line, _)) = text.get(self.read..).and_then(|rest| rest.split_once('\n')) {
                self.read += line.len() + 1;
                if let Some(sync) = sync(line) {
                    return Ok(sync);
                }
            }
            ensure!(Instant::now() < deadline, "the agent wrote no tables for {WITHIN:?}; its log:\n{text}");
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The synchronization that a line tells of.
fn sync(line: &str) -> Option<Sync> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields")?;
    if !fields.get("message")?.as_str()?.starts_with("tables written") {
        return None;
    }
    let number = |name: &str| fields.get(name).and_then(Value::as_u64);
    Some(Sync {
        services: number("services")?,
        writes: number("writes")?,
        took: seconds(fields.get("took")?.as_str()?)?,
    })
}

/// A duration as Rust prints it for developers, such as `1.5ms`.
fn seconds(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?);
    let unit = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_tells_how_long_a_synchronization_took() {
        let line = r#"{"level":"INFO","fields":{"message":"tables written","services":1,"writes":4,"failures":0,"took":"1.5ms"}}"#;
        let found = sync(line).expect("it tells of one");
        assert_eq!((found.services, found.writes), (1, 4));
        assert_eq!(format!("{:.6}", found.took), "0.001500");
        assert_eq!(sync(r#"{"fields":{"message":"something else"}}"#), None);
    }

    #[test]
    fn durations_are_read_in_every_unit() {
        for time in [Duration::from_nanos(7), Duration::from_micros(12), Duration::from_millis(3), WITHIN] {
            let read = seconds(&format!("{time:?}")).expect("it is a duration");
            assert!((read - time.as_secs_f64()).abs() < 1e-12, "{time:?} was read as {read} s");
        }
    }
}
