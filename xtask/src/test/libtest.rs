//! Listening to `cargo test`: counting its tests, and picking the lines that a reader wants to see.
//!
//! Cargo names each test program on stderr (`Running tests/netns_x.rs (target/...)`), the program prints a
//! line for each test, the whole output of those that failed after a line `failures:`, and at its end
//! `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.

use std::{fmt, ops::AddAssign};

/// How many tests ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl Counts {
    /// For what could not run at all.
    pub(crate) fn one_failure() -> Self {
        Self { failed: 1, ..Self::default() }
    }

    /// Reads a line `test result: ...`.
    fn parse(line: &str) -> Option<Self> {
        let numbers = line.strip_prefix("test result: ")?.split_once(". ")?.1;
        let mut counts = Self::default();
        for part in numbers.split("; ") {
            let (number, word) = part.split_once(' ')?;
            match word {
                "passed" => counts.passed = number.parse().ok()?,
                "failed" => counts.failed = number.parse().ok()?,
                "ignored" => counts.ignored = number.parse().ok()?,
                _ => {}
            }
        }
        Some(counts)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(f, ", {} ignored", self.ignored)?;
        }
        Ok(())
    }
}

/// A test program that runs.
struct Program {
    name: String,
    tests: u64,
    last_line: String,
}

/// Follows the output of one `cargo test`.
#[derive(Default)]
pub(crate) struct Listener {
    total: Counts,
    program: Option<Program>,
    in_failures: bool,
    building: String,
}

impl Listener {
    /// Takes the next line of output, and answers with the lines to show.
    pub(crate) fn hear(&mut self, line: &str) -> Vec<String> {
        if let Some(name) = program_name(line) {
            let shown = self.lost_program();
            self.program = Some(Program { name, tests: 0, last_line: String::new() });
            return shown;
        }
        let Some(program) = &mut self.program else {
            line.trim().clone_into(&mut self.building);
            return Vec::new();
        };
        if let Some(counts) = Counts::parse(line) {
            self.total += counts;
            let shown = (counts != Counts::default()).then(|| format!("  {}: {counts}", program.name));
            self.program = None;
            self.in_failures = false;
            return shown.into_iter().collect();
        }
        if line.ends_with("... ignored") || line.contains(" ... ignored, ") {
            return vec![format!("  {}: {line}", program.name)];
        }
        if line == "failures:" {
            self.in_failures = true;
        }
        if self.in_failures {
            return vec![line.to_owned()];
        }
        if line.starts_with("test ") && line.contains(" ... ") {
            program.tests += 1;
        }
        if !line.trim().is_empty() {
            line.trim().clone_into(&mut program.last_line);
        }
        Vec::new()
    }

    /// To be called after the last line.
    pub(crate) fn end(&mut self) -> Vec<String> {
        self.lost_program()
    }

    /// What is under way, in one line.
    pub(crate) fn now(&self) -> String {
        match &self.program {
            Some(program) => format!(
                "{} passed, {} failed; {}: {} tests, {}",
                self.total.passed, self.total.failed, program.name, program.tests, program.last_line
            ),
            None => self.building.clone(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.total
    }

    /// A program that ended without its result line was killed or aborted: that is a failure.
    fn lost_program(&mut self) -> Vec<String> {
        self.in_failures = false;
        let Some(program) = self.program.take() else {
            return Vec::new();
        };
        self.total.failed += 1;
        vec![format!(
            "  {}: FAILED, ended without a result after {} tests; its last line: {}",
            program.name, program.tests, program.last_line
        )]
    }
}

/// The name of the test program that cargo starts with this line.
fn program_name(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(package) = line.strip_prefix("Doc-tests ") {
        return Some(format!("documentation of {package}"));
    }
    let rest = line.strip_prefix("Running ")?;
    let (source, program) = rest.split_once(" (")?;
    if let Some(source) = source.strip_prefix("unittests ") {
        let program = program.rsplit('/').next()?.trim_end_matches(')');
        let package = program.rsplit_once('-').map_or(program, |(name, _)| name);
        return Some(format!("{package} {source}"));
    }
    let file = source.rsplit('/').next()?;
    Some(file.trim_end_matches(".rs").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(output: &str) -> (Counts, Vec<String>) {
        let mut listener = Listener::default();
        let mut shown: Vec<_> = output.lines().flat_map(|line| listener.hear(line)).collect();
        shown.extend(listener.end());
        (listener.counts(), shown)
    }

    #[test]
    fn results_of_all_programs_are_summed() {
        let (counts, shown) = listen(
            "   Compiling x v0.1.0\n     Running unittests src/lib.rs (target/debug/deps/svclb_common-0a)\n\
             running 2 tests\ntest a ... ok\ntest b ... ok\n\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             Running tests/netns_nodeport.rs (target/debug/deps/netns_nodeport-1b)\n\
             test c ... ok\ntest result: ok. 1 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out",
        );
        let expected = Counts { passed: 3, failed: 0, ignored: 3 };
        assert_eq!(counts, expected);
        assert_eq!(
            shown,
            ["  svclb_common src/lib.rs: 2 passed, 0 failed", "  netns_nodeport: 1 passed, 0 failed, 3 ignored"]
        );
    }

    #[test]
    fn a_failure_is_shown_whole() {
        let (counts, shown) = listen(
            "     Running tests/packet_x.rs (target/debug/deps/packet_x-1b)\ntest a ... FAILED\n\nfailures:\n\n\
             ---- a stdout ----\nthe packet was dropped\n\nfailures:\n    a\n\n\
             test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        assert_eq!((counts.passed, counts.failed), (4, 1));
        assert!(shown.contains(&"the packet was dropped".to_owned()));
        assert_eq!(shown.last().map(String::as_str), Some("  packet_x: 4 passed, 1 failed"));
    }

    #[test]
    fn a_program_that_dies_counts_as_a_failure() {
        let (counts, shown) = listen(
            "     Running tests/packet_x.rs (target/debug/deps/packet_x-1b)\ntest a ... ok\n\
             memory allocation failed\n\
             Running tests/packet_y.rs (target/debug/deps/packet_y-1b)\n\
             test result: ok. 1 passed; 0 failed; 0 ignored",
        );
        assert_eq!((counts.passed, counts.failed), (1, 1));
        assert!(shown[0].contains("memory allocation failed"), "{shown:?}");
    }

    #[test]
    fn ignored_tests_are_named() {
        let (_, shown) = listen(
            "     Running tests/packet_x.rs (target/debug/deps/packet_x-1b)\ntest slow ... ignored, takes an hour\n\
             test result: ok. 0 passed; 0 failed; 1 ignored",
        );
        assert_eq!(shown[0], "  packet_x: test slow ... ignored, takes an hour");
    }
}
