//! Host and kernel agree byte for byte: what becomes of a packet, the packet itself, the flow tables and the
//! counters, on packets from a generator that reaches every verdict and every drop reason.
//!
//! `SVCLB_AGREEMENT_PACKETS` sets the number of packets (default 10,000; the long form is 200,000), and
//! `SVCLB_AGREEMENT_SEED` the seed, which a failure prints.
#![cfg(feature = "kernel")]
#![expect(clippy::print_stdout, reason = "the table of what was reached is a result")]

use std::env;
use svclb_common::verdict::Counter;
use svclb_tests::fuzz::corpus;
use svclb_tests::random::{Dice, Pair, Story};

/// Counters that the generator cannot reach: each needs another CPU or a broken kernel at the right moment.
const UNREACHABLE: &[Counter] = &[
    Counter::Marked,
    Counter::RefusalFailed,
    Counter::Unwritable,
    // Sockets have no packets.
    Counter::SocketTranslated,
    Counter::SocketPeerTranslated,
    Counter::RefusedSocket,
    // Frames before tc.
    Counter::XdpForwarded,
];

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn host_and_kernel_agree_byte_for_byte() {
    let packets = number("SVCLB_AGREEMENT_PACKETS", 10_000);
    let seed = number("SVCLB_AGREEMENT_SEED", 0x5bc1b);
    println!("SVCLB_AGREEMENT_SEED={seed} SVCLB_AGREEMENT_PACKETS={packets}");
    let mut story = Story::new(Pair::new(), Dice::new(seed));
    for n in 1..=packets {
        story.goes_on();
        if n % 1000 == 0 || n == packets {
            story.nodes.compare_flows();
        }
    }
    let least = packets / 200;
    let mut missed = Vec::new();
    println!("{:<28} {:>8}", "counter", "reached");
    for counter in Counter::ALL {
        let reached = story.nodes.reached(*counter);
        println!("{:<28} {reached:>8}", counter.label());
        if reached < least && !UNREACHABLE.contains(counter) {
            missed.push(format!("{} {reached}", counter.label()));
        }
    }
    assert!(missed.is_empty(), "the generator reached these less than {least} times: {missed:?}");
}

#[test]
fn host_and_kernel_agree_on_what_the_fuzzer_has_found() {
    let text = include_str!("../fuzz/corpus.txt");
    let inputs = corpus::read(text).expect("the corpus can be read");
    assert!(inputs.len() > 100, "a corpus of {} inputs is none", inputs.len());
    let mut story = Story::new(Pair::new(), Dice::new(0));
    for input in &inputs {
        story.play(Dice::script(input));
    }
    story.nodes.compare_flows();
}
