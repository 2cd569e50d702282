//! etcd, API server, controller manager and scheduler as children inside one network namespace.

use std::{
    ffi::OsStr,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use axum::http::Request;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client};

use super::{
    components::{Controllers, Plan},
    daemon::Daemon,
    runtime::NamespaceRuntime,
};
use crate::net::Netns;

/// The port of the API server.
pub const API_PORT: u16 = 6443;

/// The ranges of cluster IPs, IPv4 first.
pub const SERVICE_RANGES: [&str; 2] = ["10.96.0.0/12", "fd00:10:96::/108"];

/// The account of the agents, as deploy/rbac.yaml names it.
pub const AGENT_ACCOUNT: &str = "system:serviceaccount:kube-system:svclb";

/// The account of kube-proxy, which the API server gives its rights from the start (`system:node-proxier`).
pub(super) const KUBE_PROXY_ACCOUNT: &str = "system:kube-proxy";

/// How long the API server may take until it is ready. It needs 4 s on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// How long until the controllers have made a new cluster usable.
const ACCOUNTS_WITHIN: Duration = Duration::from_mins(1);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// A control plane that runs. Dropping it ends all its processes and removes its files.
pub struct ControlPlane {
    // Dropped from top to bottom: those who ask go before those who answer.
    scheduler: Mutex<Daemon>,
    controllers: Mutex<Daemon>,
    api_server: Mutex<Option<Daemon>>,
    etcd: Mutex<Daemon>,
    client: Client,
    runtime: NamespaceRuntime,
    plan: Plan,
}

impl ControlPlane {
    /// Starts a control plane in `netns`, which has `addresses` (the first is the one that the Service
    /// `kubernetes` leads to, and its family the cluster's first), and waits until it is ready for use.
    pub fn start(netns: &Netns, addresses: &[IpAddr], controllers: Controllers) -> Result<Self> {
        let plan = Plan::make(netns, addresses, controllers)?;
        let runtime = NamespaceRuntime::new(netns)?;
        let client = plan.client(&runtime, &ApiServer::FIRST)?;
        let etcd = plan.start_etcd()?;
        let mut api_server = plan.start_api_server(&ApiServer::FIRST)?;
        wait_until_ready(&runtime, &client, &mut api_server)?;
        let mut controllers = plan.start_controllers()?;
        let scheduler = plan.start_scheduler()?;
        wait_for_accounts(&runtime, &client, &mut controllers)?;
        Ok(Self {
            scheduler: Mutex::new(scheduler),
            controllers: Mutex::new(controllers),
            api_server: Mutex::new(Some(api_server)),
            etcd: Mutex::new(etcd),
            client,
            runtime,
            plan,
        })
    }

    /// A client with all rights. Use it from [`ControlPlane::runtime`]: its sockets belong to the namespace.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Threads inside the namespace of the control plane.
    pub fn runtime(&self) -> &NamespaceRuntime {
        &self.runtime
    }

    /// The namespace that it runs in.
    pub fn netns(&self) -> &Netns {
        &self.plan.netns
    }

    /// Where the API server listens, as a URL, once per address.
    pub fn servers(&self) -> Vec<String> {
        self.plan.addresses.iter().map(|&address| ApiServer::FIRST.url(address)).collect()
    }

    /// The kubeconfig of an administrator.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.plan.admin_kubeconfig()
    }

    /// The kubeconfig of the agents' service account. It may do what deploy/rbac.yaml allows, once that has
    /// been applied.
    pub fn agent_kubeconfig(&self) -> PathBuf {
        self.plan.agent_kubeconfig()
    }

    /// The kubeconfig of kube-proxy's account.
    pub fn kube_proxy_kubeconfig(&self) -> PathBuf {
        self.plan.kube_proxy_kubeconfig()
    }

    /// The certificate of the authority that signed the API server's, a PEM file.
    pub(super) fn authority(&self) -> &Path {
        &self.plan.certificates.authority
    }

    /// The binary that holds kubectl and kube-proxy too.
    pub fn binary(&self) -> &Path {
        &self.plan.binary
    }

    /// The folder of logs, keys and data.
    pub fn folder(&self) -> &Path {
        self.plan.folder.path()
    }

    /// Runs kubectl as administrator and gives back what it prints. An error holds what it complained of.
    pub fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.plan.kubectl(args, None)
    }

    /// `kubectl apply` of files or folders (`-k` for a folder with a kustomization).
    pub fn apply<P: AsRef<Path>>(&self, files: impl IntoIterator<Item = P>) -> Result<()> {
        for file in files {
            let file = file.as_ref();
            let option = if file.join("kustomization.yaml").is_file() { "-k" } else { "-f" };
            self.kubectl([OsStr::new("apply"), OsStr::new(option), file.as_os_str()])?;
        }
        Ok(())
    }

    /// `kubectl apply` of objects in YAML.
    pub fn apply_yaml(&self, objects: &str) -> Result<()> {
        self.plan.kubectl(["apply", "-f", "-"], Some(objects)).map(drop)
    }

    /// Kills the API server. Clients see their connections break, and no new one is accepted until
    /// [`ControlPlane::start_api_server`].
    pub fn stop_api_server(&self) {
        drop(lock(&self.api_server).take());
    }

    /// Starts the API server again and waits until it is ready. Does nothing when it runs.
    pub fn start_api_server(&self) -> Result<()> {
        let mut running = lock(&self.api_server);
        if running.is_none() {
            let mut started = self.plan.start_api_server(&ApiServer::FIRST)?;
            wait_until_ready(&self.runtime, &self.client, &mut started)?;
            *running = Some(started);
        }
        Ok(())
    }

    /// Starts a second API server on the same etcd, of which nobody in the cluster knows, and waits until it is ready.
    pub fn start_second_api_server(&self) -> Result<SecondApiServer> {
        let client = self.plan.client(&self.runtime, &ApiServer::SECOND)?;
        let mut daemon = self.plan.start_api_server(&ApiServer::SECOND)?;
        wait_until_ready(&self.runtime, &client, &mut daemon)?;
        let &address = self.plan.addresses.first().context("a control plane has an address")?;
        Ok(SecondApiServer { _daemon: daemon, url: ApiServer::SECOND.url(address) })
    }

    /// An error with the end of the log of a component that has ended though nobody stopped it.
    pub fn check(&self) -> Result<()> {
        lock(&self.etcd).check()?;
        if let Some(api_server) = lock(&self.api_server).as_mut() {
            api_server.check()?;
        }
        lock(&self.controllers).check()?;
        lock(&self.scheduler).check()
    }

    /// The memory in use by component, in bytes.
    pub fn memory(&self) -> Result<Vec<(&'static str, u64)>> {
        let mut memory = vec![
            ("etcd", lock(&self.etcd).memory()?),
            ("kube-controller-manager", lock(&self.controllers).memory()?),
            ("kube-scheduler", lock(&self.scheduler).memory()?),
        ];
        if let Some(api_server) = lock(&self.api_server).as_ref() {
            memory.push(("kube-apiserver", api_server.memory()?));
        }
        Ok(memory)
    }
}

/// Asks `/readyz` until it says ok.
fn wait_until_ready(runtime: &NamespaceRuntime, client: &Client, server: &mut Daemon) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        server.check()?;
        let client = client.clone();
        let answer = runtime.run(async move {
            let request = http_get("/readyz")?;
            client.request_text(request).await.context("ask the API server whether it is ready")
        });
        match answer {
            Ok(_ready) => return Ok(()),
            Err(error) if Instant::now() >= deadline => bail!(
                "the API server was not ready within {} s: {error:#}. The end of its log:\n{}",
                READY_WITHIN.as_secs(),
                server.last_lines()
            ),
            Err(_not_yet) => thread::sleep(POLL),
        }
    }
}

/// Waits until pods can be made: admission refuses them until the default service account is there.
fn wait_for_accounts(runtime: &NamespaceRuntime, client: &Client, controllers: &mut Daemon) -> Result<()> {
    let deadline = Instant::now() + ACCOUNTS_WITHIN;
    loop {
        controllers.check()?;
        let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
        let found = runtime
            .run(async move { accounts.get_opt("default").await })
            .context("look for the default service account")?;
        if found.is_some() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "no default service account after {} s. The end of the controller manager's log:\n{}",
            ACCOUNTS_WITHIN.as_secs(),
            controllers.last_lines()
        );
        thread::sleep(POLL);
    }
}

/// A request without a body.
fn http_get(path: &str) -> Result<Request<Vec<u8>>> {
    Request::get(path).body(Vec::new()).with_context(|| format!("make a request for {path}"))
}

/// A second API server that runs. Dropping it kills it.
pub struct SecondApiServer {
    _daemon: Daemon,
    url: String,
}

impl SecondApiServer {
    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// What is different of two API servers in one namespace.
pub(super) struct ApiServer {
    pub(super) name: &'static str,
    pub(super) port: u16,
    /// Whether it takes care of the endpoints of the Service `kubernetes`.
    pub(super) reconciler: &'static str,
}

impl ApiServer {
    pub(super) const FIRST: Self = Self { name: "kube-apiserver", port: API_PORT, reconciler: "lease" };
    pub(super) const SECOND: Self = Self { name: "kube-apiserver-2", port: API_PORT + 1, reconciler: "none" };

    /// Where it listens at `address`.
    pub(super) fn url(&self, address: IpAddr) -> String {
        format!("https://{}", SocketAddr::new(address, self.port))
    }
}

/// A test that panicked while it held the lock leaves a daemon that is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
