//! The kernel's maps.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapData, MapError};
use svclb_common::config::Config;
use svclb_common::schema::{
    Backend, BackendRef, FrontendBucket, Plain, Service, ServiceKey, ServiceRef, SlotPair, SourceRange,
};

use super::frontends::{Buckets, PutError, entries, put, remove};
use super::{ConfigTable, Cut, TableError, Tables};
use crate::bpf::load::{LoadError, Object};
use crate::bpf::pod::Pod;
use crate::bpf::sys;
use crate::hashing;
use crate::model::FamilyAddress;
use crate::plan::{Bitmap, Content, Limits};

/// Bits of the service number, which always count.
const SERVICE_BITS: u32 = 32;

/// The maps of one family.
pub struct BpfTables<A: FamilyAddress>
where
    FrontendBucket<A>: Plain,
    Backend<A>: Plain,
    SourceRange<A>: Plain,
{
    interest_frontends: Entries,
    interest_backends: Entries,
    services: Entries,
    slots: Entries,
    /// The same map as `slots`, to read single entries.
    slot_pairs: Array<MapData, Pod<SlotPair>>,
    backends: Entries,
    frontends: FrontendMap<A>,
    /// Says where in SERVICES a frontend stands.
    config: Config,
    source_ranges: LpmTrie<MapData, Pod<SourceRange<A>>, Pod<u32>>,
    /// Where the maps are pinned: arrays are read from there, thousands of entries in one call.
    pins: PathBuf,
}

impl<A: FamilyAddress> BpfTables<A>
where
    FrontendBucket<A>: Plain,
    Backend<A>: Plain,
    SourceRange<A>: Plain,
{
    /// Takes the maps of this family out of an object that was loaded with pins in this folder. `config` is what
    /// stands in CONFIG.
    pub fn take(object: &mut Object, pins: &Path, config: &Config) -> Result<Self, LoadError> {
        let name = |name: &str| format!("{name}{}", A::FAMILY.suffix());
        let entries = |own: &'static str| {
            let failed = |source| LoadError::Map { name: name(own), source };
            let data = MapData::from_pin(pins.join(name(own))).map_err(failed)?;
            let count = data.info().map_err(failed)?.max_entries();
            Ok::<_, LoadError>(Entries { name: own, data, count })
        };
        Ok(Self {
            interest_frontends: entries("INTEREST_FRONTENDS")?,
            interest_backends: entries("INTEREST_BACKENDS")?,
            services: entries("SERVICE")?,
            slots: entries("SLOTS")?,
            slot_pairs: object.take_array(&name("SLOTS"))?,
            backends: entries("BACKENDS")?,
            frontends: FrontendMap(object.take_array(&name("SERVICES"))?),
            config: *config,
            source_ranges: object.take_map(&name("SOURCE_RANGES"))?,
            pins: pins.to_owned(),
        })
    }

    fn slot_pair(&self, pair: u32) -> Result<SlotPair, TableError> {
        self.slot_pairs.get(&pair, 0).map(|found| found.0).map_err(failed::<A>("read", "SLOTS", pair))
    }
}

/// For each slot, which of the pairs that are written holds it: slots that follow one another in a pair share one.
fn written(slots: &[u32]) -> impl Iterator<Item = usize> + '_ {
    let mut at = 0;
    let mut before = None;
    slots.iter().map(move |slot| {
        let shared = slot % 2 == 1 && before == Some(slot - 1);
        if before.is_some() && !shared {
            at += 1;
        }
        before = Some(*slot);
        at
    })
}

/// A map of which many entries are written at a time.
struct Entries {
    /// Without the family.
    name: &'static str,
    data: MapData,
    /// How many there are, or may be.
    count: u32,
}

impl Entries {
    fn write<A: FamilyAddress, K: Plain + Debug, V: Plain>(&self, keys: &[K], values: &[V]) -> Result<(), Cut> {
        sys::update_batch(self.data.fd(), keys, values).map_err(|(done, error)| {
            let key = keys.get(done).map(|key| format!("{key:?}")).unwrap_or_default();
            Cut { done, error: failed::<A>("write", self.name, key)(MapError::IoError(error)) }
        })
    }
}

/// SERVICES.
struct FrontendMap<A: FamilyAddress>(Array<MapData, Pod<FrontendBucket<A>>>)
where
    FrontendBucket<A>: Plain;

impl<A: FamilyAddress> Buckets<A> for FrontendMap<A>
where
    FrontendBucket<A>: Plain,
{
    type Error = MapError;

    fn read(&self, at: u32) -> Result<FrontendBucket<A>, MapError> {
        self.0.get(&at, 0).map(|bucket| bucket.0)
    }

    fn write(&mut self, at: u32, bucket: &FrontendBucket<A>) -> Result<(), MapError> {
        self.0.set(at, Pod(*bucket), 0)
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
    FrontendBucket<A>: Plain,
    Backend<A>: Plain,
    SourceRange<A>: Plain,
{
    fn write_interest(&mut self, bitmap: Bitmap, words: &[u32], values: &[u64]) -> Result<(), Cut> {
        match bitmap {
            Bitmap::Frontends => self.interest_frontends.write::<A, _, _>(words, values),
            Bitmap::Backends => self.interest_backends.write::<A, _, _>(words, values),
        }
    }

    fn write_backends(&mut self, numbers: &[u32], values: &[Backend<A>]) -> Result<(), Cut> {
        self.backends.write::<A, _, _>(numbers, values)
    }

    fn write_slots(&mut self, slots: &[u32], values: &[BackendRef]) -> Result<(), Cut> {
        let mut pairs: Vec<u32> = Vec::with_capacity(slots.len() / 2 + 1);
        let mut contents: Vec<SlotPair> = Vec::with_capacity(pairs.capacity());
        // Pairs of which this call writes one slot: the other one is of another list, maybe of this call too.
        let mut halves = hashing::HashMap::<u32, SlotPair>::default();
        let mut both = slots.iter().zip(values).peekable();
        while let Some((slot, value)) = both.next() {
            let pair = SlotPair::of(*slot);
            let next = both.next_if(|(next, _)| slot % 2 == 0 && **next == slot + 1);
            let content = if let Some((_, next)) = next {
                SlotPair([*value, *next])
            } else {
                let mut content = match halves.get(&pair) {
                    Some(content) => *content,
                    None => self.slot_pair(pair).map_err(|error| Cut { done: 0, error })?,
                };
                content.set(*slot, *value);
                halves.insert(pair, content);
                content
            };
            pairs.push(pair);
            contents.push(content);
        }
        self.slots.write::<A, _, _>(&pairs, &contents).map_err(|cut| Cut {
            // A pair counts for each of the slots that were to be written in it.
            done: slots.iter().zip(written(slots)).take_while(|(_, at)| *at < cut.done).count(),
            error: cut.error,
        })
    }

    fn write_services(&mut self, numbers: &[u32], values: &[Service]) -> Result<(), Cut> {
        self.services.write::<A, _, _>(numbers, values)
    }

    fn put_frontends(&mut self, keys: &[ServiceKey<A>], values: &[ServiceRef]) -> Result<(), Cut> {
        for (done, (key, value)) in keys.iter().zip(values).enumerate() {
            put(&mut self.frontends, &self.config, key, value).map_err(|error| {
                let source = match error {
                    PutError::Access(error) => error,
                    PutError::Full => MapError::IoError(io::Error::new(
                        io::ErrorKind::StorageFull,
                        "both places where it may stand are taken; there are too many frontends for this map",
                    )),
                };
                Cut { done, error: failed::<A>("write", "SERVICES", format_args!("{key:?}"))(source) }
            })?;
        }
        Ok(())
    }

    fn remove_frontend(&mut self, key: &ServiceKey<A>) -> Result<(), TableError> {
        remove(&mut self.frontends, &self.config, key).map_err(failed::<A>(
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
            services: self.services.count,
            slots: self.slots.count * 2,
            backends: self.backends.count,
            interest_frontends: self.interest_frontends.count,
            interest_backends: self.interest_backends.count,
        }
    }
}

fn range_key<A: FamilyAddress>(service: u32, (length, address): (u8, A)) -> Key<Pod<SourceRange<A>>>
where
    SourceRange<A>: Plain,
{
    Key::new(SERVICE_BITS + u32::from(length), Pod(SourceRange { service, address }))
}

/// Reads the tables of one family from the pins of an agent that may or may not run.
pub fn read_pinned<A: FamilyAddress>(pins: &Path) -> Result<Content<A>, TableError>
where
    FrontendBucket<A>: Plain,
    Backend<A>: Plain,
    SourceRange<A>: Plain,
{
    let name = |name: &str| format!("{name}{}", A::FAMILY.suffix());
    let mut content = Content {
        frontends: hashing::HashMap::default(),
        services: trimmed(pins, &name("SERVICE"))?,
        slots: trimmed::<SlotPair>(pins, &name("SLOTS"))?.iter().flat_map(|pair| pair.0).collect(),
        backends: trimmed(pins, &name("BACKENDS"))?,
        source_ranges: hashing::HashMap::default(),
        interest_frontends: pinned_array(pins, &name("INTEREST_FRONTENDS"), false)?,
        interest_backends: pinned_array(pins, &name("INTEREST_BACKENDS"), false)?,
    };
    let buckets: Vec<FrontendBucket<A>> = pinned_array(pins, &name("SERVICES"), false)?;
    content.frontends.extend(entries(&buckets));
    let ranges: LpmTrie<MapData, Pod<SourceRange<A>>, Pod<u32>> = pinned(pins, &name("SOURCE_RANGES"))?;
    for entry in &ranges {
        let (key, _) = entry.map_err(|error| unread(&name("SOURCE_RANGES"), cause(error)))?;
        let (length, data) = (key.prefix_len(), key.data().0);
        let length = u8::try_from(length.saturating_sub(SERVICE_BITS)).unwrap_or(u8::MAX);
        content.source_ranges.entry(data.service).or_default().insert((length, data.address));
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
