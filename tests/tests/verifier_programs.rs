//! The kernel's verifier takes every program.
#![cfg(feature = "kernel")]

use svclb_common::config::Sizes;
use svclb_userspace::bpf::load::{Object, Options};

#[test]
fn every_program_is_accepted_by_this_kernel() {
    let options = Options { bpffs: None, sizes: Sizes::for_memory(0), test_mode: false };
    if let Err(error) = Object::load(&options) {
        panic!("{error}");
    }
}
