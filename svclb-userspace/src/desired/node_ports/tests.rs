//! Which addresses serve node ports, case by case.

use std::net::IpAddr;

use super::{Entry, addresses, listeners};
use crate::model::Node;

fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(|ip| ip.parse().expect("an address")).collect()
}

const DEVICES: &str = "10.20.30.51 192.168.1.1 2001:db8::1 2001:db8:1::1";

/// Entries, addresses of the Node object (`-` without one), result.
const CASES: &[(&str, &str, &str)] = &[
    // A family without any entry is served everywhere.
    ("10.20.30.0/24", "-", "10.20.30.51 2001:db8::1 2001:db8:1::1"),
    ("2001:db8::/64", "-", "10.20.30.51 192.168.1.1 2001:db8::1"),
    ("10.20.30.0/24,192.168.0.0/16", "-", "10.20.30.51 192.168.1.1 2001:db8::1 2001:db8:1::1"),
    // A prefix that no device has an address in serves nothing of its family.
    ("10.20.40.0/24", "-", "2001:db8::1 2001:db8:1::1"),
    ("10.20.40.0/24,172.16.0.0/12", "-", "2001:db8::1 2001:db8:1::1"),
    ("", "-", DEVICES),
    // A prefix of everything goes before the others of its family, in any order.
    ("0.0.0.0/0,1.2.3.0/24,2001:db8::1/128", "-", "10.20.30.51 192.168.1.1 2001:db8::1"),
    ("1.2.3.0/24,0.0.0.0/0", "-", DEVICES),
    ("2001:db8::/64,::/0,10.20.30.0/24", "-", "10.20.30.51 2001:db8::1 2001:db8:1::1"),
    ("all", "-", DEVICES),
    // The Node's addresses; without it, or for a family that it has none of, all.
    ("primary", "-", DEVICES),
    ("primary", "192.168.1.1 2001:db8::1", "192.168.1.1 2001:db8::1"),
    ("primary", "192.168.1.1", "192.168.1.1 2001:db8::1 2001:db8:1::1"),
    ("primary", "10.20.30.51 192.168.1.1 2001:db8:1::1", "10.20.30.51 2001:db8:1::1"),
    ("primary", "2001:db8:1::1 192.168.1.1 10.20.30.51", "192.168.1.1 2001:db8:1::1"),
    ("primary", "2001:db8::1", "10.20.30.51 192.168.1.1 2001:db8::1"),
    ("primary,192.168.0.0/16", "10.20.30.51 2001:db8::1", "10.20.30.51 192.168.1.1 2001:db8::1"),
    // No packet asks for a loopback address; sockets are another matter (`frontends.rs`).
    ("localhost", "-", ""),
    ("127.0.0.0/8", "-", "2001:db8::1 2001:db8:1::1"),
    ("127.0.0.1/32", "-", "2001:db8::1 2001:db8:1::1"),
    ("primary,localhost", "192.168.1.1 2001:db8::1", "192.168.1.1 2001:db8::1"),
    ("localhost,10.0.0.0/8", "-", "10.20.30.51"),
];

#[test]
fn every_list_names_its_addresses() {
    for (entries, node, expected) in CASES {
        let parse = |entry: &str| entry.parse::<Entry>().expect("an entry");
        let entries_read: Vec<Entry> = entries.split(',').filter(|entry| !entry.is_empty()).map(parse).collect();
        let node = (*node != "-").then(|| Node { addresses: ips(node), ..Node::default() });
        let found = addresses(&entries_read, node.as_ref(), &ips(DEVICES));
        assert_eq!(found, ips(expected), "{entries:?} with {node:?}");
    }
}

#[test]
fn health_checks_are_listened_to_on_the_addresses_of_node_ports() {
    let on = |entries: &str, node: &str| {
        let entries: Vec<Entry> = entries.split(',').map(|entry| entry.parse().expect("an entry")).collect();
        listeners(&entries, Some(&Node { addresses: ips(node), ..Node::default() }), &ips(DEVICES))
    };
    assert_eq!(on("primary", "192.168.1.1 2001:db8::1"), ips("192.168.1.1 2001:db8::1"));
    assert_eq!(on("primary", "192.168.1.1"), ips("192.168.1.1 ::"), "the other family is served everywhere");
    assert_eq!(on("all", "192.168.1.1"), ips("0.0.0.0 ::"));
    assert_eq!(on("primary", "203.0.113.1 2001:db8::1"), ips("2001:db8::1"), "an address that is elsewhere");
    assert_eq!(on("localhost", "192.168.1.1"), ips(""));
}

#[test]
fn an_entry_that_is_nothing_is_refused_by_name() {
    let error = "10.0.0.0/33".parse::<Entry>().expect_err("no such prefix");
    assert!(error.to_string().starts_with("\"10.0.0.0/33\" is neither"), "{error}");
}
