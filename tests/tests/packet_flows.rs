//! Every flow of kube-proxy's own tests, from the objects to the packet: who gets it, from which source.
#![expect(clippy::print_stderr, reason = "how many rows there were is for people")]

use std::fs;
use std::path::Path;

use svclb_tests::flows::ask::Node;
use svclb_tests::flows::{count, report, rows, twin};
use svclb_tests::script::{Script, all};
use svclb_tests::world::World;

/// Asks all rows of a script; how many, over all steps, and how many of them could not be asked here.
fn ask(script: &Script, world: impl Fn() -> World, name: &str) -> (usize, usize) {
    let (mut asked, mut left) = (0, 0);
    let mut steps = rows(script).into_iter().peekable();
    while let Some(first) = steps.peek() {
        let mut world = world();
        let mut node = Node::new(&mut world, &first.0.settings);
        let mut begun = false;
        while let Some((step, rows)) = steps.next_if(|(step, _)| !begun || !step.is_new_node) {
            begun = true;
            node.follow(&step);
            for row in rows {
                let outcomes = node.ask(&row);
                if outcomes.is_empty() {
                    left += 1;
                }
                asked += 1;
                for (way, outcome) in outcomes {
                    let about = format!("{}, {name}, {way}, with {:?}\n{row}", script.name(), step.settings);
                    let expected = row.expected();
                    assert!(row.agrees(&outcome, expected), "{about} = {outcome}\nmust be {expected}");
                }
            }
        }
        world.end();
    }
    (asked, left)
}

/// Asks all rows in a world, those that hold in IPv6 as well there too.
fn ask_all(world: impl Fn() -> World, name: &str, with_sockets: bool) {
    let (mut total, mut twins) = (0, 0);
    for script in all("flows") {
        let own = count(&script);
        assert_eq!(own.rows, script.settings().rows, "rows in {}", script.name());
        let (asked, left) = ask(&script, &world, name);
        assert_eq!(asked, own.steps, "rows of {} that were asked", script.name());
        assert!(left == 0 || !with_sockets, "rows of {} that were not asked", script.name());
        total += asked;
        if script.settings().twin {
            twins += ask(&twin(&script), &world, name).0;
        }
    }
    eprintln!("{name}: {total} rows of kube-proxy's flows over all steps, {twins} again in IPv6");
}

#[test]
fn every_flow_of_kube_proxys_tests_goes_where_its_row_says_on_the_host() {
    ask_all(World::host, "host", true);
}

#[cfg(feature = "kernel")]
#[test]
fn every_flow_of_kube_proxys_tests_goes_where_its_row_says_in_the_kernel() {
    ask_all(World::kernel, "kernel", false);
}

/// kube-proxy has 119, of which one is there once more as it was meant; 21 stand for tests of kube-proxy that look at
/// rules, not at flows.
#[test]
fn no_row_of_kube_proxys_tests_is_missing() {
    let scripts = all("flows");
    let total: usize = scripts.iter().map(|script| count(script).rows).sum();
    assert_eq!(total, 119 + 1 + 21);
}

#[test]
fn the_document_about_flows_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/flows.md");
    let wanted = report(&all("flows"));
    if std::env::var_os("SVCLB_UPDATE_SCRIPTS").is_some() {
        fs::write(&path, &wanted).expect("a document can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "docs/flows.md is not up to date:\n{wanted}");
}
