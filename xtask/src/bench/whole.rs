//! `cargo xtask bench` without more: all figures, and the report.

use anyhow::Result;
use svclb_tests::bench::finding::Finding;

use super::{findings, packet, report, traffic};
use crate::Outcome;

/// All rows of the table of goals.
#[derive(clap::Args)]
pub(crate) struct Whole {
    /// Write docs/performance.md and its charts from this run.
    #[arg(long)]
    report: bool,
    #[command(flatten)]
    effort: traffic::Effort,
}

pub(crate) fn run(args: &Whole) -> Result<Outcome> {
    let (services, minutes) = (args.effort.services, args.effort.minutes);
    println!(
        "Packets through the programs of this build first, on one CPU: some minutes. Then real traffic beside kube-proxy, \
         with {services} Services on a real API server: some minutes until they are there and everybody knows them, \
         and up to {minutes} minutes until all figures are sure. Before all that, svclb is built for release."
    );
    let packets = packet::measured(&packet::usual())?;
    let traffic = traffic::report(&[], &args.effort)?;
    let all: Vec<Finding> = packets.findings.iter().chain(&traffic.findings).cloned().collect();
    println!("{}", findings::table(&all));
    for (stand, why) in &traffic.missing {
        println!("{stand} could not be measured: {why}");
    }
    if args.report {
        report::write(&packets, &traffic)?;
        println!("docs/performance.md and its charts are written");
    }
    Ok(findings::outcome(&all))
}
