//! IP addresses and prefixes as the API has them, old mistakes included.
//!
//! Objects stored by old API servers may hold addresses such as `010.1.2.003`. Kubernetes reads each
//! part as a decimal number; so does this. An IPv4 address written as an IPv6 one (`::ffff:10.1.2.3`)
//! is the IPv4 address.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// Reads an address.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    match text.parse::<IpAddr>() {
        Ok(ip) => Some(ip.to_canonical()),
        Err(_) => parse_ipv4_with_zeros(text).map(IpAddr::V4),
    }
}

fn parse_ipv4_with_zeros(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *octet = part
            .trim_start_matches('0')
            .parse()
            .or_else(|error| if part.bytes().all(|byte| byte == b'0') { Ok(0) } else { Err(error) })
            .ok()?;
    }
    parts.next().is_none().then_some(Ipv4Addr::from(octets))
}

/// Reads a prefix; bits behind its length are cleared.
pub fn parse_prefix(text: &str) -> Option<IpNet> {
    let (address, length) = text.trim().split_once('/')?;
    let address = parse_address(address)?;
    IpNet::new(address, length.parse().ok()?).ok().map(|prefix| prefix.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_are_decimal() {
        assert_eq!(parse_address("010.001.002.000"), Some("10.1.2.0".parse().expect("an address")));
        assert_eq!(parse_address("1.2.3.4"), Some("1.2.3.4".parse().expect("an address")));
        assert_eq!(parse_address("0256.1.1.1"), None);
        assert_eq!(parse_address("1.2.3"), None);
        assert_eq!(parse_address("1.2.3.4.5"), None);
        assert_eq!(parse_address("a.b.c.d"), None);
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert_eq!(parse_address("::ffff:10.1.2.3"), Some("10.1.2.3".parse().expect("an address")));
    }

    #[test]
    fn prefixes_may_have_spaces_and_host_bits() {
        assert_eq!(parse_prefix(" 10.1.2.3/28"), Some("10.1.2.0/28".parse().expect("a prefix")));
        assert_eq!(parse_prefix("010.0.0.0/8 "), Some("10.0.0.0/8".parse().expect("a prefix")));
        assert_eq!(parse_prefix("10.0.0.0/33"), None);
        assert_eq!(parse_prefix("10.0.0.0"), None);
    }
}
