//! What the agent writes, kept so that it can be written into the tables of a world: an engine owns its tables, and
//! so does a world.

use std::collections::BTreeMap;
use std::mem;

use svclb_common::schema::{Backend, BackendRef, Service, ServiceKey, ServiceRef};
use svclb_userspace::model::FamilyAddress;
use svclb_userspace::plan::{Bitmap, Content, Limits};
use svclb_userspace::tables::fake::FakeTables;
use svclb_userspace::tables::{Cut, TableError, Tables};

/// Tables in memory that remember each call.
#[derive(Debug)]
pub struct Recorder<A: FamilyAddress> {
    tables: FakeTables<A>,
    calls: Vec<Call<A>>,
}

/// A call of one of the writing functions of [`Tables`].
#[derive(Clone, Debug)]
enum Call<A: FamilyAddress> {
    Interest(Bitmap, Vec<u32>, Vec<u64>),
    Backends(Vec<u32>, Vec<Backend<A>>),
    Slots(Vec<u32>, Vec<BackendRef>),
    Services(Vec<u32>, Vec<Service>),
    PutFrontends(Vec<ServiceKey<A>>, Vec<ServiceRef>),
    RemoveFrontend(ServiceKey<A>),
    AddSourceRange(u32, (u8, A)),
    RemoveSourceRange(u32, (u8, A)),
}

impl<A: FamilyAddress> Recorder<A> {
    /// Empty tables.
    pub fn new(limits: Limits) -> Self {
        Self { tables: FakeTables::new(limits), calls: Vec::new() }
    }

    /// How many entries of each map were written since the last time, or removed from SERVICES and SOURCE_RANGES.
    pub fn take_entries(&mut self) -> BTreeMap<&'static str, usize> {
        let mut entries = BTreeMap::new();
        for call in mem::take(&mut self.calls) {
            let (map, count) = match call {
                Call::Interest(_, words, _) => ("interest", words.len()),
                Call::Backends(numbers, _) => ("backends", numbers.len()),
                Call::Slots(slots, _) => ("slots", slots.len()),
                Call::Services(numbers, _) => ("services", numbers.len()),
                Call::PutFrontends(keys, _) => ("put", keys.len()),
                Call::RemoveFrontend(_) => ("remove", 1),
                Call::AddSourceRange(..) => ("add range", 1),
                Call::RemoveSourceRange(..) => ("remove range", 1),
            };
            *entries.entry(map).or_default() += count;
        }
        entries
    }

    /// Makes the calls since the last time again, in their order, on other tables.
    pub fn replay(&mut self, to: &mut impl Tables<A>) -> Result<(), TableError> {
        let whole = |done: Result<(), Cut>| done.map_err(|cut| cut.error);
        for call in mem::take(&mut self.calls) {
            match call {
                Call::Interest(bitmap, words, values) => whole(to.write_interest(bitmap, &words, &values))?,
                Call::Backends(numbers, values) => whole(to.write_backends(&numbers, &values))?,
                Call::Slots(slots, values) => whole(to.write_slots(&slots, &values))?,
                Call::Services(numbers, values) => whole(to.write_services(&numbers, &values))?,
                Call::PutFrontends(keys, values) => whole(to.put_frontends(&keys, &values))?,
                Call::RemoveFrontend(key) => to.remove_frontend(&key)?,
                Call::AddSourceRange(service, range) => to.add_source_range(service, range)?,
                Call::RemoveSourceRange(service, range) => to.remove_source_range(service, range)?,
            }
        }
        Ok(())
    }
}

impl<A: FamilyAddress> Tables<A> for Recorder<A> {
    fn write_interest(&mut self, bitmap: Bitmap, words: &[u32], values: &[u64]) -> Result<(), Cut> {
        self.calls.push(Call::Interest(bitmap, words.to_vec(), values.to_vec()));
        self.tables.write_interest(bitmap, words, values)
    }

    fn write_backends(&mut self, numbers: &[u32], values: &[Backend<A>]) -> Result<(), Cut> {
        self.calls.push(Call::Backends(numbers.to_vec(), values.to_vec()));
        self.tables.write_backends(numbers, values)
    }

    fn write_slots(&mut self, slots: &[u32], values: &[BackendRef]) -> Result<(), Cut> {
        self.calls.push(Call::Slots(slots.to_vec(), values.to_vec()));
        self.tables.write_slots(slots, values)
    }

    fn write_services(&mut self, numbers: &[u32], values: &[Service]) -> Result<(), Cut> {
        self.calls.push(Call::Services(numbers.to_vec(), values.to_vec()));
        self.tables.write_services(numbers, values)
    }

    fn put_frontends(&mut self, keys: &[ServiceKey<A>], values: &[ServiceRef]) -> Result<(), Cut> {
        self.calls.push(Call::PutFrontends(keys.to_vec(), values.to_vec()));
        self.tables.put_frontends(keys, values)
    }

    fn remove_frontend(&mut self, key: &ServiceKey<A>) -> Result<(), TableError> {
        self.calls.push(Call::RemoveFrontend(*key));
        self.tables.remove_frontend(key)
    }

    fn add_source_range(&mut self, service: u32, range: (u8, A)) -> Result<(), TableError> {
        self.calls.push(Call::AddSourceRange(service, range));
        self.tables.add_source_range(service, range)
    }

    fn remove_source_range(&mut self, service: u32, range: (u8, A)) -> Result<(), TableError> {
        self.calls.push(Call::RemoveSourceRange(service, range));
        self.tables.remove_source_range(service, range)
    }

    fn read(&self) -> Result<Content<A>, TableError> {
        self.tables.read()
    }

    fn limits(&self) -> Limits {
        self.tables.limits()
    }
}
