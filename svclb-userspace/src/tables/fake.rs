//! Tables in memory, for tests and for asking what would be written.

use svclb_common::config::{Config, Extent};
use svclb_common::schema::{Backend, BackendRef, Service, ServiceKey, ServiceRef};

use super::{Cut, TableError, Tables};
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
    let interest = [false, true]
        .map(|half| [limits.interest_frontends, limits.interest_backends].map(|words| Extent::whole(words, half)));
    let empty: Config = zerocopy::FromZeros::new_zeroed();
    Config {
        layout: svclb_common::schema::LAYOUT,
        seed: 0x5eed,
        mark: 1,
        jiffies_per_second: 250,
        interest: [interest; 2],
        ..empty
    }
}

impl<A: FamilyAddress> Tables<A> for FakeTables<A> {
    fn write_interest(&mut self, bitmap: Bitmap, words: &[u32], values: &[u64]) -> Result<(), Cut> {
        let all = match bitmap {
            Bitmap::Frontends => &mut self.content.interest_frontends,
            Bitmap::Backends => &mut self.content.interest_backends,
        };
        for (done, (word, value)) in words.iter().zip(values).enumerate() {
            let entry = all.get_mut(*word as usize).ok_or_else(|| {
                let source = std::io::Error::from_raw_os_error(libc::E2BIG);
                let error =
                    TableError { operation: "write", map: format!("{bitmap:?}"), key: word.to_string(), source };
                Cut { done, error }
            })?;
            *entry = *value;
        }
        Ok(())
    }

    fn write_backends(&mut self, numbers: &[u32], values: &[Backend<A>]) -> Result<(), Cut> {
        for (number, value) in numbers.iter().zip(values) {
            self.content.apply(&Action::WriteBackend { number: *number, value: *value });
        }
        Ok(())
    }

    fn write_slots(&mut self, slots: &[u32], values: &[BackendRef]) -> Result<(), Cut> {
        for (first, value) in slots.iter().zip(values) {
            self.content.apply(&Action::WriteSlots { first: *first, list: vec![*value] });
        }
        Ok(())
    }

    fn write_services(&mut self, numbers: &[u32], values: &[Service]) -> Result<(), Cut> {
        for (number, value) in numbers.iter().zip(values) {
            self.content.apply(&Action::WriteService { number: *number, value: *value });
        }
        Ok(())
    }

    fn put_frontends(&mut self, keys: &[ServiceKey<A>], values: &[ServiceRef]) -> Result<(), Cut> {
        for (key, value) in keys.iter().zip(values) {
            self.content.apply(&Action::PutFrontend { key: *key, value: *value });
        }
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
