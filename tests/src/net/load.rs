//! A load generator that accounts for every request: so many new connections a second, and so many open
//! ones that keep exchanging.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::probe::{Client, Failure, FailureKind, Outcome};

/// How much load.
#[derive(Debug, Clone, Copy)]
pub struct LoadPlan {
    /// New connections a second, each with one request.
    pub new_per_second: u32,
    /// Connections that are opened at the start and stay open.
    pub open: u32,
    /// The pause between two exchanges on an open connection.
    pub pause: Duration,
}

/// What became of the load. Every request is in exactly one of `answered` and `failures`.
#[derive(Debug, Clone, Default)]
pub struct LoadReport {
    /// Connections made for one request each.
    pub started: u64,
    /// Those that got their answer.
    pub answered: u64,
    /// Connections that were opened to stay.
    pub opened: u64,
    /// Exchanges on open connections that got their answer.
    pub exchanges: u64,
    /// Open connections that ended before the load did.
    pub broken: u64,
    /// All failures, those of open connections included, by kind.
    pub failures: BTreeMap<FailureKind, u64>,
    /// The first failures in words, each with its time since the start of the load.
    pub first_failures: Vec<String>,
    /// Answers by pod.
    pub by_pod: BTreeMap<String, u64>,
    latencies: Vec<Duration>,
}

/// Requests under way at the same time. A machine that cannot keep the pace gets fewer requests, and the
/// account shows how many there were.
const AT_ONCE: u64 = 64;

/// How many failures are kept in words.
const WORDS: usize = 20;

impl LoadReport {
    /// All failures together.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// The latency that this share of the new connections stayed below; 0.5 is the median.
    pub fn latency(&self, share: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "an index into a list of at most some million entries"
        )]
        let index = ((sorted.len() as f64) * share) as usize;
        sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    fn failure(&mut self, since: Instant, failure: &Failure) {
        *self.failures.entry(failure.kind).or_default() += 1;
        if self.first_failures.len() < WORDS {
            self.first_failures.push(format!("at {:.3} s: {failure}", since.elapsed().as_secs_f64()));
        }
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} new connections answered, median {:?}, 99 % below {:?}; {} exchanges on {} open \
             connections, {} broken",
            self.answered,
            self.started,
            self.latency(0.5),
            self.latency(0.99),
            self.exchanges,
            self.opened,
            self.broken
        )?;
        for (kind, count) in &self.failures {
            write!(f, "; {count} {kind}")?;
        }
        for line in &self.first_failures {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

/// Load that runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<LoadReport>>,
    runner: JoinHandle<()>,
}

impl Load {
    /// Starts load from `client` to `to`. Must be called within a tokio runtime.
    pub fn start(client: &Client, to: SocketAddr, plan: LoadPlan) -> Self {
        let (stop, report) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let shared = Shared { stop: Arc::clone(&stop), report: Arc::clone(&report), since: Instant::now() };
        let runner = tokio::spawn(run(client.clone(), to, plan, shared));
        Self { stop, report, runner }
    }

    /// The account so far. Requests under way are in neither column yet.
    pub fn so_far(&self) -> LoadReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes no more requests, waits for those under way, and gives the account.
    ///
    /// # Panics
    /// When the load itself panicked.
    pub async fn stop(self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        self.runner.await.expect("the load runs to its end");
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let accounted = report.answered + report.failed();
        assert!(accounted >= report.started, "{accounted} outcomes of {} requests", report.started);
        report
    }
}

#[derive(Debug, Clone)]
struct Shared {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<LoadReport>>,
    since: Instant,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, change: impl FnOnce(&mut LoadReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes the outcome of a new connection.
    fn once(&self, outcome: &Outcome) {
        self.note(|report| match outcome {
            Ok(reply) => {
                report.answered += 1;
                *report.by_pod.entry(reply.answer.pod.clone()).or_default() += 1;
                report.latencies.push(reply.latency);
            }
            Err(failure) => report.failure(self.since, failure),
        });
    }
}

async fn run(client: Client, to: SocketAddr, plan: LoadPlan, shared: Shared) {
    let mut tasks = JoinSet::new();
    for _ in 0..plan.open {
        tasks.spawn(keep_open(client.clone(), to, plan.pause, shared.clone()));
    }
    let mut tick = interval(Duration::from_millis(5));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut started = 0;
    while !shared.stopped() {
        tick.tick().await;
        let due = shared.since.elapsed().as_micros() as u64 * u64::from(plan.new_per_second) / 1_000_000;
        let room = AT_ONCE.saturating_sub(tasks.len() as u64);
        for _ in started..due.min(started + room) {
            shared.note(|report| report.started += 1);
            let (client, shared) = (client.clone(), shared.clone());
            tasks.spawn(async move { shared.once(&client.http(to).await) });
        }
        started = started.max(due);
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
}

/// One connection that exchanges until the load stops.
async fn keep_open(client: Client, to: SocketAddr, pause: Duration, shared: Shared) {
    let mut connection = match client.connect(to).await {
        Ok(connection) => connection,
        Err(failure) => {
            shared.note(|report| report.failure(shared.since, &failure));
            return;
        }
    };
    shared.note(|report| report.opened += 1);
    while !shared.stopped() {
        match connection.ask().await {
            Ok(_reply) => shared.note(|report| report.exchanges += 1),
            Err(failure) => {
                shared.note(|report| {
                    report.broken += 1;
                    report.failure(shared.since, &failure);
                });
                return;
            }
        }
        sleep(pause).await;
    }
}
