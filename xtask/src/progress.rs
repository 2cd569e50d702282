//! Progress of something that takes time: a spinner on a terminal, plain lines elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// One thing that is under way.
pub(crate) struct Progress {
    what: String,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Says that `what` begins.
    pub(crate) fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}") {
                bar.set_style(style);
            }
            bar.set_prefix(what.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            println!("{what} ...");
        }
        Self { what, since: Instant::now(), bar }
    }

    /// Shows what is being done right now; only a terminal shows it.
    pub(crate) fn now(&self, line: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(line.to_owned());
        }
    }

    /// Prints a line that stays.
    pub(crate) fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{line}")),
            None => println!("{line}"),
        }
    }

    /// Says how it ended, and how long it took.
    pub(crate) fn end(self, how: &str) -> Duration {
        let took = self.since.elapsed();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        println!("{}: {how} ({})", self.what, time_text(took));
        took
    }
}

/// A duration as people say it: `0.4 s`, `41 s`, `3 min 07 s`.
pub(crate) fn time_text(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_people_say_them() {
        let text = |milliseconds| time_text(Duration::from_millis(milliseconds));
        assert_eq!(text(420), "0.4 s");
        assert_eq!(text(41_900), "41 s");
        assert_eq!(text(187_000), "3 min 07 s");
    }
}
