//! The root file system of the emulated machine: a cpio archive in memory.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{process, progress::Progress, vm::kernel::Kernel};

/// The line after which the output of the command begins.
pub(crate) const BEGIN: &str = "svclb-vm: the command begins";
/// How the line begins that ends it; its exit code follows.
pub(crate) const END: &str = "svclb-vm: the command ended with ";

/// The modules that nodes of a cluster have. What a kernel has built in is passed over.
const MODULES: [&str; 16] = [
    "veth",
    "bridge",
    "dummy",
    "vxlan",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "nf_conntrack",
    "nf_tables",
    "nft_ct",
    "nft_objref",
    "nft_chain_nat",
    "nft_masq",
    "nft_reject_inet",
    "br_netfilter",
    "sctp",
];

/// What is done on the machine.
#[derive(Default)]
pub(crate) struct Job {
    /// A program of this machine and its arguments.
    pub(crate) command: Vec<OsString>,
    /// Other programs that it starts, by their files here. There they are in `/bin`.
    pub(crate) programs: Vec<PathBuf>,
    /// Variables that are set for it.
    pub(crate) variables: Vec<(&'static str, String)>,
}

/// Packs busybox, modules, and the programs of the job with their libraries.
pub(crate) fn pack(kernel: &Kernel, job: &Job, folder: &Path, log: &Path) -> Result<PathBuf> {
    let progress = Progress::start("packing the root file system");
    let tree = tempfile::tempdir_in(folder).context("making a folder for the root file system")?;
    let root = tree.path();
    for name in ["bin", "sbin", "proc", "sys", "dev", "tmp", "run", "etc", "root", "lib/modules"] {
        fs::create_dir_all(root.join(name)).with_context(|| format!("making {name} of the root file system"))?;
    }
    let busybox = process::on_path("busybox").context("busybox is not there")?;
    copy(&busybox, &root.join("bin/busybox"))?;
    let modules = copy_modules(kernel, root, log)?;
    let mut command = copy_command(&job.command, root)?;
    for (name, value) in &job.variables {
        command.insert_str(0, &format!("{name}={} ", quoted(value)));
    }
    for program in &job.programs {
        copy_program(program, root)?;
    }
    let init = root.join("init");
    fs::write(&init, init_script(&modules, &command))
        .and_then(|()| fs::set_permissions(&init, fs::Permissions::from_mode(0o755)))
        .context("writing the init script")?;

    let release = kernel.modules.file_name().unwrap_or_default();
    let archive = folder.join(release).with_added_extension("cpio");
    let packed = Command::new("sh")
        .args(["-c", "cd \"$1\" && find . | cpio --quiet -o -H newc > \"$2\"", "sh"])
        .arg(root)
        .arg(std::path::absolute(&archive)?)
        .stdin(Stdio::null())
        .status()
        .context("starting cpio")?;
    if !packed.success() {
        bail!("packing {} with cpio failed", archive.display());
    }
    progress.end("done");
    Ok(archive)
}

/// Copies the program of `command` and its libraries, and answers with the command as the shell takes it.
fn copy_command(command: &[OsString], root: &Path) -> Result<String> {
    let [program, args @ ..] = command else {
        bail!("there is no command to run");
    };
    let name = program.to_string_lossy();
    let file = if name.contains('/') { Some(PathBuf::from(program)) } else { process::on_path(&name) };
    let mut words = vec![name.to_string()];
    // Tools that busybox has are taken from there.
    let in_busybox = process::answer("busybox", ["--list"]).is_some_and(|list| list.lines().any(|tool| tool == name));
    if !in_busybox {
        let file = file.with_context(|| format!("there is no program {name} on this machine"))?;
        words[0] = copy_program(&file, root)?;
    }
    words.extend(args.iter().map(|word| word.to_string_lossy().into_owned()));
    Ok(words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "))
}

/// A word as the shell takes it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Copies a program and its libraries, and answers with where it is then. What debuggers want to know of it stays here:
/// it is most of what cargo builds, and all of it would be in memory.
fn copy_program(file: &Path, root: &Path) -> Result<String> {
    let file = file.canonicalize().with_context(|| format!("finding {}", file.display()))?;
    let base = file.file_name().context("a program has a name")?;
    let inside = root.join("bin").join(base);
    copy(&file, &inside)?;
    // Scripts are as good as they are: that strip cannot do anything with one is no fault.
    let strip = Command::new("strip").arg("--strip-debug").arg(&inside).stderr(Stdio::null()).status();
    strip.context("starting strip")?;
    for library in libraries(&file) {
        let inside = root.join(library.strip_prefix("/").unwrap_or(&library));
        copy(&library, &inside)?;
    }
    Ok(format!("/bin/{}", base.to_string_lossy()))
}

/// The libraries that `program` is linked with, and the loader; none for a static one.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let Some(list) = process::answer("ldd", [program]) else {
        return Vec::new();
    };
    list.lines()
        .filter_map(|line| {
            let path = line.split_once("=> ").map_or(line, |(_, path)| path);
            let path = path.trim().split(" (").next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

/// Copies the wanted modules and those they depend on, unpacked, and answers with the order to load them.
fn copy_modules(kernel: &Kernel, root: &Path, log: &Path) -> Result<Vec<String>> {
    let index_file = kernel.modules.join("modules.dep");
    let index = fs::read_to_string(&index_file).with_context(|| format!("reading {}", index_file.display()))?;
    let mut files: Vec<&str> = Vec::new();
    for name in MODULES {
        let line = index.lines().find(|line| {
            let file = line.split(':').next().unwrap_or_default();
            module_name(file) == name
        });
        let Some((file, needed)) = line.and_then(|line| line.split_once(':')) else {
            continue;
        };
        // The index lists what a module needs with the deepest need last.
        let needed = needed.split_whitespace().rev();
        for file in needed.chain([file]) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    let mut names = Vec::new();
    for file in files {
        let from = kernel.modules.join(file);
        let name = format!("{}.ko", module_name(file));
        let to = root.join("lib/modules").join(&name);
        if Path::new(file).extension().is_some_and(|extension| extension == "xz") {
            let packed = to.with_extension("ko.xz");
            copy(&from, &packed)?;
            process::run(Command::new("xz").arg("-d").arg(&packed), log, |_| ())?;
        } else {
            copy(&from, &to)?;
        }
        names.push(name);
    }
    Ok(names)
}

/// The name of the module in `file`: `kernel/drivers/net/veth.ko.xz` holds `veth`.
fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or_default();
    base.split('.').next().unwrap_or_default().replace('-', "_")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// What the machine does: mounts, modules, the command, off.
fn init_script(modules: &[String], command: &str) -> String {
    let modules = modules.join(" ");
    format!(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin:/sbin HOME=/root TERM=dumb\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev\n\
         mount -t tmpfs run /run\n\
         mount -t bpf bpf /sys/fs/bpf\n\
         mount -t cgroup2 cgroup /sys/fs/cgroup\n\
         for module in {modules}; do insmod /lib/modules/$module; done 2>/dev/null\n\
         ip link set lo up\n\
         echo '{BEGIN}'\n\
         {command}\n\
         echo \"{END}$?\"\n\
         poweroff -f\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_named_by_their_file() {
        assert_eq!(module_name("kernel/net/sched/cls_bpf.ko.xz"), "cls_bpf");
        assert_eq!(module_name("kernel/a/nft-compat.ko"), "nft_compat");
    }

    #[test]
    fn the_machine_says_where_the_command_begins_and_how_it_ended() {
        let script = init_script(&["veth.ko".to_owned()], "'/bin/x' 'y'");
        let begin = script.find(BEGIN).expect("it says where the command begins");
        let end = script.find(END).expect("it says how the command ended");
        let command = script.find("'/bin/x' 'y'").expect("it runs the command");
        assert!(begin < command && command < end);
    }
}
