//! The manifests of `deploy/` on a real API server.
#![cfg(feature = "cluster")]

use std::{
    ffi::OsString,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;
use svclb_tests::{
    cluster::{KubeProxyConfig, LabCluster},
    net::{Agent, AgentCommand, AgentSource, LabOptions, PodNetwork, agent_binary},
};

/// What the agent may do, and what it must not be able to do: verb, resource, whether.
const RIGHTS: &[(&str, &str, bool)] = &[
    ("list", "services", true),
    ("watch", "services", true),
    ("list", "nodes", true),
    ("watch", "nodes", true),
    ("list", "endpointslices.discovery.k8s.io", true),
    ("watch", "endpointslices.discovery.k8s.io", true),
    ("list", "servicecidrs.networking.k8s.io", true),
    ("watch", "servicecidrs.networking.k8s.io", true),
    ("create", "events.events.k8s.io", true),
    ("patch", "events.events.k8s.io", true),
    ("get", "secrets", false),
    ("list", "pods", false),
    ("list", "configmaps", false),
    ("update", "services", false),
    ("patch", "services/status", false),
    ("patch", "nodes", false),
    ("update", "endpointslices.discovery.k8s.io", false),
    ("delete", "events.events.k8s.io", false),
];

/// The one capability without which the agent does all that it does, only later when CPUs are short.
const FOR_SPEED: &str = "sys_nice";

/// The capabilities that the DaemonSet adds, as util-linux writes them.
fn capabilities() -> Result<Vec<String>> {
    let text = fs::read_to_string(deploy().join("daemonset.yaml"))?;
    let daemonset: Value = serde_saphyr::from_str(&text)?;
    let added = daemonset.pointer("/spec/template/spec/containers/0/securityContext/capabilities/add");
    let names = added.and_then(Value::as_array).context("the DaemonSet adds capabilities")?;
    Ok(names.iter().filter_map(Value::as_str).map(str::to_lowercase).collect())
}

/// A program that runs the agent as root with these capabilities alone, and no way to others.
fn agent_with(capabilities: &[String], folder: &Path) -> Result<PathBuf> {
    let kept: Vec<String> = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let script = folder.join(format!("agent{}", kept.concat()));
    let agent = agent_binary()?;
    let line = format!(
        "#!/bin/sh\nexec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all{} -- {} \"$@\"\n",
        kept.concat(),
        agent.display()
    );
    fs::write(&script, line)?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    Ok(script)
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manifests_put_an_agent_on_every_node_whatever_its_taints() -> Result<()> {
    let cluster = LabCluster::start(LabOptions::default(), PodNetwork::Routed)?;
    let plane = cluster.plane();
    let folder = deploy();
    plane.kubectl(["apply".as_ref(), "--dry-run=server".as_ref(), "-k".as_ref(), folder.as_os_str()])?;
    plane.kubectl(["taint", "nodes", "node1", "only=others:NoExecute"])?;
    plane.kubectl(["cordon", "node2"])?;
    plane.apply([deploy()])?;
    plane.kubectl(["rollout", "status", "-n=kube-system", "daemonset/svclb", "--timeout=60s"])?;
    let nodes = "jsonpath={range .items[*]}{.spec.nodeName} {.status.hostIP} {.status.podIP}{'\\n'}{end}";
    let placed = plane.kubectl(["get", "pods", "-n=kube-system", "-o", nodes])?;
    let mut placed: Vec<_> = placed.lines().collect();
    placed.sort_unstable();
    assert_eq!(placed, ["node1 192.0.2.11 192.0.2.11", "node2 192.0.2.12 192.0.2.12"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_account_may_do_what_it_needs_and_nothing_else() -> Result<()> {
    let cluster = LabCluster::start(LabOptions::default(), PodNetwork::Routed)?;
    let may = |verb: &str, resource: &str| {
        let account = cluster.plane().agent_kubeconfig();
        let mut question =
            ["auth", "can-i", verb, resource, "--all-namespaces", "--kubeconfig"].map(OsString::from).to_vec();
        question.push(account.into());
        // kubectl ends with 1 where the answer is no.
        match cluster.plane().kubectl(question) {
            Ok(answer) => Ok(answer.trim() == "yes"),
            Err(error) if error.to_string().contains("exit status: 1") => Ok(false),
            Err(error) => Err(error),
        }
    };
    assert!(!may("list", "services")?, "without the role it may do nothing");
    cluster.plane().apply([deploy().join("rbac.yaml")])?;
    for &(verb, resource, wanted) in RIGHTS {
        assert_eq!(may(verb, resource)?, wanted, "{verb} {resource}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_works_with_the_capabilities_of_the_daemonset_and_says_what_one_fewer_costs() -> Result<()> {
    let cluster = LabCluster::start(LabOptions::default(), PodNetwork::Routed)?;
    cluster.plane().apply([deploy().join("rbac.yaml")])?;
    let folder = tempfile::tempdir()?;
    let all = capabilities()?;
    let with = |capabilities: &[String]| -> Result<AgentCommand> {
        Ok(AgentCommand {
            binary: agent_with(capabilities, folder.path())?,
            source: AgentSource::Kubeconfig(cluster.plane().agent_kubeconfig()),
            more: Vec::new(),
            logs: folder.path().to_owned(),
        })
    };
    for left_out in &all {
        let fewer: Vec<String> = all.iter().filter(|name| *name != left_out).cloned().collect();
        let outcome = Agent::start(cluster.lab(), 1, &with(&fewer)?).await;
        if left_out == FOR_SPEED {
            let agent = outcome?;
            let log = fs::read_to_string(agent.log())?;
            assert!(log.contains("without CAP_SYS_NICE"), "it must say what that costs: {log}");
            agent.terminate().await?;
            continue;
        }
        let refused = outcome.err().with_context(|| format!("the agent starts without {left_out}"))?;
        let named = format!("missing CAP_{}", left_out.to_uppercase());
        assert!(refused.to_string().contains(&named), "it must say what is missing: {refused:#}");
    }
    let agent = Agent::start(cluster.lab(), 1, &with(&all)?).await?;
    agent.terminate().await
}

/// Fields that mean nothing to svclb, and one that nobody knows.
const ODD_FIELDS: &str = "iptables: {syncPeriod: 5s}, oomScoreAdj: -999, nosuch: 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_warns_of_each_field_of_kube_proxys_configuration_that_means_nothing_here() -> Result<()> {
    let cluster = LabCluster::start(LabOptions::default(), PodNetwork::Routed)?;
    let folder = tempfile::tempdir()?;
    let text = format!(
        "{{apiVersion: kubeproxy.config.k8s.io/v1alpha1, kind: KubeProxyConfiguration, \
         clientConnection: {{kubeconfig: /var/lib/kube-proxy/kubeconfig.conf}}, {ODD_FIELDS}}}"
    );
    let how = KubeProxyConfig::parse(&text)?.agent(cluster.plane(), folder.path())?;
    let agent = Agent::start(cluster.lab(), 1, &how).await?;
    let warnings = agent.warnings()?;
    for field in ["iptables.syncPeriod", "oomScoreAdj", "nosuch"] {
        assert_eq!(warnings.iter().filter(|said| said.contains(field)).count(), 1, "{field}: {warnings:#?}");
    }
    agent.terminate().await
}
