//! The addresses that packet tests use, of one family each.

use super::{BackendSpec, NODE4, NODE6, ServiceSpec, World};
use crate::packet::{Frame, sctp, tcp, udp};
use std::net::{IpAddr, SocketAddr};
use svclb_common::service::scope;

/// A frame that opens a conversation between two ends.
pub type Opening = fn(SocketAddr, SocketAddr) -> Frame;

/// Who is where, in one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Net {
    /// A pod of this node.
    pub client: SocketAddr,
    /// A client outside of the cluster.
    pub outside: SocketAddr,
    /// A Service's cluster IP.
    pub cluster: SocketAddr,
    /// Its node port.
    pub node_port: SocketAddr,
    /// Its load balancer's address.
    pub load_balancer: SocketAddr,
    /// An endpoint on this node.
    pub local: SocketAddr,
    /// An endpoint on another.
    pub remote: SocketAddr,
    /// This node.
    pub node: IpAddr,
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

impl Net {
    /// Runs a test in both worlds, for both families and every protocol: with a frame that opens a conversation, and
    /// the protocol's number.
    pub fn everywhere(test: impl Fn(&mut World, &Self, Opening, u8)) {
        let frames: [(Opening, u8); 3] =
            [(|from, to| tcp(from, to).syn(), 6), (udp, 17), (|from, to| sctp(from, to).syn(), 132)];
        for (frame, protocol) in frames {
            World::each(|world| Self::both().iter().for_each(|net| test(world, net, frame, protocol)));
        }
    }

    /// IPv4 and IPv6.
    pub fn both() -> [Self; 2] {
        [
            Self {
                client: at("10.244.1.5:40000"),
                outside: at("198.51.100.10:50000"),
                cluster: at("10.96.0.10:80"),
                node_port: SocketAddr::new(NODE4.into(), 30080),
                load_balancer: at("203.0.113.7:80"),
                local: at("10.244.1.7:8080"),
                remote: at("10.244.2.7:8080"),
                node: NODE4.into(),
            },
            Self {
                client: at("[fd00:10:244:1::5]:40000"),
                outside: at("[2001:db8:2::10]:50000"),
                cluster: at("[fd00:10:96::10]:80"),
                node_port: SocketAddr::new(NODE6.into(), 30080),
                load_balancer: at("[2001:db8:7::7]:80"),
                local: at("[fd00:10:244:1::7]:8080"),
                remote: at("[fd00:10:244:2::7]:8080"),
                node: NODE6.into(),
            },
        ]
    }

    /// A Service that is reached in three ways and served by the endpoint on another node.
    pub fn service(&self, protocol: u8) -> ServiceSpec {
        ServiceSpec {
            protocol,
            frontends: vec![
                (self.cluster, scope::CLUSTER),
                (self.node_port, scope::NODE_PORT),
                (self.load_balancer, scope::LOAD_BALANCER),
            ],
            backends: vec![BackendSpec { endpoint: self.remote, local: false }],
            flags: 0,
            affinity: 0,
            ranges: Vec::new(),
        }
    }
}
