//! Several API servers as one.
//!
//! A request goes to the server that answered last, and to the next ones in the order given when that one
//! does not: its port is closed, TLS fails, nothing comes in time, or it says that it cannot serve (502, 503
//! and so on). The first that answers is kept until it fails, too. When none answers, the request fails
//! with what each of them said, and whoever made it waits before the next one.
//!
//! All servers of a cluster count versions of objects alike, so a watch goes on at another server where it
//! was.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use kube::client::Body;
use tracing::{info, warn};

use super::api::chain;

/// How long a connection may take, TLS included, where there is another server to turn to.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long a server may take to begin an answer, where there is another one to turn to.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// No server was used yet.
const NONE: usize = usize::MAX;

/// Something that answers requests.
pub(super) trait Answers: Sync {
    /// The answer as soon as its header is there.
    fn answer(&self, request: Request<Body>) -> impl Future<Output = Result<Response<Body>, kube::Error>> + Send;
}

impl Answers for kube::Client {
    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
        self.send(request).await
    }
}

/// Servers in the order in which they are tried.
pub(super) struct Failover<S> {
    servers: Vec<(String, S)>,
    /// The one that answered last, or [`NONE`].
    current: AtomicUsize,
    answer_within: Duration,
}

/// No server answered; each with the reason.
#[derive(Debug, thiserror::Error)]
pub(super) struct NoneAnswers(Vec<(String, String)>);

impl fmt::Display for NoneAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("none of the API servers answers (can this node reach them, are the URLs right?)")?;
        let mut separator = ':';
        for (url, reason) in &self.0 {
            write!(f, "{separator} {url}: {reason}")?;
            separator = ';';
        }
        Ok(())
    }
}

impl<S: Answers> Failover<S> {
    /// Of servers by URL.
    pub(super) fn new(servers: Vec<(String, S)>) -> Self {
        Self { servers, current: AtomicUsize::new(NONE), answer_within: ANSWER_WITHIN }
    }

    /// The answer of the first server that has one.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, NoneAnswers> {
        let (parts, body) = request.into_parts();
        let current = self.current.load(Ordering::Relaxed);
        let first = if current == NONE { 0 } else { current };
        let (before, after) = self.servers.split_at(first.min(self.servers.len()));
        let mut failures = Vec::new();
        for (place, (url, server)) in (first..).zip(after).chain((0..).zip(before)) {
            // Requests to the API have their body in memory; a stream could be sent only once.
            let body = body.try_clone().unwrap_or_else(Body::empty);
            let answer = server.answer(Request::from_parts(parts.clone(), body));
            match tokio::time::timeout(self.answer_within, answer).await {
                Ok(Ok(answer)) if can_serve(answer.status()) => {
                    self.note(place, url, failures);
                    return Ok(answer);
                }
                Ok(Ok(answer)) => failures.push((url.clone(), format!("it answers {}", answer.status()))),
                Ok(Err(error)) => failures.push((url.clone(), chain(&error))),
                Err(_elapsed) => {
                    failures.push((url.clone(), format!("no answer within {:?}", self.answer_within)));
                }
            }
        }
        Err(NoneAnswers(failures))
    }

    /// Keeps to the server that answered, and says so when it was another one before.
    fn note(&self, place: usize, url: &str, failures: Vec<(String, String)>) {
        if self.current.swap(place, Ordering::Relaxed) == place {
            return;
        }
        for (failed, error) in failures {
            warn!(server = failed, error, "an API server does not answer; using another one");
        }
        info!(server = url, "this API server answers and is used from now on");
    }
}

/// Whether another server would hardly do better. What it refuses (401, 403, 409, 410, ...) is an answer;
/// 429 asks for patience, not for another server.
fn can_serve(status: StatusCode) -> bool {
    !status.is_server_error()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// What a fake server does.
    #[derive(Clone, Copy)]
    enum Does {
        Answers(u16),
        RefusesConnections,
        Hangs,
    }
    use Does::{Answers as Says, Hangs, RefusesConnections};

    struct Fake {
        does: Mutex<Does>,
        asked: AtomicUsize,
    }

    impl Answers for Fake {
        async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
            assert_eq!(request.uri(), "/api/v1/services?watch=true&resourceVersion=7");
            self.asked.fetch_add(1, Ordering::Relaxed);
            let does = *self.does.lock().expect("nobody panics with it");
            match does {
                Says(status) => {
                    let answer = Response::builder().status(status).body(Body::empty());
                    Ok(answer.expect("a status"))
                }
                RefusesConnections => Err(kube::Error::Service("connection refused".into())),
                Hangs => std::future::pending().await,
            }
        }
    }

    fn servers(does: &[Does]) -> Failover<Fake> {
        let fakes = does.iter().enumerate().map(|(number, does)| {
            let fake = Fake { does: Mutex::new(*does), asked: AtomicUsize::new(0) };
            (format!("https://server-{number}:6443"), fake)
        });
        Failover { answer_within: Duration::from_millis(50), ..Failover::new(fakes.collect()) }
    }

    impl Failover<Fake> {
        fn becomes(&self, number: usize, does: Does) {
            *self.servers[number].1.does.lock().expect("nobody panics with it") = does;
        }

        async fn ask(&self) -> Result<StatusCode, String> {
            let request = Request::get("/api/v1/services?watch=true&resourceVersion=7").body(Body::empty());
            let answer = self.send(request.expect("a request")).await;
            answer.map(|answer| answer.status()).map_err(|error| error.to_string())
        }

        /// How often each was asked since the last call.
        fn asked(&self) -> Vec<usize> {
            self.servers.iter().map(|(_, fake)| fake.asked.swap(0, Ordering::Relaxed)).collect()
        }
    }

    #[tokio::test]
    async fn the_first_that_answers_is_used_and_kept() {
        for bad in [RefusesConnections, Hangs, Says(503), Says(500)] {
            let servers = servers(&[bad, Says(200), Says(200)]);
            assert_eq!(servers.ask().await, Ok(StatusCode::OK));
            assert_eq!(servers.asked(), [1, 1, 0]);
            servers.becomes(0, Says(200));
            assert_eq!(servers.ask().await, Ok(StatusCode::OK));
            assert_eq!(servers.asked(), [0, 1, 0], "it is kept while it answers");
        }
    }

    #[tokio::test]
    async fn when_the_last_one_fails_the_first_has_its_turn() {
        let servers = servers(&[RefusesConnections, RefusesConnections, Says(200)]);
        assert_eq!(servers.ask().await, Ok(StatusCode::OK));
        servers.asked();
        servers.becomes(2, Hangs);
        servers.becomes(0, Says(200));
        assert_eq!(servers.ask().await, Ok(StatusCode::OK));
        assert_eq!(servers.asked(), [1, 0, 1]);
    }

    #[tokio::test]
    async fn a_refusal_of_the_request_is_an_answer() {
        for status in [401, 403, 404, 409, 410, 429] {
            let servers = servers(&[Says(status), Says(200)]);
            assert_eq!(servers.ask().await.map(|status| status.as_u16()), Ok(status));
            assert_eq!(servers.asked(), [1, 0]);
        }
    }

    #[tokio::test]
    async fn when_none_answers_the_error_says_of_each_why_and_each_was_asked_once() {
        let servers = servers(&[RefusesConnections, Says(502), Hangs]);
        let error = servers.ask().await.expect_err("none answers");
        for said in [
            "https://server-0:6443: ",
            "connection refused",
            "https://server-1:6443: it answers 502 Bad Gateway",
            "https://server-2:6443: no answer within 50ms",
        ] {
            assert!(error.contains(said), "{said:?} is missing: {error}");
        }
        assert_eq!(servers.asked(), [1, 1, 1]);
    }
}
