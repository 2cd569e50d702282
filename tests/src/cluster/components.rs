//! The command lines of the components.

use std::{
    ffi::OsStr,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tempfile::TempDir;

use super::{
    binary::{self, kube_binary},
    certificates::Certificates,
    control_plane::{AGENT_ACCOUNT, ApiServer, KUBE_PROXY_ACCOUNT, SERVICE_RANGES},
    daemon::Daemon,
    kubeconfig::{self, Proof},
    runtime::NamespaceRuntime,
};
use crate::net::Netns;

/// Which controllers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Controllers {
    /// Those that Services and pods need. The others would cost memory and processor time and have nothing to do.
    #[default]
    OfServices,
    /// Those of any cluster.
    All,
}

/// What [`Controllers::OfServices`] are.
const CONTROLLERS: &[&str] = &[
    "daemonset-controller",
    "deployment-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "service-cidr-controller",
    "serviceaccount-controller",
    "statefulset-controller",
];

/// What starting a component needs to know.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) binary: PathBuf,
    pub(super) netns: Netns,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) certificates: Certificates,
    pub(super) controllers: Controllers,
    pub(super) folder: TempDir,
}

const ADMIN_TOKEN: &str = "admin-of-the-lab";
const AGENT_TOKEN: &str = "agent-of-the-lab";

/// The token of kube-proxy's account.
pub(super) const KUBE_PROXY_TOKEN: &str = "kube-proxy-of-the-lab";

impl Plan {
    /// Makes the keys, the accounts and the kubeconfigs in a new folder.
    pub(super) fn make(netns: &Netns, addresses: &[IpAddr], controllers: Controllers) -> Result<Self> {
        let &advertised = addresses.first().context("a control plane needs an address")?;
        let folder = new_folder()?;
        let good_for: Vec<IpAddr> = addresses
            .iter()
            .copied()
            .chain([
                Ipv4Addr::LOCALHOST.into(),
                Ipv6Addr::LOCALHOST.into(),
                // The cluster IPs of the Service `kubernetes`.
                Ipv4Addr::new(10, 96, 0, 1).into(),
                Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1).into(),
            ])
            .collect();
        let plan = Self {
            binary: kube_binary()?,
            netns: netns.clone(),
            addresses: addresses.to_vec(),
            certificates: Certificates::make(folder.path(), &good_for)?,
            controllers,
            folder,
        };
        plan.write_accounts()?;
        let server = ApiServer::FIRST.url(advertised);
        let authority = &plan.certificates.authority;
        for (path, user, token) in [
            (plan.admin_kubeconfig(), "admin", ADMIN_TOKEN),
            (plan.agent_kubeconfig(), "svclb", AGENT_TOKEN),
            (plan.kube_proxy_kubeconfig(), "kube-proxy", KUBE_PROXY_TOKEN),
        ] {
            kubeconfig::write(&path, &server, authority, user, &Proof::Token(token))?;
        }
        Ok(plan)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn admin_kubeconfig(&self) -> PathBuf {
        self.path("admin.kubeconfig")
    }

    pub(super) fn agent_kubeconfig(&self) -> PathBuf {
        self.path("agent.kubeconfig")
    }

    pub(super) fn kube_proxy_kubeconfig(&self) -> PathBuf {
        self.path("kube-proxy.kubeconfig")
    }

    /// Writes the API server's list of tokens. The agent's line has the groups that a token of a real
    /// service account has.
    fn write_accounts(&self) -> Result<()> {
        let lines = format!(
            "{ADMIN_TOKEN},admin,admin,system:masters\n\
             {AGENT_TOKEN},{AGENT_ACCOUNT},svclb,\"system:serviceaccounts,system:serviceaccounts:kube-system\"\n\
             {KUBE_PROXY_TOKEN},{KUBE_PROXY_ACCOUNT},kube-proxy\n"
        );
        fs::write(self.path("tokens.csv"), lines).context("write the list of tokens")
    }

    pub(super) fn client(&self, runtime: &NamespaceRuntime, server: &ApiServer) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(self.admin_kubeconfig()).context("read the admin's kubeconfig")?;
        let advertised = self.addresses.first().context("a control plane needs an address")?;
        let url = server.url(*advertised).parse().context("make the URL of an API server")?;
        runtime.run(async move {
            let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .context("make a client's configuration from the admin's kubeconfig")?;
            config.cluster_url = url;
            Client::try_from(config).context("make a client for the API server")
        })
    }

    /// A command that runs `part` of the binary inside the namespace.
    fn command(&self, part: &str) -> Command {
        let mut command = self.netns.command(&self.binary);
        command.arg(part).current_dir(self.folder.path()).env_clear();
        command
    }

    pub(super) fn start_etcd(&self) -> Result<Daemon> {
        let mut command = self.command("etcd");
        command.args([
            "--name=lab",
            "--data-dir=etcd",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=lab=http://127.0.0.1:2380",
            // Its data die with the test, so nothing needs to reach the disk.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]);
        Daemon::start("etcd", command, self.folder.path())
    }

    pub(super) fn start_api_server(&self, server: &ApiServer) -> Result<Daemon> {
        let advertised = self.addresses.first().context("a control plane needs an address")?;
        let files = &self.certificates;
        let mut command = self.command("kube-apiserver");
        command.args([
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--bind-address={}", listen_address(&self.addresses)),
            format!("--secure-port={}", server.port),
            format!("--endpoint-reconciler-type={}", server.reconciler),
            format!("--advertise-address={advertised}"),
            format!("--tls-cert-file={}", files.server.display()),
            format!("--tls-private-key-file={}", files.server_key.display()),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", files.token_public_key.display()),
            format!("--service-account-signing-key-file={}", files.token_key.display()),
            format!("--service-cluster-ip-range={}", service_ranges(&self.addresses)),
            "--authorization-mode=RBAC".to_owned(),
            "--token-auth-file=tokens.csv".to_owned(),
            "--allow-privileged=true".to_owned(),
            // Nobody resolves the nodes' names.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--profiling=false".to_owned(),
        ]);
        Daemon::start(server.name, command, self.folder.path())
    }

    pub(super) fn start_controllers(&self) -> Result<Daemon> {
        let mut command = self.command("kube-controller-manager");
        command.args([
            format!("--kubeconfig={}", self.admin_kubeconfig().display()),
            match self.controllers {
                Controllers::OfServices => format!("--controllers={}", CONTROLLERS.join(",")),
                Controllers::All => "--controllers=*".to_owned(),
            },
            format!("--root-ca-file={}", self.certificates.authority.display()),
            // There is one, and one that loses its lease ends: an API server that is away for a minute
            // must not take it along.
            "--leader-elect=false".to_owned(),
            // The kubelets cannot renew their leases while a test holds the API server back. Their nodes
            // are well all the same.
            "--node-monitor-grace-period=10m".to_owned(),
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
            "--authentication-skip-lookup".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--cert-dir=controllers".to_owned(),
            "--profiling=false".to_owned(),
        ]);
        Daemon::start("kube-controller-manager", command, self.folder.path())
    }

    pub(super) fn start_scheduler(&self) -> Result<Daemon> {
        let mut command = self.command("kube-scheduler");
        command.args([
            format!("--kubeconfig={}", self.admin_kubeconfig().display()),
            "--leader-elect=false".to_owned(),
            "--authentication-skip-lookup".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--cert-dir=scheduler".to_owned(),
            "--profiling=false".to_owned(),
        ]);
        Daemon::start("kube-scheduler", command, self.folder.path())
    }

    pub(super) fn kubectl<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: Option<&str>,
    ) -> Result<String> {
        let mut command = self.command("kubectl");
        command
            .arg("--kubeconfig")
            .arg(self.admin_kubeconfig())
            .args(args)
            // kubectl keeps what the API server offers in a cache below HOME.
            .env("HOME", self.folder.path())
            .current_dir(std::env::current_dir().context("ask for the current folder")?);
        let said = format!("{:?}", command.get_args().collect::<Vec<_>>());
        if let Some(input) = input {
            let file = tempfile::tempfile().context("make a file for what kubectl shall read")?;
            command.stdin(write_and_rewind(file, input)?);
        } else {
            command.stdin(Stdio::null());
        }
        let output = command.output().with_context(|| format!("start kubectl {said}"))?;
        ensure!(
            output.status.success(),
            "kubectl {said} failed ({}):\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).context("kubectl printed something that is not UTF-8")
    }
}

/// A folder below `target/cluster` that goes with its guard. Those of processes that were killed go now.
fn new_folder() -> Result<TempDir> {
    const PREFIX: &str = "plane-";
    let place = binary::folder()?;
    for old in fs::read_dir(&place).with_context(|| format!("list {}", place.display()))?.flatten() {
        let name = old.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another process may be doing the same at this moment.
            drop(fs::remove_dir_all(old.path()));
        }
    }
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}-", std::process::id()))
        .tempdir_in(&place)
        .with_context(|| format!("make a folder in {}", place.display()))
}

/// Fills a file and sets it back to its beginning, so that a child can read it.
fn write_and_rewind(mut file: fs::File, content: &str) -> Result<fs::File> {
    use std::io::{Seek as _, Write as _};
    file.write_all(content.as_bytes()).context("write what kubectl shall read")?;
    file.rewind().context("rewind what kubectl shall read")?;
    Ok(file)
}

/// The ranges of cluster IPs, one for each family of the control plane's addresses and in their order.
fn service_ranges(addresses: &[IpAddr]) -> String {
    let [v4, v6] = SERVICE_RANGES;
    let ranges: Vec<&str> = addresses.iter().map(|address| if address.is_ipv6() { v6 } else { v4 }).collect();
    ranges.join(",")
}

/// All addresses of the families in use.
fn listen_address(addresses: &[IpAddr]) -> IpAddr {
    if addresses.iter().any(IpAddr::is_ipv6) { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}
