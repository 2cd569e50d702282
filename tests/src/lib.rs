//! The worlds in which svclb is tested.

pub mod net;
