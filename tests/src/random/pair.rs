//! The node on the host and the node in the kernel, to which the same happens.

use std::collections::BTreeMap;

use svclb_common::verdict::Counter;

use super::Nodes;
use crate::packet;
use crate::world::{Outcome, Port, Scene, World};

/// The two worlds, side by side; the test fails where they differ.
pub struct Pair {
    host: World,
    kernel: World,
    scenes: [Scene; 2],
    reached: BTreeMap<&'static str, u64>,
}

impl Pair {
    /// Two nodes without Services.
    ///
    /// # Panics
    /// If the kernel does not take the programs.
    pub fn new() -> Self {
        Self {
            host: World::host(),
            kernel: World::kernel(),
            scenes: [Scene::default(), Scene::default()],
            reached: BTreeMap::new(),
        }
    }

    /// How often a counter moved so far.
    pub fn reached(&self, counter: Counter) -> u64 {
        self.reached.get(counter.label()).copied().unwrap_or(0)
    }

    /// Compares the flow tables.
    ///
    /// # Panics
    /// If they differ.
    pub fn compare_flows(&self) {
        assert_eq!(self.host.flows(), self.kernel.flows(), "the flow tables of host and kernel differ");
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

impl Nodes for Pair {
    fn each(&mut self, mut change: impl FnMut(&mut World, &mut Scene)) {
        change(&mut self.host, &mut self.scenes[0]);
        change(&mut self.kernel, &mut self.scenes[1]);
    }

    fn run(&mut self, ingress: bool, port: Port, bytes: &[u8]) -> Outcome {
        let run = |world: &mut World| if ingress { world.ingress(port, bytes) } else { world.egress(port, bytes) };
        let (host, kernel) = (run(&mut self.host), run(&mut self.kernel));
        let where_to = if ingress { "ingress" } else { "egress" };
        assert_eq!(
            host,
            kernel,
            "host (left) and kernel (right) differ at {where_to} of {port:?} on {}",
            packet::describe(bytes)
        );
        for (counter, n) in &host.moved {
            *self.reached.entry(counter).or_default() += n;
        }
        host
    }
}
