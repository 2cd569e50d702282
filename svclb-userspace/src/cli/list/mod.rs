//! `svclb list`: what the kernel's tables hold, read from their pins. The agent need not run.

mod affinity;
mod backends;
mod counters;
mod devices;
mod flows;
mod services;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::Config;

use crate::clock::Clock;
use crate::config::DEFAULT_BPFFS;
use crate::tables::bpf::pinned_array;

/// Options of `svclb list`.
#[derive(Args, Clone, Debug)]
pub struct ListOptions {
    /// What to list.
    #[arg(value_enum)]
    pub what: What,
    /// Form of the output.
    #[arg(short, long, default_value = "table")]
    pub output: Output,
    /// The agent's folder in a BPF file system.
    #[arg(long, env = "SVCLB_BPFFS", default_value = DEFAULT_BPFFS, value_name = "DIR")]
    pub bpffs: PathBuf,
}

/// What can be listed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Where clients reach Services, and how many endpoints there are.
    Services,
    /// Endpoints of Services.
    Backends,
    /// Conversations through Services.
    Flows,
    /// Clients that are kept at an endpoint.
    Affinity,
    /// Devices with hooks.
    Devices,
    /// Packets that were dropped or refused, by reason.
    Drops,
    /// All counters of packets.
    Counters,
}

/// Form of the output.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Columns for people.
    Table,
    /// A JSON array.
    Json,
    /// A YAML list.
    Yaml,
}

/// A line of a table.
trait Row: Serialize {
    /// Names of the columns.
    const HEADERS: &'static [&'static str];
    /// Its columns.
    fn cells(&self) -> Vec<String>;
}

/// Lists.
pub fn run(options: &ListOptions) -> Result<()> {
    let pins = &options.bpffs;
    let context = || format!("read the tables in {}; has an agent run with --bpffs {0}?", pins.display());
    match options.what {
        What::Services => {
            let mut rows = services::rows::<Addr4>(pins).with_context(context)?;
            rows.extend(services::rows::<Addr6>(pins).with_context(context)?);
            print(&rows, options.output)
        }
        What::Backends => {
            let mut rows = backends::rows::<Addr4>(pins).with_context(context)?;
            rows.extend(backends::rows::<Addr6>(pins).with_context(context)?);
            print(&rows, options.output)
        }
        What::Flows => {
            let clock = Clock::read().with_context(context)?;
            let config: Vec<Config> = pinned_array(pins, "CONFIG", false).with_context(context)?;
            let config = config.first().context("CONFIG has no entry")?;
            let mut rows = flows::rows::<Addr4>(pins, config, &clock).with_context(context)?;
            rows.extend(flows::rows::<Addr6>(pins, config, &clock).with_context(context)?);
            print(&rows, options.output)
        }
        What::Affinity => {
            let clock = Clock::read().with_context(context)?;
            let mut rows = affinity::rows::<Addr4>(pins, &clock).with_context(context)?;
            rows.extend(affinity::rows::<Addr6>(pins, &clock).with_context(context)?);
            print(&rows, options.output)
        }
        What::Devices => print(&devices::rows(pins).with_context(context)?, options.output),
        What::Drops => print(&counters::drops(pins).with_context(context)?, options.output),
        What::Counters => print(&counters::all(pins).with_context(context)?, options.output),
    }
}

fn print<R: Row>(rows: &[R], output: Output) -> Result<()> {
    let mut text = match output {
        Output::Table => table(rows),
        Output::Json => serde_json::to_string_pretty(rows)?,
        Output::Yaml => serde_saphyr::to_string(&rows)?,
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    match io::stdout().lock().write_all(text.as_bytes()) {
        // `svclb list flows | head` is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("write the list"),
    }
}

fn table<R: Row>(rows: &[R]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(R::HEADERS.iter().map(|header| header.to_uppercase()));
    table.add_rows(rows.iter().map(Row::cells));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// An address and port as text.
fn endpoint(address: impl Into<std::net::IpAddr>, port: svclb_common::addr::Be16) -> String {
    std::net::SocketAddr::new(address.into(), port.get()).to_string()
}

/// Name of an IP protocol.
fn protocol(number: u8) -> &'static str {
    match number {
        6 => "TCP",
        17 => "UDP",
        132 => "SCTP",
        _ => "",
    }
}
