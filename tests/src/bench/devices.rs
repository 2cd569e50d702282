//! How long devices are without hooks: many pods that start at once, and an agent that starts.
//!
//! The real agent runs in a lab's node. Another socket hears what it hears: that a device is there
//! (`RTM_NEWLINK`), and that a filter of svclb hangs in it (`RTM_NEWTFILTER`), which the kernel tells when packets
//! meet it. The time between the two messages of one device, both read by a thread that goes before all others, is
//! what is measured. TCX links are not told of, so `--attach tcx` cannot be measured like this.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};
use rtnetlink::packet_core::{NetlinkBuffer, NlasIterator};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use serde::Serialize;
use tempfile::TempDir;

use super::control::{Bar, Times, bar, times};
use crate::net::{Agent, AgentCommand, AgentSource, Lab, LabOptions, Netns};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary `svclb`, built for release.
    pub binary: PathBuf,
    /// Devices that are made at once.
    pub devices: u32,
    /// How often.
    pub runs: u32,
    /// Between two devices; none when they are made as fast as the kernel does it.
    pub pause: Duration,
}

/// One time that many devices were made.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Run {
    /// Milliseconds from the first to the last device.
    pub made: f64,
    /// From `RTM_NEWLINK` to both filters.
    pub hooked: Times,
    /// The longest of them, in milliseconds.
    pub longest: f64,
}

/// The figures.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Devices of each run.
    pub devices: u32,
    /// Seconds from the agent's start to its `ready`: on a node that never had one, and for the next agent.
    pub ready: [f64; 2],
    /// In their order.
    pub runs: Vec<Run>,
    /// The goals.
    pub bars: Vec<Bar>,
}

/// How long all devices may take.
const WITHIN: Duration = Duration::from_mins(1);
/// No message for so long: then nothing of a run before is going on any more.
const QUIET: Duration = Duration::from_secs(1);
/// What the names of the devices begin with.
const NAME: &str = "bench";

/// Measures. Needs root; all of it happens in namespaces of its own.
pub async fn run(options: &Options, say: impl Fn(&str)) -> Result<Report> {
    let folder = TempDir::new().context("make a folder for manifests and logs")?;
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests).context("make a folder for manifests")?;
    let lab = Lab::new(LabOptions::default())?;
    let how = AgentCommand {
        binary: options.binary.clone(),
        source: AgentSource::Manifests(manifests),
        more: Vec::new(),
        logs: folder.path().to_owned(),
    };
    say("starting the agent");
    let began = Instant::now();
    let first = Agent::start(&lab, 1, &how).await?;
    let first_ready = began.elapsed().as_secs_f64();
    first.terminate().await?;
    let began = Instant::now();
    let mut agent = Agent::start(&lab, 1, &how).await?;
    let ready = [first_ready, began.elapsed().as_secs_f64()];

    let netns = lab.node(1).netns();
    let elsewhere = Netns::new("pods")?;
    let mut runs = Vec::new();
    for number in 1..=options.runs {
        say(&format!("making {} devices, {number} of {}", options.devices, options.runs));
        let run = tokio::task::block_in_place(|| one_run(netns, &elsewhere, options));
        agent.check()?;
        runs.push(run.with_context(|| format!("the agent's log:\n{}", last_lines(&agent)))?);
    }
    agent.terminate().await?;
    let worst = runs.iter().map(|run| run.hooked.p99).fold(0.0, f64::max);
    let slowest = ready.into_iter().fold(0.0, f64::max);
    Ok(Report {
        devices: options.devices,
        ready,
        runs,
        bars: vec![
            bar("from RTM_NEWLINK to hooked, p99 of the worst run", worst, 10.0, "ms"),
            bar("from start to ready, the slower of both", slowest, 2.0, "s"),
        ],
    })
}

fn last_lines(agent: &Agent) -> String {
    let log = fs::read_to_string(agent.log()).unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(10).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn one_run(netns: &Netns, elsewhere: &Netns, options: &Options) -> Result<Run> {
    let listener = Listener::start(netns)?;
    let line =
        |number| format!("link add {NAME}{number} type veth peer name {NAME}{number} netns {}\n", elsewhere.path());
    if options.pause.is_zero() {
        netns.ip(&(0..options.devices).map(line).collect::<Vec<_>>().concat())?;
    } else {
        for number in 0..options.devices {
            netns.ip(&line(number))?;
            thread::sleep(options.pause);
        }
    }
    let seen = listener.until_hooked(options.devices)?;
    let took: Vec<f64> = seen.iter().map(|seen| (seen.hooked - seen.told).as_secs_f64() * 1000.0).collect();
    let all = || seen.iter().map(|seen| seen.told);
    let made = all().max().zip(all().min()).map_or(Duration::ZERO, |(last, first)| last - first);
    netns
        .ip(&(0..options.devices).map(|number| format!("link delete {NAME}{number}\n")).collect::<Vec<_>>().concat())?;
    listener.until_quiet()?;
    Ok(Run {
        made: made.as_secs_f64() * 1000.0,
        longest: took.iter().copied().fold(0.0, f64::max),
        hooked: times(took),
    })
}

/// When the kernel told of a device, and when of the second of its hooks.
#[derive(Clone, Copy)]
struct Seen {
    told: Instant,
    hooked: Instant,
}

/// What a message says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Message {
    /// There is a device with this index, and the name of those that are measured.
    Device(u32),
    /// A filter hangs in it; bit 1 at ingress, bit 2 at egress.
    Filter(u32, u8),
}

/// Hears what the kernel tells in a namespace.
struct Listener {
    messages: mpsc::Receiver<(Instant, Option<Message>)>,
}

impl Listener {
    fn start(netns: &Netns) -> Result<Self> {
        /// Links and traffic control: bits of the `RTNLGRP_` numbers.
        const GROUPS: u32 = (1 << 0) | (1 << 3);
        let socket = netns.enter(|| {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20))?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 100_000))?;
            socket.bind(&SocketAddr::new(0, GROUPS))?;
            std::io::Result::Ok(socket)
        });
        let socket = socket.context("open an rtnetlink socket in the node")?;
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            // Of this thread alone: what it hears it must hear at once.
            rustix::process::nice(-20).map(drop).unwrap_or_default();
            let mut datagram = Vec::with_capacity(64 << 10);
            loop {
                datagram.clear();
                let received = socket.recv(&mut datagram, 0);
                let now = Instant::now();
                let message = match received {
                    Ok(_) => decode(&datagram),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
                    Err(_) => return,
                };
                // A timeout goes out as well, so that the thread ends when nobody listens any more.
                if sender.send((now, message)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { messages })
    }

    fn next(&self) -> Result<(Instant, Option<Message>)> {
        self.messages.recv().context("the kernel's messages could not be read")
    }

    fn until_hooked(&self, devices: u32) -> Result<Vec<Seen>> {
        let deadline = Instant::now() + WITHIN;
        let mut told = BTreeMap::new();
        let mut hooks = BTreeMap::<u32, u8>::new();
        let mut seen = Vec::new();
        while seen.len() < devices as usize {
            match self.next()? {
                (at, Some(Message::Device(index))) => {
                    told.entry(index).or_insert(at);
                }
                (at, Some(Message::Filter(index, direction))) => {
                    let has = hooks.entry(index).or_default();
                    let before = *has;
                    *has |= direction;
                    if let Some(told) = told.get(&index)
                        && before != 3
                        && *has == 3
                    {
                        seen.push(Seen { told: *told, hooked: at });
                    }
                }
                (at, None) if at > deadline => {
                    bail!("{} of {devices} devices were hooked within {WITHIN:?}", seen.len())
                }
                (_, None) => {}
            }
        }
        ensure!(told.len() == devices as usize, "the kernel told of {} devices", told.len());
        Ok(seen)
    }

    fn until_quiet(&self) -> Result<()> {
        let deadline = Instant::now() + WITHIN;
        let mut last = Instant::now();
        loop {
            let (at, message) = self.next()?;
            if message.is_some() {
                last = at;
            }
            ensure!(at < deadline, "there is no peace in the node's namespace");
            if at.saturating_duration_since(last) > QUIET {
                return Ok(());
            }
        }
    }
}

/// The first message of a datagram: the kernel tells of one thing at a time.
fn decode(datagram: &[u8]) -> Option<Message> {
    const NEW_LINK: u16 = 16;
    const NEW_FILTER: u16 = 44;
    const LINK_HEADER: usize = 16;
    const LINK_NAME: u16 = 3;
    const INGRESS: u32 = 0xffff_fff2;
    const EGRESS: u32 = 0xffff_fff3;
    let buffer = NetlinkBuffer::new_checked(datagram).ok()?;
    let payload = buffer.payload();
    let word = |at: usize| payload.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    match buffer.message_type() {
        NEW_LINK => {
            let mut attributes = NlasIterator::new(payload.get(LINK_HEADER..)?).flatten();
            let name = attributes.find(|attribute| attribute.kind() == LINK_NAME)?;
            name.value().starts_with(NAME.as_bytes()).then_some(Message::Device(word(4)?))
        }
        NEW_FILTER => match word(12)? {
            INGRESS => Some(Message::Filter(word(4)?, 1)),
            EGRESS => Some(Message::Filter(word(4)?, 2)),
            _ => None,
        },
        _ => None,
    }
}
