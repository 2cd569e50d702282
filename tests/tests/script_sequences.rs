//! A sample of the random sequences of events; all of them: `cargo xtask sequences`.

use std::sync::Mutex;

use svclb_tests::sequences::{Selection, run_all};

const COUNT: u64 = 2000;

#[test]
fn the_order_of_events_does_not_matter_and_packets_of_untouched_services_notice_none() {
    let failures = Mutex::new(Vec::new());
    let selection = Selection { seed: 1, first: 0, count: COUNT };
    let record = run_all(selection, 2, |_| {}, |failure| failures.lock().expect("no panic").push(failure.to_string()));
    let failures = failures.into_inner().expect("no panic");
    assert!(failures.is_empty(), "{} of {COUNT} failed\n{}", failures.len(), failures.first().expect("one"));
    assert_eq!(record.passed, COUNT);
    assert!(record.events > 4 * record.passed && record.writes > 10 * record.passed, "{record:?}");
}
