//! Measurements: what a packet costs, what a change of the cluster costs, and how long devices are without hooks.
//!
//! [`packet`] runs programs on one CPU over packets that are made for it, [`control`] an agent on a big cluster,
//! [`devices`] one on a node where many pods start; [`population`] makes the Services that are in the tables
//! meanwhile; [`spread`] sums up samples. `cargo xtask bench` shows the figures.

pub mod control;
pub mod devices;
pub mod packet;
pub mod population;
pub mod spread;
