//! `cargo xtask kubectl`: kubectl for the cluster that `cargo xtask run --cluster` runs.
//!
//! Its API server listens in a network namespace without a name. The run leaves a file that says how to
//! get in, and kubectl, part of the same binary as the API server, is started inside.

use std::ffi::OsString;

use anyhow::{Context, Result};
use svclb_tests::cluster::running::RunningCluster;

use crate::Outcome;

/// Run kubectl as administrator of the cluster that `cargo xtask run --cluster` runs.
///
/// For example, from another terminal: `cargo xtask kubectl scale deployment/httpd --replicas=5`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// What kubectl is told.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let cluster = RunningCluster::find(&RunningCluster::default_path()?)?;
    let status = cluster.kubectl(&args.args)?.status().context("start kubectl")?;
    Ok(if status.success() { Outcome::Done } else { Outcome::Failed })
}
