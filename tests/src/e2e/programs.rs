//! The programs of the cluster, built from Go modules, or found on this machine.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::cluster::binary::{self, GoBuild, TESTS};

/// Folders of programs that are built.
#[derive(Debug)]
pub struct Programs {
    /// kubelet, coredns, agnhost, ginkgo, regression-issue-74839.
    kubernetes: PathBuf,
    /// containerd, its shim and ctr, and the plugins of the pods' network.
    containerd: PathBuf,
    /// The tests of the network.
    suite: PathBuf,
    /// The control plane, kubectl and kube-proxy.
    kube: PathBuf,
}

impl Programs {
    /// Builds what is not built yet.
    pub fn build() -> Result<Self> {
        let flags = binary::linker_flags();
        let kubernetes = GoBuild {
            what: "kubelet and what runs in the tests' pods",
            module: kubernetes_module(),
            packages: &[
                "./kubelet",
                "./coredns",
                "github.com/onsi/ginkgo/v2/ginkgo",
                "k8s.io/kubernetes/test/images/agnhost",
                "k8s.io/kubernetes/test/images/regression-issue-74839",
            ],
            options: &["-ldflags", &flags],
            takes: "10 to 15 minutes",
        };
        let suite = GoBuild {
            what: "Kubernetes' tests of the network",
            module: kubernetes_module(),
            packages: &["./suite"],
            options: &[TESTS, "-ldflags", &flags],
            takes: "5 minutes",
        };
        let containerd = GoBuild {
            what: "containerd and the plugins of the pods' network",
            module: folder().join("containerd"),
            packages: &[
                "github.com/containerd/containerd/v2/cmd/containerd",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/ctr",
                "github.com/containernetworking/plugins/plugins/ipam/host-local",
                "github.com/containernetworking/plugins/plugins/main/loopback",
                "github.com/containernetworking/plugins/plugins/main/ptp",
                "github.com/containernetworking/plugins/plugins/meta/portmap",
            ],
            // Snapshotters that the lab does not use, and that take libraries in C.
            options: &["-tags", "no_btrfs no_devmapper no_zfs"],
            takes: "3 minutes",
        };
        Ok(Self {
            kube: binary::kube_binary()?,
            kubernetes: kubernetes.output("e2e-kubernetes")?,
            containerd: containerd.output("e2e-containerd")?,
            suite: suite.output("e2e-suite.test")?,
        })
    }

    /// The control plane's binary, which holds kubectl and kube-proxy too.
    pub fn kube(&self) -> &Path {
        &self.kube
    }

    /// A program of Kubernetes' module, by its name.
    pub fn of_kubernetes(&self, name: &str) -> PathBuf {
        self.kubernetes.join(name)
    }

    /// The folder of containerd's programs and the network's plugins.
    pub fn containerd(&self) -> &Path {
        &self.containerd
    }

    /// The tests.
    pub fn suite(&self) -> &Path {
        &self.suite
    }

    /// The names of the images that the tests may ask for, with their tags.
    pub fn images_of_the_suite(&self) -> Result<Vec<String>> {
        let output = Command::new(&self.suite).arg("--list-images").output().context("ask the suite for its images")?;
        ensure!(
            output.status.success(),
            "the suite does not list its images: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }
}

/// The folder of this cluster's files in the repository.
pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e")
}

/// The module of Kubernetes' programs.
pub(super) fn kubernetes_module() -> PathBuf {
    folder().join("kubernetes")
}
