//! Numbers that the kernel keeps in files below `/proc/sys`.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

/// A value that a sysctl is to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Its name in its folder.
    pub name: &'static str,
    value: u64,
    grows: bool,
}

impl Wanted {
    /// This value and no other.
    pub const fn exactly(name: &'static str, value: u64) -> Self {
        Self { name, value, grows: false }
    }

    /// This value or a greater one.
    pub const fn at_least(name: &'static str, value: u64) -> Self {
        Self { name, value, grows: true }
    }

    /// What is to be written where this value is.
    pub const fn instead_of(&self, present: u64) -> Option<u64> {
        let good = if self.grows { present >= self.value } else { present == self.value };
        if good { None } else { Some(self.value) }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.name, if self.grows { ">=" } else { "=" }, self.value)
    }
}

/// A folder of sysctls that are numbers.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Those of connection tracking in the calling thread's network namespace. The folder is there once the kernel's
    /// module `nf_conntrack` is. The greatest number of connections is one for the whole machine, and can be written
    /// in its first network namespace alone.
    pub fn conntrack() -> Self {
        Self::at("/proc/sys/net/netfilter")
    }

    /// Those in a folder.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The file of one.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The number that is there; none where there is no such sysctl.
    pub fn read(&self, name: &str) -> io::Result<Option<u64>> {
        let text = match fs::read_to_string(self.path(name)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        text.trim().parse().map(Some).map_err(io::Error::other)
    }

    /// Writes a number; the file must be there.
    pub fn write(&self, name: &str, value: u64) -> io::Result<()> {
        let mut file = fs::File::options().write(true).truncate(true).open(self.path(name))?;
        file.write_all(value.to_string().as_bytes())
    }
}

/// First and last of the ports that the kernel gives sockets which ask for none, in the calling thread's network
/// namespace and for both families (`net.ipv4.ip_local_port_range`).
pub fn local_port_range() -> io::Result<(u16, u16)> {
    parse_range(&fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?)
}

fn parse_range(text: &str) -> io::Result<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last)), None) => Ok((first, last)),
        _ => Err(io::Error::other(format!("{text:?} is no range of ports"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_ports_is_two_numbers() {
        assert_eq!(parse_range("32768\t60999\n").expect("a range"), (32_768, 60_999));
        for bad in ["", "1024", "1 2 3", "1024-2048", "1 65536"] {
            parse_range(bad).expect_err(bad);
        }
        let (first, last) = local_port_range().expect("every kernel with IPv4 has it");
        assert!(first <= last);
    }
}
