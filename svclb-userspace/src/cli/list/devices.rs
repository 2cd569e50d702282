//! `svclb list devices`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::Result;
use aya::maps::{HashMap, MapData};
use serde::Serialize;
use svclb_common::schema::Device;
use svclb_common::service::role;

use super::Row;
use crate::bpf::pin::PinFolder;
use crate::bpf::pod::Pod;
use crate::tables::bpf::pinned;

/// A device that packets are translated on.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeviceRow {
    index: u32,
    /// Its name in the network namespace of the caller; empty in another one.
    name: String,
    role: &'static str,
    /// `native` if its driver runs the XDP program, else empty.
    xdp: &'static str,
    /// Addresses of masqueraded flows that leave by it.
    masquerade: Vec<IpAddr>,
}

impl Row for DeviceRow {
    const HEADERS: &'static [&'static str] = &["index", "name", "role", "xdp", "masquerade"];

    fn cells(&self) -> Vec<String> {
        let addresses: Vec<String> = self.masquerade.iter().map(ToString::to_string).collect();
        vec![self.index.to_string(), self.name.clone(), self.role.to_owned(), self.xdp.to_owned(), addresses.join(", ")]
    }
}

pub(super) fn rows(pins: &Path) -> Result<Vec<DeviceRow>> {
    let map: HashMap<MapData, Pod<u32>, Pod<Device>> = pinned(pins, "DEVICES")?;
    let links = PinFolder::existing(pins);
    let mut rows = Vec::new();
    for entry in &map {
        let (Pod(index), Pod(device)) = entry?;
        let (v4, v6): (Ipv4Addr, Ipv6Addr) = (device.masquerade4.into(), device.masquerade6.into());
        let addresses = [IpAddr::from(v4), IpAddr::from(v6)];
        rows.push(DeviceRow {
            index,
            name: name_of(index),
            role: match device.role {
                role::NODE => "node",
                role::POD => "pod",
                role::TUNNEL => "tunnel",
                _ => "unknown",
            },
            xdp: if links.xdp_link(index).exists() { "native" } else { "" },
            masquerade: addresses.into_iter().filter(|address| !address.is_unspecified()).collect(),
        });
    }
    rows.sort_by_key(|row| row.index);
    Ok(rows)
}

fn name_of(index: u32) -> String {
    let known = nix::net::if_::if_nameindex().ok();
    let found = known.iter().flat_map(|known| known.iter()).find(|device| device.index() == index);
    found.map(|device| device.name().to_string_lossy().into_owned()).unwrap_or_default()
}
