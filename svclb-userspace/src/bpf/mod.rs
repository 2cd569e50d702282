//! The kernel's side as the agent handles it: programs, hooks, pins.

pub mod attach;
mod clsact;
pub mod pin;
pub mod probe;
mod tcx;
