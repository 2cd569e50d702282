//! The order in which things happen to the cluster does not matter: random sequences of events, from Kubernetes'
//! objects to packets.
//!
//! A sequence is a list of steps ([`steps`]): Services, slices and the Node change as the API lets them, watches
//! break, lose and repeat what they bring, the agent dies and another takes over, writes fail. The whole way is
//! walked: objects ([`objects`]) through watches ([`api_server`]) into the agent's engine, and its writes into tables
//! ([`tables`]) of the host datapath, which is asked after every single write what it would do with packets
//! ([`packets`] says what must hold). In the end the tables show what those of a new agent show that is told the
//! last state alone, as many numbers are in use as are needed, and nothing is left when everything is deleted
//! ([`run`]).
//!
//! A sequence is made by a seed and its number. One that fails is shortened by proptest.

mod api_server;
mod objects;
mod packets;
mod run;
mod steps;
mod tables;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy as _, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use self::run::Seen;
use self::steps::{Step, sequences};

/// Which sequences.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// Seed of all of them.
    pub seed: u64,
    /// Number of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// What came of them.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// Seed of all of them.
    pub seed: u64,
    /// Number of the first.
    pub first: u64,
    /// Sequences that held.
    pub passed: u64,
    /// Sequences that did not.
    pub failed: u64,
    /// Events that the agents were told.
    pub events: u64,
    /// Writes after each of which all packets were asked for.
    pub writes: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A line that the binary `sequences` prints, as JSON.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub enum Line {
    /// The record so far.
    SoFar(Record),
    /// A sequence failed.
    Failed(String),
    /// The record of all.
    Done(Record),
}

/// A sequence that failed, as short as it could be made.
#[derive(Debug)]
pub struct Failure {
    seed: u64,
    number: u64,
    steps: Vec<Step>,
    error: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, number, steps, error } = self;
        writeln!(f, "sequence {number} of seed {seed}:")?;
        for (number, step) in steps.iter().enumerate() {
            writeln!(f, "  {}. {:?}, told {:?}", number + 1, step.what, step.told)?;
        }
        writeln!(f, "{error}")?;
        write!(f, "again: cargo xtask sequences --seed {seed} --first {number} --count 1")
    }
}

/// Sequences that one thread takes at once.
const CHUNK: u64 = 16;

/// Times that a failing sequence is run to shorten it.
const SHORTENINGS: u32 = 5_000;

/// Runs sequences on so many threads. `told` is called by any of them with the record so far, about twice a
/// second, `failed` with each failure.
pub fn run_all(
    selection: Selection,
    threads: usize,
    told: impl Fn(&Record) + Sync,
    failed: impl Fn(&Failure) + Sync,
) -> Record {
    let Selection { seed, first, count } = selection;
    let since = Instant::now();
    let next = AtomicU64::new(0);
    let record = Record { seed, first, passed: 0, failed: 0, events: 0, writes: 0, seconds: 0.0 };
    let record = Mutex::new((record, Instant::now()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(CHUNK, Ordering::Relaxed);
                    if from >= count {
                        return;
                    }
                    for number in from..count.min(from + CHUNK) {
                        let outcome = single(seed, first + number);
                        let mut locked = record.lock().unwrap_or_else(PoisonError::into_inner);
                        let (record, last) = &mut *locked;
                        match &outcome {
                            Ok(seen) => {
                                record.passed += 1;
                                record.events += seen.events;
                                record.writes += seen.writes;
                            }
                            Err(failure) => {
                                record.failed += 1;
                                failed(failure);
                            }
                        }
                        record.seconds = since.elapsed().as_secs_f64();
                        if last.elapsed() > Duration::from_millis(500) {
                            *last = Instant::now();
                            told(record);
                        }
                    }
                }
            });
        }
    });
    record.into_inner().unwrap_or_else(PoisonError::into_inner).0
}

/// Runs one sequence, and shortens it if it fails.
fn single(seed: u64, number: u64) -> Result<Seen, Failure> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut tree = sequences().new_tree(&mut runner).expect("no sequence is rejected");
    let mut error = match attempt(&tree.current()) {
        Ok(much) => return Ok(much),
        Err(error) => error,
    };
    let mut steps = tree.current();
    let mut shorter = tree.simplify();
    for _ in 0..SHORTENINGS {
        if !shorter {
            break;
        }
        shorter = match attempt(&tree.current()) {
            Ok(_) => tree.complicate(),
            Err(now) => {
                (error, steps) = (now, tree.current());
                tree.simplify()
            }
        };
    }
    Err(Failure { seed, number, steps, error })
}

/// Runs a sequence; a panic is a failure like others.
fn attempt(steps: &[Step]) -> Result<Seen, String> {
    catch_unwind(AssertUnwindSafe(|| run::run(steps))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panic: {}", text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("of no text")))
    })
}
