//! What the maps of one family hold: the agent's copy of the tables that it alone writes.

use std::collections::BTreeSet;

use svclb_common::schema::{Backend, BackendRef, Service, ServiceKey, ServiceRef};

use super::{Action, Bitmap};
use crate::hashing::HashMap;
use crate::ids::Range;
use crate::model::FamilyAddress;

/// Sizes that matter to a plan, in entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// SERVICE.
    pub services: u32,
    /// SLOTS.
    pub slots: u32,
    /// BACKENDS.
    pub backends: u32,
    /// 64-bit words of `INTEREST_FRONTENDS`, both halves.
    pub interest_frontends: u32,
    /// 64-bit words of `INTEREST_BACKENDS`, both halves.
    pub interest_backends: u32,
}

/// Content of the tables. Arrays end behind their last entry that was written.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Content<A: FamilyAddress> {
    /// SERVICES.
    pub frontends: HashMap<ServiceKey<A>, ServiceRef>,
    /// SERVICE.
    pub services: Vec<Service>,
    /// SLOTS.
    pub slots: Vec<BackendRef>,
    /// BACKENDS.
    pub backends: Vec<Backend<A>>,
    /// `SOURCE_RANGES`: by service number, prefix length (of the address alone) and address.
    pub source_ranges: HashMap<u32, BTreeSet<(u8, A)>>,
    /// `INTEREST_FRONTENDS`, both halves, whole.
    pub interest_frontends: Vec<u64>,
    /// `INTEREST_BACKENDS`, both halves, whole.
    pub interest_backends: Vec<u64>,
}

impl<A: FamilyAddress> Content<A> {
    /// Tables that nobody has written yet.
    pub fn empty(limits: &Limits) -> Self {
        Self {
            frontends: HashMap::default(),
            services: Vec::new(),
            slots: Vec::new(),
            backends: Vec::new(),
            source_ranges: HashMap::default(),
            interest_frontends: vec![0; limits.interest_frontends as usize],
            interest_backends: vec![0; limits.interest_backends as usize],
        }
    }

    /// The record of a service number; zeros if it was never written.
    pub fn service(&self, number: u32) -> Service {
        self.services.get(number as usize).copied().unwrap_or_default()
    }

    /// The record of a backend number; zeros if it was never written.
    pub fn backend(&self, number: u32) -> Backend<A> {
        self.backends.get(number as usize).copied().unwrap_or_default()
    }

    /// The slots of a range.
    pub fn list(&self, range: Range) -> &[BackendRef] {
        let first = range.first as usize;
        self.slots.get(first..first + range.count as usize).unwrap_or(&[])
    }

    /// One word of a bitmap.
    pub fn interest(&self, bitmap: Bitmap, word: u32) -> u64 {
        let words = match bitmap {
            Bitmap::Frontends => &self.interest_frontends,
            Bitmap::Backends => &self.interest_backends,
        };
        words.get(word as usize).copied().unwrap_or(0)
    }

    /// Does to this copy what an action does to the tables.
    pub fn apply(&mut self, action: &Action<A>) {
        match action {
            Action::SetInterest { bitmap, word, bits } => {
                let words = match bitmap {
                    Bitmap::Frontends => &mut self.interest_frontends,
                    Bitmap::Backends => &mut self.interest_backends,
                };
                if let Some(word) = words.get_mut(*word as usize) {
                    *word |= bits;
                }
            }
            Action::WriteBackend { number, value } => put(&mut self.backends, *number, *value),
            Action::WriteSlots { first, list } => {
                for (index, backend) in (*first..).zip(list) {
                    put(&mut self.slots, index, *backend);
                }
            }
            Action::AddSourceRange { service, range } => {
                self.source_ranges.entry(*service).or_default().insert(*range);
            }
            Action::RemoveSourceRange { service, range } => {
                if let Some(ranges) = self.source_ranges.get_mut(service) {
                    ranges.remove(range);
                    if ranges.is_empty() {
                        self.source_ranges.remove(service);
                    }
                }
            }
            Action::WriteService { number, value } => put(&mut self.services, *number, *value),
            Action::PutFrontend { key, value } => {
                self.frontends.insert(*key, *value);
            }
            Action::RemoveFrontend { key } => {
                self.frontends.remove(key);
            }
        }
    }
}

fn put<T: Copy + Default>(array: &mut Vec<T>, index: u32, value: T) {
    let index = index as usize;
    if array.len() <= index {
        array.resize(index + 1, T::default());
    }
    if let Some(entry) = array.get_mut(index) {
        *entry = value;
    }
}
