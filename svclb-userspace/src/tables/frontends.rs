//! Writing SERVICES, see [`svclb_common::frontend_table`].
//!
//! Each step is one write of one bucket, and each prefix of the steps leaves a table in which every frontend that
//! was there is found, and none with the Service of another: room is counted before it is used, and a frontend
//! appears and goes with one byte.
//!
//! Where both buckets of a frontend are full, one that stands in its first bucket makes room and goes to its second
//! (never the other way: a reader who has looked into the first already would not find it). For a moment it stands in
//! both, and stays so if the agent is killed then, so whoever changes or removes a frontend looks for a copy first.
//! Without it one table of 25 with 10,000 Services has a frontend for which there is no room.

use svclb_common::config::Config;
use svclb_common::frontend_table::places;
use svclb_common::schema::{FRONTEND_WAYS, FrontendBucket, FrontendWay, ServiceKey, ServiceRef};

use crate::model::FamilyAddress;

/// Where the buckets are.
pub trait Buckets<A: FamilyAddress> {
    /// Why one cannot be read or written.
    type Error;

    /// Reads a bucket.
    fn read(&self, at: u32) -> Result<FrontendBucket<A>, Self::Error>;
    /// Writes a bucket.
    fn write(&mut self, at: u32, bucket: &FrontendBucket<A>) -> Result<(), Self::Error>;
}

/// Why a frontend was not entered.
#[derive(Debug, PartialEq, Eq)]
pub enum PutError<E> {
    /// Both buckets that it may stand in are full, and nobody there can go elsewhere.
    Full,
    /// A bucket could not be read or written.
    Access(E),
}

impl<E> From<E> for PutError<E> {
    fn from(error: E) -> Self {
        Self::Access(error)
    }
}

/// Writes a bucket with a new version.
fn write<A: FamilyAddress, B: Buckets<A>>(
    buckets: &mut B,
    at: u32,
    bucket: &mut FrontendBucket<A>,
) -> Result<(), B::Error> {
    bucket.before = bucket.before.wrapping_add(1);
    bucket.after = bucket.before;
    buckets.write(at, bucket)
}

/// Where a frontend stands in a bucket.
fn way_of<A: FamilyAddress>(bucket: &FrontendBucket<A>, key: &ServiceKey<A>) -> Option<usize> {
    bucket.ways.iter().position(|way| way.holds(key))
}

/// Enters a frontend or gives it to another Service.
pub fn put<A: FamilyAddress, B: Buckets<A>>(
    buckets: &mut B,
    config: &Config,
    key: &ServiceKey<A>,
    value: &ServiceRef,
) -> Result<(), PutError<B::Error>> {
    let entry = FrontendWay {
        address: key.address,
        port: key.port,
        protocol: key.protocol,
        used: value.scope + 1,
        number: value.number,
    };
    let [first, second] = places(config, key);
    let mut home = buckets.read(first)?;
    if let Some(way) = way_of(&home, key) {
        remove_second(buckets, [first, second], &mut home, key)?;
        return Ok(replace(buckets, first, &mut home, way, entry)?);
    }
    let elsewhere = if home.spilled > 0 { Some(buckets.read(second)?) } else { None };
    if let Some(mut other) = elsewhere
        && let Some(way) = way_of(&other, key)
    {
        return Ok(replace(buckets, second, &mut other, way, entry)?);
    }
    if let Some(way) = free(&home) {
        return Ok(enter(buckets, first, &mut home, way, entry)?);
    }
    let mut other = buckets.read(second)?;
    let Some(way) = free(&other) else {
        if make_room(buckets, config, first)? || make_room(buckets, config, second)? {
            return put(buckets, config, key, value);
        }
        return Err(PutError::Full);
    };
    // From here on the second bucket is looked into.
    home.spilled += 1;
    write(buckets, first, &mut home)?;
    Ok(enter(buckets, second, &mut other, way, entry)?)
}

/// Sends a frontend of a full bucket, which is its first, to its second one. Whether one could go.
fn make_room<A: FamilyAddress, B: Buckets<A>>(buckets: &mut B, config: &Config, at: u32) -> Result<bool, B::Error> {
    let mut bucket = buckets.read(at)?;
    for (way, entry) in bucket.ways.into_iter().enumerate() {
        let key = ServiceKey::new(entry.address, entry.port, entry.protocol);
        let [first, second] = places(config, &key);
        if first != at || second == at {
            continue;
        }
        let mut other = buckets.read(second)?;
        if let Some(copy) = way_of(&other, &key) {
            // Somebody was killed on the way.
            replace(buckets, second, &mut other, copy, entry)?;
        } else if let Some(free) = free(&other) {
            bucket.spilled += 1;
            write(buckets, at, &mut bucket)?;
            enter(buckets, second, &mut other, free, entry)?;
        } else {
            continue;
        }
        clear(&mut bucket, way);
        write(buckets, at, &mut bucket)?;
        return Ok(true);
    }
    Ok(false)
}

fn clear<A: FamilyAddress>(bucket: &mut FrontendBucket<A>, way: usize) {
    if let Some(way) = bucket.ways.get_mut(way) {
        way.used = 0;
    }
}

/// Removes a frontend from its second bucket, if it is there; `home` is its first.
fn remove_second<A: FamilyAddress, B: Buckets<A>>(
    buckets: &mut B,
    [first, second]: [u32; 2],
    home: &mut FrontendBucket<A>,
    key: &ServiceKey<A>,
) -> Result<(), B::Error> {
    if home.spilled == 0 || first == second {
        return Ok(());
    }
    let mut other = buckets.read(second)?;
    if let Some(way) = way_of(&other, key) {
        clear(&mut other, way);
        write(buckets, second, &mut other)?;
        home.spilled -= 1;
        write(buckets, first, home)?;
    }
    Ok(())
}

fn free<A: FamilyAddress>(bucket: &FrontendBucket<A>) -> Option<usize> {
    (0..FRONTEND_WAYS).find(|way| bucket.ways.get(*way).is_some_and(|way| way.used == 0))
}

/// Changes whose a frontend is: one write.
fn replace<A: FamilyAddress, B: Buckets<A>>(
    buckets: &mut B,
    at: u32,
    bucket: &mut FrontendBucket<A>,
    way: usize,
    entry: FrontendWay<A>,
) -> Result<(), B::Error> {
    let Some(place) = bucket.ways.get_mut(way) else { return Ok(()) };
    if *place == entry {
        return Ok(());
    }
    *place = entry;
    write(buckets, at, bucket)
}

/// Writes a frontend into a free way: all of it, and then that it is there.
fn enter<A: FamilyAddress, B: Buckets<A>>(
    buckets: &mut B,
    at: u32,
    bucket: &mut FrontendBucket<A>,
    way: usize,
    entry: FrontendWay<A>,
) -> Result<(), B::Error> {
    for used in [0, entry.used] {
        if let Some(place) = bucket.ways.get_mut(way) {
            *place = FrontendWay { used, ..entry };
        }
        write(buckets, at, bucket)?;
    }
    Ok(())
}

/// Removes a frontend; nothing if it is not there.
pub fn remove<A: FamilyAddress, B: Buckets<A>>(
    buckets: &mut B,
    config: &Config,
    key: &ServiceKey<A>,
) -> Result<(), B::Error> {
    let places = places(config, key);
    let mut home = buckets.read(places[0])?;
    remove_second(buckets, places, &mut home, key)?;
    if let Some(way) = way_of(&home, key) {
        clear(&mut home, way);
        write(buckets, places[0], &mut home)?;
    }
    Ok(())
}

/// All frontends of a table.
pub fn entries<A: FamilyAddress>(
    buckets: &[FrontendBucket<A>],
) -> impl Iterator<Item = (ServiceKey<A>, ServiceRef)> + '_ {
    let ways = buckets.iter().flat_map(|bucket| &bucket.ways).filter(|way| way.used != 0);
    ways.map(|way| (ServiceKey::new(way.address, way.port, way.protocol), way.service_ref()))
}

#[cfg(test)]
mod tests;
