//! Servers that follow what is wanted, asked over the loopback device.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn name(name: &str) -> ServiceName {
    ServiceName::new("default", name)
}

/// Checks of Services, each with its port and the number of its endpoints.
fn checks(services: &[(&str, u16, usize)]) -> BTreeMap<ServiceName, HealthCheck> {
    let check =
        |(own, port, endpoints): &(&str, u16, usize)| (name(own), HealthCheck::new(*port, [Some(*endpoints); 2]));
    services.iter().map(check).collect()
}

/// A port of the loopback address that nobody listens on.
async fn free_port() -> u16 {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Status line, headers and body.
async fn ask(port: u16) -> io::Result<(String, String, Value)> {
    let mut stream = TcpStream::connect((LOOPBACK, port)).await?;
    stream.write_all(b"HEAD-OR-ANY /any/path HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let (head, body) = text.split_once("\r\n\r\n").expect("headers and a body");
    let (status, headers) = head.split_once("\r\n").expect("a status line");
    Ok((status.to_owned(), headers.to_lowercase(), serde_json::from_str(body).expect("JSON")))
}

/// Until nobody listens any more.
async fn ended(port: u16) {
    let closed = async {
        while TcpStream::connect((LOOPBACK, port)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), closed).await.expect("the server ends");
}

#[tokio::test]
async fn the_answer_is_kube_proxys() {
    let port = free_port().await;
    let mut servers = HealthChecks::new(Health::default());
    assert_eq!(servers.follow(&checks(&[("web", port, 2)]), &[LOOPBACK], Instant::now()), []);
    let (status, headers, body) = ask(port).await.expect("an answer");
    assert_eq!(status, "HTTP/1.1 200 OK");
    for header in
        ["content-type: application/json", "x-content-type-options: nosniff", "x-load-balancing-endpoint-weight: 2"]
    {
        assert!(headers.lines().any(|line| line == header), "{header} is not in {headers}");
    }
    let service = json!({"namespace": "default", "name": "web"});
    assert_eq!(body, json!({"service": service, "localEndpoints": 2, "serviceProxyHealthy": true}));

    servers.follow(&checks(&[("web", port, 0)]), &[LOOPBACK], Instant::now());
    let (status, headers, body) = ask(port).await.expect("an answer");
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(headers.contains("x-load-balancing-endpoint-weight: 0"), "{headers}");
    assert_eq!(body["localEndpoints"], 0);
}

#[tokio::test]
async fn servers_start_move_and_end_with_their_services() {
    let (first, second) = (free_port().await, free_port().await);
    let mut servers = HealthChecks::new(Health::default());
    servers.follow(&checks(&[("a", first, 1), ("b", second, 2)]), &[LOOPBACK], Instant::now());
    assert_eq!(servers.listening(), 2);
    // Ports that are exchanged are never closed.
    assert_eq!(servers.follow(&checks(&[("a", second, 1), ("b", first, 2)]), &[LOOPBACK], Instant::now()), []);
    assert_eq!(ask(first).await.expect("an answer").2["service"]["name"], "b");
    assert_eq!(ask(second).await.expect("an answer").2["service"]["name"], "a");
    servers.follow(&checks(&[("a", second, 1)]), &[LOOPBACK], Instant::now());
    ended(first).await;
    assert!(ask(second).await.is_ok());
    servers.follow(&checks(&[]), &[LOOPBACK], Instant::now());
    ended(second).await;
}

/// Services with the numbers of their ports and of their endpoints, step by step.
const STEPS: &[&[(&str, usize, usize)]] = &[
    &[],
    &[("a", 0, 0)],
    &[("a", 0, 18)],
    &[("a", 0, 0)],
    &[],
    &[("a", 0, 10), ("b", 1, 20), ("c", 2, 30)],
    // One is gone, one is kept, one has another port and one is new.
    &[("a", 0, 10), ("c", 3, 0), ("d", 4, 0)],
    &[("a", 0, 9), ("c", 3, 7), ("d", 4, 6)],
];

#[tokio::test]
async fn each_service_is_answered_for_on_its_port_and_nobody_on_the_others() {
    let mut ports = Vec::new();
    while ports.len() < 5 {
        let port = free_port().await;
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    let mut servers = HealthChecks::new(Health::default());
    for step in STEPS {
        let wanted: Vec<_> = step.iter().map(|(name, port, endpoints)| (*name, ports[*port], *endpoints)).collect();
        assert_eq!(servers.follow(&checks(&wanted), &[LOOPBACK], Instant::now()), []);
        assert_eq!(servers.listening(), step.len());
        for (name, port, endpoints) in &wanted {
            let (status, headers, body) = ask(*port).await.expect("an answer");
            let code = if *endpoints > 0 { "HTTP/1.1 200 OK" } else { "HTTP/1.1 503 Service Unavailable" };
            assert_eq!((status.as_str(), &body["service"]["name"]), (code, &(*name).into()), "{step:?}");
            assert!(headers.contains(&format!("{}: {endpoints}\r\n", WEIGHT.as_str())), "{step:?}: {headers}");
            assert_eq!(body["localEndpoints"], *endpoints, "{step:?}");
        }
        for (number, port) in ports.iter().enumerate() {
            if !step.iter().any(|(_, own, _)| *own == number) {
                ended(*port).await;
            }
        }
    }
}

#[tokio::test]
async fn an_open_connection_ends_with_its_server() {
    let port = free_port().await;
    let mut servers = HealthChecks::new(Health::default());
    servers.follow(&checks(&[("a", port, 1)]), &[LOOPBACK], Instant::now());
    let mut stream = TcpStream::connect((LOOPBACK, port)).await.expect("a connection");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n").await.expect("a request");
    assert!(stream.read(&mut [0; 4096]).await.expect("an answer") > 0);
    servers.follow(&checks(&[]), &[LOOPBACK], Instant::now());
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    end.expect("the connection ends").expect("in good order");
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_once_and_had_when_it_is_free() {
    let taken = TcpListener::bind((LOOPBACK, 0)).await.expect("a port");
    let (port, other) = (taken.local_addr().expect("an address").port(), free_port().await);
    let checks = checks(&[("a", port, 1), ("b", other, 1)]);
    let mut servers = HealthChecks::new(Health::default());
    let mut now = Instant::now();
    let mut told = Vec::new();
    for _ in 0..5 {
        told.extend(servers.follow(&checks, &[LOOPBACK], now));
        assert!(ask(other).await.is_ok(), "it hurts no other");
        assert_eq!(servers.listening(), 1);
        let again = servers.again().expect("it is tried again");
        assert!(again > now && again - now <= RETRY.1);
        now = again;
    }
    let [problem] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&*problem.object.name, problem.reason), ("a", "FailedToStartServiceHealthcheck"));
    assert!(problem.message.contains(&format!("127.0.0.1:{port}")), "{}", problem.message);
    drop(taken);
    servers.follow(&checks, &[LOOPBACK], now);
    assert_eq!(servers.again(), None);
    assert!(ask(port).await.is_ok());
}

#[tokio::test]
async fn of_two_services_with_one_port_the_first_has_it_and_the_second_is_told() {
    let port = free_port().await;
    let both = checks(&[("a", port, 1), ("b", port, 1)]);
    let mut servers = HealthChecks::new(Health::default());
    let told = servers.follow(&both, &[LOOPBACK], Instant::now());
    assert_eq!(told.iter().map(|problem| &*problem.object.name).collect::<Vec<_>>(), ["b"]);
    assert_eq!(servers.follow(&both, &[LOOPBACK], Instant::now()), [], "once");
    assert_eq!(ask(port).await.expect("an answer").2["service"]["name"], "a");
    servers.follow(&checks(&[("b", port, 1)]), &[LOOPBACK], Instant::now());
    assert_eq!(ask(port).await.expect("an answer").2["service"]["name"], "b");
}

#[test]
fn while_tables_lag_behind_no_endpoint_is_good_enough() {
    let response = response(Told { service: name("web"), endpoints: 1 }, false).into_response();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[WEIGHT], "1");
}
