//! The table of frontends against a map of the standard library, and cut off after every write.

use std::collections::HashMap;
use std::convert::Infallible;

use proptest::prelude::*;
use svclb_common::addr::{Addr4, Be16};

use super::*;
use crate::plan::Limits;
use crate::tables::fake;

/// Buckets in memory, which take only so many writes.
#[derive(Clone)]
struct Memory {
    buckets: Vec<FrontendBucket<Addr4>>,
    writes: usize,
}

impl Buckets<Addr4> for Memory {
    type Error = &'static str;

    fn read(&self, at: u32) -> Result<FrontendBucket<Addr4>, Self::Error> {
        self.buckets.get(at as usize).copied().ok_or("there is no such bucket")
    }

    fn write(&mut self, at: u32, bucket: &FrontendBucket<Addr4>) -> Result<(), Self::Error> {
        self.writes = self.writes.checked_sub(1).ok_or("the agent was killed")?;
        *self.buckets.get_mut(at as usize).ok_or("there is no such bucket")? = *bucket;
        Ok(())
    }
}

const BUCKETS: usize = 4;

fn memory() -> Memory {
    Memory { buckets: vec![FrontendBucket::default(); BUCKETS], writes: usize::MAX }
}

fn config() -> Config {
    let limits = Limits { services: 64, slots: 512, backends: 256, interest_frontends: 32, interest_backends: 32 };
    Config { frontends: BUCKETS as u32 - 1, ..fake::config(&limits) }
}

fn key(n: u8) -> ServiceKey<Addr4> {
    ServiceKey::new(Addr4(u32::from(n) + 1), Be16::new(80), 6)
}

fn value(number: u32) -> ServiceRef {
    ServiceRef { number, scope: (number % 4) as u8, zero: [0; 3] }
}

/// Looks a frontend up as the datapath does.
fn find(memory: &Memory, config: &Config, key: ServiceKey<Addr4>) -> Option<ServiceRef> {
    let [first, second] = places(config, &key);
    let look = |at: u32| {
        let bucket = memory.buckets[at as usize];
        assert_eq!(bucket.before, bucket.after, "a bucket was left with a write half done");
        bucket.ways.iter().find(|way| way.holds(&key)).map(FrontendWay::service_ref)
    };
    look(first).or_else(|| if memory.buckets[first as usize].spilled > 0 { look(second) } else { None })
}

/// A frontend is given to a Service, or removed.
type Change = (u8, Option<u32>);

fn changes() -> impl Strategy<Value = Vec<Change>> {
    proptest::collection::vec((0..40_u8, proptest::option::weighted(0.7, 0..1000_u32)), 1..120)
}

/// Makes a change in both. Whether there was room.
fn make(memory: &mut Memory, known: &mut HashMap<u8, u32>, (n, number): Change) -> Result<(), &'static str> {
    let config = config();
    let Some(number) = number else {
        remove(memory, &config, &key(n))?;
        known.remove(&n);
        return Ok(());
    };
    match put(memory, &config, &key(n), &value(number)) {
        Ok(()) => {
            known.insert(n, number);
        }
        Err(PutError::Full) => assert!(!known.contains_key(&n), "what is there can always be changed"),
        Err(PutError::Access(error)) => return Err(error),
    }
    Ok(())
}

/// A table of the usual size has 131,072 places, and frontends whose two buckets were full were refused at a seventh of
/// that: 10,000 Services.
#[test]
fn a_table_that_is_not_nearly_full_has_room_for_every_frontend() {
    const SHARE: u32 = 7;
    let buckets = 1 << 12;
    let mut memory = Memory { buckets: vec![FrontendBucket::default(); buckets], writes: usize::MAX };
    let config = Config { frontends: buckets as u32 - 1, ..config() };
    let keys = |count: u32| (1..=count).map(|n| ServiceKey::new(Addr4(n.to_be()), Be16::new(80), 6));
    let count = (buckets * FRONTEND_WAYS) as u32 * SHARE / 10;
    for (number, key) in keys(count).enumerate() {
        assert_eq!(put(&mut memory, &config, &key, &value(number as u32)), Ok(()), "frontend {number} of {count}");
    }
    for (number, key) in keys(count).enumerate() {
        assert_eq!(find(&memory, &config, key), Some(value(number as u32)));
    }
    for key in keys(count) {
        remove(&mut memory, &config, &key).expect("nothing fails");
    }
    assert_eq!(entries(&memory.buckets).count(), 0);
    assert!(memory.buckets.iter().all(|bucket| bucket.spilled == 0), "room was counted that nobody has");
}

proptest! {
    #[test]
    fn it_holds_what_a_plain_map_holds(changes in changes()) {
        let (mut memory, mut known) = (memory(), HashMap::new());
        for change in changes {
            make(&mut memory, &mut known, change).expect("nothing fails");
            for n in 0..40 {
                let wanted = known.get(&n).map(|number| value(*number));
                prop_assert_eq!(find(&memory, &config(), key(n)), wanted, "frontend {}", n);
            }
            let all: HashMap<_, _> = entries(&memory.buckets).collect();
            prop_assert_eq!(all.len(), known.len());
        }
    }

    #[test]
    fn a_write_that_fails_costs_no_other_frontend_and_can_be_repeated(changes in changes(), cut in 0..8_usize) {
        let (mut memory, mut known) = (memory(), HashMap::new());
        for change in changes {
            let mut killed = memory.clone();
            killed.writes = cut;
            let outcome = make(&mut killed, &mut known.clone(), change);
            for n in (0..40).filter(|n| *n != change.0) {
                prop_assert_eq!(find(&killed, &config(), key(n)), find(&memory, &config(), key(n)));
            }
            let found = find(&killed, &config(), key(change.0));
            let before = find(&memory, &config(), key(change.0));
            let after = change.1.map(value);
            prop_assert!(found == before || found == after, "{:?} is neither before nor after", found);
            // A new agent does the same again.
            if outcome.is_err() {
                killed.writes = usize::MAX;
                memory = killed;
            }
            make(&mut memory, &mut known, change).expect("nothing fails");
        }
        for n in 0..40 {
            prop_assert_eq!(find(&memory, &config(), key(n)), known.get(&n).map(|number| value(*number)));
        }
    }
}

#[test]
fn a_frontend_appears_after_all_of_it_is_written() {
    struct Watched(Memory, Vec<FrontendBucket<Addr4>>);
    impl Buckets<Addr4> for Watched {
        type Error = Infallible;
        fn read(&self, at: u32) -> Result<FrontendBucket<Addr4>, Infallible> {
            Ok(self.0.read(at).expect("there is such a bucket"))
        }
        fn write(&mut self, at: u32, bucket: &FrontendBucket<Addr4>) -> Result<(), Infallible> {
            self.1.push(*bucket);
            self.0.write(at, bucket).expect("nothing fails");
            Ok(())
        }
    }
    let mut watched = Watched(memory(), Vec::new());
    assert_eq!(put(&mut watched, &config(), &key(1), &value(7)), Ok(()));
    let [hidden, shown] = watched.1[..] else { panic!("it takes two writes, not {:?}", watched.1) };
    assert_eq!((hidden.ways[0].used, hidden.ways[0].number), (0, 7));
    assert_eq!((shown.ways[0].used, shown.ways[0].number), (value(7).scope + 1, 7));
}
