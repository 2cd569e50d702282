//! What an agent's log tells of its synchronizations.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// How long a change may take.
const WITHIN: Duration = Duration::from_secs(30);
/// How often the log is looked at.
const POLL: Duration = Duration::from_micros(200);

/// One synchronization, as the agent tells of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Sync {
    /// Services that were computed.
    pub(super) services: u64,
    /// Steps that were carried out.
    pub(super) writes: u64,
    /// Seconds.
    pub(super) took: f64,
}

/// The synchronizations in an agent's log, one after the other.
pub(super) struct SyncLog<'a> {
    file: &'a Path,
    read: usize,
}

impl<'a> SyncLog<'a> {
    pub(super) const fn new(file: &'a Path) -> Self {
        Self { file, read: 0 }
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Result<Sync> {
        let deadline = Instant::now() + WITHIN;
        loop {
            let text = fs::read_to_string(self.file).with_context(|| format!("read {}", self.file.display()))?;
            while let Some((line, _)) = text.get(self.read..).and_then(|rest| rest.split_once('\n')) {
                self.read += line.len() + 1;
                if let Some(sync) = sync(line) {
                    return Ok(sync);
                }
            }
            ensure!(Instant::now() < deadline, "the agent wrote no tables for {WITHIN:?}; its log:\n{text}");
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The synchronization that a line tells of.
fn sync(line: &str) -> Option<Sync> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields")?;
    if !fields.get("message")?.as_str()?.starts_with("tables written") {
        return None;
    }
    let number = |name: &str| fields.get(name).and_then(Value::as_u64);
    Some(Sync {
        services: number("services")?,
        writes: number("writes")?,
        took: seconds(fields.get("took")?.as_str()?)?,
    })
}

/// A duration as Rust prints it for developers, such as `1.5ms`.
fn seconds(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?);
    let unit = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_tells_how_long_a_synchronization_took() {
        let line = r#"{"level":"INFO","fields":{"message":"tables written","services":1,"writes":4,"failures":0,"took":"1.5ms"}}"#;
        let found = sync(line).expect("it tells of one");
        assert_eq!((found.services, found.writes), (1, 4));
        assert_eq!(format!("{:.6}", found.took), "0.001500");
        assert_eq!(sync(r#"{"fields":{"message":"something else"}}"#), None);
    }

    #[test]
    fn durations_are_read_in_every_unit() {
        for time in [Duration::from_nanos(7), Duration::from_micros(12), Duration::from_millis(3), WITHIN] {
            let read = seconds(&format!("{time:?}")).expect("it is a duration");
            assert!((read - time.as_secs_f64()).abs() < 1e-12, "{time:?} was read as {read} s");
        }
    }
}
