//! The sysctls of the kernel's connection tracking, in the network namespaces of nodes.
#![cfg(feature = "kernel")]

use std::fs;

use anyhow::{Context as _, Result, ensure};
use svclb_tests::net::{Scene, SceneOptions, agent_binary};

const NOTHING: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: nobody}\nspec: {ports: [{port: 80}]}\n";

const CLOSE_WAIT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";
const ESTABLISHED: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// What a sysctl of node 1 holds.
fn sysctl(scene: &Scene, file: &str) -> Result<u64> {
    let text = scene.lab.node(1).netns().enter(|| fs::read_to_string(file));
    let text = text.with_context(|| format!("read {file}; is the module nf_conntrack loaded?"))?;
    Ok(text.trim().parse()?)
}

fn write(scene: &Scene, file: &str, value: u64) -> Result<()> {
    scene.lab.node(1).netns().enter(|| fs::write(file, value.to_string())).with_context(|| format!("write {file}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_sets_the_timeouts_of_its_namespace_and_cleanup_puts_them_back() -> Result<()> {
    let outside = || fs::read_to_string(CLOSE_WAIT);
    let untouched = outside().context("is the module nf_conntrack loaded?")?;
    // In a namespace that is not the machine's first nobody can make more room.
    let options = SceneOptions { agent_arguments: vec!["--conntrack-min=99000000"], ..SceneOptions::default() };
    let mut scene = Scene::new(options, NOTHING).await?;
    assert_eq!(sysctl(&scene, CLOSE_WAIT)?, 3600);
    assert_eq!(outside()?, untouched, "the machine's own namespace is no node's");
    let log = fs::read_to_string(scene.agent_log(1))?;
    let warning = format!("cannot write {MAX}: it stays at {}", sysctl(&scene, MAX)?);
    ensure!(log.contains(&warning), "{warning:?} is not in the log:\n{log}");

    // Who writes later has the last word.
    assert_eq!(sysctl(&scene, ESTABLISHED)?, 86_400);
    scene.kill_agent(1).await?;
    write(&scene, ESTABLISHED, 99)?;
    let node = scene.lab.node(1);
    let mut command = scene.lab.bpffs().applied_to(node.netns().command(agent_binary()?));
    let done = command.args(["cleanup", "--bpffs"]).arg(scene.lab.bpffs().folder(node.name())).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(said.contains("put 1 sysctls back"), "{said}");
    assert_eq!(sysctl(&scene, CLOSE_WAIT)?.to_string(), untouched.trim());
    assert_eq!(sysctl(&scene, ESTABLISHED)?, 99);
    Ok(())
}
