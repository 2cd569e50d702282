//! The files of the repository: all that git knows, and all that it would take in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::{process, repository};

/// One file of the repository.
pub(crate) struct File {
    /// Its path from the top of the repository, with `/`.
    pub(crate) path: String,
    /// Its content.
    pub(crate) bytes: Vec<u8>,
}

impl File {
    /// Its content as text; nothing for a file that is none.
    pub(crate) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes).ok()
    }

    pub(crate) fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "rs")
    }

    pub(crate) fn is_markdown(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "md")
    }

    /// The folder it lies in, from the top of the repository.
    pub(crate) fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

/// All files of the repository.
pub(crate) struct Files(Vec<File>);

impl Files {
    pub(crate) fn of_repository() -> Result<Self> {
        let root = repository::root();
        let paths = match tracked(root) {
            Some(paths) => paths,
            None => walked(root)?,
        };
        let mut files: Vec<File> = paths
            .into_iter()
            // A file that is deleted and not yet committed is still listed; a link leads to another file.
            .filter(|path| root.join(path).is_file() && !root.join(path).is_symlink())
            .map(|path| {
                let bytes = fs::read(root.join(&path))?;
                Ok(File { path, bytes })
            })
            .collect::<Result<_>>()?;
        files.sort_by(|one, other| one.path.cmp(&other.path));
        if files.is_empty() {
            bail!("no files found in {}", root.display());
        }
        Ok(Self(files))
    }

    #[cfg(test)]
    pub(crate) fn given(files: &[(&str, &str)]) -> Self {
        Self(
            files
                .iter()
                .map(|(path, text)| File { path: (*path).to_owned(), bytes: text.as_bytes().to_vec() })
                .collect(),
        )
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &File> {
        self.0.iter()
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = &File> {
        self.all().filter(|file| file.is_rust())
    }

    pub(crate) fn markdown(&self) -> impl Iterator<Item = &File> {
        self.all().filter(|file| file.is_markdown())
    }

    /// Whether `path` is a file or a folder with files in it.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.all().any(|file| file.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }
}

/// What git tracks or would add; nothing outside a git repository.
fn tracked(root: &Path) -> Option<Vec<String>> {
    let folder = root.to_str()?;
    let list = process::answer("git", ["-C", folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    Some(list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

/// Every file below `root` but for git's own and built ones, for a copy without git.
fn walked(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                if path != Path::new(".git") && path != Path::new("target") {
                    folders.push(path);
                }
            } else if let Some(path) = path.to_str() {
                found.push(path.to_owned());
            }
        }
    }
    Ok(found)
}
