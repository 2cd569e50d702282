//! Rows as text.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use svclb_common::wire::protocol::{SCTP, TCP, UDP};

/// Where a packet comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// By a device of a pod.
    Pod,
    /// By a device that leads out of the node.
    Outside,
    /// From a process of the node.
    Node,
}

/// What becomes of a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It goes to one of these, each with the same chance.
    To {
        /// The endpoints.
        endpoints: BTreeSet<SocketAddr>,
        /// With an address of the node as source.
        masqueraded: bool,
    },
    /// The client is told that nobody serves it.
    Refused,
    /// Nobody gets it, and the client is not told.
    Dropped,
    /// It goes on as it is.
    Untouched,
}

/// Whether a difference is to stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// It is.
    OnPurpose,
    /// It is not.
    SoFar,
}

/// What svclb does instead of what kube-proxy does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remark {
    /// Whether that is to stay.
    pub mark: Mark,
    /// What it does.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
}

/// A packet and what becomes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Name; the same in all steps in which the row occurs.
    pub id: String,
    /// Where it comes from.
    pub from: From,
    /// Its source.
    pub source: IpAddr,
    /// Whom it addresses.
    pub destination: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// What kube-proxy does with it.
    pub outcome: Outcome,
    /// What svclb does, where that is something else.
    pub remark: Option<Remark>,
}

impl Row {
    /// What svclb does with it.
    pub fn expected(&self) -> &Outcome {
        self.remark.as_ref().map_or(&self.outcome, |remark| &remark.outcome)
    }

    /// Whether an outcome that was seen is this one, as far as it can be told from where the packet comes.
    pub fn agrees(&self, seen: &Outcome, with: &Outcome) -> bool {
        match (seen, with) {
            (Outcome::To { endpoints: seen, .. }, Outcome::To { endpoints, .. }) if self.from == From::Node => {
                seen == endpoints
            }
            _ => seen == with,
        }
    }
}

/// Reads lines.
pub(super) fn parse(text: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(rest) = line.strip_prefix("  svclb ") {
            let row = rows.last_mut().expect("a remark follows a row");
            let remark = remark(rest).unwrap_or_else(|| panic!("no remark: {line:?}"));
            assert!(!row.agrees(&row.outcome, &remark.outcome), "{}: svclb does what kube-proxy does", row.id);
            row.remark = Some(remark);
        } else {
            rows.push(row(line).unwrap_or_else(|| panic!("no row: {line:?}")));
        }
    }
    rows
}

fn row(line: &str) -> Option<Row> {
    let (flow, outcome_text) = line.split_once(" = ")?;
    let [id, from, source, ">", to] = flow.split(' ').collect::<Vec<_>>()[..] else { return None };
    let (destination, protocol) = to.rsplit_once('/')?;
    Some(Row {
        id: id.to_owned(),
        from: match from {
            "pod" => From::Pod,
            "outside" => From::Outside,
            "node" => From::Node,
            _ => return None,
        },
        source: source.parse().ok()?,
        destination: destination.parse().ok()?,
        protocol: match protocol {
            "TCP" => TCP,
            "UDP" => UDP,
            "SCTP" => SCTP,
            _ => return None,
        },
        outcome: outcome(outcome_text)?,
        remark: None,
    })
}

fn remark(text: &str) -> Option<Remark> {
    let (mark, rest) = text.split_once(" = ")?;
    let (outcome_text, reason) = rest.split_once("; ")?;
    let mark = match mark {
        "on purpose" => Mark::OnPurpose,
        "so far" => Mark::SoFar,
        _ => return None,
    };
    Some(Remark { mark, outcome: outcome(outcome_text)?, reason: reason.to_owned() })
}

fn outcome(text: &str) -> Option<Outcome> {
    let to = |list: &str, masqueraded| {
        let endpoints = list.split(' ').map(|endpoint| endpoint.parse().ok()).collect::<Option<_>>()?;
        Some(Outcome::To { endpoints, masqueraded })
    };
    match text {
        "refused" => Some(Outcome::Refused),
        "dropped" => Some(Outcome::Dropped),
        "untouched" => Some(Outcome::Untouched),
        _ => match (text.strip_prefix("to "), text.strip_prefix("masqueraded to ")) {
            (Some(list), _) => to(list, false),
            (_, Some(list)) => to(list, true),
            _ => None,
        },
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To { endpoints, masqueraded } => {
                f.write_str(if *masqueraded { "masqueraded to" } else { "to" })?;
                endpoints.iter().try_for_each(|endpoint| write!(f, " {endpoint}"))
            }
            Self::Refused => f.write_str("refused"),
            Self::Dropped => f.write_str("dropped"),
            Self::Untouched => f.write_str("untouched"),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = match self.from {
            From::Pod => "pod",
            From::Outside => "outside",
            From::Node => "node",
        };
        let protocol = match self.protocol {
            TCP => "TCP",
            UDP => "UDP",
            _ => "SCTP",
        };
        write!(f, "{} {from} {} > {}/{protocol}", self.id, self.source, self.destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_with_their_remarks() {
        let text = "# r\nA1 pod 10.0.0.1 > 10.96.0.1:80/TCP = masqueraded to 10.0.0.2:80\n\
                    A2 node ::1 > [::1]:80/SCTP = refused\n  svclb so far = untouched; not yet\n";
        let rows = parse(text);
        assert_eq!(rows[0].to_string(), "A1 pod 10.0.0.1 > 10.96.0.1:80/TCP");
        assert_eq!(rows[0].expected().to_string(), "masqueraded to 10.0.0.2:80");
        assert_eq!((rows[1].protocol, rows[1].expected()), (SCTP, &Outcome::Untouched));
        let seen = Outcome::To { endpoints: ["10.0.0.2:80".parse().expect("an endpoint")].into(), masqueraded: false };
        assert!(!rows[0].agrees(&seen, &rows[0].outcome), "the source of a pod is looked at");
        let of_node = Row { from: From::Node, ..rows[0].clone() };
        assert!(of_node.agrees(&seen, &of_node.outcome), "that of a process of the node is not");
    }

    #[test]
    #[should_panic(expected = "svclb does what kube-proxy does")]
    fn a_remark_that_is_no_difference_is_refused() {
        parse("A1 pod 10.0.0.1 > 10.96.0.1:80/TCP = refused\n  svclb so far = refused; why\n");
    }
}
