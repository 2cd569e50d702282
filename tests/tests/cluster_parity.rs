//! A sample of `cargo xtask parity`: that the subjects serve, and that the scenarios tell good from bad.
#![cfg(feature = "cluster")]

use anyhow::{Context, Result};
use svclb_tests::parity::{Options, Subject, Verdict, run, selected};

/// Scenarios over the main paths: cluster IP, node port, nobody who serves.
const SAMPLE: [&str; 3] = [
    "a pod reaches all endpoints of a cluster IP and is seen as itself",
    "a node port of any node leads everybody to all endpoints, in that node's name",
    "a port that a cluster IP does not have refuses",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_scenarios_are_played_by_svclb_and_by_both_modes_of_kube_proxy() -> Result<()> {
    let logs = tempfile::tempdir()?;
    let scenarios: Vec<_> = SAMPLE.iter().flat_map(|name| selected(Some(name))).collect();
    assert_eq!(scenarios.len(), SAMPLE.len(), "each name is that of one scenario");
    let cases: usize = scenarios.iter().map(|scenario| scenario.cases().count()).sum();
    let options = Options { subjects: Subject::ALL.into(), scenarios, logs: logs.path().to_owned() };
    let report = run(&options, |line| eprintln!("{line}")).await?;
    assert_eq!(report.rows.len(), cases, "each in its families and protocols");
    for row in &report.rows {
        for subject in Subject::ALL {
            let verdict = row.verdicts.get(&subject).with_context(|| format!("{subject} did not take part"))?;
            // The iptables mode knows nothing of such ports: that this is seen shows that the scenarios can fail.
            let differs = subject == Subject::KubeProxyIptables && row.scenario == SAMPLE[2];
            match verdict {
                Verdict::Pass => assert!(!differs, "{subject}: {row:?}"),
                Verdict::Differs { .. } => assert!(differs, "{subject}: {row:?}"),
                Verdict::Fail { found } => panic!("{subject}: {} ({}): {found}", row.scenario, row.case),
            }
        }
    }
    Ok(())
}
