//! The source for clusters: an API server.
//!
//! Four watches, each a list in pages and then changes with bookmarks: Services that another proxy does
//! not claim, `EndpointSlices` that are not headless, the own Node, and `ServiceCIDRs`, which the agent can do
//! without. A watch that breaks is taken up
//! where it was; one that cannot be is listed again, and what the new list lacks is gone. Nothing of what
//! was told before is taken back while the server is away. Several servers are one to the watches, see
//! [`failover`].
//!
//! The agent must not need a Service to reach the server, as Services work only once it has been there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{self as core, ObjectReference};
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
pub use kube::Client;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::events::{Event as ApiEvent, EventType, Recorder, Reporter};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Config};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tracing::{info, warn};

use super::failover::{self, Failover};
use super::intake::{Intake, Projected};
use super::{service, slice};
use crate::model::{Event, Notice};

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// Seconds after which a silent watch is begun anew: how soon a dead connection is noticed.
const TIMEOUT: u32 = 60;

/// The longest wait until a watch that broke is tried again, but for a little.
const RETRY_LIMIT: Duration = Duration::from_secs(8);

/// Where Kubernetes puts a Pod's credentials.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Stands in a kubeconfig for "no proxy", so that none is looked for in the environment (RFC 2606: nobody has it).
const NO_PROXY: &str = "none.invalid";

/// Which API server.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Server {
    /// `--kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `--api-server`, in the order in which they are tried.
    pub urls: Vec<String>,
}

/// No way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Nothing is given.
    #[error(
        "no source of Services: give --manifests DIR, --kubeconfig FILE or --api-server URL,...{}",
        if *in_cluster { "; in a Pod, too, the API server's own address is needed, as its cluster IP works only once this agent has been there" } else { "" }
    )]
    Nothing {
        /// The agent runs in a Pod.
        in_cluster: bool,
    },
    /// What is given is a Service.
    #[error(
        "--api-server {url}: this is the Service in front of the API server, which works only once this agent has \
         been there; give the address of a control plane node or of the load balancer before them"
    )]
    IsService {
        /// The URL.
        url: String,
    },
    /// The URL is none.
    #[error("--api-server {url:?} is no URL such as https://192.0.2.10:6443: {reason}")]
    BadUrl {
        /// The URL.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The kubeconfig cannot be used.
    #[error("--kubeconfig {}: {source}", file.display())]
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: Box<kube::config::KubeconfigError>,
    },
    /// The kubeconfig leads through a proxy.
    #[error(
        "--kubeconfig {}: the cluster has the proxy-url {proxy_url}, and the agent goes to the API server by no proxy: \
         take proxy-url away, and if the server named there cannot be reached from the node, name one with --api-server",
        file.display()
    )]
    Proxy {
        /// The file.
        file: PathBuf,
        /// The proxy.
        proxy_url: String,
    },
    /// No client can be made of it.
    #[error("prepare the connection to the API server {url}: {source}")]
    Client {
        /// The server.
        url: String,
        /// Why not.
        source: Box<kube::Error>,
    },
}

impl ServerError {
    /// Whether the flags are wrong, rather than what they lead to.
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Nothing { .. } | Self::IsService { .. } | Self::BadUrl { .. } | Self::Proxy { .. })
    }
}

impl Server {
    /// A client. The servers themselves need not be there yet.
    pub async fn client(&self) -> Result<Client, ServerError> {
        let mut configs = self.configs().await?;
        let several = configs.len() > 1;
        let mut clients = Vec::with_capacity(configs.len());
        for config in &mut configs {
            let url = config.cluster_url.to_string();
            info!(server = url, "source of Services");
            if several {
                config.connect_timeout = Some(failover::CONNECT_WITHIN);
                // A server that says 503 is left at once, not asked again.
                config.default_retry = false;
            }
            let client = Client::try_from(config.clone());
            let client = client.map_err(|source| ServerError::Client { url: url.clone(), source: Box::new(source) })?;
            clients.push((url, client));
        }
        if several { Ok(as_one(clients)) } else { clients.pop().map(|(_, client)| client).ok_or_else(nothing) }
    }

    /// One configuration for each server, at least one.
    async fn configs(&self) -> Result<Vec<Config>, ServerError> {
        let service_host = service_host();
        let mut urls = Vec::with_capacity(self.urls.len());
        for url in &self.urls {
            let url = parse_url(url, service_host.as_deref())?;
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        let Some(file) = &self.kubeconfig else {
            if urls.is_empty() {
                return Err(nothing());
            }
            return Ok(urls.into_iter().map(|url| with_account(url, Path::new(ACCOUNT))).collect());
        };
        let config = from_kubeconfig(file).await?;
        if urls.is_empty() {
            return Ok(vec![config]);
        }
        let with_url = |url| {
            let mut config = config.clone();
            config.cluster_url = url;
            config
        };
        Ok(urls.into_iter().map(with_url).collect())
    }
}

/// The address of the Service in front of the API server, in a Pod.
fn service_host() -> Option<String> {
    std::env::var("KUBERNETES_SERVICE_HOST").ok()
}

fn nothing() -> ServerError {
    ServerError::Nothing { in_cluster: service_host().is_some() }
}

/// Several clients as one that turns to the next when one fails.
fn as_one(clients: Vec<(String, Client)>) -> Client {
    let namespace = clients.first().map(|(_, client)| client.default_namespace().to_owned()).unwrap_or_default();
    let failover = Arc::new(Failover::new(clients));
    let service = tower::service_fn(move |request| {
        let failover = failover.clone();
        async move { failover.send(request).await }
    });
    Client::new(service, namespace)
}

fn parse_url(url: &str, service_host: Option<&str>) -> Result<http::Uri, ServerError> {
    let bad = |reason: String| ServerError::BadUrl { url: url.to_owned(), reason };
    let parsed: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| bad(error.to_string()))?;
    let (Some(_), Some(host)) = (parsed.scheme(), parsed.host()) else {
        return Err(bad("scheme or host is missing".to_owned()));
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if Some(host) == service_host || host == "kubernetes" || host.starts_with("kubernetes.default") {
        return Err(ServerError::IsService { url: url.to_owned() });
    }
    Ok(parsed)
}

/// The configuration in a kubeconfig. Variables such as `HTTPS_PROXY` count for nothing: they are there for programs
/// that reach out of the cluster, and a node's way to its API server must not hang on a proxy.
async fn from_kubeconfig(file: &Path) -> Result<Config, ServerError> {
    let failed = |source| ServerError::Kubeconfig { file: file.to_owned(), source: Box::new(source) };
    let mut kubeconfig = Kubeconfig::read_from(file).map_err(failed)?;
    // Kube asks the environment where a cluster has no proxy, so each gets one, and it is taken away again.
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        if cluster.proxy_url.as_deref().unwrap_or_default().is_empty() {
            cluster.proxy_url = Some(format!("http://{NO_PROXY}"));
        }
    }
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(failed)?;
    match config.proxy_url.take() {
        Some(proxy) if proxy.host() != Some(NO_PROXY) => {
            Err(ServerError::Proxy { file: file.to_owned(), proxy_url: proxy.to_string() })
        }
        Some(_) | None => Ok(config),
    }
}

/// A configuration with the credentials of a Pod's service account, as far as they are there.
fn with_account(url: http::Uri, account: &Path) -> Config {
    let file = |name: &str| Some(account.join(name)).filter(|file| file.exists());
    let mut config = Config::new(url);
    config.root_cert_file = file("ca.crt");
    config.auth_info =
        AuthInfo { token_file: file("token").map(|file| file.to_string_lossy().into_owned()), ..AuthInfo::default() };
    config
}

/// Starts to watch. `node_name` is the name of the own Node. `notices` become Events.
pub fn follow(client: &Client, node_name: &str, events: UnboundedSender<Event>, notices: UnboundedReceiver<Notice>) {
    let config = watcher::Config::default().page_size(PAGE).timeout(TIMEOUT);
    let services = config.clone().labels(&format!("!{}", service::PROXY_NAME_LABEL)).fields("spec.clusterIP!=None");
    let slices = config.clone().labels(&format!("!{}", slice::HEADLESS_LABEL));
    let nodes = config.clone().fields(&format!("metadata.name={node_name}"));
    let cidrs = config;
    tokio::spawn(watch(Api::<core::Service>::all(client.clone()), services, events.clone()));
    tokio::spawn(watch(Api::<discovery::EndpointSlice>::all(client.clone()), slices, events.clone()));
    tokio::spawn(watch(Api::<core::Node>::all(client.clone()), nodes, events.clone()));
    tokio::spawn(watch(Api::<networking::ServiceCIDR>::all(client.clone()), cidrs, events));
    tokio::spawn(record(client.clone(), node_name.to_owned(), notices));
}

/// When a watch that broke is tried again: as kube does it, from 0.8 s on and twice as long each time, but
/// not beyond [`RETRY_LIMIT`] and a little that differs between agents.
///
/// kube waits up to a minute, and after an outage that comes three times in a row: for the server, which
/// then refuses everybody until it has read its roles, and then has forgotten where the watch was.
#[derive(Default)]
struct Retry(watcher::DefaultBackoff);

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.0.next()?;
        Some(wait.min(RETRY_LIMIT + wait / 16))
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// Follows one kind until nobody takes the events any more.
async fn watch<K: Projected>(api: Api<K>, config: watcher::Config, events: UnboundedSender<Event>) {
    let mut intake = Intake::default();
    let mut denied = false;
    let mut stream = std::pin::pin!(watcher(api, config).backoff(Retry::default()));
    while let Some(item) = stream.next().await {
        let out = match item {
            Ok(item) => intake.take(item),
            Err(error) if !K::KIND.is_required() && is_denied(&error) => {
                if !std::mem::replace(&mut denied, true) {
                    info!(kind = %K::KIND, error = %chain(&error), "this API server shows none of them: there are none");
                }
                continue;
            }
            Err(error) => {
                warn!(kind = %K::KIND, error = %chain(&error), "no API server answers this watch; trying again");
                continue;
            }
        };
        for event in out {
            if events.send(event).is_err() {
                return;
            }
        }
    }
}

/// Whether the API server does not know the kind, or does not let this agent see it.
fn is_denied(error: &watcher::Error) -> bool {
    let answer = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status.code,
        _ => return false,
    };
    matches!(answer, 403 | 404)
}

/// An error with all its causes, which kube's own text leaves out.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Makes Events of notices.
async fn record(client: Client, node_name: String, mut notices: UnboundedReceiver<Notice>) {
    let recorder = Recorder::new(client, Reporter { controller: "svclb".to_owned(), instance: Some(node_name) });
    while let Some(Notice { object, warns, reason, action, message }) = notices.recv().await {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let reference = ObjectReference {
            api_version: text(object.api_version),
            kind: text(object.kind),
            namespace: text(&object.namespace),
            name: text(&object.name),
            uid: text(&object.uid),
            ..ObjectReference::default()
        };
        let event = ApiEvent {
            type_: if warns { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(message),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &reference).await {
            warn!(%object, error = %chain(&error), "no Event could be written on this object");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_of_the_api_server_is_refused() {
        for url in ["https://10.96.0.1:443", "https://kubernetes.default.svc", "https://kubernetes"] {
            let refused = parse_url(url, Some("10.96.0.1")).expect_err("it is a Service");
            assert!(matches!(refused, ServerError::IsService { .. }), "{url}: {refused}");
        }
        assert!(parse_url("https://[2001:db8::1]:6443", Some("10.96.0.1")).is_ok());
        let refused = parse_url("https://[fd00:10:96::1]", Some("fd00:10:96::1")).expect_err("it is a Service");
        assert!(refused.is_usage());
    }

    #[test]
    fn a_server_without_scheme_is_refused() {
        assert!(matches!(parse_url("192.0.2.10:6443", None), Err(ServerError::BadUrl { .. })));
    }

    #[tokio::test]
    async fn without_any_server_the_error_says_what_to_give() {
        let error = Server::default().configs().await.expect_err("nothing is given");
        assert!(error.to_string().contains("--api-server URL"), "{error}");
    }

    #[tokio::test]
    async fn each_url_is_a_server_of_its_own_and_the_wrong_one_is_named() {
        let urls = |urls: &[&str]| Server { kubeconfig: None, urls: urls.iter().map(ToString::to_string).collect() };
        let both = urls(&["https://192.0.2.10:6443", "https://[2001:db8::1]:6443", "https://192.0.2.10:6443"]);
        let configs = both.configs().await.expect("they are URLs");
        let configured: Vec<String> = configs.iter().map(|config| config.cluster_url.to_string()).collect();
        assert_eq!(configured, ["https://192.0.2.10:6443/", "https://[2001:db8::1]:6443/"]);
        let error = urls(&["https://192.0.2.10:6443", "192.0.2.11"]).configs().await.expect_err("one is no URL");
        assert!(error.to_string().contains("192.0.2.11"), "{error}");
    }

    /// A kubeconfig whose cluster has this line more.
    fn kubeconfig(line: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: one\n\
             contexts: [{{name: one, context: {{cluster: one, user: one}}}}]\nusers: [{{name: one, user: {{}}}}]\n\
             clusters:\n- name: one\n  cluster:\n    server: https://192.0.2.10:6443\n{line}"
        );
        std::fs::write(file.path(), text).expect("it can be written");
        file
    }

    /// What the test below does in a process with the variables.
    const WITH_PROXY: &str = "SVCLB_TEST_WITH_PROXY";

    #[tokio::test]
    async fn a_proxy_in_the_environment_is_not_used() {
        if std::env::var_os(WITH_PROXY).is_none() {
            for proxy in ["http://192.0.2.99:3128", "no URL at all"] {
                let mut again = std::process::Command::new(std::env::current_exe().expect("this program"));
                again.args(["--exact", "k8s::api::tests::a_proxy_in_the_environment_is_not_used"]).env(WITH_PROXY, "");
                again.env("HTTPS_PROXY", proxy).env("https_proxy", proxy).env("HTTP_PROXY", proxy);
                let output = again.output().expect("it runs");
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success() && said.contains("1 passed"), "with HTTPS_PROXY={proxy}:\n{said}");
            }
            return;
        }
        let file = kubeconfig("");
        let server = Server { kubeconfig: Some(file.path().to_owned()), urls: Vec::new() };
        let configs = server.configs().await.expect("it is a good kubeconfig");
        assert_eq!(configs.first().map(|config| config.proxy_url.clone()), Some(None));
        server.client().await.map(drop).expect("it makes a client");
    }

    #[tokio::test]
    async fn a_kubeconfig_that_names_a_proxy_is_refused_with_what_to_do() {
        let file = kubeconfig("    proxy-url: http://192.0.2.99:3128\n");
        let server = Server { kubeconfig: Some(file.path().to_owned()), urls: Vec::new() };
        let error = server.configs().await.expect_err("there is no way by a proxy");
        assert!(error.is_usage());
        let words = error.to_string();
        assert!(words.contains("192.0.2.99") && words.contains("take proxy-url away"), "{words}");
    }

    #[test]
    fn a_watch_never_waits_long() {
        let waits: Vec<Duration> = Retry::default().take(12).collect();
        assert!(waits.iter().all(|wait| *wait <= RETRY_LIMIT * 3 / 2), "{waits:?}");
        assert!(waits.first() < waits.last(), "{waits:?}");
    }
}
