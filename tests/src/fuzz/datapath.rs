//! A node's life out of bytes, on the host, and what holds of every packet in it.

use svclb_common::verdict::Counter;

use super::sums::Sums;
use crate::packet;
use crate::random::{Dice, Nodes, Story};
use crate::world::{DROPPED, NEXT, Outcome, Port, SENT_BACK, Scene, World};

/// Counters of packets that are changed and go on.
const CHANGED: [Counter; 7] = [
    Counter::RequestTranslated,
    Counter::RequestMasqueraded,
    Counter::ReplyUnmasqueraded,
    Counter::ReplyTranslated,
    Counter::ReplyLifted,
    Counter::IcmpTranslated,
    Counter::FragmentTranslated,
];

/// Counters of packets that pass the node's IP stack by.
const FORWARDED: [Counter; 3] = [Counter::RequestForwarded, Counter::ReplyForwarded, Counter::FragmentTranslated];

/// Lets happen to a node on the host what the bytes say; how many packets that were.
///
/// # Panics
/// If the datapath does, or one of its packets is not as it must be.
#[cfg_attr(feature = "fuzz", inline)]
pub fn datapath(script: &[u8]) -> u64 {
    thread_local! {
        static BEGINNING: Story<Checked> = Story::new(Checked::new(), Dice::new(0));
    }
    let mut story = BEGINNING.with(Story::clone);
    story.play(Dice::script(script));
    story.nodes.packets
}

/// A node on the host of which every packet is looked at.
///
/// - A packet that goes on is as long as it was, and is as it was unless a counter says that it was changed.
/// - At ingress its sender's address stays, at egress its receiver's (in an ICMP error, those of the error itself), and
///   it has as many hops left as before; one that passes the IP stack by has one less, and a counter says so.
/// - A checksum that was right is right afterwards, and one that is there does not get lost.
/// - A refusal, and both resets of a connection that is cut, have right checksums, whatever was refused.
pub struct Checked {
    world: World,
    scene: Scene,
    /// Packets so far.
    pub packets: u64,
}

impl Checked {
    /// A node without Services.
    pub fn new() -> Self {
        Self { world: World::host(), scene: Scene::default(), packets: 0 }
    }
}

impl Clone for Checked {
    fn clone(&self) -> Self {
        Self { world: self.world.twin(), scene: self.scene.clone(), packets: self.packets }
    }
}

impl Default for Checked {
    fn default() -> Self {
        Self::new()
    }
}

impl Nodes for Checked {
    #[cfg_attr(feature = "fuzz", inline)]
    fn run(&mut self, ingress: bool, port: Port, bytes: &[u8]) -> Outcome {
        self.packets += 1;
        let outcome = if ingress { self.world.ingress(port, bytes) } else { self.world.egress(port, bytes) };
        if let Err(what) = check(ingress, bytes, &outcome) {
            let hook = if ingress { "ingress" } else { "egress" };
            panic!(
                "{what}, at {hook} of {port:?}: action {}, {:?}, onward {:?}\nbefore: {}\n{bytes:02x?}\nafter:  {}\n\
                 {:02x?}\ncopies: {:02x?}",
                outcome.action,
                outcome.moved,
                outcome.onward,
                packet::describe(bytes),
                packet::describe(&outcome.bytes),
                outcome.bytes,
                outcome.copies
            );
        }
        outcome
    }

    fn each(&mut self, mut change: impl FnMut(&mut World, &mut Scene)) {
        change(&mut self.world, &mut self.scene);
    }
}

/// What is wrong with what became of a packet.
fn check(ingress: bool, before: &[u8], outcome: &Outcome) -> Result<(), &'static str> {
    let after = &outcome.bytes;
    let told = |counters: &[Counter]| counters.iter().any(|counter| outcome.moved.contains_key(counter.label()));
    if outcome.action == DROPPED {
        // It may be half changed.
        return Ok(());
    }
    if told(&[Counter::RefusedGoneBackend]) {
        let [copy] = outcome.copies.as_slice() else { return Err("a connection is cut by two resets") };
        Sums::of(copy).are_right()?;
        return Sums::of(after).are_right();
    }
    if outcome.action == SENT_BACK && outcome.onward.is_none() && !told(&[Counter::PingAnswered]) {
        return Sums::of(after).are_right();
    }
    if after.len() != before.len() {
        return Err("a packet that goes on has another length");
    }
    if after == before {
        return Ok(());
    }
    let (was, is) = (Sums::of(before), Sums::of(after));
    was.hold_in(&is)?;
    if outcome.onward.is_some() {
        if !told(&FORWARDED) {
            return Err("a packet passes the stack by, and no counter tells");
        }
        if was.hops().and_then(|hops| hops.checked_sub(1)) != is.hops() {
            return Err("a packet that passes the stack by takes one hop");
        }
    } else if outcome.action == NEXT {
        if !told(&CHANGED) {
            return Err("a packet was changed, and no counter tells");
        }
        let kept =
            |sums: &Sums<'_>| sums.ends().map(|ends| if ingress { ends.source } else { ends.destination }.to_vec());
        if kept(&was) != kept(&is) {
            return Err("the address that this hook must leave alone was changed");
        }
        if was.hops() != is.hops() {
            return Err("the stack is who counts hops");
        }
    }
    Ok(())
}
