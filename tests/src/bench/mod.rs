//! Measurements: what a packet costs, what real traffic costs, what a change of the cluster costs, and how long devices are
//! without hooks.
//!
//! [`packet`] runs programs on one CPU over packets that are made for it, [`traffic`] clients and servers in pods of
//! nodes that differ in who serves, [`control`] an agent on a big cluster, [`devices`] one on a node where many pods
//! start; [`population`] makes the Services that are in the tables meanwhile; [`spread`] sums up samples, and
//! [`finding`] holds them against goals. `cargo xtask bench` shows the figures.

pub mod control;
mod cpu;
pub mod devices;
pub mod finding;
pub mod packet;
pub mod population;
pub mod spread;
pub mod traffic;
