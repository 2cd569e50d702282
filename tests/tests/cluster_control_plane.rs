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
    cluster::LabCluster,
    net::{Client, LabOptions, PodNetwork},
};

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

/// Asks for the endpoints of `web`, one line each: address, ready, serving, terminating.
const ENDPOINTS: &[&str] = &[
    "get",
    "endpointslices",
    "-l=kubernetes.io/service-name=web",
    "-o",
    "jsonpath={range .items[*].endpoints[*]}{.addresses[0]} {.conditions.ready} {.conditions.serving} \
     {.conditions.terminating}{'\\n'}{end}",
];

fn start() -> Result<LabCluster> {
    let started = Instant::now();
    let cluster = LabCluster::start(LabOptions::default(), PodNetwork::Routed)?;
    eprintln!("lab, control plane and two kubelets after {:?}", started.elapsed());
    Ok(cluster)
}

/// How many of the lines of [`ENDPOINTS`] end like this.
fn count(lines: &str, ending: &str) -> usize {
    lines.lines().filter(|line| line.ends_with(ending)).count()
}

const READY: &str = " true true false";

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
    cluster.plane().kubectl(["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let endpoints = cluster.until(ENDPOINTS, |lines| count(lines, READY) == 6)?;
    let client = Client::new(cluster.lab().node(1).netns(), Duration::from_secs(2));
    let mut pods = BTreeSet::new();
    for line in endpoints.lines() {
        let address = line.split(' ').next().context("an address")?.parse()?;
        let reply = client.http(SocketAddr::new(address, 80)).await?;
        pods.insert(reply.answer.pod);
    }
    let names = cluster.plane().kubectl(["get", "pods", "-o", "jsonpath={.items[*].metadata.name}"])?;
    assert_eq!(pods, names.split(' ').map(str::to_owned).collect());
    assert_eq!(pods.len(), 3, "a pod has an address of each family");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_serves_through_its_grace_period_and_then_its_address_refuses() -> Result<()> {
    let cluster = start()?;
    cluster.plane().apply_yaml(&WEB.replace("replicas: 3", "replicas: 1"))?;
    let endpoints = cluster.until(ENDPOINTS, |lines| count(lines, READY) == 2)?;
    let address = endpoints.split(' ').next().context("an address")?.parse()?;
    let client = Client::new(cluster.lab().node(1).netns(), Duration::from_secs(2));

    cluster.plane().kubectl(["scale", "deployment/web", "--replicas=0"])?;
    cluster.until(ENDPOINTS, |lines| count(lines, " false true true") == 2)?;
    client.http(SocketAddr::new(address, 80)).await.context("a terminating pod serves")?;
    cluster.until(ENDPOINTS, str::is_empty)?;
    client.http(SocketAddr::new(address, 80)).await.expect_err("it has ended");
    cluster.until(&["get", "pods", "-o", "name"], str::is_empty)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_annotation_says_so_is_not_ready() -> Result<()> {
    let cluster = start()?;
    cluster.plane().apply_yaml(&WEB.replace("replicas: 3", "replicas: 1"))?;
    cluster.until(ENDPOINTS, |lines| count(lines, READY) == 2)?;
    cluster.plane().kubectl(["annotate", "pods", "-l=app=web", "svclb.test/ready=false"])?;
    cluster.until(ENDPOINTS, |lines| count(lines, " false false false") == 2)?;
    cluster.plane().kubectl(["annotate", "pods", "-l=app=web", "svclb.test/ready-"])?;
    cluster.until(ENDPOINTS, |lines| count(lines, READY) == 2)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_and_kubelets_go_on_when_the_api_server_comes_back() -> Result<()> {
    let cluster = start()?;
    cluster.plane().apply_yaml(WEB)?;
    cluster.until(ENDPOINTS, |lines| count(lines, READY) == 6)?;
    cluster.plane().stop_api_server();
    cluster.plane().kubectl(["get", "pods"]).expect_err("nobody answers");
    cluster.plane().start_api_server()?;
    cluster.plane().kubectl(["scale", "deployment/web", "--replicas=5"])?;
    cluster.until(ENDPOINTS, |lines| count(lines, READY) == 10)?;
    cluster.plane().check()
}
