//! docs/performance.md and its charts, from a run.

mod chart;

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result};
use svclb_tests::bench::{
    finding::{Bound, Finding},
    packet,
    spread::Spread,
    traffic::{self, Cost, Services, Spot, Stand, Subject, Workload},
};

use self::chart::{Bar, Chart};
use super::findings::found;
use crate::{process, repository};

/// The document and the folder of its charts, from the top of the repository.
const PATH: &str = "docs/performance.md";
const CHARTS: &str = "docs/performance";

/// Writes the document and its charts.
pub(super) fn write(packets: &packet::Report, traffic: &traffic::Report) -> Result<()> {
    let folder = repository::root().join(CHARTS);
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let mut shown = String::new();
    for (name, chart) in charts(packets, traffic) {
        if chart.is_empty() {
            continue;
        }
        let file = folder.join(format!("{name}.svg"));
        fs::write(&file, chart.svg()).with_context(|| format!("write {}", file.display()))?;
        writeln!(shown, "![{}](performance/{name}.svg)\n", chart.title)?;
    }
    let file = repository::root().join(PATH);
    fs::write(&file, text(packets, traffic, &shown)?).with_context(|| format!("write {}", file.display()))
}

fn text(packets: &packet::Report, traffic: &traffic::Report, charts: &str) -> Result<String> {
    let asked = |program: &str, args: &[&str]| process::answer(program, args).with_context(|| format!("ask {program}"));
    let date = asked("date", &["-u", "+%Y-%m-%d"])?;
    let root = repository::root().display().to_string();
    let commit = asked("git", &["-C", &root, "rev-parse", "--short", "HEAD"])?;
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut text = format!(
        "# Performance

Written by `cargo xtask bench --report` on {date} at commit {commit}; {cpus} CPUs of {}, Linux {}; {} Services on every
node; {} rounds of traffic. How it is measured: [testing](testing.md#what-it-costs). What the time goes into, and what was
tried: [notes](performance/notes.md).

All figures are ratios of this run: the median, its quartiles in brackets, and the 95 % interval of the median. A figure is
met when the whole interval lies beyond what it must be. *Goal met* is more than *met*.

",
        cpu.trim_start_matches([' ', '\t', ':']),
        asked("uname", &["-r"])?,
        traffic.services,
        traffic.rounds.len(),
    );
    let all = || packets.findings.iter().chain(&traffic.findings);
    text.push_str("| row | figure | with | found | must | goal | |\n| --- | --- | --- | --- | --- | --- | --- |\n");
    for finding in all().filter(|finding| finding.row.is_some()) {
        text.push_str(&line(finding)?);
    }
    if !traffic.missing.is_empty() {
        text.push_str("\nNot available:\n\n");
        for (stand, why) in &traffic.missing {
            writeln!(text, "- {stand}: {why}.")?;
        }
    }
    text.push_str("\n## Besides\n\n| row | figure | with | found | must | goal | |\n| --- | --- | --- | --- | --- | --- | --- |\n");
    for finding in all().filter(|finding| finding.row.is_none() && finding.bound.is_none()) {
        text.push_str(&line(finding)?);
    }
    text.push_str("\n## The measurement itself\n\nA second node without a proxy beside the first one; 1 is what it has to be.\n\n");
    text.push_str("| row | figure | with | found | must | goal | |\n| --- | --- | --- | --- | --- | --- | --- |\n");
    for finding in all().filter(|finding| matches!(finding.bound, Some(Bound::Same { .. }))) {
        text.push_str(&line(finding)?);
    }
    writeln!(
        text,
        "\n## Charts\n\nBars are medians, the lines in them go from quartile to quartile.\n\n{}",
        charts.trim_end()
    )?;
    Ok(text)
}

fn line(finding: &Finding) -> Result<String> {
    let row = finding.row.map_or_else(String::new, |row| row.to_string());
    let [must, goal] = finding.bound.map_or_else(Default::default, Bound::words);
    let mut line = String::new();
    writeln!(
        line,
        "| {row} | {} | {} | {} | {must} | {goal} | {} |",
        finding.what,
        finding.with,
        found(finding),
        finding.verdict.words()
    )?;
    Ok(line)
}

fn charts(packets: &packet::Report, traffic: &traffic::Report) -> Vec<(&'static str, Chart)> {
    vec![
        ("connect", time_of(traffic, Workload::Connect, 1, "")),
        ("latency", added_latency(traffic)),
        ("exchange", time_of(traffic, Workload::Exchange, 1, ", established")),
        ("datagram", time_of(traffic, Workload::NewDatagram, 1, "")),
        ("forwarding", forwarding(traffic)),
        ("services", services(traffic)),
        ("packets", programs(packets)),
    ]
}

/// The plain stands, one for each subject, in the order of the subjects.
fn is_plain(stand: Stand) -> bool {
    stand == Stand::of(stand.subject)
}

fn is_ours(subject: Subject) -> bool {
    matches!(subject, Subject::Stack | Subject::Direct | Subject::Xdp)
}

/// A bar of some values that have a factor in common.
fn bar(label: impl Into<String>, spread: Spread, factor: f64, ours: bool) -> Bar {
    let quartiles = [spread.low * factor, spread.high * factor];
    Bar { label: label.into(), value: spread.median * factor, quartiles, ours }
}

fn costs(traffic: &traffic::Report, wanted: impl Fn(&Spot) -> bool) -> impl Iterator<Item = &Cost> {
    traffic.costs.iter().filter(move |cost| wanted(&cost.spot))
}

/// Whether a spot is the one that stands for its subject: asked by its Service where it serves any.
fn is_usual(spot: &Spot) -> bool {
    let by_service = spot.target == traffic::Target::Service;
    let serves = !matches!(spot.stand.subject, Subject::Nobody | Subject::Idle);
    is_plain(spot.stand) && by_service == serves
}

fn time_of(traffic: &traffic::Report, workload: Workload, cpus: u8, more: &str) -> Chart {
    let all = costs(traffic, |spot| is_usual(spot) && spot.workload == workload && spot.cpus == cpus);
    let bars = all.map(|cost| {
        let subject = cost.spot.stand.subject;
        bar(subject.name(), cost.cost, 1e-3, is_ours(subject))
    });
    Chart {
        title: format!("{}{more}", workload.name()),
        axis: "µs of CPU time of client, server and the kernel between them; less is better".to_owned(),
        groups: vec![(String::new(), bars.collect())],
    }
}

fn added_latency(traffic: &traffic::Report) -> Chart {
    let of = |spot: &Spot| is_usual(spot) && spot.workload == Workload::Connect && spot.cpus == 1;
    let base = costs(traffic, |spot| of(spot) && spot.stand.subject == Subject::Nobody).find_map(|cost| cost.connected);
    let base = base.map_or(0.0, |base| base.median);
    let bars = costs(traffic, |spot| of(spot) && spot.stand.subject != Subject::Nobody).filter_map(|cost| {
        let subject = cost.spot.stand.subject;
        let added = |value: f64| (value - base).max(0.0);
        let Spread { low, median, high } = cost.connected?;
        let spread = Spread { low: added(low), median: added(median), high: added(high) };
        Some(bar(subject.name(), spread, 1e-3, is_ours(subject)))
    });
    Chart {
        title: "What is added to the latency of a TCP connect".to_owned(),
        axis: "µs over a pod's own address, median; less is better".to_owned(),
        groups: vec![(String::new(), bars.collect())],
    }
}

fn forwarding(traffic: &traffic::Report) -> Chart {
    let mut groups = Vec::<(String, Vec<Bar>)>::new();
    for cost in costs(traffic, |spot| matches!(spot.workload, Workload::Forward { .. })) {
        let (subject, name) = (cost.spot.stand.subject, cost.spot.workload.name());
        let Spread { low, median, high } = cost.cost;
        let rate = Spread { low: 1e3 / high, median: 1e3 / median, high: 1e3 / low };
        let bar = bar(subject.name(), rate, 1.0, is_ours(subject));
        match groups.iter_mut().find(|(group, _)| *group == name) {
            Some((_, bars)) => bars.push(bar),
            None => groups.push((name, vec![bar])),
        }
    }
    Chart {
        title: "64-byte datagrams from outside to a node port, forwarded to another node".to_owned(),
        axis: "million packets in a second of one CPU; more is better".to_owned(),
        groups,
    }
}

fn services(traffic: &traffic::Report) -> Chart {
    let all = costs(traffic, |spot| spot.workload == Workload::Connect && spot.cpus == 1);
    let bars = all.filter_map(|cost| match cost.spot.stand.services {
        Services::Number(services) => Some(bar(format!("{services} Services"), cost.cost, 1e-3, true)),
        Services::Usual => None,
    });
    Chart {
        title: "svclb: TCP connect, request, close, by Services on the node".to_owned(),
        axis: "µs of CPU time; the same is best".to_owned(),
        groups: vec![(String::new(), bars.collect())],
    }
}

fn programs(packets: &packet::Report) -> Chart {
    let groups = packets.cases.iter().filter(|case| case.family == "IPv4").map(|case| {
        let bars = case.lines.iter().map(|line| {
            let ours = line.of == "svclb";
            let label = if ours { format!("svclb {}", line.program) } else { format!("reference {}", line.program) };
            bar(label, line.ns, 1.0, ours)
        });
        (case.about.to_owned(), bars.collect())
    });
    Chart {
        title: "What a packet costs in the programs, beside reference programs (IPv4)".to_owned(),
        axis: "ns for a packet in the kernel's test-run, with making it; less is better".to_owned(),
        groups: groups.collect(),
    }
}
