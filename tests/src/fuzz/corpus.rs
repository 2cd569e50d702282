//! The inputs that are kept: a file with a line for each, in hexadecimal.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Where it is, from the top of the repository.
pub const FILE: &str = "tests/fuzz/corpus.txt";

/// Reads the inputs of a corpus.
pub fn read(text: &str) -> Result<Vec<Vec<u8>>> {
    text.lines().enumerate().map(|(at, line)| bytes(line).with_context(|| format!("line {}", at + 1))).collect()
}

fn bytes(line: &str) -> Result<Vec<u8>> {
    ensure!(line.len().is_multiple_of(2) && line.is_ascii(), "no pairs of digits");
    (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).context("no digits")).collect()
}

/// Writes each input of the corpus to a file of its own, as libFuzzer wants them.
pub fn unpack(corpus: &Path, folder: &Path) -> Result<()> {
    let text = fs::read_to_string(corpus).with_context(|| format!("reading {}", corpus.display()))?;
    let inputs = read(&text).with_context(|| format!("reading {}", corpus.display()))?;
    for (number, input) in inputs.iter().enumerate() {
        let file = folder.join(format!("kept-{number}"));
        fs::write(&file, input).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// Writes all files of a folder as a corpus, the shortest first; how many there are.
pub fn pack(folder: &Path, corpus: &Path) -> Result<usize> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading the folder {}", folder.display()))? {
        let file = entry.with_context(|| format!("reading the folder {}", folder.display()))?.path();
        inputs.push(fs::read(&file).with_context(|| format!("reading {}", file.display()))?);
    }
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    let mut text = String::new();
    for input in &inputs {
        for byte in input {
            write!(text, "{byte:02x}").context("a string takes everything")?;
        }
        text.push('\n');
    }
    fs::write(corpus, text).with_context(|| format!("writing {}", corpus.display()))?;
    Ok(inputs.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (folder.path().join("inputs"), folder.path().join("corpus.txt"));
        fs::create_dir(&one).expect("a folder");
        for (name, bytes) in [("a", &b"\x00\xff\x10"[..]), ("b", &b""[..])] {
            fs::write(one.join(name), bytes).expect("a file");
        }
        assert_eq!(pack(&one, &two).expect("it can be written"), 2);
        let text = fs::read_to_string(&two).expect("a file");
        assert_eq!(text, "\n00ff10\n");
        assert_eq!(read(&text).expect("it can be read"), [vec![], vec![0, 0xff, 0x10]]);
        assert!(read("0\n").is_err() && read("zz\n").is_err());
    }
}
