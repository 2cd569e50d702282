//! Properties of plans, on tables in memory.

mod property;
pub(crate) mod safety;
mod scenario;
