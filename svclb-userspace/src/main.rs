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
            if writeln!(std::io::stderr(), "svclb: {error:#}").is_err() {
                // Nobody reads it; the exit code still tells.
            }
            ExitCode::from(if wrong_usage { 2 } else { 1 })
        }
    }
}
