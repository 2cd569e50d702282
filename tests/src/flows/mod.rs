//! Flows: a packet that a client sends to a Service, and who gets it.
//!
//! What kube-proxy does with some 120 such packets is known from its own unit tests. They are kept as rows in scripts
//! (`tests/tests/flows`, see [`crate::script`]), with the objects that make them so, and are what svclb is measured
//! with: [`ask`] sends the packets through the hooks, on tables that the agent's engine wrote from the objects.
//!
//! A row is a line
//!
//! ```text
//! ID FROM SOURCE > DESTINATION:PORT/PROTOCOL = OUTCOME
//! ```
//!
//! FROM is `pod` (it comes by a device of a pod), `outside` (by a device that leads out of the node) or `node` (it is
//! a process of the node itself). OUTCOME is what kube-proxy does in its nftables mode:
//!
//! - `to ENDPOINT ...`: each of these gets it with the same chance, and none else; the source stays;
//! - `masqueraded to ENDPOINT ...`: the same, and the source becomes an address of this node;
//! - `refused`: the client is told that nobody serves it; `dropped`: the client is not told;
//! - `untouched`: it is no Service's business.
//!
//! A process of the node has an address of the node as source whether or not the packet is masqueraded, so that the two
//! are not told apart there.
//!
//! Where svclb does something else, a second line says so, `svclb on purpose = OUTCOME; REASON` where it is to stay so
//! and `svclb so far = OUTCOME; REASON` where it is not. A row with such a line fails as soon as svclb does what
//! kube-proxy does.

pub mod ask;
mod report;
mod row;
mod twin;

pub use report::{Count, count, report};
pub use row::{From, Mark, Outcome, Remark, Row};
pub use twin::twin;

use crate::script::{Check, Script, Step};

/// The steps of a script, each with its rows. Rows that are the same as in an earlier step are repeated.
///
/// # Panics
/// If something in it is no row.
pub fn rows(script: &Script) -> Vec<(Step, Vec<Row>)> {
    let mut base: Vec<Row> = Vec::new();
    let mut steps = Vec::new();
    for step in script.steps() {
        let given = row::parse(&step.expected);
        let all = match step.check {
            Check::Flows => {
                base.clone_from(&given);
                given
            }
            Check::SameFlows => {
                let known = |row: &Row| base.iter().any(|own| own.id == row.id);
                assert!(given.iter().all(known), "{}: a row that was not there before", script.name());
                let others = |row: &Row| given.iter().find(|own| own.id == row.id).unwrap_or(row).clone();
                base.iter().map(others).collect()
            }
            Check::Tables => panic!("{} looks at tables", script.name()),
        };
        steps.push((step, all));
    }
    steps
}
