//! A fuzzer of the datapath, around libFuzzer. `cargo xtask fuzz` builds and runs it.
#![no_main]

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use libfuzzer_sys::fuzz_target;
use nix::sys::signal::{Signal, raise};
use svclb_tests::fuzz;

/// Packets so far.
static PACKETS: AtomicU64 = AtomicU64::new(0);
/// Packets after which it ends.
static ENOUGH: LazyLock<u64> = LazyLock::new(|| {
    let number = std::env::var(fuzz::PACKETS).ok().and_then(|text| text.parse().ok());
    number.unwrap_or(u64::MAX)
});
/// Packets between two lines that say how many they were.
const LINE: u64 = 100_000;

fuzz_target!(|script: &[u8]| {
    let packets = fuzz::datapath(script);
    let before = PACKETS.fetch_add(packets, Ordering::Relaxed);
    let after = before + packets;
    if before / LINE != after / LINE || (before < *ENOUGH && after >= *ENOUGH) {
        eprintln!("{} {after}", fuzz::SAID);
    }
    if after >= *ENOUGH {
        // libFuzzer ends after this input, with code 0.
        raise(Signal::SIGUSR1).expect("a process can tell itself");
    }
});
