//! The plan: from the tables as they are to the tables as they should be, as a list of writes.
//!
//! Packets flow while a plan runs, and the agent may die at any write of it. So its order is make
//! before break, and **every prefix of a plan leaves tables that are safe**:
//!
//! 1. interest bits of what comes, so that no packet overlooks it;
//! 2. BACKENDS of what comes;
//! 3. SLOTS, always into ranges that no record names;
//! 4. `SOURCE_RANGES` of what comes;
//! 5. SERVICE: each record switches to its new lists with one write;
//! 6. SERVICES: frontends appear, or change hands with one write;
//! 7. SERVICES: frontends disappear;
//! 8. SERVICE of ports that are gone: emptied;
//! 9. BACKENDS of what is gone: from here on no flow but TCP's goes there;
//! 10. `SOURCE_RANGES` of what is gone.
//!
//! A number given to another owner changes its generation; nothing else does. Each step belongs to a
//! Service port; when a write fails, the later steps of that port are left out and the port is
//! planned again, from what the tables then hold. The others are not held up.

pub mod content;
mod interest;
mod planner;
#[cfg(test)]
mod tests;

pub use content::{Content, Limits};
pub use planner::{Plan, Planner};

use svclb_common::schema::{Backend, BackendRef, Service, ServiceKey, ServiceRef};
use svclb_common::service::backend_state;

use crate::model::FamilyAddress;

/// A bitmap of INTEREST.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Bitmap {
    /// `INTEREST_FRONTENDS`.
    Frontends,
    /// `INTEREST_BACKENDS`.
    Backends,
}

/// One write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action<A: FamilyAddress> {
    /// Sets bits in a word of a bitmap.
    SetInterest {
        /// Which bitmap.
        bitmap: Bitmap,
        /// Index of the word.
        word: u32,
        /// The bits.
        bits: u64,
    },
    /// Writes a backend.
    WriteBackend {
        /// Its number.
        number: u32,
        /// The record.
        value: Backend<A>,
    },
    /// Writes a range of slots.
    WriteSlots {
        /// First slot.
        first: u32,
        /// What the slots hold.
        list: Vec<BackendRef>,
    },
    /// Admits a range of sources.
    AddSourceRange {
        /// Service number.
        service: u32,
        /// Prefix length and address.
        range: (u8, A),
    },
    /// Admits a range of sources no more.
    RemoveSourceRange {
        /// Service number.
        service: u32,
        /// Prefix length and address.
        range: (u8, A),
    },
    /// Writes a Service port.
    WriteService {
        /// Its number.
        number: u32,
        /// The record.
        value: Service,
    },
    /// Adds a frontend, or gives it to another Service port.
    PutFrontend {
        /// Key.
        key: ServiceKey<A>,
        /// Service number and scope.
        value: ServiceRef,
    },
    /// Removes a frontend.
    RemoveFrontend {
        /// Key.
        key: ServiceKey<A>,
    },
}

impl<A: FamilyAddress> Action<A> {
    /// Whether a backend serves no more after this.
    pub fn retires(&self) -> bool {
        matches!(self, Self::WriteBackend { value, .. } if value.state == backend_state::GONE)
    }
}

/// One step of a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step<A: FamilyAddress> {
    /// Index of the Service port in the plan that the step belongs to; none for the removal of a
    /// frontend, which no later step depends on.
    pub port: Option<usize>,
    /// The write.
    pub action: Action<A>,
}
