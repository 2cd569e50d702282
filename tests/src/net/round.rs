//! One round of requests over all paths, each checked against what must be seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use futures::{StreamExt, stream};
use serde::Serialize;

use super::{
    paths::{Expect, Line, Path, Protocol, Seen},
    probe::{Client, Failure, FailureKind, Outcome, Reply},
};

/// What a round found out about one line.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Requests made.
    pub requests: u64,
    /// Answers by pod.
    pub by_pod: BTreeMap<String, u64>,
    /// The client addresses that pods saw.
    pub clients: BTreeSet<IpAddr>,
    /// The time that each answer took.
    pub latencies: Vec<Duration>,
    /// Requests that went otherwise than they must.
    pub failures: BTreeMap<Fault, u64>,
    /// Requests that were refused or dropped as they must be.
    pub turned_away: u64,
    /// The first faults in words.
    pub faults: Vec<String>,
}

/// How a request went otherwise than it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It failed.
    Failed(FailureKind),
    /// A pod answered that must not.
    WrongPod,
    /// The pod saw another client address than it must.
    WrongClient,
    /// The request arrived at another port of the pod.
    WrongPort,
    /// A pod never answered, though enough requests were made.
    NeverAnswered,
    /// It was answered, where it must be refused or dropped.
    Answered,
    /// It failed in another way than it must: hung instead of being refused, or the reverse.
    OtherFailure,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(kind) => kind.fmt(f),
            Self::WrongPod => f.write_str("wrong pod"),
            Self::WrongClient => f.write_str("wrong client address"),
            Self::WrongPort => f.write_str("wrong port"),
            Self::NeverAnswered => f.write_str("never answered"),
            Self::Answered => f.write_str("answered against the rules"),
            Self::OtherFailure => f.write_str("failed in a wrong way"),
        }
    }
}

impl Found {
    /// Whether all went as it must.
    pub fn is_good(&self) -> bool {
        self.failures.is_empty() && self.requests > 0
    }

    /// The latency in the middle.
    pub fn median(&self) -> Option<Duration> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    /// Adds what another path of the same line found.
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.turned_away += other.turned_away;
        self.clients.extend(other.clients);
        self.latencies.extend(other.latencies);
        for (pod, count) in other.by_pod {
            *self.by_pod.entry(pod).or_default() += count;
        }
        for (fault, count) in other.failures {
            *self.failures.entry(fault).or_default() += count;
        }
        self.faults.extend(other.faults);
    }

    fn fault(&mut self, fault: Fault, words: String) {
        *self.failures.entry(fault).or_default() += 1;
        if self.faults.len() < 3 {
            self.faults.push(words);
        }
    }
}

/// How much is asked in a round.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Requests on each path at least.
    pub at_least: u64,
    /// How long a request may take.
    pub deadline: Duration,
    /// How long to wait where no answer may come.
    pub silence: Duration,
    /// Bytes that a request over TCP sends, and that come back; 0 for as few as there can be.
    pub stream: usize,
    /// Bytes of a datagram, at least. One that does not fit into a packet is sent again, twice at most: from the first
    /// one its sender may learn what fits (RFC 8201), and its fragments may overtake each other between two processors of
    /// this machine.
    pub datagram: usize,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            at_least: 10,
            deadline: Duration::from_secs(2),
            silence: Duration::from_millis(700),
            stream: 0,
            datagram: 0,
        }
    }
}

impl Effort {
    fn client(self, path: &Path, deadline: Duration) -> Client {
        let length = if path.line.protocol == Protocol::Tcp { self.stream } else { self.datagram };
        Client::new(&path.from, deadline).asking_for(length)
    }

    /// Whether datagrams fit into a packet.
    fn fits(self) -> bool {
        self.datagram <= 1400
    }
}

/// A refusal must come within this time.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

/// After so many faults a path is left alone until the next round.
const ENOUGH_FAULTS: u64 = 3;

/// Paths that are asked at the same time.
const AT_ONCE: usize = 8;

/// Asks on all paths.
pub async fn go_round(paths: Vec<Path>, effort: Effort) -> BTreeMap<Line, Found> {
    let asked = stream::iter(paths).map(|path| async move {
        let found = ask(&path, effort).await;
        (path.line, found)
    });
    let mut round = BTreeMap::<Line, Found>::new();
    let mut results = asked.buffer_unordered(AT_ONCE);
    while let Some((line, found)) = results.next().await {
        round.entry(line).or_default().add(found);
    }
    round
}

async fn ask(path: &Path, effort: Effort) -> Found {
    let mut found = Found::default();
    match &path.expect {
        Expect::Answers { seen, all_of, same } => ask_for_answers(&mut found, path, effort, seen, all_of, *same).await,
        Expect::Refused => {
            let client = effort.client(path, effort.deadline);
            turned_away(&mut found, &client, path, effort, FailureKind::Refused).await;
        }
        Expect::Silence => {
            let client = effort.client(path, effort.silence);
            turned_away(&mut found, &client, path, effort, FailureKind::TimedOut).await;
        }
    }
    found
}

async fn ask_for_answers(
    found: &mut Found,
    path: &Path,
    effort: Effort,
    seen: &BTreeMap<String, Seen>,
    all_of: &BTreeSet<String>,
    same: bool,
) {
    // Each request misses a given one of n pods with 1 - 1/n: 20 n requests all miss it once in 10^8 rounds.
    let at_most = effort.at_least.max(20 * seen.len() as u64 + 20);
    let client = effort.client(path, effort.deadline);
    let mut answered = BTreeSet::new();
    while found.requests < at_most && found.failures.values().sum::<u64>() < ENOUGH_FAULTS {
        if found.requests >= effort.at_least && all_of.is_subset(&answered) {
            break;
        }
        found.requests += 1;
        let reply = match request(&client, path, effort).await {
            Ok(reply) => reply,
            Err(failure) => {
                found.fault(Fault::Failed(failure.kind), failure.to_string());
                continue;
            }
        };
        answered.insert(reply.answer.pod.clone());
        check_answer(found, seen, &reply);
        if !path.line.kind.is_about_some_pods() || all_of.is_empty() || all_of.contains(&reply.answer.pod) {
            *found.by_pod.entry(reply.answer.pod).or_default() += 1;
            found.clients.insert(reply.answer.client.ip());
            found.latencies.push(reply.latency);
        }
    }
    if !found.failures.is_empty() {
        return;
    }
    for pod in all_of.difference(&answered) {
        found.fault(Fault::NeverAnswered, format!("{pod} answered none of {} requests", found.requests));
    }
    if same && answered.len() > 1 {
        found.fault(Fault::WrongPod, format!("session affinity: {answered:?} answered one client"));
    }
}

async fn request(client: &Client, path: &Path, effort: Effort) -> Outcome {
    match path.line.protocol {
        Protocol::Tcp => client.http(path.line.to).await,
        Protocol::Udp => {
            let mut tries = 0;
            loop {
                tries += 1;
                match client.udp(path.line.to).await {
                    // "Message too long" is the client's own error.
                    Err(Failure { kind: FailureKind::TimedOut | FailureKind::Local, .. })
                        if !effort.fits() && tries < 3 => {}
                    outcome => break outcome,
                }
            }
        }
        Protocol::Sctp => client.sctp(path.line.to).await,
    }
}

fn check_answer(found: &mut Found, seen: &BTreeMap<String, Seen>, reply: &Reply) {
    let answer = &reply.answer;
    let Some(must) = seen.get(&answer.pod) else {
        return found.fault(Fault::WrongPod, format!("{} answered and is no endpoint here", answer.pod));
    };
    if answer.client.ip() != must.client {
        let words = format!("{} saw {} in place of {}", answer.pod, answer.client.ip(), must.client);
        found.fault(Fault::WrongClient, words);
    }
    if answer.local != must.local {
        let words = format!("{} was asked on {} in place of {}", answer.pod, answer.local, must.local);
        found.fault(Fault::WrongPort, words);
    }
}

/// Makes two requests that must fail in this way.
async fn turned_away(found: &mut Found, client: &Client, path: &Path, effort: Effort, must: FailureKind) {
    for _ in 0..2 {
        found.requests += 1;
        match request(client, path, effort).await {
            Ok(reply) => found.fault(Fault::Answered, format!("{} answered", reply.answer.pod)),
            Err(failure) if failure.kind != must => {
                found.fault(Fault::OtherFailure, format!("{failure}; it must be: {must}"));
            }
            Err(failure) if must == FailureKind::Refused && failure.after > REFUSED_WITHIN => {
                found.fault(Fault::OtherFailure, format!("refused only after {:?}", failure.after));
            }
            Err(_as_it_must) => found.turned_away += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Answer;

    fn reply(pod: &str, client: &str, local: &str) -> Reply {
        let parse = |text: &str| text.parse().expect("an address and a port");
        let (client, local) = (parse(client), parse(local));
        let answer = Answer { pod: pod.to_owned(), client, local, asked: String::new() };
        Reply { answer, latency: Duration::from_millis(1) }
    }

    fn faults(reply: &Reply) -> Vec<Fault> {
        let must = Seen { client: [10, 244, 1, 10].into(), local: ([10, 244, 2, 11], 80).into() };
        let mut found = Found::default();
        check_answer(&mut found, &[("web-1".to_owned(), must)].into(), reply);
        found.failures.into_keys().collect()
    }

    #[test]
    fn an_answer_is_judged_by_pod_client_and_port() {
        assert_eq!(faults(&reply("web-1", "10.244.1.10:4000", "10.244.2.11:80")), []);
        assert_eq!(faults(&reply("web-2", "10.244.1.10:4000", "10.244.2.12:80")), [Fault::WrongPod]);
        assert_eq!(faults(&reply("web-1", "192.0.2.11:4000", "10.244.2.11:80")), [Fault::WrongClient]);
        assert_eq!(faults(&reply("web-1", "10.244.1.10:4000", "10.244.2.11:81")), [Fault::WrongPort]);
    }

    #[test]
    fn a_line_is_good_only_when_it_was_asked_and_nothing_failed() {
        assert!(!Found::default().is_good());
        let mut sum = Found { requests: 3, ..Found::default() };
        assert!(sum.is_good());
        let mut other = Found { requests: 2, ..Found::default() };
        other.fault(Fault::Answered, "a pod answered".to_owned());
        sum.add(other);
        assert_eq!(sum.requests, 5);
        assert!(!sum.is_good());
    }
}
