//! `svclb agent`.

use anyhow::{Context as _, Result};
use tracing::warn;
use tracing_subscriber::EnvFilter;

use crate::config::{AgentOptions, LogFormat};
use crate::heap;

/// Runs the agent in the foreground, or only what comes before it.
pub fn run(mut options: AgentOptions) -> Result<()> {
    let warnings = options.complete()?;
    heap::share();
    start_log(options.log_format(), options.log_level());
    for warning in warnings {
        warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the threads of the agent")?;
    if options.init_only.unwrap_or(false) {
        return runtime.block_on(crate::agent::prepare::run(&options));
    }
    runtime.block_on(crate::agent::run(options))
}

/// Logs go to stderr; `RUST_LOG` chooses how much, and `level` where it does not.
fn start_log(format: LogFormat, level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}
