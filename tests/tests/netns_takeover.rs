//! Agents that die and come back while traffic goes on.
//!
//! The long form of the first test: `SVCLB_KILLS=10 SVCLB_DOWN_MS=5000 cargo test ...`.
#![cfg(feature = "kernel")]

use std::{env, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use svclb_tests::net::{Load, LoadPlan, Scene, SceneOptions};
use tokio::time::sleep;

const EXAMPLE: &str = include_str!("../../examples/httpd.yaml");

/// A request that is slow on a busy machine is not lost; one that was lost never ends.
const PATIENCE: Duration = Duration::from_secs(15);

/// A number from the environment.
fn parameter(name: &str, default: u32) -> Result<u32> {
    match env::var(name) {
        Ok(value) => value.parse().with_context(|| format!("{name}={value} is not a number")),
        Err(_unset) => Ok(default),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_agents_lose_no_request_and_no_connection() -> Result<()> {
    let kills = parameter("SVCLB_KILLS", 2)?;
    let down = Duration::from_millis(parameter("SVCLB_DOWN_MS", 1000)?.into());
    let plan = LoadPlan {
        new_per_second: parameter("SVCLB_NEW_PER_SECOND", 1000)? / 4,
        open: parameter("SVCLB_OPEN", 100)? / 4,
        pause: Duration::from_millis(100),
    };
    let mut scene = Scene::new(SceneOptions::default(), EXAMPLE).await?;
    let cluster: [SocketAddr; 2] = [([10, 96, 0, 16], 8082).into(), "[fd00:10:96::10]:8082".parse()?];
    let loads: Vec<Load> = [
        (scene.inside(), cluster[0]),
        (scene.inside(), cluster[1]),
        (scene.outside(), scene.node_port(1, false, 30088)),
        (scene.outside(), scene.node_port(2, true, 30088)),
    ]
    .into_iter()
    .map(|(client, to)| Load::start(&client.patient(PATIENCE), to, plan))
    .collect();
    for _ in 0..kills {
        sleep(Duration::from_secs(1)).await;
        scene.kill_agents().await?;
        sleep(down).await;
        scene.start_agents().await?;
    }
    sleep(Duration::from_secs(1)).await;
    let mut failed = 0;
    for load in loads {
        let report = load.stop().await;
        eprintln!("{report}");
        assert_eq!(report.opened, u64::from(plan.open));
        assert!(report.exchanges > 0);
        failed += report.failed();
    }
    assert_eq!(failed, 0, "requests failed or connections broke");
    scene.expect_good_round().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_goes_on_without_agents_and_changes_arrive_with_them() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default(), EXAMPLE).await?;
    scene.kill_agent(1).await?;
    scene.terminate_agent(2).await?;
    scene.expect_good_round().await?;
    scene.apply(&EXAMPLE.replace("replicas: 3", "replicas: 5"))?;
    scene.start_agents().await?;
    scene.expect_good_round().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_starts_before_the_last_one_has_ended_takes_over_from_it() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default(), EXAMPLE).await?;
    scene.hand_over(1).await?;
    scene.apply(&EXAMPLE.replace("replicas: 3", "replicas: 5"))?;
    scene.expect_good_round().await
}
