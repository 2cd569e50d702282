//! Changes of devices, addresses and default routes, read from the kernel's rtnetlink messages.
//!
//! Only the attributes that matter here are looked at: a message about a device has some sixty of them,
//! and a node on which two hundred pods start at once sends a thousand messages. An attribute that this
//! agent does not know can not make it miss a device.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_core::{NetlinkBuffer, NlaBuffer, NlasIterator};

use super::{
    address::Address,
    link::{Header, Kind, Link},
    topology::DefaultRoute,
};

/// One change in the network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A device is there, or differs from before.
    Link(Link),
    /// A device is gone; its index.
    LinkGone(u32),
    /// A device has an address, or its flags differ from before.
    Address(u32, Address),
    /// A device lost an address.
    AddressGone(u32, Address),
    /// There is a default route.
    Route(DefaultRoute),
    /// A default route is gone.
    RouteGone(DefaultRoute),
    /// The clsact of a device lost a filter or is gone; the device's index.
    FilterGone(u32),
}

/// What one message of a datagram is.
pub(super) enum Message {
    /// The kernel refuses the request or ends it: 0 or a negative errno.
    Done(i32),
    /// The answer to a dump was disturbed by a change and may be incomplete.
    Interrupted,
    /// Changes; none for messages that do not concern us.
    Changes(Vec<Change>),
}

const DONE: u16 = 3;
const ERROR: u16 = 2;
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const DELETE_QDISC: u16 = 37;
const DELETE_FILTER: u16 = 45;

/// Splits a datagram into its messages. A tail that is no message is left out.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(rest).ok()?;
        let length = (buffer.length() as usize).next_multiple_of(4).min(rest.len());
        let (kind, flags, payload) = (buffer.message_type(), buffer.flags(), buffer.payload());
        rest = rest.get(length..).unwrap_or_default();
        Some(message(kind, flags, payload))
    })
}

fn message(kind: u16, flags: u16, payload: &[u8]) -> Message {
    if flags & FLAG_DUMP_INTERRUPTED != 0 {
        return Message::Interrupted;
    }
    match kind {
        DONE | ERROR => Message::Done(word(payload, 0).map_or(0, u32::cast_signed)),
        NEW_LINK => changes(link(payload).map(Change::Link)),
        DELETE_LINK => changes(link(payload).map(|link| Change::LinkGone(link.index))),
        NEW_ADDRESS => changes(address(payload).map(|(index, address)| Change::Address(index, address))),
        DELETE_ADDRESS => changes(address(payload).map(|(index, address)| Change::AddressGone(index, address))),
        NEW_ROUTE => changes(default_routes(payload).into_iter().map(Change::Route)),
        DELETE_ROUTE => changes(default_routes(payload).into_iter().map(Change::RouteGone)),
        DELETE_QDISC | DELETE_FILTER => changes(clsact(payload).map(Change::FilterGone)),
        _ => Message::Changes(Vec::new()),
    }
}

fn changes(found: impl IntoIterator<Item = Change>) -> Message {
    Message::Changes(found.into_iter().collect())
}

/// `struct ifinfomsg` and the attributes `IFLA_*` (linux/if_link.h).
fn link(payload: &[u8]) -> Option<Link> {
    const HEADER: usize = 16;
    const ADDRESS: u16 = 1;
    const NAME: u16 = 3;
    const MASTER: u16 = 10;
    const INFO: u16 = 18;
    const INFO_KIND: u16 = 1;
    const LINK_NAMESPACE: u16 = 37;
    const UP: u32 = 1;
    const LOOPBACK: u32 = 8;

    // Bridges tell of their ports in messages of their own family: "gone" then means gone from the bridge.
    if *payload.first()? != libc::AF_UNSPEC as u8 {
        return None;
    }
    let header = Header::new(half(payload, 2)?);
    let index = word(payload, 4)?;
    let flags = word(payload, 8)?;
    let (mut name, mut kind, mut master, mut mac) = (String::new(), String::new(), None, None);
    let mut linked_elsewhere = false;
    for attribute in attributes(payload.get(HEADER..)?) {
        match attribute.kind() {
            ADDRESS => mac = attribute.value().try_into().ok(),
            NAME => name = text(attribute.value()),
            MASTER => master = word(attribute.value(), 0).filter(|&index| index != 0),
            LINK_NAMESPACE => linked_elsewhere = true,
            INFO => {
                for inner in attributes(attribute.value()) {
                    if inner.kind() == INFO_KIND {
                        kind = text(inner.value());
                    }
                }
            }
            _ => {}
        }
    }
    let kind = Kind::new(&kind, header, flags & LOOPBACK != 0);
    let peer_elsewhere = linked_elsewhere && kind == Kind::Veth;
    Some(Link { index, name, kind, header, up: flags & UP != 0, master, mac, peer_elsewhere })
}

/// `struct ifaddrmsg` and the attributes `IFA_*` (linux/if_addr.h).
fn address(payload: &[u8]) -> Option<(u32, Address)> {
    const HEADER: usize = 8;
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    const FLAGS: u16 = 8;
    const SECONDARY: u32 = 0x01;
    const DUPLICATE: u32 = 0x08;
    const DEPRECATED: u32 = 0x20;
    const SCOPE_LINK: u8 = 253;

    let prefix_length = *payload.get(1)?;
    let mut flags = u32::from(*payload.get(2)?);
    let scope = *payload.get(3)?;
    let index = word(payload, 4)?;
    let (mut peer, mut local) = (None, None);
    for attribute in attributes(payload.get(HEADER..)?) {
        match attribute.kind() {
            ADDRESS => peer = ip(attribute.value()),
            LOCAL => local = ip(attribute.value()),
            FLAGS => flags = word(attribute.value(), 0)?,
            _ => {}
        }
    }
    // On a point-to-point device the first is the other end's.
    let ip = local.or(peer)?;
    let of_link = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_loopback(),
    };
    let address = Address {
        ip,
        prefix_length,
        global: scope < SCOPE_LINK && !of_link && flags & DUPLICATE == 0,
        primary: flags & (SECONDARY | DEPRECATED) == 0,
    };
    Some((index, address))
}

/// `struct rtmsg` and the attributes `RTA_*` (linux/rtnetlink.h): the devices of a default route of the
/// main table; nothing for all other routes, of which there may be very many.
fn default_routes(payload: &[u8]) -> Vec<DefaultRoute> {
    const HEADER: usize = 12;
    const DEVICE: u16 = 4;
    const PRIORITY: u16 = 6;
    const NEXT_HOPS: u16 = 9;
    const MAIN_TABLE: u8 = 254;
    const UNICAST: u8 = 1;

    let [family, destination_length, _, _, table, _, _, kind] = payload.first_chunk().copied().unwrap_or_default();
    let v6 = match libc::c_int::from(family) {
        libc::AF_INET => false,
        libc::AF_INET6 => true,
        _ => return Vec::new(),
    };
    if destination_length != 0 || table != MAIN_TABLE || kind != UNICAST {
        return Vec::new();
    }
    let (mut devices, mut priority) = (Vec::new(), 0);
    for attribute in attributes(payload.get(HEADER..).unwrap_or_default()) {
        match attribute.kind() {
            DEVICE => devices.extend(word(attribute.value(), 0)),
            PRIORITY => priority = word(attribute.value(), 0).unwrap_or(0),
            NEXT_HOPS => devices.extend(next_hop_devices(attribute.value())),
            _ => {}
        }
    }
    devices.into_iter().map(|device| DefaultRoute { v6, priority, device }).collect()
}

/// A list of `struct rtnexthop`.
fn next_hop_devices(mut list: &[u8]) -> Vec<u32> {
    let mut devices = Vec::new();
    while let (Some(length), Some(device)) = (half(list, 0), word(list, 4)) {
        devices.push(device);
        let step = usize::from(length).next_multiple_of(4).max(8);
        list = list.get(step..).unwrap_or_default();
    }
    devices
}

/// `struct tcmsg`: the device, if it is about clsact, which has a number of its own as parent.
fn clsact(payload: &[u8]) -> Option<u32> {
    const CLSACT: u32 = 0xffff;
    let (index, parent) = (word(payload, 4)?, word(payload, 12)?);
    (parent >> 16 == CLSACT).then_some(index)
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_core::{Emitable, NetlinkMessage};
    use rtnetlink::packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
        route::{RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol, RouteType},
    };

    fn decoded(message: RouteNetlinkMessage) -> Vec<Change> {
        let mut message = NetlinkMessage::from(message);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        messages(&bytes)
            .flat_map(|message| match message {
                Message::Changes(changes) => changes,
                Message::Done(_) | Message::Interrupted => panic!("a change was sent"),
            })
            .collect()
    }

    fn veth() -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName("pod7".into()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 7]),
            LinkAttribute::Controller(3),
            LinkAttribute::LinkNetNsId(0),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
        ];
        message
    }

    #[test]
    fn a_bridged_veth_is_read_with_its_master() {
        let expected = Link {
            index: 7,
            name: "pod7".into(),
            kind: Kind::Veth,
            header: Header::Ethernet,
            up: true,
            master: Some(3),
            mac: Some([2, 0, 0, 0, 0, 7]),
            peer_elsewhere: true,
        };
        assert_eq!(decoded(RouteNetlinkMessage::NewLink(veth())), [Change::Link(expected)]);
        assert_eq!(decoded(RouteNetlinkMessage::DelLink(veth())), [Change::LinkGone(7)]);
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        let mut port = veth();
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(decoded(RouteNetlinkMessage::DelLink(port)), []);
    }

    #[test]
    fn a_temporary_address_is_not_primary() {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.prefix_len = 64;
        message.header.index = 2;
        message.header.scope = AddressScope::Universe;
        let ip: IpAddr = "2001:db8::5".parse().expect("an address");
        message.attributes = vec![AddressAttribute::Address(ip), AddressAttribute::Flags(AddressFlags::Secondary)];
        let expected = Address { ip, prefix_length: 64, global: true, primary: false };
        assert_eq!(decoded(RouteNetlinkMessage::NewAddress(message)), [Change::Address(2, expected)]);
    }

    #[test]
    fn only_default_routes_of_the_main_table_are_read() {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.protocol = RouteProtocol::Static;
        message.attributes = vec![RouteAttribute::Oif(2), RouteAttribute::Priority(100)];
        let expected = DefaultRoute { v6: false, priority: 100, device: 2 };
        assert_eq!(decoded(RouteNetlinkMessage::NewRoute(message.clone())), [Change::Route(expected)]);

        message.header.destination_prefix_length = 24;
        assert_eq!(decoded(RouteNetlinkMessage::NewRoute(message)), []);
    }

    #[test]
    fn a_default_route_over_two_devices_is_two() {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        let hop = |device| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = device;
            hop
        };
        message.attributes = vec![RouteAttribute::MultiPath(vec![hop(2), hop(5)])];
        let devices: Vec<Change> =
            [2, 5].map(|device| Change::Route(DefaultRoute { v6: false, priority: 0, device })).into();
        assert_eq!(decoded(RouteNetlinkMessage::NewRoute(message)), devices);
    }
}
