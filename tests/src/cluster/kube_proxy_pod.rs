//! The agent where kube-proxy was in a cluster that kubeadm made: in its container, with its configuration, its account and
//! its arguments.
//!
//! kubeadm's DaemonSet starts `kube-proxy --config=/var/lib/kube-proxy/config.conf --hostname-override=NODE` in a container
//! that has the ConfigMap `kube-proxy` there, the token of the account `kube-proxy`, and mounts of its own; and here
//! `svclb agent` with the same arguments. What is not kubeadm's is the address of the API server.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    ControlPlane,
    components::KUBE_PROXY_TOKEN,
    kubeconfig::{self, Proof},
};
use crate::net::{AgentCommand, AgentSource, agent_in};

/// Where the ConfigMap is in the container.
const FOLDER: &str = "/var/lib/kube-proxy";

/// Where the token of its account is.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The key of the configuration in the ConfigMap.
const KEY: &str = "config.conf";

/// A configuration of kube-proxy's.
#[derive(Debug, Clone)]
pub struct KubeProxyConfig {
    text: String,
    /// The name of the kubeconfig in [`FOLDER`].
    kubeconfig: String,
}

impl KubeProxyConfig {
    /// Reads a file with a `KubeProxyConfiguration`, or with a `ConfigMap` that holds one under `config.conf`.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("take {} for kube-proxy's configuration", file.display()))
    }

    /// The same from a text.
    pub fn parse(text: &str) -> Result<Self> {
        let object: Value = serde_saphyr::from_str(text).context("this is not YAML")?;
        match object.get("kind").and_then(Value::as_str).unwrap_or_default() {
            "ConfigMap" => {
                let text = object.pointer("/data").and_then(|data| data.get(KEY)).and_then(Value::as_str);
                Self::parse(text.with_context(|| format!("the ConfigMap has no key {KEY}"))?)
            }
            "KubeProxyConfiguration" => {
                let path = object.pointer("/clientConnection/kubeconfig").and_then(Value::as_str).unwrap_or_default();
                let name = Path::new(path).strip_prefix(FOLDER).ok().and_then(Path::to_str);
                let name =
                    name.filter(|name| !name.is_empty() && !name.contains('/') && *name != KEY).with_context(|| {
                        format!(
                            "clientConnection.kubeconfig is {path:?}, and must be a file in {FOLDER}, as kubeadm's is"
                        )
                    })?;
                Ok(Self { text: text.to_owned(), kubeconfig: name.to_owned() })
            }
            kind => bail!("its kind is {kind:?}, which is neither KubeProxyConfiguration nor ConfigMap"),
        }
    }

    /// How an agent is started with it, on any node. The container's files are made in `folder`, which exists, and the
    /// log will be there. The configuration is taken as it is; the kubeconfig that it names leads to the API server of
    /// `plane`, with kube-proxy's account.
    pub fn agent(&self, plane: &ControlPlane, folder: &Path) -> Result<AgentCommand> {
        let folder = folder.canonicalize().with_context(|| format!("find {}", folder.display()))?;
        let (map, account) = (folder.join("kube-proxy"), folder.join("serviceaccount"));
        for made in [&map, &account] {
            fs::create_dir_all(made).with_context(|| format!("make {}", made.display()))?;
        }
        fs::write(map.join(KEY), &self.text).context("write the configuration")?;
        let account_at = Path::new(ACCOUNT);
        let servers = plane.servers();
        let server = servers.first().context("the API server has an address")?;
        let token = Proof::File(&account_at.join("token"));
        kubeconfig::write(&map.join(&self.kubeconfig), server, &account_at.join("ca.crt"), "default", &token)?;
        fs::write(account.join("token"), KUBE_PROXY_TOKEN).context("write the token")?;
        fs::copy(plane.authority(), account.join("ca.crt")).context("write the authority's certificate")?;
        // A container has /var and /run of its own, and a /sys without a BPF file system and cgroups; and the environment
        // that the cluster was made in had a proxy, which kubeadm hands on.
        let surroundings = format!(
            "mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /var/run && \
             mkdir -p {FOLDER} {ACCOUNT} && mount --bind {} {FOLDER} && mount --bind {} {ACCOUNT} && \
             export HTTPS_PROXY=http://192.0.2.99:3128",
            map.display(),
            account.display()
        );
        ensure!(!surroundings.contains(char::is_control), "{} is no path for a shell", folder.display());
        Ok(AgentCommand {
            binary: agent_in(&surroundings, &folder)?,
            source: AgentSource::KubeProxyConfig(Path::new(FOLDER).join(KEY)),
            more: Vec::new(),
            logs: folder,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::KubeProxyConfig;

    const CONFIG: &str = "kind: KubeProxyConfiguration\nclientConnection: {kubeconfig: /var/lib/kube-proxy/own.conf}\n";

    #[test]
    fn a_configuration_is_taken_as_it_is_and_out_of_a_config_map() {
        let plain = KubeProxyConfig::parse(CONFIG).expect("it is one");
        assert_eq!((plain.text.as_str(), plain.kubeconfig.as_str()), (CONFIG, "own.conf"));
        let map = format!("kind: ConfigMap\ndata:\n  config.conf: |\n    {}\n", CONFIG.trim().replace('\n', "\n    "));
        assert_eq!(KubeProxyConfig::parse(&map).expect("it holds one").text, CONFIG);
    }

    #[test]
    fn what_kubeadms_container_would_not_have_is_refused() {
        for (text, why) in [
            ("kind: Service", "neither"),
            ("kind: ConfigMap\ndata: {}", "no key config.conf"),
            ("kind: KubeProxyConfiguration", "must be a file in /var/lib/kube-proxy"),
            ("kind: KubeProxyConfiguration\nclientConnection: {kubeconfig: /etc/kubernetes/a}", "must be a file in"),
        ] {
            let error = KubeProxyConfig::parse(text).expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
