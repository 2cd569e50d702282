//! Measurements: what a packet costs, and what a change of the cluster costs.
//!
//! [`packet`] runs programs on one CPU over packets that are made for it, [`control`] an agent on a big cluster;
//! [`population`] makes the Services
//! that are in the tables meanwhile; [`spread`] sums up samples. `cargo xtask bench` shows the figures.

pub mod control;
pub mod packet;
pub mod population;
pub mod spread;
