//! An IPv4 script becomes an IPv6 one, with other addresses and nothing else.

use regex::{Captures, Regex};

use crate::script::Script;

/// Where IPv4 addresses go in IPv6, as the first 96 bits; loopback addresses become `::1`.
const PREFIX: &str = "2001:db8:4:";

/// The same script in IPv6.
///
/// # Panics
/// If an address in it is none.
pub fn twin(script: &Script) -> Script {
    script.map(twin_text)
}

fn twin_text(text: &str) -> String {
    let address = Regex::new(r"(\d+)\.(\d+)\.(\d+)\.(\d+)(:\d+|/\d+)?").expect("it is an expression");
    let twin = address.replace_all(text, |found: &Captures<'_>| {
        let octet = |at: usize| found[at].parse::<u8>().expect("a number below 256");
        let bytes = [1, 2, 3, 4].map(octet);
        let is_loopback = bytes[0] == 127;
        let [a, b, c, d] = bytes.map(u16::from);
        let ip = if is_loopback { "::1".to_owned() } else { format!("{PREFIX}:{:x}:{:x}", a << 8 | b, c << 8 | d) };
        match found.get(5).map(|end| end.as_str().split_at(1)) {
            None => ip,
            Some((":", port)) => format!("[{ip}]:{port}"),
            Some(_) if is_loopback => format!("{ip}/128"),
            Some((_, length)) => format!("{ip}/{}", 96 + length.parse::<u8>().expect("a length")),
        }
    });
    twin.replace("IPv4", "IPv6")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_ports_and_prefixes_move_to_ipv6() {
        for (v4, v6) in [
            ("A pod 10.0.0.2 > 172.30.0.41:80/TCP", "A pod 2001:db8:4::a00:2 > [2001:db8:4::ac1e:29]:80/TCP"),
            ("cluster-cidr 10.0.0.0/8", "cluster-cidr 2001:db8:4::a00:0/104"),
            ("{addresses: [10.180.0.1], nodeName: n1}", "{addresses: [2001:db8:4::ab4:1], nodeName: n1}"),
            ("127.0.0.1:3001 127.0.0.0/8 addressType: IPv4", "[::1]:3001 ::1/128 addressType: IPv6"),
        ] {
            assert_eq!(twin_text(v4), v6);
        }
    }
}
