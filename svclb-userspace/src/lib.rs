//! The svclb agent, as a library for its command and for tests.
//!
//! One way from objects to tables, one module each: [`model`] holds what a source ([`k8s`]) told,
//! [`desired`] is the policy, [`plan`] orders the writes and [`ids`] gives the numbers in them, [`tables`]
//! carries them out through [`bpf`]. [`host`] follows the devices and addresses of the machine.

pub mod agent;
pub mod bpf;
pub mod cli;
pub mod clock;
pub mod config;
pub mod desired;
pub mod hashing;
pub mod health;
mod heap;
pub mod host;
pub mod ids;
pub mod k8s;
pub mod metrics;
pub mod model;
pub mod plan;
pub mod tables;
