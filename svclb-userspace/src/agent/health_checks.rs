//! The servers on health check ports: load balancers ask them whether this node has endpoints.
//!
//! One server an address and port, which answers for the Service that has the port at the moment: when a
//! port moves from one Service to another, the socket stays. A port that cannot be had is tried again,
//! and concerns nobody but its Service.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tracing::{debug, info};

use crate::desired::health_checks::HealthCheck;
use crate::health::Health;
use crate::model::{Family, Object, Problem, ServiceName};

/// First and longest pause before an address that could not be bound is tried again. A failure is told
/// after the first pause: until then it may be a server of our own, on all addresses, that is just ending.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// How many endpoints the node has, for load balancers that spread by weight.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// All servers on health check ports.
pub(super) struct HealthChecks {
    health: Health,
    servers: BTreeMap<SocketAddr, Server>,
    failed: BTreeMap<SocketAddr, Failed>,
    /// Services whose port belongs to another one, which are told.
    rivals: BTreeSet<(ServiceName, ServiceName, u16)>,
}

/// What one server tells.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Told {
    service: ServiceName,
    endpoints: usize,
}

/// A server; dropping it ends it, its connections too.
struct Server {
    told: Arc<Mutex<Told>>,
    _stop: oneshot::Sender<()>,
}

/// An address that could not be bound.
struct Failed {
    service: ServiceName,
    reported: bool,
    again: Instant,
    pause: Duration,
}

impl HealthChecks {
    /// None yet. What they say of the proxy itself is what `health` knows.
    pub(super) fn new(health: Health) -> Self {
        Self { health, servers: BTreeMap::new(), failed: BTreeMap::new(), rivals: BTreeSet::new() }
    }

    /// Number of addresses and ports that are listened on.
    pub(super) fn listening(&self) -> usize {
        self.servers.len()
    }

    /// When [`Self::follow`] wants to be called again although nothing changed.
    pub(super) fn again(&self) -> Option<Instant> {
        self.failed.values().map(|failed| failed.again).min()
    }

    /// Starts, changes and ends servers so that every check is answered on all `addresses`. Returns what
    /// is to be told of ports that cannot be had.
    pub(super) fn follow(
        &mut self,
        checks: &BTreeMap<ServiceName, HealthCheck>,
        addresses: &[IpAddr],
        now: Instant,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        let wanted = self.wanted(checks, addresses, &mut problems);
        self.servers.retain(|address, _| wanted.contains_key(address));
        self.failed.retain(|address, _| wanted.contains_key(address));
        for (address, told) in wanted {
            if let Some(server) = self.servers.get(&address) {
                server.tell(told);
            } else if self.failed.get(&address).is_none_or(|failed| failed.again <= now) {
                problems.extend(self.start(address, told, now));
            }
        }
        problems
    }

    /// What each server should tell. Of several Services with one port the first by name has it.
    fn wanted(
        &mut self,
        checks: &BTreeMap<ServiceName, HealthCheck>,
        addresses: &[IpAddr],
        problems: &mut Vec<Problem>,
    ) -> BTreeMap<SocketAddr, Told> {
        let mut owners: BTreeMap<u16, &ServiceName> = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        let mut rivals = BTreeSet::new();
        for (service, check) in checks {
            let owner = *owners.entry(check.port).or_insert(service);
            if owner != service {
                rivals.insert((service.clone(), owner.clone(), check.port));
                continue;
            }
            for address in addresses {
                let endpoints = check.local_endpoints(Family::of(*address));
                let told = Told { service: service.clone(), endpoints };
                wanted.insert(SocketAddr::new(*address, check.port), told);
            }
        }
        for (service, owner, port) in rivals.difference(&self.rivals) {
            let message = format!("port {port} belongs to Service {owner}: give this one another");
            problems.push(problem(service, &message));
        }
        self.rivals = rivals;
        wanted
    }

    fn start(&mut self, address: SocketAddr, told: Told, now: Instant) -> Option<Problem> {
        let service = told.service.clone();
        let error = match listen(address) {
            Ok(Some(listener)) => {
                info!(%service, %address, "health check port served");
                self.servers.insert(address, Server::start(listener, told, self.health.clone()));
                self.failed.remove(&address);
                return None;
            }
            // The kernel does without the family: nobody can ask.
            Ok(None) => return None,
            Err(error) => error,
        };
        let before = self.failed.remove(&address).filter(|failed| failed.service == service);
        let pause = before.as_ref().map_or(RETRY.0, |failed| (failed.pause * 2).min(RETRY.1));
        debug!(%service, %address, %error, "health check port not served; trying again in {pause:?}");
        let failed = Failed { service, reported: before.is_some(), again: now + pause, pause };
        let problem = before.is_some_and(|failed| !failed.reported).then(|| {
            let message = format!(
                "cannot listen on {address}: {error}; load balancers that ask there send nothing to this node. \
                 Free the address and port: it is tried again every {:?}",
                RETRY.1
            );
            problem(&failed.service, &message)
        });
        self.failed.insert(address, failed);
        problem
    }
}

fn problem(service: &ServiceName, message: &str) -> Problem {
    let object = Object::service(service);
    Problem { object, reason: "FailedToStartServiceHealthcheck", message: format!("healthCheckNodePort: {message}") }
}

/// A listening socket for one address, or for all of the address's family alone. None if the kernel does
/// without this family.
fn listen(address: SocketAddr) -> io::Result<Option<TcpListener>> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = match socket {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(None),
        other => other?,
    };
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG).map(Some)
}

impl Server {
    fn start(listener: TcpListener, told: Told, health: Health) -> Self {
        let told = Arc::new(Mutex::new(told));
        let (stop, stopped) = oneshot::channel::<()>();
        let router = router(told.clone(), health);
        tokio::spawn(async move {
            let stopped = async move { drop(stopped.await) };
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                debug!(%error, "a server on a health check port ended");
            }
        });
        Self { told, _stop: stop }
    }

    fn tell(&self, told: Told) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }
}

/// kube-proxy's answer.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Answer {
    service: AnswerService,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize, Debug)]
struct AnswerService {
    namespace: String,
    name: String,
}

/// Any path, any method.
fn router(told: Arc<Mutex<Told>>, health: Health) -> axum::Router {
    axum::Router::new().fallback(answer).with_state((told, health))
}

async fn answer(State((told, health)): State<(Arc<Mutex<Told>>, Health)>) -> impl IntoResponse {
    // Whether the node is about to leave has no say in it, as with kube-proxy: /healthz tells that.
    let healthy = health.is_healthy(Instant::now());
    response(told.lock().unwrap_or_else(PoisonError::into_inner).clone(), healthy)
}

fn response(told: Told, healthy: bool) -> impl IntoResponse {
    let Told { service, endpoints } = told;
    let status = if endpoints > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()), (WEIGHT, endpoints.to_string())];
    let service = AnswerService { namespace: service.namespace.to_string(), name: service.name.to_string() };
    (status, headers, Json(Answer { service, local_endpoints: endpoints, service_proxy_healthy: healthy }))
}

#[cfg(test)]
mod tests;
