//! What is compared: nodes that differ in who serves Services on them.

use std::fmt;

use serde::{Serialize, Serializer};

/// Who serves Services on a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Subject {
    /// Nobody: pods are asked by their own addresses.
    Nobody,
    /// Nobody, but programs that do nothing hang at the hooks of svclb.
    Idle,
    /// svclb in netfilter's order.
    Stack,
    /// svclb past the node's netfilter, by `tc`.
    Direct,
    /// The same with XDP in front of it.
    Xdp,
    /// kube-proxy with `--proxy-mode=nftables`.
    Nftables,
    /// kube-proxy with `--proxy-mode=iptables`.
    Iptables,
}

impl Subject {
    /// Its name in tables and charts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "no proxy",
            Self::Idle => "programs that do nothing",
            Self::Stack => "svclb",
            Self::Direct => "svclb direct",
            Self::Xdp => "svclb XDP",
            Self::Nftables => "kube-proxy nftables",
            Self::Iptables => "kube-proxy iptables",
        }
    }

    /// Arguments for svclb's agent; nothing for the others.
    pub(super) fn agent_arguments(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Stack => Some(&[]),
            Self::Direct => Some(&["--forwarding", "direct"]),
            Self::Xdp => Some(&["--forwarding", "direct", "--xdp", "native"]),
            Self::Nobody | Self::Idle | Self::Nftables | Self::Iptables => None,
        }
    }
}

/// How many Services a node knows besides those that are asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Services {
    /// As many as the options say, the same for all.
    Usual,
    /// So many.
    Number(u32),
}

/// A node with who serves on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stand {
    /// Who serves.
    pub subject: Subject,
    /// Whether the node tracks connections and has a FORWARD policy of default drop, which lets in what is asked.
    pub policy: bool,
    /// How many Services it knows.
    pub services: Services,
    /// Whether it is a second one of its kind, by which is seen how far the measurement itself is off.
    pub again: bool,
}

impl Stand {
    /// A node without a policy.
    pub const fn of(subject: Subject) -> Self {
        Self { subject, policy: false, services: Services::Usual, again: false }
    }

    /// The same with a policy.
    #[must_use]
    pub const fn with_policy(self) -> Self {
        Self { policy: true, ..self }
    }

    /// The same with so many Services.
    #[must_use]
    pub const fn knowing(self, services: u32) -> Self {
        Self { services: Services::Number(services), ..self }
    }

    /// A second one of its kind.
    #[must_use]
    pub const fn again(self) -> Self {
        Self { again: true, ..self }
    }
}

impl fmt::Display for Stand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.subject.name())?;
        if self.policy {
            f.write_str(" with policy")?;
        }
        if let Services::Number(services) = self.services {
            write!(f, " of {services} Services")?;
        }
        if self.again { f.write_str(" again") } else { Ok(()) }
    }
}

impl Serialize for Stand {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
