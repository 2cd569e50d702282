//! `cargo xtask verifier`: loads every program on this kernel and reports what it costs.

use std::fs;

use anyhow::{Context, Result};
use svclb_tests::verifier::{HEADING, Report, parse};

use crate::{Outcome, repository};

/// Load every program of the kernel object on this kernel and report its cost.
///
/// Attaches and pins nothing. Needs root. A program that the kernel does not take is shown with the
/// verifier's log, and the command ends with 1.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also put the figures of this kernel into the reviewed report, tests/tests/verifier_report.txt.
    #[arg(long)]
    write: bool,
    /// Take lines of a report (as `cargo xtask vm` prints them for another kernel) from this file instead
    /// of loading anything.
    #[arg(long, value_name = "FILE")]
    from: Option<std::path::PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let reports = match &args.from {
        Some(file) => {
            let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
            parse(&text)?
        }
        None => vec![Report::of_this_kernel()?],
    };
    println!("{HEADING}");
    for report in &reports {
        print!("{report}");
    }
    if args.write {
        write(reports)?;
    }
    Ok(Outcome::Done)
}

/// Replaces the lines of the kernels of `reports` in the reviewed report.
fn write(reports: Vec<Report>) -> Result<()> {
    let file = repository::root().join("tests/tests/verifier_report.txt");
    let mut all = match fs::read_to_string(&file) {
        Ok(text) => parse(&text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    for report in reports {
        all.retain(|old| old.kernel != report.kernel);
        all.push(report);
    }
    all.sort_by_key(|report| report.kernel.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>());
    let text: String = std::iter::once(format!("{HEADING}\n")).chain(all.iter().map(ToString::to_string)).collect();
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    println!("{} written", file.display());
    Ok(())
}
