//! Tables in memory, for tests and for asking what would be written.

use svclb_common::config::Config;
use svclb_common::schema::{Backend, BackendRef, Service, ServiceKey, ServiceRef};

use super::{TableError, Tables};
use crate::model::FamilyAddress;
use crate::plan::{Action, Bitmap, Content, Limits};

/// Tables whose content anybody can look at.
#[derive(Clone, Debug)]
pub struct FakeTables<A: FamilyAddress> {
    /// What was written.
    pub content: Content<A>,
    /// Sizes.
    pub limits: Limits,
}

impl<A: FamilyAddress> FakeTables<A> {
    /// Empty tables.
    pub fn new(limits: Limits) -> Self {
        Self { content: Content::empty(&limits), limits }
    }

    /// Sizes that fit a CONFIG made by [`config`] and a handful of Services.
    pub const SMALL: Limits =
        Limits { services: 64, slots: 512, backends: 256, interest_frontends: 32, interest_backends: 32 };
}

/// A CONFIG whose masks fit `limits`.
pub fn config(limits: &Limits) -> Config {
    let mask = |words: u32| words * 32 - 1;
    let frontends = mask(limits.interest_frontends);
    let backends = mask(limits.interest_backends);
    let empty: Config = zerocopy::FromZeros::new_zeroed();
    Config {
        layout: svclb_common::schema::LAYOUT,
        seed: 0x5eed,
        mark: 1,
        ticks_per_second: 15,
        interest: [[frontends; 2], [backends; 2]],
        ..empty
    }
}

impl<A: FamilyAddress> Tables<A> for FakeTables<A> {
    fn write_interest(&mut self, bitmap: Bitmap, word: u32, value: u64) -> Result<(), TableError> {
        let words = match bitmap {
            Bitmap::Frontends => &mut self.content.interest_frontends,
            Bitmap::Backends => &mut self.content.interest_backends,
        };
        let entry = words.get_mut(word as usize).ok_or_else(|| TableError {
            operation: "write",
            map: format!("{bitmap:?}"),
            key: word.to_string(),
            source: std::io::Error::from_raw_os_error(libc::E2BIG),
        })?;
        *entry = value;
        Ok(())
    }

    fn write_backend(&mut self, number: u32, value: &Backend<A>) -> Result<(), TableError> {
        self.content.apply(&Action::WriteBackend { number, value: *value });
        Ok(())
    }

    fn write_slots(&mut self, first: u32, list: &[BackendRef]) -> Result<(), TableError> {
        self.content.apply(&Action::WriteSlots { first, list: list.to_vec() });
        Ok(())
    }

    fn write_service(&mut self, number: u32, value: &Service) -> Result<(), TableError> {
        self.content.apply(&Action::WriteService { number, value: *value });
        Ok(())
    }

    fn put_frontend(&mut self, key: &ServiceKey<A>, value: &ServiceRef) -> Result<(), TableError> {
        self.content.apply(&Action::PutFrontend { key: *key, value: *value });
        Ok(())
    }

    fn remove_frontend(&mut self, key: &ServiceKey<A>) -> Result<(), TableError> {
        self.content.apply(&Action::RemoveFrontend { key: *key });
        Ok(())
    }

    fn add_source_range(&mut self, service: u32, range: (u8, A)) -> Result<(), TableError> {
        self.content.apply(&Action::AddSourceRange { service, range });
        Ok(())
    }

    fn remove_source_range(&mut self, service: u32, range: (u8, A)) -> Result<(), TableError> {
        self.content.apply(&Action::RemoveSourceRange { service, range });
        Ok(())
    }

    fn read(&self) -> Result<Content<A>, TableError> {
        Ok(self.content.clone())
    }

    fn limits(&self) -> Limits {
        self.limits
    }
}
