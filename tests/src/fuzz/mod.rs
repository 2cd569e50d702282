//! What a fuzzer runs: bytes in, a panic if something is wrong.

pub mod corpus;
mod datapath;
mod sums;

pub use self::datapath::{Checked, datapath};

/// Variable of the fuzzer's environment: packets after which it ends.
pub const PACKETS: &str = "SVCLB_FUZZ_PACKETS";
/// Before the number of packets in a line that the fuzzer prints.
pub const SAID: &str = "packets:";
