//! A node's life at random: packets that meet again, damaged ones, fragments, errors; and between them endpoints,
//! settings and the clock change. It reaches every verdict and every drop reason. All of it follows from a seed, or from a script that a fuzzer writes.

mod dice;
mod events;
mod frames;
mod pair;
mod services;

use std::net::SocketAddr;

use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::{Prefix, flag};

pub use self::dice::Dice;
pub use self::pair::Pair;
use self::services::{base, services};
use crate::world::{Outcome, Port, Scene, World};

/// IP protocol number.
const TCP: u8 = 6;
/// IP protocol number.
const UDP: u8 = 17;
/// IP protocol number.
const SCTP: u8 = 132;

/// One node, or several alike to which the same happens.
pub trait Nodes {
    /// A packet enters or leaves each of them. What became of it must be the same.
    fn run(&mut self, ingress: bool, port: Port, bytes: &[u8]) -> Outcome;
    /// Something changes on each of them.
    fn each(&mut self, change: impl FnMut(&mut World, &mut Scene));
}

/// What happens to nodes, one after the other.
#[derive(Clone, Debug)]
pub struct Story<N> {
    /// Those to which it happens.
    pub nodes: N,
    dice: Dice,
    /// Clients and frontends of late, to meet again.
    recent: Vec<(SocketAddr, SocketAddr)>,
}

impl<N: Nodes> Story<N> {
    /// Gives the nodes their Services; `dice` says what happens then.
    pub fn new(mut nodes: N, dice: Dice) -> Self {
        nodes.each(|world, scene| {
            world.configure(|config| {
                // The prefixes of the cluster IPs: 10.96.0.0/16 and fd00:10:96::/112. How many count, changes.
                config.service_cidrs4[0] = Prefix {
                    network: Addr4(u32::from_ne_bytes([10, 96, 0, 0])),
                    mask: Addr4(u32::from_ne_bytes([255, 255, 0, 0])),
                };
                let network = [0xfd00_0010_u32.to_be(), 0x0096_0000_u32.to_be(), 0, 0];
                let mask = [u32::MAX, u32::MAX, u32::MAX, 0xffff_0000_u32.to_be()];
                config.service_cidrs6[0] = Prefix { network: Addr6(network), mask: Addr6(mask) };
                config.flags = flag::CUT;
            });
            for v6 in [false, true] {
                for protocol in [TCP, UDP, SCTP] {
                    let (number, first) = base(protocol);
                    for (n, spec) in services(v6, protocol).iter().enumerate() {
                        scene.write_at(world, spec, number + n as u32, first + n as u32 * 10, 0);
                    }
                }
            }
        });
        Self { nodes, dice, recent: Vec::new() }
    }

    /// Lets happen what a script says, to its end.
    pub fn play(&mut self, script: Dice) {
        self.dice = script;
        while !self.dice.is_over() {
            self.goes_on();
        }
    }

    /// A packet and what follows from it, and now and then something else before.
    pub fn goes_on(&mut self) {
        if self.dice.one_in(15) {
            events::change(self);
        }
        if self.dice.one_in(25) {
            events::afresh(self);
        }
        if self.dice.one_in(6) {
            events::portless(self);
        }
        events::step(self);
    }
}
