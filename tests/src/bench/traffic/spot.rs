//! What is measured in a round: one workload at one node.

use std::fmt;

use serde::{Serialize, Serializer};

use super::stand::Stand;

/// What is done over and over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Workload {
    /// A TCP connection for one request, which the server closes.
    Connect,
    /// A request and its answer on an established TCP connection.
    Exchange,
    /// A request and its answer on a connected UDP socket.
    Datagram,
    /// The same with a new socket each time.
    NewDatagram,
    /// Bytes over one TCP connection, as many as go.
    Bulk,
    /// 64-byte datagrams from outside to a node port, forwarded to a pod of another node, of so many flows.
    Forward {
        /// A power of two.
        flows: u32,
    },
}

impl Workload {
    /// Its name in tables and charts.
    pub fn name(self) -> String {
        match self {
            Self::Connect => "TCP connect, request, close".to_owned(),
            Self::Exchange => "TCP request-response".to_owned(),
            Self::Datagram => "UDP request-response".to_owned(),
            Self::NewDatagram => "new UDP flow".to_owned(),
            Self::Bulk => "bulk TCP".to_owned(),
            Self::Forward { flows } => format!("forwarding, {} flows", in_thousands(flows)),
        }
    }
}

fn in_thousands(number: u32) -> String {
    if number < 1024 { number.to_string() } else { format!("{}k", number / 1024) }
}

/// Where the client in a pod asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Target {
    /// A cluster IP; the endpoint is a pod of the same node.
    Service,
    /// That pod itself, at a port that is no Service's.
    Pod,
}

/// One thing to measure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Spot {
    /// At which node.
    pub stand: Stand,
    /// What is asked; forwarding asks a node port.
    pub target: Target,
    /// What is done.
    pub workload: Workload,
    /// CPUs: client and server share one, or have one each.
    pub cpus: u8,
}

impl Spot {
    /// Whether it is flooded, and has no client and no server.
    pub(super) fn is_forwarding(&self) -> bool {
        matches!(self.workload, Workload::Forward { .. })
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = match (self.workload, self.target) {
            (Workload::Forward { .. }, _) => "node port",
            (_, Target::Service) => "Service",
            (_, Target::Pod) => "pod",
        };
        write!(f, "{}; {target}; {}; {} CPU", self.stand, self.workload.name(), self.cpus)
    }
}

impl Serialize for Spot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What was seen in one round.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Sample {
    /// Transactions, bytes or packets that were done.
    pub done: u64,
    /// CPU time that client, server and the kernel between them took, in nanoseconds.
    pub cpu: u64,
    /// How long it took, in nanoseconds.
    pub wall: u64,
    /// Half of the connections were established within so many nanoseconds. Of [`Workload::Connect`] alone.
    pub connected: Option<u32>,
}

impl Sample {
    /// Nanoseconds of CPU time for one of what was done.
    pub fn cost(&self) -> f64 {
        as_f64(self.cpu) / as_f64(self.done)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds of a fraction of a second")]
fn as_f64(value: u64) -> f64 {
    value as f64
}
