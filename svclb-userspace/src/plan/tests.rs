//! Properties of plans, on tables in memory.

mod property;
mod safety;
mod scenario;
