//! Properties of plans, on tables in memory.

mod halves;
mod property;
mod safety;
mod scenario;
