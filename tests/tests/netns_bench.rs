//! The measurement with real traffic does what its figures say.
#![cfg(feature = "kernel")]

use std::time::Duration;

use anyhow::{Result, ensure};
use svclb_tests::{
    bench::traffic::{Options, Subject, Told, Workload, run},
    net::agent_binary,
};

#[tokio::test(flavor = "multi_thread")]
async fn each_round_has_a_sample_of_every_node_that_is_compared() -> Result<()> {
    let options = Options {
        binary: agent_binary()?,
        reference: Vec::new(),
        services: 3,
        most_services: 100,
        // Of pods that ask past all Services, and of bulk traffic through one: neither wants kube-proxy nor a flood.
        rows: vec![11, 12],
        rounds: 2,
        time: Duration::from_mins(2),
        sample: Duration::from_millis(40),
        cpus: [0, 0],
    };
    let report = run(&options, &Told { line: &|_| (), now: &|_| () }).await?;
    ensure!(report.missing.is_empty() && report.rounds.len() == 2, "{:?}", report.missing);
    for round in &report.rounds {
        for cpus in [1, 2] {
            for (subject, workload) in [
                (Subject::Nobody, Workload::Exchange),
                (Subject::Stack, Workload::Exchange),
                (Subject::Nobody, Workload::Bulk),
                (Subject::Stack, Workload::Bulk),
            ] {
                let is_it = |spot: &svclb_tests::bench::traffic::Spot| {
                    (spot.stand.subject, spot.workload, spot.cpus, spot.stand.again) == (subject, workload, cpus, false)
                };
                let sample = round.iter().find(|(spot, _)| is_it(spot)).map(|(_, sample)| sample);
                let sample = sample.ok_or_else(|| anyhow::anyhow!("{subject:?} was not measured: {workload:?}"))?;
                ensure!(sample.done > 0 && sample.cpu > 0, "{subject:?}, {workload:?}: {sample:?}");
            }
        }
    }
    ensure!(report.findings.iter().all(|finding| finding.estimate.is_some()), "{:?}", report.findings);
    Ok(())
}
