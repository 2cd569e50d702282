//! Endpoints before and after a change, as kube-proxy's own test has them: who then serves each port, whether anything
//! had to be written, and how many endpoints of this node load balancers are told of.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use svclb_common::addr::Addr4;
use svclb_tests::script::world::{Settings, Stage};
use svclb_tests::script::{Files, show};
use svclb_userspace::model::{Family, ServiceName};
use svclb_userspace::tables::fake::{FakeTables, config};

/// Slices before and after, whether they differ, endpoints of this node by Service.
///
/// A slice is `SERVICE PORT:NUMBER,... ADDRESS ...`, where an address lacks its `10.` and has a star on this node.
const CASES: &[(&str, &str, bool, &str)] = &[
    ("", "", false, ""),
    ("ep1 p11:11 1.1.1*", "ep1 p11:11 1.1.1*", false, "ep1:1"),
    ("ep1 p11:11 1.1.1; ep1 p12:12 1.1.2", "ep1 p11:11 1.1.1; ep1 p12:12 1.1.2", false, ""),
    ("ep1 p11:11,p12:12 1.1.1*; ep1 p13:13 1.1.3", "ep1 p11:11,p12:12 1.1.1*; ep1 p13:13 1.1.3", false, "ep1:1"),
    (
        "ep1 p11:11,p12:12 1.1.1 1.1.2*; ep1 p13:13,p14:14 1.1.3 1.1.4*; ep2 p21:21,p22:22 2.2.1 2.2.2*",
        "ep1 p11:11,p12:12 1.1.1 1.1.2*; ep1 p13:13,p14:14 1.1.3 1.1.4*; ep2 p21:21,p22:22 2.2.1 2.2.2*",
        false,
        "ep1:2 ep2:1",
    ),
    ("", "ep1 p11:11 1.1.1*", true, "ep1:1"),
    ("ep1 p11:11 1.1.1*", "", true, ""),
    ("ep1 p11:11 1.1.1", "ep1 p11:11,p12:12 1.1.1 1.1.2*", true, "ep1:1"),
    ("ep1 p11:11,p12:12 1.1.1 1.1.2*", "ep1 p11:11 1.1.1", true, ""),
    ("ep1 p11:11 1.1.1", "ep1 p11:11 1.1.1; ep1 p12:12 1.1.2*", true, "ep1:1"),
    ("ep1 p11:11 1.1.1; ep1 p12:12 1.1.2*", "ep1 p11:11 1.1.1", true, ""),
    ("ep1 p11:11 1.1.1", "ep1 p11-2:11 1.1.1", true, ""),
    ("ep1 p11:11 1.1.1", "ep1 p11:22 1.1.1", true, ""),
    (
        "ep1 p11:11 1.1.1; ep2 p22:22 2.2.2* 2.2.22*; ep2 p23:23 2.2.3*; ep4 p44:44 4.4.4* 4.4.5*; ep4 p45:45 4.4.6*",
        "ep1 p11:11 1.1.1 1.1.11; ep1 p12:12,p122:122 1.1.2; ep3 p33:33 3.3.3; ep4 p44:44 4.4.4*",
        true,
        "ep4:1",
    ),
    ("ep1 p11:11", "ep1 p11:11 1.1.1", true, ""),
];

const SERVICES: [&str; 4] = ["ep1", "ep2", "ep3", "ep4"];

/// Names of all ports; the place is the number of the port of the Service.
const PORTS: [&str; 13] =
    ["p11", "p11-2", "p12", "p122", "p13", "p14", "p21", "p22", "p23", "p33", "p44", "p45", "p46"];

/// A slice in its parts: Service, ports by name, addresses with whether they are of this node.
type Parts<'a> = (&'a str, Vec<(&'a str, &'a str)>, Vec<(String, bool)>);

fn slices(text: &str) -> Vec<Parts<'_>> {
    text.split("; ")
        .filter(|slice| !slice.is_empty())
        .map(|slice| {
            let mut words = slice.split(' ');
            let service = words.next().expect("a Service");
            let ports = words.next().expect("ports").split(',');
            let ports = ports.map(|port| port.split_once(':').expect("a number")).collect();
            let addresses = words.map(|word| (format!("10.{}", word.trim_end_matches('*')), word.ends_with('*')));
            (service, ports, addresses.collect())
        })
        .collect()
}

/// All Services with all ports, and these slices.
fn files(text: &str) -> Files {
    let mut files = Files::new();
    for (number, service) in SERVICES.iter().enumerate() {
        let mut yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}}}\nspec:\n  type: LoadBalancer\n  \
             clusterIP: 10.96.0.{}\n  externalTrafficPolicy: Local\n  healthCheckNodePort: {}\n  ports:\n",
            number + 1,
            30_000 + number
        );
        for (number, port) in PORTS.iter().enumerate() {
            writeln!(yaml, "  - {{name: {port}, port: {}, protocol: UDP}}", number + 1).expect("a text takes it");
        }
        files.insert(format!("{service}.yaml"), yaml);
    }
    for (number, (service, ports, addresses)) in slices(text).into_iter().enumerate() {
        let ports: Vec<String> =
            ports.iter().map(|(name, number)| format!("{{name: {name}, port: {number}, protocol: UDP}}")).collect();
        let node = |is_own| if is_own { "n1" } else { "n2" };
        let endpoints: Vec<String> = addresses
            .iter()
            .map(|(address, is_own)| format!("{{addresses: [{address}], nodeName: {}}}", node(*is_own)))
            .collect();
        let yaml = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {service}-{number}, labels: \
             {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{}]\nendpoints: [{}]\n",
            ports.join(", "),
            endpoints.join(", ")
        );
        files.insert(format!("slice{number}.yaml"), yaml);
    }
    files
}

/// Who serves each port, as the slices have it.
fn wanted(text: &str) -> BTreeMap<(usize, usize), Vec<String>> {
    let mut wanted: BTreeMap<(usize, usize), Vec<String>> = BTreeMap::new();
    for (service, ports, addresses) in slices(text) {
        let service = SERVICES.iter().position(|own| *own == service).expect("a Service");
        for (name, number) in ports {
            let port = PORTS.iter().position(|own| *own == name).expect("a port");
            let endpoints = addresses.iter().map(|(address, _)| format!("{address}:{number}"));
            wanted.entry((service, port)).or_default().extend(endpoints);
        }
    }
    wanted
}

#[test]
fn a_change_of_endpoints_is_written_and_nothing_else_is() {
    for (number, (before, after, differs, local)) in CASES.iter().enumerate() {
        let limits = FakeTables::<Addr4>::SMALL;
        let config = config(&limits);
        let settings = Settings::parse("addresses 192.0.2.11");
        let mut stage = Stage::new(&settings, &config, FakeTables::new(limits), FakeTables::new(limits));
        stage.tell(&files(before));
        assert!(stage.sync().failures.is_empty(), "case {number}");
        stage.tell(&files(after));
        let report = stage.sync();
        assert!(report.failures.is_empty(), "case {number}");
        assert_eq!(report.writes > 0, *differs, "case {number}: {report:?}");
        let (v4, v6) = stage.tables();
        let shown = show(v4, v6);
        let wanted = wanted(after);
        for (service, name) in SERVICES.iter().enumerate() {
            for (port, port_name) in PORTS.iter().enumerate() {
                let frontend = format!("10.96.0.{}:{}/UDP cluster -> ", service + 1, port + 1);
                let line = shown.lines().find_map(|line| line.strip_prefix(&frontend)).expect("a frontend");
                let mut found: Vec<&str> = line.split(' ').take_while(|word| word.starts_with("10.")).collect();
                found.sort_unstable();
                let mut wanted: Vec<&str> =
                    wanted.get(&(service, port)).into_iter().flatten().map(String::as_str).collect();
                wanted.sort_unstable();
                assert_eq!(found, wanted, "case {number}: {port_name} of {name}");
            }
        }
        let told: Vec<String> = SERVICES
            .iter()
            .filter_map(|name| {
                let check = stage.health_checks().get(&ServiceName::new("default", *name))?;
                let count = check.local_endpoints(Family::V4);
                (count > 0).then(|| format!("{name}:{count}"))
            })
            .collect();
        assert_eq!(told.join(" "), *local, "case {number}");
    }
}
