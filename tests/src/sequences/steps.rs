//! What may happen: random steps. A sequence is a list of them.

use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::select;
use svclb_userspace::model::{Family, Kind, Protocol};

use super::objects::{
    ClusterIps, EndpointWords, Ingress, Ip, NodeWords, Port, RANGES, ServiceWords, SlicePort, SliceWords, Type,
};

/// Services, by number.
pub(super) const SERVICES: u8 = 4;
/// Slices, by number.
pub(super) const SLICES: u8 = 6;

/// One step.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) what: What,
    pub(super) told: Told,
}

/// When the agent is told of what its watches bring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// At once: everything that is on its way arrives, and the tables are written.
    AtOnce,
    /// Later.
    Later,
    /// The first thing on its way of each kind arrives, and the tables are written.
    InPart,
}

/// What happens.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// A field of a Service changes, which is made if there is none.
    Service(u8, ServiceEdit),
    /// A Service is deleted.
    NoService(u8),
    /// A Service is deleted and made again under its name.
    AnotherService(u8),
    /// Something in a slice changes, which is made if there is none.
    Slice(u8, SliceEdit),
    /// A slice is deleted.
    NoSlice(u8),
    /// Half of a slice's endpoints move to another slice of the same kind, which is told first.
    Split(u8, u8),
    /// All endpoints of the second slice move to the first, and the second is deleted.
    Merge(u8, u8),
    /// The own Node.
    Node(Option<NodeWords>),
    /// Addresses of the node's devices.
    Addresses(Vec<Ip>),
    /// The watch breaks; what was on its way is lost, and everything is listed again.
    Relist(Kind),
    /// The same, and the first list breaks off after so many objects.
    BrokenList(Kind, usize),
    /// The last items of the watch come again, in their order.
    Again(Kind, usize),
    /// Another agent takes over.
    Restart,
    /// The agent dies at this write of the next synchronization, and another takes over.
    Die(u64),
    /// About one write in so many fails in the next synchronization.
    Fail(u64),
    /// Interest bits that nobody needs any more are cleared, after so many hours.
    Clear(u64),
}

/// A change of a Service.
#[derive(Clone, Debug)]
pub(super) enum ServiceEdit {
    Type(Type),
    Address(u8),
    ClusterIps(ClusterIps),
    Ports(Vec<Port>),
    InternalLocal(bool),
    ExternalLocal(bool),
    Affinity(Option<i32>),
    WhenBackendGoes(Option<&'static str>),
    SourceRanges(Vec<&'static str>),
    ExternalIps(Vec<Ip>),
    Ingress(Vec<Ingress>),
    HealthCheckPort(i32),
    Hidden(bool),
    Note(u8),
    /// A load balancer with a node port, an address and both families, as much at once.
    Balanced,
}

impl ServiceEdit {
    pub(super) fn apply(&self, service: &mut ServiceWords) {
        match self {
            Self::Type(kind) => service.kind = *kind,
            Self::Address(number) => service.address = *number,
            Self::ClusterIps(cluster_ips) => service.cluster_ips = *cluster_ips,
            Self::Ports(ports) => service.ports.clone_from(ports),
            Self::InternalLocal(local) => service.internal_local = *local,
            Self::ExternalLocal(local) => service.external_local = *local,
            Self::Affinity(seconds) => service.affinity = *seconds,
            Self::WhenBackendGoes(value) => service.when_backend_goes = *value,
            Self::SourceRanges(ranges) => service.ranges.clone_from(ranges),
            Self::ExternalIps(ips) => service.external.clone_from(ips),
            Self::Ingress(ingress) => service.ingress.clone_from(ingress),
            Self::HealthCheckPort(port) => service.health_check_port = *port,
            Self::Hidden(hidden) => service.hidden = *hidden,
            Self::Note(note) => service.note = *note,
            Self::Balanced => {
                service.kind = Type::LoadBalancer;
                service.cluster_ips = ClusterIps::Both(Family::V4);
                service.ports = vec![
                    Port { name: 'a', protocol: Protocol::Tcp, number: 80, on_node: 30_000 },
                    Port { name: 'b', protocol: Protocol::Udp, number: 80, on_node: 30_000 },
                ];
                service.ingress = vec![Ingress::Ip(Ip(Family::V4, service.address))];
            }
        }
    }
}

/// A change of a slice.
#[derive(Clone, Debug)]
pub(super) enum SliceEdit {
    Service(Option<u8>),
    Family(Option<Family>),
    Headless(bool),
    Ports(Vec<SlicePort>),
    Endpoints(Vec<EndpointWords>),
    Add(EndpointWords),
    Remove(usize),
    /// An endpoint's conditions.
    Conditions(usize, Option<bool>, Option<bool>, Option<bool>),
}

impl SliceEdit {
    pub(super) fn apply(&self, slice: &mut SliceWords) {
        match self {
            Self::Service(service) => slice.service = *service,
            Self::Family(family) => slice.family = *family,
            Self::Headless(headless) => slice.headless = *headless,
            Self::Ports(ports) => slice.ports.clone_from(ports),
            Self::Endpoints(endpoints) => slice.endpoints.clone_from(endpoints),
            Self::Add(endpoint) => slice.endpoints.push(endpoint.clone()),
            Self::Remove(at) if *at < slice.endpoints.len() => drop(slice.endpoints.remove(*at)),
            Self::Remove(_) => {}
            Self::Conditions(at, ready, serving, terminating) => {
                if let Some(endpoint) = slice.endpoints.get_mut(*at) {
                    (endpoint.ready, endpoint.serving, endpoint.terminating) = (*ready, *serving, *terminating);
                }
            }
        }
    }
}

/// Sequences.
pub(super) fn sequences() -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..24)
}

fn step() -> impl Strategy<Value = Step> {
    let told = prop_oneof![8 => Just(Told::AtOnce), 2 => Just(Told::Later), 1 => Just(Told::InPart)];
    (what(), told).prop_map(|(what, told)| Step { what, told })
}

fn what() -> impl Strategy<Value = What> {
    let kind = || select(vec![Kind::Service, Kind::Slice, Kind::Node]);
    prop_oneof![
        12 => (0..SERVICES, service_edit()).prop_map(|(number, edit)| What::Service(number, edit)),
        2 => (0..SERVICES).prop_map(What::NoService),
        1 => (0..SERVICES).prop_map(What::AnotherService),
        12 => (0..SLICES, slice_edit()).prop_map(|(number, edit)| What::Slice(number, edit)),
        2 => (0..SLICES).prop_map(What::NoSlice),
        1 => (0..SLICES, 0..SLICES).prop_map(|(from, to)| What::Split(from, to)),
        1 => (0..SLICES, 0..SLICES).prop_map(|(to, from)| What::Merge(to, from)),
        1 => of(node()).prop_map(What::Node),
        1 => vec(ip(2), 0..3).prop_map(What::Addresses),
        1 => kind().prop_map(What::Relist),
        1 => (kind(), 0..4usize).prop_map(|(kind, after)| What::BrokenList(kind, after)),
        1 => (kind(), 1..4usize).prop_map(|(kind, items)| What::Again(kind, items)),
        1 => Just(What::Restart),
        1 => (0..12u64).prop_map(What::Die),
        1 => (2..6u64).prop_map(What::Fail),
        1 => select(vec![0, 25]).prop_map(What::Clear),
    ]
}

fn family() -> impl Strategy<Value = Family> {
    select(vec![Family::V4, Family::V6])
}

fn ip(numbers: u8) -> impl Strategy<Value = Ip> {
    (family(), 1..=numbers).prop_map(|(family, number)| Ip(family, number))
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![4 => Just(Protocol::Tcp), 3 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)]
}

fn name() -> impl Strategy<Value = char> {
    select(vec!['a', 'b', 'c'])
}

fn service_edit() -> impl Strategy<Value = ServiceEdit> {
    let kind = select(vec![Type::ClusterIp, Type::NodePort, Type::LoadBalancer, Type::ExternalName]);
    let cluster_ips = prop_oneof![
        4 => family().prop_map(ClusterIps::One),
        4 => family().prop_map(ClusterIps::Both),
        1 => Just(ClusterIps::Headless),
        1 => Just(ClusterIps::Pending),
    ];
    let node_port = prop_oneof![Just(0), 30_000..30_003u16];
    let port = (name(), protocol(), 80..83u16, node_port).prop_map(|(name, protocol, number, on_node)| Port {
        name,
        protocol,
        number,
        on_node,
    });
    let ingress = prop_oneof![
        3 => ip(3).prop_map(Ingress::Ip),
        1 => ip(3).prop_map(Ingress::Vip),
        1 => ip(3).prop_map(Ingress::Proxy),
        1 => Just(Ingress::HostName),
    ];
    prop_oneof![
        2 => kind.prop_map(ServiceEdit::Type),
        1 => (1..=SERVICES + 1).prop_map(ServiceEdit::Address),
        2 => cluster_ips.prop_map(ServiceEdit::ClusterIps),
        4 => vec(port, 0..4).prop_map(ServiceEdit::Ports),
        1 => any::<bool>().prop_map(ServiceEdit::InternalLocal),
        2 => any::<bool>().prop_map(ServiceEdit::ExternalLocal),
        1 => of(select(vec![1, 2, 10_800, 0])).prop_map(ServiceEdit::Affinity),
        1 => of(select(vec!["cut", "drain", "mend"])).prop_map(ServiceEdit::WhenBackendGoes),
        2 => vec(select(RANGES.to_vec()), 0..3).prop_map(ServiceEdit::SourceRanges),
        1 => vec(ip(3), 0..3).prop_map(ServiceEdit::ExternalIps),
        2 => vec(ingress, 0..3).prop_map(ServiceEdit::Ingress),
        1 => select(vec![0, 31_000, 31_001, 70_000]).prop_map(ServiceEdit::HealthCheckPort),
        1 => any::<bool>().prop_map(ServiceEdit::Hidden),
        1 => any::<u8>().prop_map(ServiceEdit::Note),
        3 => Just(ServiceEdit::Balanced),
    ]
}

fn condition() -> impl Strategy<Value = Option<bool>> {
    weighted(0.7, any::<bool>())
}

fn endpoint() -> impl Strategy<Value = EndpointWords> {
    let conditions = prop_oneof![
        2 => Just((None, None, None)),
        1 => (condition(), condition(), condition()),
    ];
    let hints = prop_oneof![2 => Just(Vec::new()), 1 => vec(1..3u8, 0..3)];
    (1..7u8, conditions, of(1..3u8), hints, prop_oneof![3 => Just(Vec::new()), 1 => vec(1..3u8, 0..2)]).prop_map(
        |(number, (ready, serving, terminating), node, zone_hints, node_hints)| EndpointWords {
            number,
            ready,
            serving,
            terminating,
            node,
            zone_hints,
            node_hints,
        },
    )
}

fn slice_edit() -> impl Strategy<Value = SliceEdit> {
    let name = weighted(0.95, name());
    let number = weighted(0.95, select(vec![8080, 8080, 8081, 0]));
    let port = (name, protocol(), number).prop_map(|(name, protocol, port)| SlicePort { name, protocol, port });
    prop_oneof![
        1 => weighted(0.9, 0..SERVICES).prop_map(SliceEdit::Service),
        1 => weighted(0.9, family()).prop_map(SliceEdit::Family),
        1 => any::<bool>().prop_map(SliceEdit::Headless),
        3 => vec(port, 0..4).prop_map(SliceEdit::Ports),
        3 => vec(endpoint(), 0..5).prop_map(SliceEdit::Endpoints),
        3 => endpoint().prop_map(SliceEdit::Add),
        1 => (0..4usize).prop_map(SliceEdit::Remove),
        2 => (0..4usize, condition(), condition(), condition())
            .prop_map(|(at, ready, serving, terminating)| SliceEdit::Conditions(at, ready, serving, terminating)),
    ]
}

fn node() -> impl Strategy<Value = NodeWords> {
    (of(1..3u8), vec(ip(2), 0..3)).prop_map(|(zone, addresses)| NodeWords { zone, addresses })
}
