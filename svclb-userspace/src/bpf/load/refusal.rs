//! Why the kernel did not take a program, and what to do about it.

use std::fmt;
use std::io::ErrorKind;

use aya::programs::ProgramError;

/// Lines of the verifier's log that are shown: the last ones say what is wrong.
const LINES: usize = 12;

/// Why the kernel did not take a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    reason: String,
    /// Of the verifier's log; empty if it said nothing.
    end_of_log: Vec<String>,
    advice: &'static str,
}

impl Refusal {
    fn new(reason: &str, kind: ErrorKind, log: &str) -> Self {
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        let end = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
        let advice = match kind {
            _ if !end.is_empty() => "please report it with these lines and the kernel's release (uname -r)",
            ErrorKind::PermissionDenied => "the agent needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
            ErrorKind::OutOfMemory => "the kernel has no memory for it: raise the agent's memory limit",
            _ => "svclb needs Linux 6.1 or later with CONFIG_BPF_SYSCALL",
        };
        Self { reason: reason.to_owned(), end_of_log: end.iter().map(|line| (*line).to_owned()).collect(), advice }
    }
}

impl From<ProgramError> for Refusal {
    fn from(error: ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                Self::new(&io_error.to_string(), io_error.kind(), &verifier_log.to_string())
            }
            other => Self::new(&other.to_string(), ErrorKind::Other, ""),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if !self.end_of_log.is_empty() {
            f.write_str("; the end of what its verifier says:\n")?;
            for line in &self.end_of_log {
                writeln!(f, "    {line}")?;
            }
            return f.write_str(self.advice);
        }
        write!(f, "; {}", self.advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_log_is_shown_once_and_what_to_do() {
        let lines: Vec<String> = (0..100).map(|line| format!("{line}: (07) r1 += 8\n\n")).collect();
        let log = lines.concat();
        let text = Refusal::new("Permission denied (os error 13)", ErrorKind::PermissionDenied, &log).to_string();
        assert_eq!(text.lines().count(), 1 + LINES + 1, "{text}");
        assert_eq!(text.matches("99: (07)").count(), 1);
        assert!(!text.contains(" 87: (07)"), "{text}");
        assert!(text.ends_with("(uname -r)"), "{text}");
    }

    #[test]
    fn without_a_log_it_fits_on_a_line() {
        let text = Refusal::new("Operation not permitted (os error 1)", ErrorKind::PermissionDenied, "").to_string();
        assert_eq!(
            text,
            "Operation not permitted (os error 1); the agent needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        );
    }
}
