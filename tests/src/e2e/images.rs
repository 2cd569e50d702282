//! The images that the cluster's pods run, made without a registry.
//!
//! All but two lie on one layer with the usual tools, from Debian's packages, so that an archive with every image has
//! the size of one. The names are those that the suite asks for: kubelet finds them on its node and pulls nothing.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::programs::{self, Programs};
use crate::cluster::binary::{self, say};

/// Packages of the layer with tools: what the tests call, and what kube-proxy calls.
const TOOLS: &str = "bash,busybox,ca-certificates,conntrack,curl,dnsutils,iperf,iproute2,iptables,netcat-openbsd,\
                     nftables,procps,socat,wget";

/// The release of Debian that they are of.
const DEBIAN: &str = "bookworm";

/// The name of svclb's image, as an overlay of deploy/ gives it.
pub const SVCLB: &str = "svclb.test/svclb:lab";

/// Every image in one archive, for `ctr images import`. Dropping it removes the archive.
#[derive(Debug)]
pub struct Images {
    folder: TempDir,
    sandbox: String,
}

impl Images {
    /// Makes all images; that of svclb holds the binary `agent`.
    pub fn make(programs: &Programs, agent: &Path) -> Result<Self> {
        let known = programs.images_of_the_suite()?;
        let named = |name: &str| -> Result<Vec<String>> {
            let found: Vec<_> = known.iter().filter(|image| has_name(image, name)).cloned().collect();
            ensure!(!found.is_empty(), "the suite knows no image {name}");
            Ok(found)
        };
        let layout = Layout::new()?;
        let tools = layout.layer_of(&tools()?)?;
        let on_tools = |files: &[(&str, &Path)]| Ok::<_, anyhow::Error>(vec![tools.clone(), layout.layer(files)?]);

        let busybox = layout.busybox()?;
        let sandbox = named("pause")?;
        let pause = layout.image(std::slice::from_ref(&busybox), &["/bin/busybox", "sleep", "2147483647"])?;
        layout.add_registry(&pause)?;
        let sandbox_name = sandbox.first().context("no image for sandboxes")?.clone();
        let mut images = vec![(sandbox, pause)];
        images.push((named("busybox")?, layout.image(&[busybox], &["/bin/sh"])?));

        let porter = binary::module_folder(&programs::kubernetes_module(), "k8s.io/kubernetes")?
            .join("test/images/agnhost/porter");
        let agnhost = on_tools(&[
            ("agnhost", &programs.of_kubernetes("agnhost")),
            ("coredns", &programs.of_kubernetes("coredns")),
            ("localhost.crt", &porter.join("localhost.crt")),
            ("localhost.key", &porter.join("localhost.key")),
            ("var/registry", &layout.registry()),
        ])?;
        images.push((named("agnhost")?, layout.command(&agnhost, &["/agnhost"], &["pause"])?));
        // Its pods only have to be ready on port 80.
        images.push((named("nginx")?, layout.command(&agnhost, &["/agnhost"], &["test-webserver"])?));
        images.push((named("distroless-iptables")?, layout.image(std::slice::from_ref(&tools), &["/bin/bash"])?));
        let coredns = on_tools(&[("coredns", &programs.of_kubernetes("coredns"))])?;
        images.push((named("glibc-dns-testing")?, layout.image(&coredns, &["/bin/bash"])?));
        images.push((vec!["svclb.test/coredns:lab".to_owned()], layout.image(&coredns, &["/coredns"])?));
        let name = "regression-issue-74839";
        let injector = on_tools(&[(name, &programs.of_kubernetes(name))])?;
        images.push((named(name)?, layout.image(&injector, &["/regression-issue-74839"])?));
        let proxy = on_tools(&[("usr/bin/kube", programs.kube())])?;
        images.push((vec!["svclb.test/kube-proxy:lab".to_owned()], layout.image(&proxy, &["kube"])?));
        let svclb = on_tools(&[("usr/bin/svclb", agent)])?;
        images.push((vec![SVCLB.to_owned()], layout.image(&svclb, &["svclb"])?));
        Ok(Self { folder: layout.archive(&images)?, sandbox: sandbox_name })
    }

    /// The archive.
    pub fn archive(&self) -> PathBuf {
        self.folder.path().join("images.tar")
    }

    /// The image of pods' sandboxes.
    pub fn sandbox(&self) -> &str {
        &self.sandbox
    }
}

/// Whether an image such as `registry/folder/agnhost:2.66` is the one called `agnhost`, of a registry that exists.
fn has_name(image: &str, name: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split(':').next() == Some(name) && !image.starts_with("invalid.")
}

/// The layer with tools as an archive, which is kept: making it takes two minutes.
fn tools() -> Result<PathBuf> {
    let file = binary::folder()?.join(format!("e2e-tools-{DEBIAN}-{:08x}.tar", checksum(TOOLS)));
    if file.exists() {
        return Ok(file);
    }
    say("making the root file system of the tests' pods from Debian's packages (two minutes)");
    let folder = new_folder()?;
    let root = folder.path().join("root");
    run(Command::new("debootstrap").args(["--variant=minbase", &format!("--include={TOOLS}"), DEBIAN]).arg(&root))?;
    // The tests' scripts are written for a shell whose `echo` leaves backslashes alone.
    let shell = root.join("usr/bin/sh");
    fs::remove_file(&shell).and_then(|()| symlink("bash", &shell)).context("make bash the shell of the pods")?;
    let unfinished = file.with_extension("part");
    let left_out = ["dev/*", "usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache", "var/lib/apt"];
    run(Command::new("tar")
        .args(left_out.map(|path| format!("--exclude=./{path}")))
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(&unfinished)
        .arg("."))?;
    fs::rename(&unfinished, &file).with_context(|| format!("put {} in its place", file.display()))?;
    Ok(file)
}

/// A short mark of a text, for names of files (FNV-1a).
fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A layer, uncompressed: its digest is that of its content too.
#[derive(Debug, Clone)]
struct Blob {
    digest: String,
    size: u64,
}

/// What a manifest calls itself, and where it is.
type Manifest = Value;

/// A folder in the layout that the Open Container Initiative gives images (image-spec, image-layout.md).
struct Layout {
    folder: TempDir,
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Layout {
    fn new() -> Result<Self> {
        let folder = new_folder()?;
        fs::create_dir_all(folder.path().join("oci/blobs/sha256")).context("make the folder of blobs")?;
        Ok(Self { folder })
    }

    fn blobs(&self) -> PathBuf {
        self.folder.path().join("oci/blobs/sha256")
    }

    /// What agnhost's registry will serve.
    fn registry(&self) -> PathBuf {
        self.folder.path().join("registry")
    }

    /// A file becomes a blob. It stays where it is too.
    fn layer_of(&self, file: &Path) -> Result<Blob> {
        let said = Command::new("sha256sum").arg(file).output().context("run sha256sum")?;
        ensure!(said.status.success(), "sha256sum {}: {}", file.display(), String::from_utf8_lossy(&said.stderr));
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let hash = text.split_whitespace().next().context("sha256sum printed nothing")?;
        let blob = self.blobs().join(hash);
        if !blob.exists() {
            let copied = fs::hard_link(file, &blob).or_else(|_| fs::copy(file, &blob).map(drop));
            copied.with_context(|| format!("copy {} to the blobs", file.display()))?;
        }
        let size = fs::metadata(file).with_context(|| format!("look at {}", file.display()))?.len();
        Ok(Blob { digest: format!("sha256:{hash}"), size })
    }

    fn text(&self, text: &Value) -> Result<Blob> {
        let file = self.folder.path().join("text");
        fs::write(&file, text.to_string()).context("write a text to become a blob")?;
        let blob = self.layer_of(&file)?;
        fs::remove_file(&file).context("remove a text that is a blob")?;
        Ok(blob)
    }

    /// A layer of files and folders of this machine, each at a path in the image.
    fn layer(&self, files: &[(&str, &Path)]) -> Result<Blob> {
        let staging = new_folder()?;
        for (path, source) in files {
            let target = staging.path().join(path);
            if let Some(folder) = target.parent() {
                fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
            }
            run(Command::new("cp").args(["-rL", "--"]).arg(source).arg(&target))?;
        }
        self.pack(staging.path())
    }

    fn pack(&self, staging: &Path) -> Result<Blob> {
        let file = self.folder.path().join("layer.tar");
        let same_for_all = ["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "--mtime=@0"];
        run(Command::new("tar").args(same_for_all).arg("-C").arg(staging).arg("-cf").arg(&file).arg("."))?;
        let blob = self.layer_of(&file)?;
        fs::remove_file(&file).context("remove a layer that is a blob")?;
        Ok(blob)
    }

    /// A root file system of busybox alone, as some scripts are written for its options.
    fn busybox(&self) -> Result<Blob> {
        let staging = new_folder()?;
        let bin = staging.path().join("bin");
        for folder in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
            fs::create_dir(staging.path().join(folder)).context("make the folders of busybox")?;
        }
        run(Command::new("cp").arg("/bin/busybox").arg(bin.join("busybox")))?;
        let applets = Command::new("/bin/busybox").arg("--list").output().context("ask busybox for its programs")?;
        for name in String::from_utf8_lossy(&applets.stdout).lines().filter(|name| *name != "busybox") {
            symlink("busybox", bin.join(name)).with_context(|| format!("link {name} to busybox"))?;
        }
        fs::write(staging.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").context("write passwd")?;
        fs::write(staging.path().join("etc/group"), "root:x:0:\n").context("write group")?;
        self.pack(staging.path())
    }

    fn image(&self, layers: &[Blob], entry: &[&str]) -> Result<Manifest> {
        self.command(layers, entry, &[])
    }

    fn command(&self, layers: &[Blob], entry: &[&str], arguments: &[&str]) -> Result<Manifest> {
        let config = self.text(&json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"],
                "Entrypoint": entry,
                "Cmd": arguments,
            },
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| &layer.digest).collect::<Vec<_>>()},
        }))?;
        let described = |kind: &str, blob: &Blob| json!({"mediaType": kind, "digest": blob.digest, "size": blob.size});
        let layers: Vec<_> = layers.iter().map(|layer| described(LAYER, layer)).collect();
        let manifest = self.text(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described(CONFIG, &config),
            "layers": layers,
        }))?;
        Ok(described(MANIFEST, &manifest))
    }

    /// Puts the image `pause:testing` into the folder of agnhost's registry, in its layout: blobs and manifests below
    /// the first two digits of their digest, and a tag that is a file with a digest.
    fn add_registry(&self, image: &Manifest) -> Result<()> {
        let put = |kind: &str, digest: &str| -> Result<Value> {
            let hash = digest.strip_prefix("sha256:").context("a digest of another kind")?;
            let two = hash.get(..2).context("a digest without digits")?;
            let folder = self.registry().join("pause").join(kind).join("sha256").join(two).join(hash);
            fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
            fs::copy(self.blobs().join(hash), folder.join("data")).with_context(|| format!("copy {digest}"))?;
            let content = fs::read(folder.join("data")).with_context(|| format!("read {digest}"))?;
            Ok(serde_json::from_slice(&content).unwrap_or_default())
        };
        let digest_of = |value: &Value| value["digest"].as_str().map(str::to_owned).context("no digest");
        let manifest = put("manifests", &digest_of(image)?)?;
        put("blobs", &digest_of(&manifest["config"])?)?;
        for layer in manifest["layers"].as_array().into_iter().flatten() {
            put("blobs", &digest_of(layer)?)?;
        }
        let list = self.text(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [with(image, "platform", json!({"architecture": "amd64", "os": "linux"}))],
        }))?;
        put("manifests", &list.digest)?;
        let tag = self.registry().join("pause/manifests/testing");
        fs::write(&tag, format!("{}\n", list.digest)).with_context(|| format!("write {}", tag.display()))
    }

    /// Packs the images under their names.
    fn archive(self, images: &[(Vec<String>, Manifest)]) -> Result<TempDir> {
        let named = images.iter().flat_map(|(names, manifest)| {
            names.iter().map(move |name| with(manifest, "annotations", json!({"io.containerd.image.name": name})))
        });
        let index = json!({"schemaVersion": 2, "manifests": named.collect::<Vec<_>>()});
        let oci = self.folder.path().join("oci");
        fs::write(oci.join("index.json"), index.to_string()).context("write the index of images")?;
        fs::write(oci.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).context("write the layout's version")?;
        run(Command::new("tar").arg("-C").arg(&oci).arg("-cf").arg(self.folder.path().join("images.tar")).arg("."))?;
        fs::remove_dir_all(&oci).context("remove what the archive holds")?;
        Ok(self.folder)
    }
}

/// A copy of an object with one field more.
fn with(object: &Value, field: &str, value: Value) -> Value {
    let mut object = object.clone();
    object[field] = value;
    object
}

/// A new folder below the target folder: layers are too large for a `/tmp` in memory.
pub(super) fn new_folder() -> Result<TempDir> {
    tempfile::Builder::new().prefix("e2e-").tempdir_in(binary::folder()?).context("make a folder below target/cluster")
}

/// Runs a command to its end; an error holds what it complained of.
fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed ({}):\n{}", output.status, said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_the_last_part_of_its_name() {
        assert!(has_name("registry.example/e2e-test-images/agnhost:2.66.1", "agnhost"));
        assert!(!has_name("registry.example/e2e-test-images/agnhost:2.66.1", "nhost"));
        assert!(!has_name("invalid.registry.example/agnhost:2.66.1", "agnhost"));
    }

    #[test]
    fn an_image_in_the_registry_has_its_manifest_config_and_layer_under_their_digests() {
        let layout = Layout::new().expect("a folder");
        let layer = layout.layer(&[("a", Path::new("/etc/passwd"))]).expect("a layer");
        let image = layout.image(&[layer], &["/a"]).expect("an image");
        layout.add_registry(&image).expect("an image in the registry");
        let pause = layout.registry().join("pause");
        let tag = fs::read_to_string(pause.join("manifests/testing")).expect("a tag");
        let hash = tag.trim().strip_prefix("sha256:").expect("a digest");
        assert!(pause.join("manifests/sha256").join(&hash[..2]).join(hash).join("data").is_file());
        let blobs = fs::read_dir(pause.join("blobs/sha256")).expect("blobs").count();
        assert_eq!(blobs, 2, "config and layer");
    }
}
