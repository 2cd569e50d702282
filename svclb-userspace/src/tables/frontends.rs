//! Writing SERVICES, see [`svclb_common::frontend_table`].
//!
//! Each step is one write of one bucket, and each prefix of the steps leaves a table in which every frontend that
//! was there is found, and none with the Service of another: room is counted before it is used, and a frontend
//! appears and goes with one byte.

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
    /// Both buckets that it may stand in are full.
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
    let Some(way) = free(&other) else { return Err(PutError::Full) };
    // From here on the second bucket is looked into.
    home.spilled += 1;
    write(buckets, first, &mut home)?;
    Ok(enter(buckets, second, &mut other, way, entry)?)
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
    let [first, second] = places(config, key);
    let mut home = buckets.read(first)?;
    let leave = |buckets: &mut B, at, bucket: &mut FrontendBucket<A>| {
        let way = way_of(bucket, key).and_then(|way| bucket.ways.get_mut(way));
        let found = way.map(|way| way.used = 0).is_some();
        if found { write(buckets, at, bucket).map(|()| true) } else { Ok(false) }
    };
    if leave(buckets, first, &mut home)? || home.spilled == 0 {
        return Ok(());
    }
    let mut other = buckets.read(second)?;
    if leave(buckets, second, &mut other)? {
        // It may be that both are the same.
        let mut home = buckets.read(first)?;
        home.spilled = home.spilled.saturating_sub(1);
        write(buckets, first, &mut home)?;
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
