//! Links, addresses, routes and switches of a namespace.
//!
//! All of it goes through `ip -batch`: one process for a whole list of lines that read as an administrator
//! would type them. Switches (sysctls) are files that the thread writes from inside.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use super::netns::Netns;

impl Netns {
    /// Gives the lines to `ip -batch`. The first line that fails ends it and is named in the error.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut command = self.command("ip");
        command.args(["-batch", "-"]);
        let output = feed(&mut command, lines)
            .with_context(|| format!("run `ip -batch` in {} (Debian: apt-get install iproute2)", self.label()))?;
        if output.is_empty() {
            return Ok(());
        }
        bail!("`ip -batch` in {}: {output}\nlines were:\n{lines}", self.label())
    }

    /// Writes switches below `/proc/sys/net`, given as (`ipv4/ip_forward`, `1`).
    pub fn sysctls(&self, switches: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (name, value) in switches {
                fs::write(format!("/proc/sys/net/{name}"), value)
                    .with_context(|| format!("write {value} to net/{name} in {}", self.label()))?;
            }
            Ok(())
        })
    }

    /// Lets the routes that are wanted, of those that there are, take packets of so many bytes and no longer ones, also of
    /// those that are forwarded, whatever the devices do. A route is a line as `ip route` shows it.
    pub(super) fn narrow_routes(&self, mtu: u32, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
        let mut lines = String::new();
        for family in ["-4", "-6"] {
            let output = self.command("ip").args([family, "route", "show"]).output().context("run ip")?;
            ensure!(output.status.success(), "ip {family} route in {}", self.label());
            for route in String::from_utf8_lossy(&output.stdout).lines() {
                if is_wanted(route) && !route.starts_with("fe80") {
                    writeln!(lines, "route replace {route} mtu lock {mtu}")?;
                }
            }
        }
        self.ip(&lines)
    }

    /// Sets features of a device, as `ethtool -K` takes them: `tx off`. None leaves it as it is.
    pub(super) fn features(&self, device: &str, features: &str) -> Result<()> {
        if features.is_empty() {
            return Ok(());
        }
        let output = self
            .command("ethtool")
            .args(["-K", device])
            .args(features.split(' '))
            .output()
            .context("run ethtool (Debian: apt-get install ethtool)")?;
        ensure!(
            output.status.success(),
            "ethtool -K {device} {features} in {}: {}",
            self.label(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

/// Runs a command with `input` as its standard input and gives its complaints, empty when it succeeded.
pub(super) fn feed(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok(match (output.status.success(), complaint.is_empty()) {
        (true, _) => String::new(),
        (false, false) => complaint,
        (false, true) => output.status.to_string(),
    })
}

/// Switches of every namespace of the lab: IPv6 addresses are usable at once, without the second that
/// duplicate address detection takes.
pub(super) const QUICK_IPV6: &[(&str, &str)] = &[
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

/// Switches of every namespace: ICMP errors are sent to everybody who is due one, not one a second.
pub(super) const ANSWERS_EVERYBODY: &[(&str, &str)] = &[("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")];

/// Switches of a namespace that forwards: strict reverse path check on all devices, those to come
/// included, and no ICMP redirects.
pub(super) const STRICT_ROUTER: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/default/rp_filter", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
];

/// Switches of a namespace from which many connections are made: all ports, and those in TIME-WAIT again
/// after a second.
pub(super) const BUSY_CLIENT: &[(&str, &str)] =
    &[("ipv4/ip_local_port_range", "1024 65535"), ("ipv4/tcp_tw_reuse", "1")];
