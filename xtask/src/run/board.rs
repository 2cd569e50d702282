//! The table of a run: one line for each path, with what all rounds found.

use std::{collections::BTreeMap, time::Duration};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Value, json};
use svclb_tests::net::{Found, Line};

use super::stage::Round;

/// How many messages are kept.
const MESSAGES: usize = 8;

/// What is shown.
pub(super) struct Board {
    title: String,
    round: u64,
    overtaken: bool,
    lines: BTreeMap<Line, Tally>,
    messages: Vec<String>,
}

/// The last round of a line, and the sums over all rounds.
#[derive(Default)]
struct Tally {
    last: Found,
    requests: u64,
    failed: u64,
}

impl Board {
    pub(super) fn new(title: String) -> Self {
        Self { title, round: 0, overtaken: false, lines: BTreeMap::new(), messages: Vec::new() }
    }

    /// Adds messages below the table; old ones go.
    pub(super) fn tell(&mut self, messages: Vec<String>) {
        self.messages.extend(messages);
        self.messages.drain(..self.messages.len().saturating_sub(MESSAGES));
    }

    /// Adds a round. Lines that it does not have are no more. Where the cluster changed meanwhile, faults do
    /// not count: what had to be seen changed on the way.
    pub(super) fn add(&mut self, round: Round) {
        self.round += 1;
        self.overtaken = round.overtaken;
        let mut old = std::mem::take(&mut self.lines);
        for (line, found) in round.lines {
            let mut tally = old.remove(&line).unwrap_or_default();
            tally.requests += found.requests;
            if !round.overtaken {
                tally.failed += found.failures.values().sum::<u64>();
            }
            tally.last = found;
            self.lines.insert(line, tally);
        }
    }

    /// Everything as text, at most `width` columns wide.
    pub(super) fn text(&self, width: Option<u16>) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        if let Some(width) = width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        table.set_header([
            "path",
            "from",
            "address",
            "requests",
            "pods that answered",
            "client seen",
            "median",
            "failures",
        ]);
        let several = self.lines.keys().any(|line| self.lines.keys().any(|other| other.service != line.service));
        for (line, tally) in &self.lines {
            let path = if several { format!("{}: {}", line.service, line.kind) } else { line.kind.to_string() };
            table.add_row([
                path,
                line.from.clone(),
                format!("{} {}", line.to, line.protocol),
                tally.requests.to_string(),
                pods(&tally.last),
                tally.last.clients.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
                tally.last.median().map_or_else(String::new, milliseconds),
                self.failures(tally),
            ]);
        }
        for column in [3, 6] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut lines = vec![self.title.clone(), table.to_string(), self.verdict()];
        for (line, tally) in self.lines.iter().filter(|_| !self.overtaken) {
            let place = format!("{}, {} to {} {}", line.kind, line.from, line.to, line.protocol);
            lines.extend(tally.last.faults.first().map(|fault| format!("  {place}: {fault}")));
        }
        lines.extend(self.messages.iter().map(|message| format!("  {message}")));
        lines.join("\n")
    }

    /// The last round as one JSON object.
    pub(super) fn json(&self) -> Value {
        let lines: Vec<Value> = self.lines.iter().map(|(line, tally)| self.json_line(line, tally)).collect();
        json!({
            "round": self.round,
            "good": self.is_good(),
            "overtaken": self.overtaken,
            "lines": lines,
            "messages": self.messages,
        })
    }

    fn json_line(&self, line: &Line, tally: &Tally) -> Value {
        let last = &tally.last;
        let failures: BTreeMap<String, u64> =
            last.failures.iter().map(|(fault, count)| (fault.to_string(), *count)).collect();
        json!({
            "service": line.service,
            "path": line.kind,
            "from": line.from,
            "address": line.to,
            "protocol": line.protocol,
            "requests": last.requests,
            "pods": last.by_pod,
            "clients": last.clients,
            "turned_away": last.turned_away,
            "median_us": last.median().map(|median| median.as_micros() as u64),
            "failures": failures,
            "faults": last.faults,
            "good": self.overtaken || last.is_good(),
        })
    }

    fn is_good(&self) -> bool {
        !self.overtaken && !self.lines.is_empty() && self.lines.values().all(|tally| tally.last.is_good())
    }

    fn failures(&self, tally: &Tally) -> String {
        if tally.failed == 0 {
            return "0".to_owned();
        }
        let now = tally.last.failures.iter().filter(|_| !self.overtaken);
        let kinds: Vec<String> = now.map(|(fault, count)| format!("{count} {fault}")).collect();
        if kinds.is_empty() { format!("{} earlier", tally.failed) } else { kinds.join(", ") }
    }

    fn verdict(&self) -> String {
        let requests: u64 = self.lines.values().map(|tally| tally.requests).sum();
        let failed: u64 = self.lines.values().map(|tally| tally.failed).sum();
        let bad = self.lines.values().filter(|tally| !tally.last.is_good()).count();
        let now = match (self.overtaken, self.lines.is_empty(), bad) {
            (true, _, _) => "the cluster changed during this round, which therefore proves nothing".to_owned(),
            (false, true, _) => "there is no Service to ask".to_owned(),
            (false, false, 0) => format!("all {} paths as they must be", self.lines.len()),
            (false, false, bad) => format!("{bad} of {} paths NOT as they must be", self.lines.len()),
        };
        format!("round {}: {now}; {requests} requests in all, {failed} failures", self.round)
    }
}

/// The pods that answered, with their numbers of answers. What a name has in common with the one before,
/// up to a dash, is left out.
fn pods(found: &Found) -> String {
    if found.by_pod.is_empty() && found.turned_away > 0 {
        return "none, as it must be".to_owned();
    }
    let mut last_stem = "";
    let mut pods = Vec::new();
    for (pod, count) in &found.by_pod {
        let stem = pod.rfind('-').and_then(|dash| pod.get(..dash)).unwrap_or_default();
        let shown = if !stem.is_empty() && stem == last_stem { pod.strip_prefix(stem) } else { None };
        pods.push(format!("{}:{count}", shown.unwrap_or(pod)));
        last_stem = stem;
    }
    pods.join(" ")
}

fn milliseconds(latency: Duration) -> String {
    format!("{:.2} ms", latency.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use svclb_tests::net::{FailureKind, Fault, PathKind, Protocol};

    use super::*;

    fn line(port: u16) -> Line {
        Line {
            service: "default/web".to_owned(),
            kind: PathKind::PodToClusterIp,
            from: "node1".to_owned(),
            to: ([10, 96, 0, 16], port).into(),
            protocol: Protocol::Tcp,
        }
    }

    fn good() -> Found {
        Found {
            requests: 10,
            by_pod: [("web-1".to_owned(), 6), ("web-2".to_owned(), 4)].into(),
            clients: [[10, 244, 1, 10].into()].into(),
            latencies: vec![Duration::from_micros(1500)],
            ..Found::default()
        }
    }

    fn bad() -> Found {
        Found { requests: 3, failures: [(Fault::Failed(FailureKind::TimedOut), 3)].into(), ..Found::default() }
    }

    fn round(found: Found, overtaken: bool) -> Round {
        Round { lines: [(line(80), found)].into(), overtaken }
    }

    #[test]
    fn a_good_line_shows_pods_client_and_latency() {
        let mut board = Board::new("title".to_owned());
        board.add(round(good(), false));
        let text = board.text(None);
        for part in ["title", "10.96.0.16:80 TCP", "web-1:6 -2:4", "10.244.1.10", "1.50 ms", "all 1 paths as they"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert_eq!(board.json()["good"], true);
        assert_eq!(board.json()["lines"][0]["median_us"], 1500);
    }

    #[test]
    fn failures_are_shown_by_kind_and_later_as_a_sum() {
        let mut board = Board::new(String::new());
        board.add(round(bad(), false));
        assert!(board.text(None).contains("3 timed out"), "{}", board.text(None));
        assert!(board.text(None).contains("1 of 1 paths NOT"));
        board.add(round(good(), false));
        assert!(board.text(None).contains("3 earlier"));
        assert_eq!(board.json()["good"], true);
    }

    #[test]
    fn a_round_that_a_change_overtook_counts_no_failure() {
        let mut board = Board::new(String::new());
        board.add(round(bad(), true));
        assert!(board.text(None).contains("proves nothing"));
        board.add(round(good(), false));
        assert!(board.text(None).contains(" 0 failures"), "{}", board.text(None));
    }

    #[test]
    fn a_line_that_is_no_more_vanishes() {
        let mut board = Board::new(String::new());
        board.add(round(good(), false));
        board.add(Round { lines: [(line(81), good())].into(), overtaken: false });
        assert!(!board.text(None).contains(":80 "));
    }
}
