//! How much is written to which maps for a change, on tables in memory: only what a change concerns.

use std::collections::BTreeMap;

use svclb_tests::script::Files;
use svclb_tests::script::world::{Settings, Stage};
use svclb_tests::world::Recorder;
use svclb_userspace::tables::fake::{FakeTables, config};

/// Lines `add SERVICE ADDRESS`, `remove SERVICE`, or `endpoints SERVICE ADDRESS ...`, and the entries that are then
/// written of each map.
///
/// A frontend comes with an interest bit, and a cluster IP with a mark beside its port; an endpoint with an interest
/// bit, a backend and a slot. Lists are written anew where no record names them, and switched by one write to SERVICE.
const CHANGES: &[(&str, &str)] = &[
    ("add a 10.96.0.1, endpoints a 10.244.1.1", "backends 1, interest 2, put 2, services 1, slots 1"),
    ("", ""),
    ("add b 10.96.0.2, endpoints b 10.244.1.2", "backends 1, interest 2, put 2, services 1, slots 1"),
    ("add c 10.96.0.3", "interest 1, put 2, services 1"),
    ("endpoints c 10.244.1.3", "backends 1, interest 1, services 1, slots 1"),
    // One replaced, one added, one taken away, all.
    ("endpoints a 10.244.1.4", "backends 2, interest 1, services 1, slots 1"),
    ("endpoints a 10.244.1.4 10.244.1.5", "backends 1, interest 1, services 1, slots 2"),
    ("endpoints a 10.244.1.5", "backends 1, services 1, slots 1"),
    ("endpoints a", "backends 1, services 1"),
    ("endpoints a 10.244.1.5", "backends 1, services 1, slots 1"),
    ("endpoints a 10.244.1.5", ""),
    ("remove b", "backends 1, remove 2, services 1"),
    ("remove a, remove c", "backends 2, remove 4, services 2"),
];

/// Brings files to what a change says.
fn apply(files: &mut Files, change: &str) {
    for line in change.split(", ").filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["add", name, address] => {
                let yaml = format!(
                    "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {address}, ports: \
                     [{{port: 80}}]}}\n"
                );
                files.insert(format!("{name}.yaml"), yaml);
            }
            ["remove", name] => {
                files.remove(&format!("{name}.yaml"));
                files.remove(&format!("{name}-endpoints.yaml"));
            }
            ["endpoints", name, ref addresses @ ..] => {
                let endpoints: Vec<String> =
                    addresses.iter().map(|address| format!("{{addresses: [{address}]}}")).collect();
                let yaml = format!(
                    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: \
                     {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: \"\", port: \
                     8080}}]\nendpoints: [{}]\n",
                    endpoints.join(", ")
                );
                files.insert(format!("{name}-endpoints.yaml"), yaml);
            }
            _ => panic!("no change: {line}"),
        }
    }
}

fn text(entries: &BTreeMap<&str, usize>) -> String {
    entries.iter().map(|(map, count)| format!("{map} {count}")).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_change_writes_the_entries_that_it_concerns_and_no_others() {
    let limits = FakeTables::<svclb_common::addr::Addr4>::SMALL;
    let settings = Settings::parse("addresses 192.0.2.11");
    let mut stage = Stage::new(&settings, &config(&limits), Recorder::new(limits), Recorder::new(limits));
    let mut files = Files::new();
    for (change, expected) in CHANGES {
        apply(&mut files, change);
        stage.tell(&files);
        let report = stage.sync();
        assert!(report.failures.is_empty(), "{change}: {report:?}");
        let (v4, v6) = stage.tables();
        assert_eq!(text(&v4.take_entries()), *expected, "{change}");
        assert!(v6.take_entries().is_empty(), "{change}: nothing is written for the other family");
    }
}
