//! A node with a real kubelet and a real container runtime.
//!
//! It is a node of the lab (its network namespace) with a mount and a process namespace of its own, so that paths such
//! as `/run/containerd` are its own and everything on it ends with its first process, and a control group of its own in
//! every hierarchy. What the first process does is in `node.sh`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use svclb_userspace::model::Family;

use super::{
    cluster_dns, first,
    images::Images,
    programs::{self, Programs},
};
use crate::{
    cluster::{ControlPlane, daemon::Daemon},
    net,
};

/// Where the hierarchies of control groups are.
const HIERARCHIES: &str = "/sys/fs/cgroup";

/// The hierarchy of version 2, beside those of version 1.
const UNIFIED: &str = "unified";

/// What the control groups of all these clusters begin with; the number of their process follows.
const PREFIX: &str = "svclb-e2e-";

/// How long the kernel may take to see that all processes of a group have ended.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);

/// A node that runs. Dropping it ends all that runs on it.
#[derive(Debug)]
pub(super) struct ContainerNode {
    // Ends before its control groups and files are removed.
    first: Daemon,
    _groups: Groups,
    _data: Data,
}

impl ContainerNode {
    /// Starts containerd and kubelet on a node of the lab. The folder takes the node's files and logs.
    pub(super) fn start(
        node: &net::Node,
        plane: &ControlPlane,
        family: Family,
        programs: &Programs,
        images: &Images,
        folder: &Path,
    ) -> Result<Self> {
        let folder = folder.join(node.name());
        fs::create_dir_all(folder.join("cni")).with_context(|| format!("make {}", folder.display()))?;
        let write = |name: &str, content: String| {
            let path = folder.join(name);
            fs::write(&path, content).with_context(|| format!("write {}", path.display()))
        };
        let groups = Groups::make(node.name())?;
        write("cni/10-pods.conflist", pod_network(node, family))?;
        write("resolv.conf", "nameserver 192.0.2.1\n".to_owned())?;
        write("kubelet.json", kubelet(&groups.name, &folder, family))?;
        let template =
            fs::read_to_string(programs::folder().join("containerd.toml")).context("read containerd.toml")?;
        let shown = |path: &Path| path.display().to_string();
        let words = [
            ("NODE", shown(&folder)),
            ("PROGRAMS", shown(programs.containerd())),
            ("SANDBOX", images.sandbox().into()),
        ];
        write("containerd.toml", words.iter().fold(template, |text, (word, value)| text.replace(word, value)))?;

        let [address, other] = first(family, node.address().both());
        let flags = [
            format!("--config={}", folder.join("kubelet.json").display()),
            format!("--kubeconfig={}", plane.admin_kubeconfig().display()),
            format!("--hostname-override={}", node.name()),
            format!("--node-ip={address},{other}"),
            format!("--cert-dir={}", folder.join("keys").display()),
        ];
        let mut command = node.netns().command("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--propagation=private"])
            .args(["bash", "-c", include_str!("node.sh")])
            .env("NODE", &folder)
            .env("PROGRAMS", programs.containerd())
            .env("KUBELET", programs.of_kubernetes("kubelet"))
            .env("KUBELET_FLAGS", flags.join(" "))
            .env("IMAGES", images.archive())
            .env("GROUP", &groups.name);
        // containerd looks for its shim there.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", programs.containerd().display()));
        let data = Data(folder.join("containerd"));
        let first = Daemon::start("node", command, &folder)?;
        Ok(Self { first, _groups: groups, _data: data })
    }

    /// An error with the end of its log when containerd or kubelet has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        self.first.check()
    }
}

/// The pods' network: a pair of devices for each pod, whose end on the node has the gateway's address and no bridge.
fn pod_network(node: &net::Node, family: Family) -> String {
    let ranges = first(family, node.pod_prefixes()).map(|subnet| json!([{"subnet": subnet}]));
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "mtu": 1500,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/pod-addresses",
                    "ranges": ranges,
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

fn kubelet(group: &str, folder: &Path, family: Family) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{group}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDNS": [cluster_dns(family)],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "resolvConf": folder.join("resolv.conf"),
        // The nodes share one disk and one memory: none of them is to be freed.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.inodesFree": "1%",
        },
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "eventRecordQPS": 0,
    })
    .to_string()
}

/// The control groups of a node, one in each hierarchy. Dropping it removes them.
#[derive(Debug)]
struct Groups {
    /// From the root of each hierarchy.
    name: String,
}

impl Groups {
    fn make(node: &str) -> Result<Self> {
        let unified = Path::new(HIERARCHIES).join(UNIFIED);
        ensure!(
            unified.join("cgroup.procs").exists(),
            "the nodes take control groups of version 1 below {HIERARCHIES} and an empty version 2 at {}; \
             start the machine with systemd.unified_cgroup_hierarchy=0",
            unified.display()
        );
        let groups = Self { name: format!("{PREFIX}{}/{node}", std::process::id()) };
        for hierarchy in hierarchies()? {
            let folder = hierarchy.join(&groups.name);
            fs::create_dir_all(&folder).with_context(|| format!("make the control group {}", folder.display()))?;
            // A new group of this controller may use no processor until it is told which.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                for group in [folder.parent().unwrap_or(&folder), &folder] {
                    if hierarchy.join(file).exists() && group.join(file).exists() {
                        fs::copy(hierarchy.join(file), group.join(file))
                            .with_context(|| format!("set {file} of {}", group.display()))?;
                    }
                }
            }
        }
        Ok(groups)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let deadline = Instant::now() + EMPTY_WITHIN;
        for hierarchy in hierarchies().unwrap_or_default() {
            let folder = hierarchy.join(&self.name);
            while let Err(error) = remove(&folder) {
                if Instant::now() >= deadline {
                    eprintln!("the control group {} stays: {error}", folder.display());
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
            // The last node takes the folder of all along; before, it is not empty.
            if let Some(all) = folder.parent() {
                drop(fs::remove_dir(all));
            }
        }
    }
}

/// The images and containers of a node, a gigabyte and more. Dropping it removes them; logs stay.
#[derive(Debug)]
struct Data(PathBuf);

impl Drop for Data {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

/// Removes what clusters have left whose process was killed.
pub(super) fn remove_leftovers() -> Result<()> {
    for hierarchy in hierarchies()? {
        for group in fs::read_dir(&hierarchy).with_context(|| format!("list {}", hierarchy.display()))?.flatten() {
            let name = group.file_name();
            let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                remove(&group.path()).with_context(|| format!("remove {}", group.path().display()))?;
            }
        }
    }
    Ok(())
}

/// The mounted hierarchies.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(HIERARCHIES).with_context(|| format!("list {HIERARCHIES}"))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.join("cgroup.procs").is_file()).collect())
}

/// Removes a group and those below it. One that is gone is fine.
fn remove(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove(&entry.path())?;
    }
    fs::remove_dir(group)
}
