//! Asking until the answers are as they must be.
//!
//! A subject follows a change a little later, so nothing here judges the first answer. Every wait has a deadline, and
//! is over when a whole *streak* of requests in a row went as wanted; one that goes otherwise begins it anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tokio::time::sleep;

use crate::net::{Client, FailureKind, Netns, Outcome, Protocol, SourcePort};

/// How long a subject may take to follow a change.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(30);

/// How long to wait for what is known not to come: longer than any change takes on an idle machine.
const IN_VAIN: Duration = Duration::from_secs(8);

/// How long a request may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// How long to wait where no answer may come. Of an ICMPv6 refusal Linux tells a connecting socket only after its second
/// SYN, which it sends after a second: that is no silence.
const SILENCE: Duration = Duration::from_millis(1300);

/// A refusal at once comes within this time.
const AT_ONCE: Duration = Duration::from_millis(500);

/// The pause after a request that did not go as wanted.
const PAUSE: Duration = Duration::from_millis(50);

/// Requests of a streak of answers at least.
const ANSWERS: usize = 10;

/// Requests of a streak of refusals.
const REFUSALS: usize = 3;

/// Requests of a streak without an answer.
const SILENT: usize = 2;

/// Requests from one place to one address.
#[derive(Debug, Clone)]
pub struct Asking {
    client: Client,
    from: String,
    own: IpAddr,
    to: SocketAddr,
    protocol: Protocol,
    client_seen: Option<IpAddr>,
    port_asked: Option<u16>,
    ports_by_pod: BTreeMap<String, u16>,
    patience: Duration,
    source: SourcePort,
}

impl Asking {
    pub(super) fn new(netns: &Netns, from: String, own: IpAddr, to: SocketAddr, protocol: Protocol) -> Self {
        let client = Client::new(netns, ANSWERED_WITHIN);
        Self {
            client,
            from,
            own,
            to,
            protocol,
            client_seen: None,
            port_asked: None,
            ports_by_pod: BTreeMap::new(),
            patience: FOLLOWED_WITHIN,
            source: SourcePort::Fresh,
        }
    }

    /// Waits longer for a subject to follow: where it has to find its API server again, or to look for itself. What is
    /// known not to come is not waited for longer.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        let patience = if self.patience == IN_VAIN { IN_VAIN } else { self.patience.max(patience) };
        Self { patience, ..self }
    }

    /// With datagrams of this one source port, each from a socket of its own.
    #[must_use]
    pub fn from_port(self, port: u16) -> Self {
        Self { source: SourcePort::Fixed(port), ..self }
    }

    /// Gives up sooner: nobody expects the answer to be as wanted.
    #[must_use]
    pub(super) fn in_vain(self) -> Self {
        Self { patience: IN_VAIN, ..self }
    }

    /// With requests of so many bytes.
    #[must_use]
    pub fn asking_for(mut self, bytes: usize) -> Self {
        self.client = self.client.asking_for(bytes);
        self
    }

    /// Pods must see the asker's own address.
    #[must_use]
    pub fn seen_as_itself(self) -> Self {
        let own = self.own;
        self.seen_as(own)
    }

    /// Pods must see this address as their client.
    #[must_use]
    pub fn seen_as(self, client: IpAddr) -> Self {
        Self { client_seen: Some(client), ..self }
    }

    /// Pods must be asked on this port.
    #[must_use]
    pub fn on_port(self, port: u16) -> Self {
        Self { port_asked: Some(port), ..self }
    }

    /// This pod must be asked on this port of its own.
    #[must_use]
    pub fn on_port_of(mut self, pod: &str, port: u16) -> Self {
        self.ports_by_pod.insert(pod.to_owned(), port);
        self
    }

    /// Every one of these pods answers, and nobody else.
    pub async fn answered_by(&self, pods: &BTreeSet<String>) -> Result<()> {
        let mut seen = BTreeSet::new();
        self.streak(&format!("answers of all of {pods:?}"), |outcome, length| {
            if length == 0 {
                seen.clear();
            }
            let pod = self.good_answer(outcome)?;
            if !pods.contains(&pod) {
                return Err(format!("{pod} answered"));
            }
            seen.insert(pod);
            if length + 1 >= ANSWERS && seen == *pods {
                return Ok(Next::Enough);
            }
            if length > 30 * pods.len() + 30 {
                return Err(format!("only {seen:?} answer"));
            }
            Ok(Next::More)
        })
        .await
    }

    /// One of these pods answers everything. Gives its name.
    pub async fn stays_with_one_of(&self, pods: &BTreeSet<String>) -> Result<String> {
        let mut first = String::new();
        self.streak(&format!("answers of one and the same of {pods:?}"), |outcome, length| {
            let pod = self.good_answer(outcome)?;
            if !pods.contains(&pod) {
                return Err(format!("{pod} answered"));
            }
            if length == 0 {
                first.clone_from(&pod);
            }
            if pod != first {
                return Err(format!("{pod} answered after {first}"));
            }
            Ok(if length + 1 >= 15 { Next::Enough } else { Next::More })
        })
        .await?;
        Ok(first)
    }

    /// Every request is turned away, and the asker is told: by a refusal, or because it may not even send.
    pub async fn is_refused(&self) -> Result<()> {
        self.turned_away("refusals", |kind, _after| matches!(kind, FailureKind::Refused | FailureKind::Forbidden)).await
    }

    /// Every request is refused, at once, as by a host on which nobody listens.
    pub async fn is_refused_at_once(&self) -> Result<()> {
        let at_once = |kind, after| kind == FailureKind::Refused && after <= AT_ONCE;
        self.turned_away("refusals at once", at_once).await
    }

    async fn turned_away(&self, wanted: &str, as_wanted: fn(FailureKind, Duration) -> bool) -> Result<()> {
        self.streak(wanted, |outcome, length| match outcome {
            Err(failure) if as_wanted(failure.kind, failure.after) => {
                Ok(if length + 1 >= REFUSALS { Next::Enough } else { Next::More })
            }
            Err(failure) => Err(failure.to_string()),
            Ok(reply) => Err(format!("{} answered", reply.answer.pod)),
        })
        .await
    }

    /// Nobody answers, and nobody says so.
    pub async fn is_dropped(&self) -> Result<()> {
        let impatient = Self { client: self.client.clone().patient(SILENCE), ..self.clone() };
        impatient
            .streak("silence", |outcome, length| match outcome {
                Err(failure) if failure.kind == FailureKind::TimedOut => {
                    Ok(if length + 1 >= SILENT { Next::Enough } else { Next::More })
                }
                Err(failure) => Err(failure.to_string()),
                Ok(reply) => Err(format!("{} answered", reply.answer.pod)),
            })
            .await
    }

    /// Nobody answers, in whatever way.
    pub async fn is_not_answered(&self) -> Result<()> {
        let impatient = Self { client: self.client.clone().patient(SILENCE), ..self.clone() };
        impatient
            .streak("no answer", |outcome, length| match outcome {
                Err(_as_wanted) => Ok(if length + 1 >= REFUSALS { Next::Enough } else { Next::More }),
                Ok(reply) => Err(format!("{} answered", reply.answer.pod)),
            })
            .await
    }

    /// One request.
    pub async fn once(&self) -> Outcome {
        match self.protocol {
            Protocol::Tcp => self.client.http(self.to).await,
            Protocol::Udp => self.client.datagrams(self.to, self.source).await?.ask().await,
            Protocol::Sctp => self.client.sctp(self.to).await,
        }
    }

    /// The pod that answered, if client and port were as they must be.
    fn good_answer(&self, outcome: Outcome) -> Result<String, String> {
        let answer = outcome.map_err(|failure| failure.to_string())?.answer;
        if let Some(must) = self.client_seen
            && answer.client.ip() != must
        {
            return Err(format!("{} saw {} in place of {must}", answer.pod, answer.client.ip()));
        }
        if let Some(&must) = self.ports_by_pod.get(&answer.pod).or(self.port_asked.as_ref())
            && answer.local.port() != must
        {
            return Err(format!("{} was asked on {} in place of {must}", answer.pod, answer.local.port()));
        }
        Ok(answer.pod)
    }

    /// Asks until enough requests in a row went as wanted. `judge` is given each outcome and the length of the streak
    /// before it; what it complains of begins the streak anew.
    async fn streak(&self, wanted: &str, mut judge: impl FnMut(Outcome, usize) -> Result<Next, String>) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        let mut length = 0;
        loop {
            match judge(self.once().await, length) {
                Ok(Next::Enough) => return Ok(()),
                Ok(Next::More) => length += 1,
                Err(complaint) => {
                    if Instant::now() >= deadline {
                        bail!("{self}: wanted {wanted}, but {complaint}");
                    }
                    length = 0;
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// What comes after a request that went as wanted.
enum Next {
    More,
    Enough,
}

impl fmt::Display for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} to {} {}", self.from, self.to, self.protocol)
    }
}
