//! The kernel's maps.

use std::io;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError};
use svclb_common::config::Config;
use svclb_common::schema::{AffinityKey, Backend, BackendRef, Plain, Service, ServiceKey, ServiceRef};

use super::{ConfigTable, TableError, Tables};
use crate::bpf::load::{LoadError, Object};
use crate::bpf::pod::Pod;
use crate::bpf::sys;
use crate::model::FamilyAddress;
use crate::plan::{Bitmap, Content, Limits};

/// What follows the prefix length in a key of `SOURCE_RANGES`: service number and address, as in a key of
/// AFFINITY.
type RangeData<A> = AffinityKey<A>;

/// Bits of the service number, which always count.
const SERVICE_BITS: u32 = 32;

/// The maps of one family.
pub struct BpfTables<A: FamilyAddress>
where
    ServiceKey<A>: Plain,
    Backend<A>: Plain,
    RangeData<A>: Plain,
{
    interest_frontends: Array<MapData, Pod<u64>>,
    interest_backends: Array<MapData, Pod<u64>>,
    frontends: HashMap<MapData, Pod<ServiceKey<A>>, Pod<ServiceRef>>,
    services: Array<MapData, Pod<Service>>,
    /// Not typed, as a list is written with one call.
    slots: MapData,
    slot_entries: u32,
    backends: Array<MapData, Pod<Backend<A>>>,
    source_ranges: LpmTrie<MapData, Pod<RangeData<A>>, Pod<u32>>,
    /// Where the maps are pinned: arrays are read from there, thousands of entries in one call.
    pins: PathBuf,
}

impl<A: FamilyAddress> BpfTables<A>
where
    ServiceKey<A>: Plain,
    Backend<A>: Plain,
    RangeData<A>: Plain,
{
    /// Takes the maps of this family out of an object that was loaded with pins in this folder.
    pub fn take(object: &mut Object, pins: &Path) -> Result<Self, LoadError> {
        let name = |name: &str| format!("{name}{}", A::FAMILY.suffix());
        let failed = |source| LoadError::Map { name: name("SLOTS"), source };
        let slots = MapData::from_pin(pins.join(name("SLOTS"))).map_err(failed)?;
        Ok(Self {
            interest_frontends: object.take_array(&name("INTEREST_FRONTENDS"))?,
            interest_backends: object.take_array(&name("INTEREST_BACKENDS"))?,
            frontends: object.take_hash(&name("SERVICES"))?,
            services: object.take_array(&name("SERVICE"))?,
            slot_entries: slots.info().map_err(failed)?.max_entries(),
            slots,
            backends: object.take_array(&name("BACKENDS"))?,
            source_ranges: object.take_map(&name("SOURCE_RANGES"))?,
            pins: pins.to_owned(),
        })
    }
}

fn failed<A: FamilyAddress>(
    operation: &'static str,
    map: &'static str,
    key: impl ToString,
) -> impl FnOnce(MapError) -> TableError {
    move |error| TableError {
        operation,
        map: format!("{map}{}", A::FAMILY.suffix()),
        key: key.to_string(),
        source: cause(error),
    }
}

/// The kernel's answer inside aya's error.
fn cause(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::IoError(error) => error,
        MapError::KeyNotFound => io::Error::from_raw_os_error(libc::ENOENT),
        other => io::Error::other(other),
    }
}

fn absent_is_done(result: Result<(), MapError>) -> Result<(), MapError> {
    match result.map_err(|error| (cause_is_absent(&error), error)) {
        Ok(()) | Err((true, _)) => Ok(()),
        Err((false, error)) => Err(error),
    }
}

fn cause_is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

impl<A: FamilyAddress> Tables<A> for BpfTables<A>
where
    ServiceKey<A>: Plain,
    Backend<A>: Plain,
    RangeData<A>: Plain,
{
    fn write_interest(&mut self, bitmap: Bitmap, word: u32, value: u64) -> Result<(), TableError> {
        let (map, name) = match bitmap {
            Bitmap::Frontends => (&mut self.interest_frontends, "INTEREST_FRONTENDS"),
            Bitmap::Backends => (&mut self.interest_backends, "INTEREST_BACKENDS"),
        };
        map.set(word, Pod(value), 0).map_err(failed::<A>("write", name, word))
    }

    fn write_backend(&mut self, number: u32, value: &Backend<A>) -> Result<(), TableError> {
        self.backends.set(number, Pod(*value), 0).map_err(failed::<A>("write", "BACKENDS", number))
    }

    fn write_slots(&mut self, first: u32, list: &[BackendRef]) -> Result<(), TableError> {
        let slots: Vec<u32> = (first..).take(list.len()).collect();
        sys::update_batch(self.slots.fd(), &slots, list)
            .map_err(|(done, error)| failed::<A>("write", "SLOTS", first as usize + done)(MapError::IoError(error)))
    }

    fn write_service(&mut self, number: u32, value: &Service) -> Result<(), TableError> {
        self.services.set(number, Pod(*value), 0).map_err(failed::<A>("write", "SERVICE", number))
    }

    fn put_frontend(&mut self, key: &ServiceKey<A>, value: &ServiceRef) -> Result<(), TableError> {
        let written = self.frontends.insert(Pod(*key), Pod(*value), 0);
        written.map_err(failed::<A>("write", "SERVICES", format_args!("{key:?}")))
    }

    fn remove_frontend(&mut self, key: &ServiceKey<A>) -> Result<(), TableError> {
        absent_is_done(self.frontends.remove(&Pod(*key))).map_err(failed::<A>(
            "delete from",
            "SERVICES",
            format_args!("{key:?}"),
        ))
    }

    fn add_source_range(&mut self, service: u32, range: (u8, A)) -> Result<(), TableError> {
        let written = self.source_ranges.insert(&range_key(service, range), Pod(1), 0);
        written.map_err(failed::<A>("write", "SOURCE_RANGES", format_args!("{service} {range:?}")))
    }

    fn remove_source_range(&mut self, service: u32, range: (u8, A)) -> Result<(), TableError> {
        absent_is_done(self.source_ranges.remove(&range_key(service, range))).map_err(failed::<A>(
            "delete from",
            "SOURCE_RANGES",
            format_args!("{service} {range:?}"),
        ))
    }

    fn read(&self) -> Result<Content<A>, TableError> {
        read_pinned(&self.pins)
    }

    fn limits(&self) -> Limits {
        Limits {
            services: self.services.len(),
            slots: self.slot_entries,
            backends: self.backends.len(),
            interest_frontends: self.interest_frontends.len(),
            interest_backends: self.interest_backends.len(),
        }
    }
}

fn range_key<A: FamilyAddress>(service: u32, (length, address): (u8, A)) -> Key<Pod<RangeData<A>>>
where
    RangeData<A>: Plain,
{
    Key::new(SERVICE_BITS + u32::from(length), Pod(RangeData { service, client: address }))
}

/// Reads the tables of one family from the pins of an agent that may or may not run.
pub fn read_pinned<A: FamilyAddress>(pins: &Path) -> Result<Content<A>, TableError>
where
    ServiceKey<A>: Plain,
    Backend<A>: Plain,
    RangeData<A>: Plain,
{
    let name = |name: &str| format!("{name}{}", A::FAMILY.suffix());
    let mut content = Content {
        frontends: std::collections::HashMap::new(),
        services: trimmed(pins, &name("SERVICE"))?,
        slots: trimmed(pins, &name("SLOTS"))?,
        backends: trimmed(pins, &name("BACKENDS"))?,
        source_ranges: std::collections::HashMap::new(),
        interest_frontends: pinned_array(pins, &name("INTEREST_FRONTENDS"), false)?,
        interest_backends: pinned_array(pins, &name("INTEREST_BACKENDS"), false)?,
    };
    let frontends: HashMap<MapData, Pod<ServiceKey<A>>, Pod<ServiceRef>> = pinned(pins, &name("SERVICES"))?;
    for entry in &frontends {
        let (key, value) = entry.map_err(|error| unread(&name("SERVICES"), cause(error)))?;
        content.frontends.insert(key.0, value.0);
    }
    let ranges: LpmTrie<MapData, Pod<RangeData<A>>, Pod<u32>> = pinned(pins, &name("SOURCE_RANGES"))?;
    for entry in &ranges {
        let (key, _) = entry.map_err(|error| unread(&name("SOURCE_RANGES"), cause(error)))?;
        let (length, data) = (key.prefix_len(), key.data().0);
        let length = u8::try_from(length.saturating_sub(SERVICE_BITS)).unwrap_or(u8::MAX);
        content.source_ranges.entry(data.service).or_default().insert((length, data.client));
    }
    Ok(content)
}

fn unread(map: &str, source: io::Error) -> TableError {
    TableError { operation: "read", map: map.to_owned(), key: String::new(), source }
}

/// A pinned map of some type.
pub fn pinned<M: TryFrom<aya::maps::Map, Error = MapError>>(pins: &Path, name: &str) -> Result<M, TableError> {
    let data = MapData::from_pin(pins.join(name)).map_err(|error| unread(name, cause(error)))?;
    let map = aya::maps::Map::from_map_data(data).map_err(|error| unread(name, cause(error)))?;
    M::try_from(map).map_err(|error| unread(name, cause(error)))
}

/// All entries of a pinned array, each read under its lock if `locked`.
pub fn pinned_array<T: Plain>(pins: &Path, name: &str, locked: bool) -> Result<Vec<T>, TableError> {
    let data = MapData::from_pin(pins.join(name)).map_err(|error| unread(name, cause(error)))?;
    let entries = data.info().map_err(|error| unread(name, cause(error)))?.max_entries();
    sys::read_array(data.fd(), entries, locked).map_err(|error| unread(name, error))
}

/// The entries of a pinned array up to the last that was written.
fn trimmed<T: Plain + Default + PartialEq>(pins: &Path, name: &str) -> Result<Vec<T>, TableError> {
    let mut all = pinned_array::<T>(pins, name, false)?;
    let used = all.iter().rposition(|entry| *entry != T::default()).map_or(0, |last| last + 1);
    all.truncate(used);
    all.shrink_to_fit();
    Ok(all)
}

/// The map CONFIG.
pub struct BpfConfig(Array<MapData, Pod<Config>>);

impl BpfConfig {
    /// Takes it out of a loaded object.
    pub fn take(object: &mut Object) -> Result<Self, LoadError> {
        object.take_array("CONFIG").map(Self)
    }
}

fn config_failed(operation: &'static str) -> impl FnOnce(MapError) -> TableError {
    move |error| TableError { operation, map: "CONFIG".to_owned(), key: String::new(), source: cause(error) }
}

impl ConfigTable for BpfConfig {
    fn read_config(&self) -> Result<Config, TableError> {
        self.0.get(&0, 0).map(|config| config.0).map_err(config_failed("read"))
    }

    fn write_config(&mut self, config: &Config) -> Result<(), TableError> {
        self.0.set(0, Pod(*config), 0).map_err(config_failed("write"))
    }
}
