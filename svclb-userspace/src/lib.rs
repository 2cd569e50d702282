//! The svclb agent, as a library for its command and for tests.

pub mod bpf;
pub mod host;
