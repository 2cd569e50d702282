//! The command `svclb`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use svclb_userspace::cli::{self, Cli};
use svclb_userspace::config::OptionsError;
use svclb_userspace::k8s::api::ServerError;

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let server = error.downcast_ref::<ServerError>();
            let wrong_usage = error.is::<OptionsError>() || server.is_some_and(ServerError::is_usage);
            if writeln!(std::io::stderr(), "svclb: {}", in_words(&error)).is_err() {
                // Nobody reads it; the exit code still tells.
            }
            ExitCode::from(if wrong_usage { 2 } else { 1 })
        }
    }
}

/// The error and its causes, without those of which it has told already.
fn in_words(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |told, cause| {
        let cause = cause.to_string();
        match told.as_str() {
            "" => cause,
            told if told.contains(&cause) => told.to_owned(),
            told => format!("{told}: {cause}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    #[test]
    fn a_cause_that_the_error_names_itself_is_told_once() {
        let error = anyhow!("no space").context("write the file: no space").context("save it");
        assert_eq!(super::in_words(&error), "save it: write the file: no space");
        assert_eq!(super::in_words(&anyhow!("alone")), "alone");
    }
}
