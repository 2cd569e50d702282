//! How values of options are written: as kube-proxy reads them.

use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::time::Duration;

/// The longest timeout of a flow.
const LONGEST: Duration = Duration::from_hours(30 * 24);

/// The port of /healthz unless another is given.
pub(super) const HEALTHZ_PORT: u16 = 10256;

/// The port of /metrics unless another is given.
pub(super) const METRICS_PORT: u16 = 10249;

/// Address and port of /healthz; an address alone has the usual port.
pub(super) fn healthz(text: &str) -> Result<SocketAddr, String> {
    bind_address(text, HEALTHZ_PORT)
}

/// Address and port of /metrics; an address alone has the usual port.
pub(super) fn metrics(text: &str) -> Result<SocketAddr, String> {
    bind_address(text, METRICS_PORT)
}

fn bind_address(text: &str, port: u16) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    let wrong =
        |error: AddrParseError| format!("{text:?} is no address such as 0.0.0.0:{port} or [::]:{port}: {error}");
    text.parse().map_err(wrong)
}

/// How long a flow is kept, as Go writes it (`24h0m0s`, `90s`, `1.5h`). 0 leaves svclb's own.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text).ok_or_else(|| format!("{text:?} is no duration such as 24h0m0s or 90s"))?;
    if timeout > LONGEST {
        return Err(format!("{text} is longer than the 30 days that are possible"));
    }
    Ok(timeout)
}

fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let unit = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(unit);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        seconds += number.parse::<f64>().ok()? * unit_seconds(unit)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(seconds).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

fn unit_seconds(unit: &str) -> Option<f64> {
    match unit {
        "h" => Some(3600.0),
        "m" => Some(60.0),
        "s" => Some(1.0),
        "ms" => Some(1e-3),
        "us" | "µs" => Some(1e-6),
        "ns" => Some(1e-9),
        _ => None,
    }
}

/// Whether a value says more than "nothing" or "the default": not empty, `false` or zero.
pub(super) fn is_set(text: &str) -> bool {
    !matches!(text, "" | "false" | "0" | "0s" | "null")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_go_writes_them() {
        for (text, seconds) in
            [("24h0m0s", 86_400), ("90s", 90), ("1.5h", 5_400), ("0", 0), ("0s", 0), ("720h", 2_592_000)]
        {
            assert_eq!(timeout(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "5", "h", "5 s", "5d", "-1s", "721h", "1h5", "..5s"] {
            assert!(timeout(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_address_alone_has_the_usual_port() {
        assert_eq!(healthz("::").map(|address| address.to_string()), Ok("[::]:10256".to_owned()));
        assert_eq!(metrics("127.0.0.1:1").map(|address| address.to_string()), Ok("127.0.0.1:1".to_owned()));
        assert!(metrics("localhost").is_err_and(|error| error.contains("0.0.0.0:10249")));
    }
}
