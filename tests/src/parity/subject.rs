//! Who serves.

use std::fmt;

use serde::Serialize;

/// What serves Services on the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// svclb, as built from this source.
    Svclb,
    /// kube-proxy with `--proxy-mode=nftables`.
    KubeProxyNftables,
    /// kube-proxy with `--proxy-mode=iptables`.
    KubeProxyIptables,
}

impl Subject {
    /// All of them. svclb is first: it leaves no rule and no switch of the kernel behind that the others could meet.
    pub const ALL: [Self; 3] = [Self::Svclb, Self::KubeProxyNftables, Self::KubeProxyIptables];

    /// Its name on command lines and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Svclb => "svclb",
            Self::KubeProxyNftables => "kube-proxy-nftables",
            Self::KubeProxyIptables => "kube-proxy-iptables",
        }
    }

    /// A letter for names in the cluster.
    pub(super) fn letter(self) -> char {
        match self {
            Self::Svclb => 's',
            Self::KubeProxyNftables => 'n',
            Self::KubeProxyIptables => 'i',
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
