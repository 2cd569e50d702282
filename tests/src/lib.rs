//! The worlds in which svclb is tested.

pub mod bench;
pub mod cluster;
pub mod net;
pub mod packet;
pub mod parity;
pub mod verifier;
pub mod world;
