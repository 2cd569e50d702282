//! The control plane itself: it comes up, it outlives its API server, and its controllers get on with our
//! kubelets. No agent takes part.
#![cfg(feature = "cluster")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use svclb_tests::{
    cluster::{EndpointState, LabCluster},
    net::{Client, LabOptions, PodNetwork},
};

/// How long the pods of [`WEB`] serve after they have been deleted.
const GRACE: Duration = Duration::from_secs(2);

/// A Deployment whose pods have two seconds of grace, and its Service.
const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: answerer
        ports: [{containerPort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 8080, targetPort: 80}]
";

fn start() -> Result<LabCluster> {
    let started = Instant::now();
    let cluster = LabCluster::start(LabOptions::default(), PodNetwork::Routed)?;
    eprintln!("lab, control plane and two kubelets after {:?}", started.elapsed());
    Ok(cluster)
}

/// Whether there are so many endpoints (one per pod and family), all ready.
fn all_ready(endpoints: &[EndpointState], count: usize) -> bool {
    endpoints.len() == count && endpoints.iter().all(|endpoint| endpoint.ready)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_answers_under_all_its_addresses() -> Result<()> {
    let cluster = start()?;
    for (name, bytes) in cluster.plane().memory()? {
        eprintln!("{name}: {} MiB", bytes >> 20);
    }
    for server in cluster.plane().servers() {
        let answer = cluster.plane().kubectl(["--server", &server, "get", "--raw", "/readyz"])?;
        assert_eq!(answer, "ok", "{server}");
    }
    let ranges = cluster.plane().kubectl(["get", "servicecidr", "kubernetes", "-o", "jsonpath={.spec.cidrs}"])?;
    assert_eq!(ranges, r#"["10.96.0.0/12","fd00:10:96::/108"]"#);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_gets_pods_that_answer_and_endpoint_slices_of_both_families() -> Result<()> {
    let cluster = start()?;
    cluster.plane().apply_yaml(WEB)?;
    let endpoints = cluster.wait_for_endpoints("web", |found| all_ready(found, 6))?;
    let client = Client::new(cluster.lab().node(1).netns(), Duration::from_secs(2));
    for endpoint in &endpoints {
        let reply = client.http(SocketAddr::new(endpoint.address, 80)).await?;
        assert_eq!(Some(reply.answer.pod), endpoint.pod);
    }
    let pods: BTreeSet<_> = endpoints.iter().map(|endpoint| endpoint.pod.clone()).collect();
    assert_eq!(pods.len(), 3, "a pod has an address of each family");
    cluster.plane().kubectl(["rollout", "status", "deployment/web", "--timeout=60s"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_serves_through_its_grace_period_and_then_its_address_refuses() -> Result<()> {
    let cluster = start()?;
    cluster.plane().apply_yaml(&WEB.replace("replicas: 3", "replicas: 1"))?;
    let endpoints = cluster.wait_for_endpoints("web", |found| all_ready(found, 2))?;
    let address = SocketAddr::new(endpoints.first().context("an endpoint")?.address, 80);
    let client = Client::new(cluster.lab().node(1).netns(), Duration::from_secs(2));

    let deleted = Instant::now();
    cluster.plane().kubectl(["scale", "deployment/web", "--replicas=0"])?;
    cluster.wait_for_endpoints("web", |found| {
        found.len() == 2 && found.iter().all(|one| !one.ready && one.serving && one.terminating)
    })?;
    client.http(address).await.context("a terminating pod serves")?;
    cluster.wait_for_endpoints("web", <[_]>::is_empty)?;
    assert!(deleted.elapsed() >= GRACE, "it went after {:?}", deleted.elapsed());
    client.http(address).await.expect_err("it has ended");
    cluster.wait_for_kubectl(&["get", "pods", "-o", "name"], str::is_empty)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_annotation_says_so_is_not_ready() -> Result<()> {
    let cluster = start()?;
    cluster.plane().apply_yaml(&WEB.replace("replicas: 3", "replicas: 1"))?;
    cluster.wait_for_endpoints("web", |found| all_ready(found, 2))?;
    cluster.plane().kubectl(["annotate", "pods", "-l=app=web", "svclb.test/ready=false"])?;
    cluster
        .wait_for_endpoints("web", |found| found.iter().all(|one| !one.ready && !one.serving && !one.terminating))?;
    cluster.plane().kubectl(["annotate", "pods", "-l=app=web", "svclb.test/ready-"])?;
    cluster.wait_for_endpoints("web", |found| all_ready(found, 2))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_and_kubelets_go_on_when_the_api_server_comes_back() -> Result<()> {
    let cluster = start()?;
    cluster.plane().apply_yaml(WEB)?;
    cluster.wait_for_endpoints("web", |found| all_ready(found, 6))?;
    cluster.plane().stop_api_server();
    cluster.plane().kubectl(["get", "pods"]).expect_err("nobody answers");
    cluster.plane().start_api_server()?;
    cluster.plane().kubectl(["scale", "deployment/web", "--replicas=5"])?;
    cluster.wait_for_endpoints("web", |found| all_ready(found, 10))?;
    cluster.plane().check()
}
