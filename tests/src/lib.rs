//! The worlds in which svclb is tested.

pub mod bench;
pub mod cluster;
pub mod e2e;
pub mod flows;
pub mod fuzz;
pub mod net;
pub mod packet;
pub mod parity;
pub mod random;
pub mod script;
pub mod sequences;
pub mod verifier;
pub mod world;
