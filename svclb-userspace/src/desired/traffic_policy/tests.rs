//! The choice of endpoints, case by case, as data.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use svclb_common::addr::Addr4;
use svclb_common::service::backend_flag::{IN_CLUSTER, IN_LOCAL};

use super::{Policy, categorize};
use crate::desired::{Place, services};
use crate::model::{
    Endpoint, Family, Hints, Protocol, Service, ServiceKind, ServiceName, ServicePort, Slice, SliceName, SlicePort,
    WhenBackendGoes,
};

const NODE: &str = "n1";

/// Reads `NAME/ZONES/NODES FLAGS`: zones and nodes `-` or left out mean no hint; flags are `L` local,
/// `R` ready, `S` serving while terminating, `x` neither.
fn endpoint(text: &str) -> Endpoint {
    let (name, flags) = text.split_once(' ').expect("an endpoint has flags");
    let mut parts = name.split('/');
    let number: u8 = parts.next().and_then(|number| number.parse().ok()).expect("a number");
    let mut hints = || match parts.next() {
        None | Some("-") => vec![],
        Some(list) => list.split(',').map(Into::into).collect(),
    };
    Endpoint {
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)),
        hints: Hints::of(hints(), hints()),
        ready: flags.contains('R'),
        serving: flags.contains('R') || flags.contains('S'),
        terminating: flags.contains('S'),
        node: flags.contains('L').then(|| NODE.into()),
    }
}

fn policy(words: &str) -> Policy {
    Policy {
        internal_local: words.contains("internal"),
        external_local: words.contains("external"),
        external: words.contains("port"),
    }
}

/// Node name, zone, policy, endpoints, cluster list, local list, any.
type Case = (&'static str, Option<&'static str>, &'static str, &'static str, &'static str, &'static str, bool);

const MIXED_ZONES: &str = "3/a LR; 4/b LR; 5/c R; 6/a R";
const NODE_HINTS: &str = "3/a/n1 R; 4/b/n2 R; 5/c/n3 R; 6/a/n4 R";

const CASES: &[Case] = &[
    // Hints by zone.
    ("", Some("a"), "", "3/a R; 4/b R; 5/c R; 6/a R", "3 6", "", true),
    ("", Some("a"), "external port", MIXED_ZONES, "3 6", "", true),
    (NODE, Some("a"), "external port", MIXED_ZONES, "3 6", "3 4", true),
    (NODE, Some("a"), "internal port", MIXED_ZONES, "3 6", "3 4", true),
    (NODE, None, "", "3/a R", "3", "", true),
    (NODE, Some(""), "", "3/a R", "3", "", true),
    (NODE, Some("b"), "", "3/a R", "3", "", true),
    (NODE, Some("a"), "", "3/a R; 4/b R; 5/c R; 6/a x", "3", "", true),
    (NODE, Some("a"), "", "3/a x; 4/b R; 5/c R; 6/a x", "4 5", "", true),
    (NODE, Some("a"), "", "3/a R; 4/b R; 5/- R; 6/a R", "3 4 5 6", "", true),
    (NODE, Some("c"), "", "3/a,b,c R; 4/b,c R; 5/b,d R; 6/c R", "3 4 6", "", true),
    // Hints by node go first, if complete.
    (NODE, Some("a"), "", NODE_HINTS, "3", "", true),
    (NODE, Some("a"), "", "3/a/n1 R; 4/-/- R; 5/c/n3 R; 6/a/n4 R", "3 4 5 6", "", true),
    ("n0", Some("a"), "", NODE_HINTS, "3 6", "", true),
    (NODE, Some("a"), "external port", "0/a LR; 1/b LR; 2/a R; 3/b R", "0 2", "0 1", true),
    // Traffic policies.
    (NODE, None, "internal", "", "", "", false),
    (NODE, None, "internal", "0 R; 1 R", "", "", true),
    (NODE, None, "internal", "0 LR; 1 LR", "", "0 1", true),
    (NODE, None, "internal", "0 LR; 1 R", "", "0", true),
    (NODE, None, "", "0 x; 1 x", "", "", false),
    (NODE, None, "", "0 x; 1 R", "1", "", true),
    (NODE, None, "", "0 LS; 1 S", "0 1", "", true),
    (NODE, None, "internal port", "0 LR; 1 R", "0 1", "0", true),
    (NODE, None, "external port", "0 LR; 1 R", "0 1", "0", true),
    (NODE, None, "internal external port", "0 LR; 1 R", "0 1", "0", true),
    (NODE, None, "internal external port", "0 R; 1 R", "0 1", "", true),
    (NODE, None, "internal external port", "0 S; 1 S", "0 1", "", true),
    (NODE, None, "external port", "0 R; 1 Lx; 2 LS; 3 S", "0", "2", true),
    (NODE, None, "external", "0 R; 1 LR", "0 1", "", true),
    (NODE, None, "internal", "0 R; 1 LR", "", "1", true),
    (NODE, None, "", "", "", "", false),
    (NODE, Some("a"), "", "0 x", "", "", false),
    // The fallback to terminating endpoints ignores hints.
    (NODE, Some("a"), "", "0/b/n2 S; 1/a/n1 S", "0 1", "", true),
    (NODE, Some("a"), "", "0/b/n2 R; 1/a/n1 S; 2/-/- S", "0", "", true),
];

#[test]
fn both_lists_hold_what_the_policies_and_the_hints_say() {
    for (number, (node, zone, policy_words, endpoints, cluster, local, any)) in CASES.iter().enumerate() {
        let endpoints: Vec<Endpoint> = endpoints.split("; ").filter(|text| !text.is_empty()).map(endpoint).collect();
        let refs: Vec<&Endpoint> = endpoints.iter().collect();
        let lists = categorize(&refs, policy(policy_words), node, *zone);
        let list = |flag: u8| {
            let names = endpoints.iter().zip(&lists.of_endpoint).filter(|(_, lists)| *lists & flag != 0);
            names.map(|(endpoint, _)| endpoint.address.to_string().replace("10.0.0.", "")).collect::<Vec<_>>()
        };
        assert_eq!(list(IN_CLUSTER).join(" "), *cluster, "cluster list of case {number}");
        assert_eq!(list(IN_LOCAL).join(" "), *local, "local list of case {number}");
        assert_eq!(lists.any, *any, "any endpoint in case {number}");
    }
}

/// Policies, where the endpoints are, whether packets of the internal and of the external policy find nobody here.
const LACKING: &[(&str, &str, [bool; 2])] = &[
    ("internal", "0 LR; 1 R; 2 R", [false, false]),
    ("external", "0 LR; 1 R; 2 R", [false, false]),
    ("internal external", "0 LR; 1 R; 2 R", [false, false]),
    ("internal", "0 R; 1 R; 2 R", [true, false]),
    ("external", "0 R; 1 R; 2 R", [false, true]),
    ("internal external", "0 R; 1 R; 2 R", [true, true]),
    ("internal external", "", [false, false]),
];

#[test]
fn a_policy_lacks_local_endpoints_where_only_other_nodes_have_some() {
    for (policies, endpoints, lacking) in LACKING {
        let (name, protocol): (Arc<str>, _) = ("p80".into(), Protocol::Tcp);
        let service = Service {
            name: ServiceName::new("ns1", "svc1"),
            kind: ServiceKind::NodePort,
            families: [true, false],
            cluster_ips: [Some(Ipv4Addr::new(172, 30, 1, 1).into()), None],
            external_ips: vec![],
            ingress_ips: vec![],
            source_ranges: vec![],
            internal_local: policies.contains("internal"),
            external_local: policies.contains("external"),
            health_check_port: None,
            affinity_seconds: None,
            when_backend_goes: WhenBackendGoes::Drain,
            ports: vec![ServicePort { name: name.clone(), protocol, port: 80, node_port: 123 }],
        };
        let slice = Slice {
            name: SliceName { namespace: "ns1".into(), name: "svc1".into() },
            service: service.name.clone(),
            family: Family::V4,
            ports: vec![SlicePort { name, protocol, port: 80 }],
            endpoints: endpoints.split("; ").filter(|text| !text.is_empty()).map(endpoint).collect(),
            changed: None,
        };
        let place = Place {
            node_name: NODE.into(),
            node_port_addresses: vec![Ipv4Addr::new(192, 168, 0, 2).into()],
            ..Place::default()
        };
        let tables = services::tables::<Addr4>(&service, &[slice].iter(), &place);
        assert_eq!(tables[0].1.lacks_local(), *lacking, "{policies}, {endpoints}");
    }
}
