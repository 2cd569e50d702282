//! What this machine offers, so that the agent can say at once what is missing, in words.

use std::{fmt, fs, path::Path};

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use super::bpffs::BpfFolder;

/// The oldest kernel on which the programs load.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Release of the kernel, as `uname -r` prints it.
    pub kernel: String,
    /// Programs can be attached by TCX links.
    pub tcx: bool,
    /// The kernel describes its types. Only tools that look at the programs need that.
    pub btf: bool,
    /// The folder for pins.
    pub bpffs: BpfFolder,
    /// Capabilities that the agent lacks.
    pub missing_capabilities: Vec<&'static str>,
}

/// Something that keeps the agent from working, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Probe {
    /// Looks at the machine. `folder` is where the agent will keep its pins.
    pub fn run(folder: &Path) -> Self {
        Self {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            tcx: has_tcx(),
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            bpffs: BpfFolder::look(folder),
            missing_capabilities: missing_capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        }
    }

    /// What keeps the agent from working; empty if nothing does.
    pub fn problems(&self, folder: &Path) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut found = |text: String| problems.push(Problem(text));
        if release(&self.kernel).is_some_and(|release| release < OLDEST_KERNEL) {
            let (major, minor) = OLDEST_KERNEL;
            found(format!("kernel {} is older than {major}.{minor}, the oldest that is supported", self.kernel));
        }
        if !self.missing_capabilities.is_empty() {
            found(format!("missing {}: run the agent as root, or grant them", self.missing_capabilities.join(", ")));
        }
        let folder = folder.display();
        match self.bpffs {
            BpfFolder::Usable => {}
            BpfFolder::OtherFileSystem => found(format!(
                "{folder} is not in a BPF file system: mount -t bpf bpf /sys/fs/bpf, or name another with --bpffs"
            )),
            BpfFolder::ReadOnly => found(format!("{folder} cannot be written: mount the BPF file system read-write")),
        }
        problems
    }
}

/// Whether the kernel knows TCX: only then can it be asked for the TCX programs of a device.
pub fn has_tcx() -> bool {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => true,
        // To look closer at the programs of others takes CAP_SYS_ADMIN, but to know of them is enough.
        Err(ProgramError::SyscallError(error)) => error.call != "bpf_prog_query",
        Err(_) => false,
    }
}

/// `6.1.0-56-amd64` is (6, 1).
fn release(kernel: &str) -> Option<(u32, u32)> {
    let mut parts = kernel.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

/// From the text of `/proc/self/status`.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    const NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
    const SYS_ADMIN: u32 = 21;
    const PERFMON: (u32, &str) = (38, "CAP_PERFMON");
    const BPF: (u32, &str) = (39, "CAP_BPF");
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or_default();
    let has = |bit: u32| effective & (1 << bit) != 0;
    [NET_ADMIN, PERFMON, BPF]
        .into_iter()
        .filter(|&(bit, _)| !has(bit) && (bit == NET_ADMIN.0 || !has(SYS_ADMIN)))
        .map(|(_, name)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe() -> Probe {
        Probe {
            kernel: "6.12.1".into(),
            tcx: true,
            btf: true,
            bpffs: BpfFolder::Usable,
            missing_capabilities: Vec::new(),
        }
    }

    fn problems(probe: &Probe) -> Vec<String> {
        probe.problems(Path::new("/sys/fs/bpf/svclb")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_machine_that_has_all_has_no_problems() {
        assert!(problems(&probe()).is_empty());
    }

    #[test]
    fn each_problem_says_what_to_do() {
        let bad = Probe {
            kernel: "5.15.0-1-amd64".into(),
            bpffs: BpfFolder::OtherFileSystem,
            missing_capabilities: vec!["CAP_BPF"],
            ..probe()
        };
        let found = problems(&bad);
        assert_eq!(found.len(), 3);
        for (problem, word) in found.iter().zip(["6.1", "CAP_BPF", "mount -t bpf"]) {
            assert!(problem.contains(word), "{problem}");
        }
    }

    #[test]
    fn an_old_mighty_capability_stands_for_the_new_ones() {
        assert_eq!(missing_capabilities("CapEff:\t0000000000201000\n"), [""; 0]);
        assert_eq!(missing_capabilities("CapEff:\t0000000000001000\n"), ["CAP_PERFMON", "CAP_BPF"]);
        assert_eq!(missing_capabilities(""), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
    }
}
