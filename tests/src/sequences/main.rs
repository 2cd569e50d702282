//! Random sequences of events: `sequences SEED FIRST COUNT THREADS`. What it prints is for `cargo xtask sequences`.
#![expect(clippy::print_stdout, reason = "answers on stdout")]

use anyhow::{Context as _, Result};
use svclb_tests::sequences::{Line, Selection, run_all};

fn print(line: &Line) {
    match serde_json::to_string(line) {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("{error}"),
    }
}

fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut number = |what| numbers.next().with_context(|| format!("{what} is missing"))?.context("a number");
    let selection = Selection { seed: number("SEED")?, first: number("FIRST")?, count: number("COUNT")? };
    let threads = usize::try_from(number("THREADS")?)?;
    let told = |record: &_| print(&Line::SoFar(Clone::clone(record)));
    let failed = |failure: &svclb_tests::sequences::Failure| print(&Line::Failed(failure.to_string()));
    print(&Line::Done(run_all(selection, threads, told, failed)));
    Ok(())
}
