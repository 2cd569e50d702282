//! The topology: two nodes or more, a router, a client behind it, and a control plane if wanted.
//!
//! ```text
//!   node1 192.0.2.11 ──┐ eth0                        ┌── outside client 198.51.100.10
//!   node2 192.0.2.12 ──┤ bridge of the router (.1) ──┤
//!   control plane .10 ─┘                             └   (.1)
//! ```
//! All of it has IPv6 as well, with the same last digits, or IPv6 alone. Nodes and router check the reverse path
//! strictly. The router knows the way to the pods, as a network without an overlay needs it.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{
    address::{Families, Pair, on_node_network, outside, pod_prefixes},
    bpffs::Bpffs,
    frames::FrameTaker,
    link::{ANSWERS_EVERYBODY, BUSY_CLIENT, QUICK_IPV6, STRICT_ROUTER},
    netns::Netns,
    node::Node,
};

/// The numbers of the nodes of a lab of the usual size.
pub const NODES: [u8; 2] = [1, 2];

/// What devices do for the hosts: checksums, and cutting and joining the packets of TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offload {
    /// As veth does it: no checksum is ever computed or checked, and TCP is never cut.
    #[default]
    On,
    /// `ethtool -K .. tx off rx off` on the nodes' devices, the outside client, and inside every second
    /// pod: so packets reach the hooks with the sum still to be computed and with the sum done, and every
    /// sum is checked in the end.
    Off,
    /// Senders cut TCP and compute every sum, and nodes join what comes, as a network card's driver does (GRO): so the
    /// hooks see packets that are chains of those which were received.
    Gro,
}

impl Offload {
    /// Features of the devices of a host that sends: a client, a pod.
    pub(super) fn of_sender(self) -> &'static str {
        match self {
            Self::On => "",
            Self::Off => "tx off rx off",
            Self::Gro => "tx off tso off gso off",
        }
    }

    /// Features of the devices of a host that forwards.
    pub(super) fn of_router(self) -> &'static str {
        match self {
            Self::On => "",
            Self::Off => "tx off rx off",
            Self::Gro => "gro on",
        }
    }
}

/// How packets for pods travel between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Underlay {
    /// By routes to the other node's address.
    #[default]
    Direct,
    /// Inside VXLAN, over a device `vxlan0` with an address of its own in the node's pod range. Pods' devices have its
    /// MTU, which is smaller than that of the nodes.
    Vxlan,
}

/// What kind of lab.
#[derive(Debug, Clone, Copy)]
pub struct LabOptions {
    /// How many nodes, with the numbers from 1 on.
    pub nodes: u8,
    /// What devices do for the hosts.
    pub offload: Offload,
    /// The way between nodes.
    pub underlay: Underlay,
    /// The families that hosts and pods have.
    pub families: Families,
    /// Whether there is a host for the control plane.
    pub control_plane: bool,
    /// Whether the nodes' `eth0` can send frames by XDP, as a wire's driver can: the router's ends take them.
    pub frames: bool,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            nodes: NODES.len() as u8,
            offload: Offload::default(),
            underlay: Underlay::default(),
            families: Families::default(),
            control_plane: false,
            frames: false,
        }
    }
}

impl LabOptions {
    /// The numbers of the nodes.
    pub(super) fn numbers(self) -> std::ops::RangeInclusive<u8> {
        1..=self.nodes
    }
}

/// A host that is no node: the outside client, the control plane.
#[derive(Debug)]
pub struct Host {
    /// Its namespace.
    pub netns: Netns,
    /// Its addresses, on `eth0`.
    pub address: Pair,
}

/// The namespaces of a small cluster, wired. Dropping it takes everything away.
#[derive(Debug)]
pub struct Lab {
    nodes: Vec<Node>,
    router: Netns,
    client: Host,
    control_plane: Option<Host>,
    bpffs: Bpffs,
    options: LabOptions,
    _taker: Option<FrameTaker>,
}

impl Lab {
    /// Builds the topology. Needs root, iproute2, and ethtool when offload is off.
    pub fn new(options: LabOptions) -> Result<Self> {
        ensure!(options.nodes <= 2 || options.underlay == Underlay::Direct, "the VXLAN of the lab joins two nodes");
        allow_many_files()?;
        let router = Netns::new("router")?;
        router.sysctls(QUICK_IPV6)?;
        router.sysctls(STRICT_ROUTER)?;
        router.sysctls(ANSWERS_EVERYBODY)?;
        router.ip(&format!(
            "link add nodes address 02:00:00:00:02:01 type bridge\n\
             link set nodes up\n\
             {}",
            addresses(options.families, "nodes", on_node_network(1))
        ))?;
        let mut taker = if options.frames { Some(FrameTaker::new()?) } else { None };
        let nodes = options
            .numbers()
            .map(|number| {
                let netns = wire(&router, Place::Node(number), options)?;
                if let Some(taker) = &mut taker {
                    taker.take_frames_of(&router, &format!("node{number}"))?;
                }
                Node::new(number, netns, options)
            })
            .collect::<Result<Vec<_>>>()?;
        let client = Host { netns: wire(&router, Place::Outside, options)?, address: outside(10) };
        client.netns.sysctls(BUSY_CLIENT)?;
        let control_plane = if options.control_plane {
            let netns = wire(&router, Place::ControlPlane, options)?;
            Some(Host { netns, address: on_node_network(10) })
        } else {
            None
        };
        let mut ways = String::new();
        for node in &nodes {
            let ([v4, v6], [via4, via6]) = (pod_prefixes(node.number()), node.address().both());
            for (prefix, via) in options.families.of([(v4, via4), (v6, via6)]) {
                writeln!(ways, "route add {prefix} via {via}")?;
            }
        }
        router.ip(&ways)?;
        Ok(Self { nodes, router, client, control_plane, bpffs: Bpffs::new()?, options, _taker: taker })
    }

    /// The node with this number.
    ///
    /// # Panics
    /// When there is none: numbers go from 1 to [`LabOptions::nodes`].
    #[track_caller]
    pub fn node(&self, number: u8) -> &Node {
        self.nodes.iter().find(|node| node.number() == number).expect("a node has this number")
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The client outside the cluster.
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// The host of the control plane, where [`LabOptions::control_plane`] asked for one.
    pub fn control_plane(&self) -> Option<&Host> {
        self.control_plane.as_ref()
    }

    /// The node to which the router sends what is for a load balancer.
    pub fn load_balancer_node(&self) -> &Node {
        self.node(NODES[0])
    }

    /// Leads an address of a load balancer to [`Self::load_balancer_node`], as a cloud would.
    pub fn route_load_balancer(&self, address: IpAddr) -> Result<()> {
        self.route_to_node(address, self.load_balancer_node().number())
    }

    /// Leads an address to a node, if it is of a family of this lab.
    pub fn route_to_node(&self, address: IpAddr, node: u8) -> Result<()> {
        if !self.options.families.has(address) {
            return Ok(());
        }
        let via = self.node(node).address().of_family(address);
        self.router.ip(&format!("route replace {address} via {via}\n"))
    }

    /// The address by which the client outside knows the router.
    pub fn router_address(&self) -> Pair {
        outside(1)
    }

    /// Lets the router forward packets of so many bytes and no longer ones.
    pub fn narrow_router(&self, mtu: u32) -> Result<()> {
        self.router.narrow_routes(mtu, |_route| true)
    }

    /// The router between nodes and outside.
    pub fn router(&self) -> &Netns {
        &self.router
    }

    /// The BPF file system of this lab's agents.
    pub fn bpffs(&self) -> &Bpffs {
        &self.bpffs
    }

    /// What it was built with.
    pub fn options(&self) -> LabOptions {
        self.options
    }
}

/// Lets this process open as many files as it may: every connection has both its ends here.
fn allow_many_files() -> Result<()> {
    let (_soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")
}

/// Where a host is wired to the router.
#[derive(Debug, Clone, Copy)]
enum Place {
    Node(u8),
    ControlPlane,
    Outside,
}

/// Makes a host's namespace with `eth0`, its addresses and default routes, and the router's end of it.
fn wire(router: &Netns, place: Place, options: LabOptions) -> Result<Netns> {
    let families = options.families;
    let (label, port) = match place {
        Place::Node(number) => (format!("node{number}"), format!("node{number}")),
        Place::ControlPlane => ("control plane".to_owned(), "control".to_owned()),
        Place::Outside => ("outside client".to_owned(), "outside".to_owned()),
    };
    let (own, gateway) = match place {
        Place::Node(number) => (on_node_network(10 + number), on_node_network(1)),
        Place::ControlPlane => (on_node_network(10), on_node_network(1)),
        Place::Outside => (outside(10), outside(1)),
    };
    let netns = Netns::new(&label)?;
    netns.sysctls(QUICK_IPV6)?;
    netns.sysctls(ANSWERS_EVERYBODY)?;
    if matches!(place, Place::Node(_)) {
        netns.sysctls(STRICT_ROUTER)?;
    }
    router.ip(&format!(
        "link add {port} type veth peer name eth0 netns {}\n{}link set {port} up\n",
        netns.path(),
        match place {
            Place::Outside => addresses(families, &port, gateway),
            Place::Node(_) | Place::ControlPlane => format!("link set {port} master nodes\n"),
        }
    ))?;
    netns.ip(&format!(
        "link set eth0 up\n{}{}",
        addresses(families, "eth0", own),
        families.of(gateway.both().map(|via| format!("route add default via {via}\n"))).concat()
    ))?;
    let offload = options.offload;
    netns.features("eth0", if matches!(place, Place::Node(_)) { offload.of_router() } else { offload.of_sender() })?;
    router.features(&port, offload.of_router())?;
    Ok(netns)
}

/// The lines that give a device its addresses in the two networks of hosts.
fn addresses(families: Families, device: &str, pair: Pair) -> String {
    let v4 = format!("address add {}/24 dev {device}\n", pair.v4);
    families.of([v4, format!("address add {}/64 dev {device} nodad\n", pair.v6)]).concat()
}
