//! What is mounted, as the kernel tells it (`proc_pid_mountinfo(5)`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mount {
    /// Which folder of its file system it shows. For cgroups as seen from the reader's own: `/..` is the one above.
    pub root: String,
    /// Where it is.
    pub point: PathBuf,
    /// What is mounted below it appears in other mount namespaces, too.
    pub shared: bool,
    /// The kind of file system.
    pub kind: String,
    /// What is mounted; for file systems without a device any name.
    pub source: String,
    /// Options of the file system, without those of this mount.
    pub options: Vec<String>,
}

/// The mounts that the calling thread sees, the later ones above the earlier ones.
pub(super) fn of_this_thread() -> io::Result<Vec<Mount>> {
    read("/proc/thread-self/mountinfo")
}

/// The mounts that the first process sees.
pub(super) fn of_first_process() -> io::Result<Vec<Mount>> {
    read("/proc/1/mountinfo")
}

/// The mount that is seen at exactly this place.
pub(super) fn at(point: &Path) -> io::Result<Option<Mount>> {
    let point = fs::canonicalize(point)?;
    Ok(of_this_thread()?.into_iter().rfind(|mount| mount.point == point))
}

fn read(file: &str) -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string(file)?))
}

/// Lines that are cut short are left out.
pub(super) fn parse(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (place, system) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let mut system = system.split(' ');
        Some(Mount {
            root: unescaped(root),
            point: unescaped(point).into(),
            shared: place.any(|field| field.starts_with("shared:")),
            kind: system.next()?.to_owned(),
            source: unescaped(system.next()?),
            options: system.next()?.split(',').map(str::to_owned).collect(),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// White space and backslashes are three octal digits in these files.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let text = "36 35 0:31 /.. /mnt/a\\040b rw,nosuid shared:10 master:2 - cgroup2 none rw,nsdelegate\n\
                    37 35 0:32 / /sys rw - sysfs sysfs rw\n38 35\n";
        let [cgroup, sysfs] = &parse(text)[..] else { panic!("two lines are whole") };
        assert_eq!((cgroup.root.as_str(), cgroup.point.as_path()), ("/..", Path::new("/mnt/a b")));
        assert_eq!((cgroup.kind.as_str(), cgroup.source.as_str(), cgroup.shared), ("cgroup2", "none", true));
        assert_eq!(cgroup.options, ["rw", "nsdelegate"]);
        assert!(!sysfs.shared);
    }
}
