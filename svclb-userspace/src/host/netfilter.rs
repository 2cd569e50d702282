//! What netfilter has at the hook through which forwarded packets pass, in the calling thread's network namespace: read,
//! never written.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rtnetlink::packet_core::{NlaBuffer, NlasIterator};

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETCHAIN`.
const GET_CHAINS: u16 = 10 << 8 | 4;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Length of a netlink header, and of the `nfgenmsg` behind it.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;
/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;
/// Families of tables whose hooks are numbered so, by `NFPROTO_`: inet, ip and ip6.
const INET_FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];

/// Chains that forwarded packets pass and that may stop one: with a rule, or with a policy to drop. Named as family, table
/// and chain; tables of the old `iptables` as its command has them.
pub fn forward_chains() -> io::Result<Vec<String>> {
    let mut all = nftables_chains()?;
    for (file, command) in [("ip_tables_names", "iptables"), ("ip6_tables_names", "ip6tables")] {
        // The file is there when the module is loaded.
        let names = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        all.extend(
            names.lines().filter(|name| *name == "filter").map(|name| format!("{command}-legacy {name} FORWARD")),
        );
    }
    Ok(all)
}

fn nftables_chains() -> io::Result<Vec<String>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let length = u32::try_from(HEADER + FAMILY_HEADER).unwrap_or_default();
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut request = Vec::new();
    request.extend_from_slice(&length.to_ne_bytes());
    request.extend_from_slice(&GET_CHAINS.to_ne_bytes());
    request.extend_from_slice(&flags.to_ne_bytes());
    request.extend_from_slice(&[0; 8 + FAMILY_HEADER]);
    socket.send(&request, 0)?;
    let mut chains = BTreeSet::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while let Some(length) = number(rest, 0).map(|length| length as usize).filter(|length| *length >= HEADER) {
            let kind = rest.get(4..6).map_or(0, |kind| u16::from_ne_bytes([kind[0], kind[1]]));
            let payload = rest.get(HEADER..length.min(rest.len())).unwrap_or_default();
            match kind {
                DONE => return Ok(chains.into_iter().collect()),
                ERROR => match number(payload, 0).map_or(0, u32::cast_signed) {
                    0 => return Ok(chains.into_iter().collect()),
                    // A kernel without nftables.
                    code if -code == libc::EOPNOTSUPP || -code == libc::EINVAL => return Ok(Vec::new()),
                    code => return Err(io::Error::from_raw_os_error(-code)),
                },
                _ => chains.extend(forward_chain(payload)),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The name of a chain if forwarded packets pass it and it may stop them (`NFTA_CHAIN_*` in linux/netfilter/nf_tables.h).
fn forward_chain(payload: &[u8]) -> Option<String> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const USE: u16 = 6;
    const HOOK_NUMBER: u16 = 1;
    const ACCEPT: u32 = 1;

    let family = *payload.first()?;
    let (_, family) = INET_FAMILIES.into_iter().find(|(number, _)| *number == family)?;
    let (mut table, mut name, mut hook, mut policy, mut rules) = (String::new(), String::new(), None, ACCEPT, 0);
    for attribute in attributes(payload.get(FAMILY_HEADER..)?) {
        let value = attribute.value();
        match attribute.kind() {
            TABLE => table = text(value),
            NAME => name = text(value),
            HOOK => {
                hook = attributes(value)
                    .find(|inner| inner.kind() == HOOK_NUMBER)
                    .and_then(|inner| big_endian(inner.value()));
            }
            POLICY => policy = big_endian(value)?,
            USE => rules = big_endian(value)?,
            _ => {}
        }
    }
    (hook == Some(FORWARD) && (policy != ACCEPT || rules > 0)).then(|| format!("{family} {table} {name}"))
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn big_endian(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}
