//! `cargo xtask run`: svclb at work on this machine, with real requests over every path.
//!
//! The stage ([`stage`]) is a lab of network namespaces with an agent on each node. What is the same for
//! files and for a real API server (lab, asking pods, policy, rounds, table) is here; what differs, where
//! objects come from and who makes pods of them, is behind [`source::Source`].

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use clap::ValueEnum;
use svclb_tests::{
    cluster::KubeProxyConfig,
    net::{self, Manifests},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Outcome, process, repository, setup, setup::items::Need};

use self::{board::Board, screen::Screen, stage::Stage, watch::Watch};

mod board;
mod cluster;
mod files;
mod screen;
mod source;
mod stage;
mod watch;

/// Show svclb at work: two nodes, pods and a client outside in network namespaces of this machine.
///
/// Builds svclb, starts an agent on each node with the given manifests, and sends real requests on every
/// path, IPv4 and IPv6, TCP and UDP. A live table shows who answered, which client the pods saw, and what
/// failed. Edit the files while it runs: replicas, ports, further Services. Ctrl-C ends it and leaves
/// nothing behind. Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kubernetes manifests with Services, Deployments, Pods and `EndpointSlices` [default:
    /// examples/httpd.yaml].
    files: Vec<PathBuf>,
    /// One full round, then end: exit code 0 if all was as it must be, else 1.
    #[arg(long)]
    once: bool,
    /// How the result is shown; json is one object a round.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    /// How pods are wired to their node, and nodes to each other.
    #[arg(long, value_enum, default_value_t)]
    pod_network: PodNetwork,
    /// A network policy in netfilter's FORWARD hook on both nodes: drops what is not from an allowed client
    /// to a backend, and a pod that is not allowed asks too. With it kubelet's rule for loopback addresses.
    #[arg(long)]
    policy: bool,
    /// What devices do in place of the kernel. With off, every checksum is computed and checked; with gro, TCP is cut
    /// by its senders and joined by the nodes.
    #[arg(long, value_enum, default_value_t)]
    offload: Offload,
    /// How the agents attach their programs [default: auto].
    #[arg(long, value_enum)]
    attach: Option<Attach>,
    /// On a real etcd, API server, controller manager and scheduler, in place of files that the agents
    /// read; `cargo xtask kubectl` talks to it meanwhile. The first time, building them takes 10 minutes.
    #[arg(long)]
    cluster: bool,
    /// With --cluster: kube-proxy's configuration, as `KubeProxyConfiguration` or as the `ConfigMap` kube-proxy of a
    /// cluster that kubeadm made (examples/kube-proxy.yaml is one). The agents are started with it where kube-proxy
    /// would be: in its container, with its account and its arguments. The lab's pods are in 10.244.0.0/16 and
    /// `fd00:10:244::/48`.
    #[arg(long, value_name = "FILE", requires = "cluster")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table, redrawn in place on a terminal.
    #[default]
    Table,
    /// One JSON object for each round.
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum PodNetwork {
    /// A host route to each pod.
    #[default]
    Routed,
    /// Ports of a Linux bridge.
    Bridged,
    /// As the CNI plugin ptp does it: each pod's host end has the gateway's address.
    Ptp,
    /// Ports of a Linux bridge, and VXLAN between the nodes, as flannel does it.
    Vxlan,
    /// A host route to each pod, where nodes, pods and Services have IPv6 alone.
    Ipv6,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Offload {
    /// As veth does it.
    #[default]
    On,
    /// `ethtool -K .. tx off rx off`.
    Off,
    /// `gro on` on the nodes, `tx off tso off gso off` on the others.
    Gro,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Attach {
    /// What the kernel has, TCX before clsact.
    Auto,
    /// TCX, kernel 6.6 or newer.
    Tcx,
    /// A clsact qdisc.
    Clsact,
}

impl Args {
    fn lab(&self) -> net::LabOptions {
        net::LabOptions {
            offload: match self.offload {
                Offload::On => net::Offload::On,
                Offload::Off => net::Offload::Off,
                Offload::Gro => net::Offload::Gro,
            },
            underlay: match self.pod_network {
                PodNetwork::Vxlan => net::Underlay::Vxlan,
                PodNetwork::Routed | PodNetwork::Bridged | PodNetwork::Ptp | PodNetwork::Ipv6 => net::Underlay::Direct,
            },
            families: match self.pod_network {
                PodNetwork::Ipv6 => net::Families::Ipv6,
                PodNetwork::Routed | PodNetwork::Bridged | PodNetwork::Ptp | PodNetwork::Vxlan => net::Families::Both,
            },
            control_plane: self.cluster,
            ..net::LabOptions::default()
        }
    }

    fn network(&self) -> net::PodNetwork {
        match self.pod_network {
            PodNetwork::Routed | PodNetwork::Ipv6 => net::PodNetwork::Routed,
            PodNetwork::Bridged | PodNetwork::Vxlan => net::PodNetwork::Bridged,
            PodNetwork::Ptp => net::PodNetwork::Ptp,
        }
    }

    fn kube_proxy_config(&self) -> Result<Option<KubeProxyConfig>> {
        self.config.as_deref().map(KubeProxyConfig::read).transpose()
    }

    /// The manifests, and the example where none is given.
    fn files(&self) -> Vec<PathBuf> {
        if self.files.is_empty() { vec![repository::root().join("examples/httpd.yaml")] } else { self.files.clone() }
    }

    /// What kind of run this is, in a line.
    fn title(&self) -> String {
        format!(
            "2 nodes, objects {}{}, pods {}, offload {}, attach {}, policy {}",
            if self.cluster { "on an API server" } else { "in files" },
            if self.config.is_some() { ", agents in the place of kube-proxy" } else { "" },
            choice(&self.pod_network),
            choice(&self.offload),
            choice(&self.attach.unwrap_or(Attach::Auto)),
            if self.policy { "on" } else { "off" },
        )
    }
}

/// The name of a choice, as it is given on the command line.
fn choice(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// The pause between two rounds.
const PAUSE: Duration = Duration::from_secs(1);

/// How often a single round is tried while the cluster still changes.
const TRIES: u32 = 10;

/// What agents may take to follow a change before the next round judges them.
const SETTLE: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    if !process::is_root() {
        bail!("network namespaces and BPF programs need root: run it again as root");
    }
    let manifests = Manifests::read(&args.files())?;
    args.kube_proxy_config()?;
    let mut needs = vec![Need::KernelObject, Need::Network];
    if args.cluster {
        needs.push(Need::Cluster);
    }
    setup::ensure(&needs)?;
    eprintln!("building svclb ...");
    let binary = net::agent_binary()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(perform(args, &binary, &manifests))
}

/// The whole run, until its end or a signal.
async fn perform(args: &Args, binary: &Path, manifests: &Manifests) -> Result<Outcome> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut stage = tokio::select! {
        biased;
        _ = interrupted.recv() => return Ok(Outcome::Done),
        _ = terminated.recv() => return Ok(Outcome::Done),
        stage = Stage::set_up(args, binary, manifests) => stage?,
    };
    let played = tokio::select! {
        biased;
        _ = interrupted.recv() => Ok(Outcome::Done),
        _ = terminated.recv() => Ok(Outcome::Done),
        outcome = play(args, &mut stage) => outcome,
    };
    stage.take_down().await;
    played
}

/// Rounds and their table.
async fn play(args: &Args, stage: &mut Stage) -> Result<Outcome> {
    let live = !args.once && args.output == Output::Table && std::io::stdout().is_terminal();
    let mut screen = Screen::open(live, args.output == Output::Json)?;
    let (inside, file) = stage.how_to_look_inside()?;
    let files: Vec<String> = args.files().iter().map(|file| file.display().to_string()).collect();
    let mut above = if live {
        format!("edit {} while this runs; Ctrl-C ends it; {} says how to look inside", files.join(", "), file.display())
    } else {
        format!("to look inside, from another terminal:\n{inside}")
    };
    for warning in stage.warnings()? {
        above.push('\n');
        above.push_str(&warning);
    }
    screen.say(&above);
    let mut board = Board::new(args.title());
    board.tell(stage.take_messages());
    let mut watch = Watch::start(&args.files())?;
    let mut tries = 0;
    loop {
        let round = stage.round().await?;
        tries += 1;
        if args.once && round.overtaken && tries < TRIES {
            continue;
        }
        let good = round.is_good();
        board.add(round);
        board.tell(stage.take_messages());
        screen.show(&board)?;
        if args.once {
            return Ok(if good { Outcome::Done } else { Outcome::Failed });
        }
        if tokio::time::timeout(PAUSE, watch.changed()).await.is_ok() {
            match Manifests::read(&args.files()) {
                Ok(manifests) => {
                    stage.apply(&manifests)?;
                    tokio::time::sleep(SETTLE).await;
                }
                // A half-written file is no reason to end.
                Err(error) => board.tell(vec![format!("not taken over: {error:#}")]),
            }
        }
    }
}
