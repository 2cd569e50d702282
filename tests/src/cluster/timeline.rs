//! Requests at a steady pace over several paths, each remembered with its time, while a test changes the
//! cluster.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::{JoinHandle, JoinSet};

use crate::net::{Client, Outcome, Protocol};

/// Where requests go, from where, and how.
#[derive(Debug, Clone)]
pub struct Route {
    /// What it is called in messages.
    pub name: String,
    /// Who asks.
    pub client: Client,
    /// Who is asked.
    pub to: SocketAddr,
    /// A new connection for each request, or a datagram from a new port.
    pub protocol: Protocol,
}

/// A request that was made.
#[derive(Debug, Clone)]
pub struct Record {
    /// The name of its route.
    pub route: Arc<str>,
    /// How it was made.
    pub protocol: Protocol,
    /// When it was sent.
    pub sent: Instant,
    /// What came of it.
    pub outcome: Outcome,
}

/// Requests that are being made.
#[derive(Debug)]
pub struct Timeline {
    stop: Arc<AtomicBool>,
    records: Arc<Mutex<Vec<Record>>>,
    asker: JoinHandle<()>,
}

impl Timeline {
    /// Asks on every route once in each `pause`, whether the earlier requests have been answered or not.
    /// Must be called within a tokio runtime.
    pub fn start(routes: Vec<Route>, pause: Duration) -> Self {
        let (stop, records) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let asker = tokio::spawn(ask(routes, pause, Arc::clone(&stop), Arc::clone(&records)));
        Self { stop, records, asker }
    }

    /// Makes no more requests, waits for those under way, and gives all of them in the order of their end.
    ///
    /// # Panics
    /// When the asking itself panicked.
    pub async fn stop(self) -> Vec<Record> {
        self.stop.store(true, Ordering::Relaxed);
        self.asker.await.expect("the requests come to their end");
        std::mem::take(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn ask(routes: Vec<Route>, pause: Duration, stop: Arc<AtomicBool>, records: Arc<Mutex<Vec<Record>>>) {
    let routes: Vec<(Arc<str>, Route)> =
        routes.into_iter().map(|route| (Arc::from(route.name.as_str()), route)).collect();
    let mut under_way = JoinSet::new();
    let mut clock = tokio::time::interval(pause);
    while !stop.load(Ordering::Relaxed) {
        clock.tick().await;
        for (name, route) in &routes {
            let (name, route, records) = (Arc::clone(name), route.clone(), Arc::clone(&records));
            under_way.spawn(async move {
                let sent = Instant::now();
                let outcome = match route.protocol {
                    Protocol::Tcp => route.client.http(route.to).await,
                    Protocol::Udp => route.client.udp(route.to).await,
                    Protocol::Sctp => route.client.sctp(route.to).await,
                };
                let record = Record { route: name, protocol: route.protocol, sent, outcome };
                records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
            });
        }
        while under_way.try_join_next().is_some() {}
    }
    under_way.join_all().await;
}

/// Says of some records when they were sent after `start` and what came of them, a line each, and no more
/// than twenty lines.
pub fn describe<'a>(records: impl IntoIterator<Item = &'a Record>, start: Instant) -> String {
    let mut lines = Vec::new();
    let mut left_out = 0;
    for record in records {
        if lines.len() >= 20 {
            left_out += 1;
            continue;
        }
        let at = record.sent.saturating_duration_since(start).as_secs_f64();
        let outcome = match &record.outcome {
            Ok(reply) => format!("answered by {}", reply.answer.pod),
            Err(failure) => failure.to_string(),
        };
        lines.push(format!("at {at:.3} s {}: {outcome}", record.route));
    }
    if left_out > 0 {
        lines.push(format!("and {left_out} more"));
    }
    lines.join("\n")
}
