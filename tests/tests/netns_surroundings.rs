//! Agents in surroundings that are not those of a well-kept node: no BPF file system, no cgroup file system, or one that
//! shows a part.
#![cfg(feature = "kernel")]

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use svclb_tests::net::{Client, FailureKind, Netns, Scene, SceneOptions};
use svclb_userspace::{
    bpf::{
        bpffs::{self, BpfFolder, Mounted},
        cgroup::{self, Reach},
    },
    cli::cleanup::{self, CleanupOptions},
};

const SERVICE: &str = "apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers: [{name: web, image: web, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
";

/// As `ip netns exec` does: file systems below /sys are gone.
const SYS_ANEW: &str = "mount -t sysfs sysfs /sys";

const PATIENCE: Duration = Duration::from_secs(2);

async fn scene(surroundings: &str) -> Result<Scene> {
    Scene::new(SceneOptions { surroundings: Some(surroundings.to_owned()), ..SceneOptions::default() }, SERVICE).await
}

/// Whether a process of node 1 that is in the cgroup of this test reaches the Service.
async fn process_is_served(scene: &Scene) -> Result<bool> {
    match Client::new(scene.lab.node(1).netns(), PATIENCE).http("127.0.0.1:30080".parse()?).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.kind == FailureKind::Refused => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

/// The line of the metric that says who is served at sockets.
fn metric(scene: &Scene) -> Result<String> {
    let mut connection = scene.lab.node(1).netns().enter(|| TcpStream::connect("127.0.0.1:10249"))?;
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let line = answer.lines().find(|line| line.starts_with("svclb_socket_lb{"));
    line.map(str::to_owned).with_context(|| format!("no line in:\n{answer}"))
}

fn log_says(scene: &Scene, words: &str) -> Result<()> {
    let log = fs::read_to_string(scene.agent_log(1))?;
    ensure!(log.contains(words), "{words:?} is not in the log:\n{log}");
    Ok(())
}

/// Runs `work` in a mount namespace and a network namespace that end with it.
fn in_own_namespaces<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    Netns::new("alone")?.run(|| {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
        let none = None::<&Path>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        work()
    })
}

/// Mounts a file system that needs no device.
fn mount_new(kind: &str, at: &Path) -> Result<()> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&Path>)
        .with_context(|| format!("mount {kind} at {}", at.display()))
}

/// A cgroup of the test's own, and those that processes make in it.
struct OwnCgroup(PathBuf);

impl OwnCgroup {
    fn new(name: &str) -> Result<Self> {
        let root = cgroup::find(None)?;
        ensure!(root.reach() == Reach::All, "these tests need the root of cgroups, not {root}");
        let folder = Path::new(&root.to_string()).join(format!("svclb-test-{name}-{}", process::id()));
        fs::create_dir(&folder).with_context(|| format!("make the cgroup {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        // Processes that were killed leave it a moment later.
        let until = Instant::now() + Duration::from_secs(10);
        while let Err(error) = remove_cgroup(&self.0) {
            assert!(Instant::now() < until, "remove the cgroup {}: {error}", self.0.display());
            sleep(Duration::from_millis(10));
        }
    }
}

fn remove_cgroup(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&entry.path())?;
    }
    fs::remove_dir(folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_serves_where_sys_was_mounted_anew() -> Result<()> {
    let mut scene = scene(SYS_ANEW).await?;
    scene.expect_good_round().await?;
    log_says(
        &scene,
        "a BPF file system is mounted at /sys/fs/bpf, as there was none. It ends with the mount namespace",
    )?;
    ensure!(process_is_served(&scene).await?, "the root of cgroups is found elsewhere");
    let metric = metric(&scene)?;
    ensure!(metric.contains("state=\"all\"") && metric.ends_with(" 1"), "{metric}");
    ensure!(!metric.contains("\"/sys/"), "nothing is mounted there: {metric}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_may_not_mount_says_what_to_do() -> Result<()> {
    let without = format!("{SYS_ANEW} && exec setpriv --inh-caps=-all --bounding-set=-sys_admin -- \"$0\" \"$@\"");
    let refused = scene(&without).await.err().context("the agent starts")?.to_string();
    for words in ["mount -t bpf bpf /sys/fs/bpf", "mount a BPF file system at /sys/fs/bpf: "] {
        ensure!(refused.contains(words), "{words:?} is not in {refused}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_more_rights_is_done_before_by_init_only() -> Result<()> {
    let in_two_steps = format!(
        "{SYS_ANEW} && \"$0\" agent --init-only --bpffs /sys/fs/bpf/first --conntrack-udp-timeout=77s && \
         exec setpriv --inh-caps=-all --bounding-set=-sys_admin -- \"$0\" \"$@\""
    );
    let mut scene = scene(&in_two_steps).await?;
    scene.expect_good_round().await?;
    let timeout = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout";
    assert_eq!(scene.lab.node(1).netns().enter(|| fs::read_to_string(timeout))?.trim(), "77");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_in_a_cgroup_namespace_serves_all_if_it_sees_the_cgroups_above() -> Result<()> {
    let own = OwnCgroup::new("above")?;
    let surroundings = format!("echo $$ > {}/cgroup.procs && exec unshare --cgroup -- \"$0\" \"$@\"", own.0.display());
    let scene = scene(&surroundings).await?;
    ensure!(process_is_served(&scene).await?, "the test is in another cgroup than the agents");
    let metric = metric(&scene)?;
    ensure!(metric.contains("state=\"all\",cgroup=\"/sys/fs/cgroup"), "{metric}");
    Ok(())
}

/// Hides file systems from the agent, not from the first process, which waits for it.
const HIDDEN: &str = r#"
case "${STEP:-1}" in
1) STEP=2 exec unshare --pid --fork --kill-child --mount-proc -- sh "$0" "$@" ;;
2) STEP=3 unshare --mount -- sh "$0" "$@" ;;
3) mount -t sysfs sysfs /sys && exec "$@" ;;
esac
"#;

/// Surroundings that a script makes, which is written to a folder.
fn by_script(script: &str, folder: &Path) -> Result<String> {
    let file = folder.join("surroundings");
    fs::write(&file, script)?;
    Ok(format!("exec sh {} \"$0\" \"$@\"", file.display()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cgroups_that_are_hidden_from_the_agent_are_found_with_the_first_process() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let scene = scene(&by_script(HIDDEN, folder.path())?).await?;
    ensure!(process_is_served(&scene).await?, "the root of cgroups is found elsewhere");
    let metric = metric(&scene)?;
    ensure!(metric.contains("state=\"all\",cgroup=\"/proc/1/root/"), "{metric}");
    Ok(())
}

/// Becomes a container, in three steps: processes of its own, a cgroup for each, and of cgroups what a new mount shows.
const CONTAINER: &str = r#"
case "${STEP:-1}" in
1) STEP=2 exec unshare --pid --fork --kill-child --mount-proc -- sh "$0" "$@" ;;
2) echo 0 > "$(mktemp --directory --tmpdir="${0%/*}/cgroup")/cgroup.procs"
   STEP=3 exec unshare --cgroup --mount -- sh "$0" "$@" ;;
3) umount --recursive /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@" ;;
esac
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_sees_its_own_cgroup_alone_says_so() -> Result<()> {
    let own = OwnCgroup::new("alone")?;
    let folder = tempfile::tempdir()?;
    symlink(&own.0, folder.path().join("cgroup"))?;
    let mut scene = scene(&by_script(CONTAINER, folder.path())?).await?;
    log_says(&scene, "only the agent is in the cgroup whose processes reach Services")?;
    let metric = metric(&scene)?;
    ensure!(metric.contains("state=\"nobody_else\""), "{metric}");
    ensure!(!process_is_served(&scene).await?, "the test is in another cgroup");
    scene.kill_agents().await
}

#[test]
fn below_a_folder_of_both_versions_the_second_is_found() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let both = folder.path().canonicalize()?.join("cgroup");
    in_own_namespaces(|| {
        let root = cgroup::find(None)?.to_string();
        fs::create_dir(&both)?;
        mount_new("tmpfs", &both)?;
        let unified = both.join("unified");
        fs::create_dir(&unified)?;
        mount(Some(Path::new(&root)), &unified, None::<&Path>, MsFlags::MS_BIND, None::<&Path>)?;
        let found = cgroup::find(Some(&both))?;
        assert_eq!((found.to_string(), found.reach()), (unified.to_string_lossy().into_owned(), Reach::All));
        Ok(())
    })
}

#[test]
fn the_root_of_cgroups_is_had_without_a_mount() -> Result<()> {
    let options = in_force()?;
    let root = cgroup::without_mount(&options)?;
    assert_eq!(root.reach(), Reach::All);
    assert_eq!(in_force()?, options, "what holds for the whole machine stays");
    Ok(())
}

/// The options of the machine's cgroup2 file system.
fn in_force() -> Result<Vec<String>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let system = mounts.lines().find_map(|line| line.split_once(" - cgroup2 ")).context("cgroup2 is mounted")?.1;
    let options = system.split(' ').nth(1).context("it has options")?;
    Ok(options.split(',').map(str::to_owned).collect())
}

#[test]
fn a_file_system_mounted_in_a_shared_folder_of_the_node_is_the_nodes_too() -> Result<()> {
    let container = tempfile::tempdir()?;
    in_own_namespaces(|| {
        let (none, sys) = (None::<&Path>, Path::new("/sys"));
        mount_new("sysfs", sys)?;
        mount(none, sys, none, MsFlags::MS_SHARED, none)?;
        // What the kubelet does with a folder of the node in a container.
        mount(Some("/sys/fs/bpf"), container.path(), none, MsFlags::MS_BIND, none)?;
        let at = container.path().canonicalize()?;
        assert_eq!(bpffs::provide(&at)?, Some(Mounted { at, shared: true }));
        assert_eq!(BpfFolder::look(Path::new("/sys/fs/bpf/svclb")), BpfFolder::Usable);
        Ok(())
    })
}

#[test]
fn cleanup_takes_away_the_file_system_that_the_agent_mounted_and_no_other() -> Result<()> {
    let folder = tempfile::tempdir()?;
    in_own_namespaces(|| {
        mount_new("sysfs", Path::new("/sys"))?;
        let usual = (PathBuf::from("/sys/fs/bpf/svclb"), PathBuf::from("/sys/fs/bpf"));
        let own = folder.path().join("pins");
        for (bpffs, at) in [usual, (own.clone(), own)] {
            let mounted = bpffs::provide(&bpffs)?;
            assert_eq!(mounted, Some(Mounted { at: at.clone(), shared: false }));
            assert_eq!(bpffs::provide(&bpffs)?, None, "once is enough");
            fs::create_dir_all(&bpffs)?;

            let strange = at.join("of-somebody-else");
            fs::create_dir(&strange)?;
            assert_eq!(bpffs::take_away(&bpffs)?, None, "something is in it");
            fs::remove_dir(&strange)?;

            cleanup::run(&CleanupOptions { bpffs: bpffs.clone() })?;
            assert_eq!(bpffs::provide(&bpffs)?, mounted, "cleanup has unmounted it");
            assert_eq!(bpffs::take_away(&bpffs)?, Some(at));
        }
        mount_new("bpf", Path::new("/sys/fs/bpf"))?;
        assert_eq!(bpffs::take_away(Path::new("/sys/fs/bpf/svclb"))?, None, "another one has mounted this one");
        Ok(())
    })
}
