//! Tables that fail on purpose.

use std::io;

use svclb_common::schema::{Backend, BackendRef, Service, ServiceKey, ServiceRef};

use super::{Cut, TableError, Tables};
use crate::model::FamilyAddress;
use crate::plan::{Bitmap, Content, Limits};

/// When writes fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Never.
    Never,
    /// This write (from 0) and none after it.
    Once(u64),
    /// This write (from 0) and all after it, as if the agent had died.
    From(u64),
    /// About one in so many, decided by a seed.
    OneIn(u64, u64),
}

/// Tables around other tables.
#[derive(Clone, Debug)]
pub struct FaultyTables<T> {
    /// The tables that get the writes that succeed.
    pub inner: T,
    /// When writes fail.
    pub fault: Fault,
    /// Writes tried so far.
    pub tried: u64,
}

impl<T> FaultyTables<T> {
    /// Wraps tables.
    pub fn new(inner: T, fault: Fault) -> Self {
        Self { inner, fault, tried: 0 }
    }

    fn admit(&mut self, operation: &'static str, map: &str) -> Result<(), TableError> {
        let number = self.tried;
        self.tried += 1;
        let fails = match self.fault {
            Fault::Never => false,
            Fault::Once(at) => number == at,
            Fault::From(at) => number >= at,
            Fault::OneIn(parts, seed) => {
                let mixed = (number ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33 < (1 << 31) / parts.max(1)
            }
        };
        if fails {
            return Err(TableError {
                operation,
                map: map.to_owned(),
                key: format!("write {number}"),
                source: io::Error::from_raw_os_error(libc::ENOMEM),
            });
        }
        Ok(())
    }

    /// Makes the first of some writes, up to the first that fails.
    fn make<K, V>(
        &mut self,
        map: &str,
        keys: &[K],
        values: &[V],
        write: impl FnOnce(&mut T, &[K], &[V]) -> Result<(), Cut>,
    ) -> Result<(), Cut> {
        let refused = (0..keys.len()).find_map(|done| self.admit("write", map).err().map(|error| Cut { done, error }));
        let admitted = refused.as_ref().map_or(keys.len(), |cut| cut.done);
        write(&mut self.inner, &keys[..admitted], &values[..admitted])?;
        refused.map_or(Ok(()), Err)
    }
}

impl<A: FamilyAddress, T: Tables<A>> Tables<A> for FaultyTables<T> {
    fn write_interest(&mut self, bitmap: Bitmap, words: &[u32], values: &[u64]) -> Result<(), Cut> {
        self.make("INTEREST", words, values, |inner, words, values| inner.write_interest(bitmap, words, values))
    }

    fn write_backends(&mut self, numbers: &[u32], values: &[Backend<A>]) -> Result<(), Cut> {
        self.make("BACKENDS", numbers, values, T::write_backends)
    }

    fn write_slots(&mut self, slots: &[u32], values: &[BackendRef]) -> Result<(), Cut> {
        self.make("SLOTS", slots, values, T::write_slots)
    }

    fn write_services(&mut self, numbers: &[u32], values: &[Service]) -> Result<(), Cut> {
        self.make("SERVICE", numbers, values, T::write_services)
    }

    fn put_frontends(&mut self, keys: &[ServiceKey<A>], values: &[ServiceRef]) -> Result<(), Cut> {
        self.make("SERVICES", keys, values, T::put_frontends)
    }

    fn remove_frontend(&mut self, key: &ServiceKey<A>) -> Result<(), TableError> {
        self.admit("delete from", "SERVICES")?;
        self.inner.remove_frontend(key)
    }

    fn add_source_range(&mut self, service: u32, range: (u8, A)) -> Result<(), TableError> {
        self.admit("write", "SOURCE_RANGES")?;
        self.inner.add_source_range(service, range)
    }

    fn remove_source_range(&mut self, service: u32, range: (u8, A)) -> Result<(), TableError> {
        self.admit("delete from", "SOURCE_RANGES")?;
        self.inner.remove_source_range(service, range)
    }

    fn read(&self) -> Result<Content<A>, TableError> {
        self.inner.read()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }
}
