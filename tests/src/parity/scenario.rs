//! What a scenario is.

use std::fmt;

use anyhow::{Result, bail};
use futures::future::LocalBoxFuture;
use serde::Serialize;

use super::{play::Play, subject::Subject};
use crate::net::Protocol;

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Family {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

impl Family {
    /// Both.
    pub const BOTH: &[Self] = &[Self::IPv4, Self::IPv6];

    /// Its name in Kubernetes' objects.
    pub fn name(self) -> &'static str {
        match self {
            Self::IPv4 => "IPv4",
            Self::IPv6 => "IPv6",
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::IPv4 => Self::IPv6,
            Self::IPv6 => Self::IPv4,
        }
    }
}

/// TCP and UDP.
pub const TCP_AND_UDP: &[Protocol] = &[Protocol::Tcp, Protocol::Udp];

/// All that Services have.
pub const ALL_PROTOCOLS: &[Protocol] = &[Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// TCP alone.
pub const TCP: &[Protocol] = &[Protocol::Tcp];

/// SCTP alone.
pub const SCTP: &[Protocol] = &[Protocol::Sctp];

/// UDP alone.
pub const UDP: &[Protocol] = &[Protocol::Udp];

/// One run of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Case {
    /// The family of the Services.
    pub family: Family,
    /// Their protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family.name(), self.protocol)
    }
}

/// When a scenario may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// Beside others.
    Shared,
    /// Alone and last: it stops something that others need.
    Alone,
}

/// Where a subject is known to do something else than the scenario asks for.
#[derive(Debug, Clone, Copy)]
pub struct Differs {
    /// The subject.
    pub subject: Subject,
    /// In which cases.
    pub cases: fn(Case) -> bool,
    /// Why.
    pub reason: &'static str,
}

impl Differs {
    /// In all cases.
    pub const fn always(subject: Subject, reason: &'static str) -> Self {
        Self { subject, cases: |_| true, reason }
    }
}

/// A scenario. The scenarios of one subject area are a list in a file of their own, see
/// [`scenarios`](super::scenarios).
#[derive(Debug)]
pub struct Scenario {
    /// What it shows, as a sentence. No other has this name.
    pub name: &'static str,
    /// The tests of Kubernetes for which it stands, by their names in the [`catalogue`](super::catalogue).
    pub upstream: &'static [&'static str],
    /// The fields of a Service or endpoint that it is about, as they are spelled there.
    pub fields: &'static [&'static str],
    /// The paths that are asked, as `from -> to`.
    pub paths: &'static [&'static str],
    /// The families in which it runs.
    pub families: &'static [Family],
    /// The protocols in which it runs.
    pub protocols: &'static [Protocol],
    /// When it may run.
    pub turn: Turn,
    /// Who is known to do otherwise.
    pub differs: &'static [Differs],
    /// Plays one case: makes what it needs, asks, and gives an error where the answer is not as it must be.
    pub run: for<'a> fn(&'a Play<'a>) -> LocalBoxFuture<'a, Result<()>>,
}

/// What most scenarios have in common: they hold for both families, TCP and UDP, beside others and for all subjects. The
/// rest is each one's own; one without a play of its own fails.
pub const ORDINARY: Scenario = Scenario {
    name: "",
    upstream: &[],
    fields: &[],
    paths: &[],
    families: Family::BOTH,
    protocols: TCP_AND_UDP,
    turn: Turn::Shared,
    differs: &[],
    run: |_| Box::pin(async { bail!("this scenario plays nothing") }),
};

impl Scenario {
    /// Its cases.
    pub fn cases(&self) -> impl Iterator<Item = Case> {
        self.families.iter().flat_map(|&family| self.protocols.iter().map(move |&protocol| Case { family, protocol }))
    }

    /// Why this subject does otherwise in this case, if it is known to.
    pub fn differs(&self, subject: Subject, case: Case) -> Option<&'static str> {
        self.differs.iter().find(|known| known.subject == subject && (known.cases)(case)).map(|known| known.reason)
    }
}
