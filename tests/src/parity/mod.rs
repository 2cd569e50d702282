//! Every scenario once, run against svclb and against the real kube-proxy.
//!
//! A *subject* ([`Subject`]) is what serves Services on the nodes: svclb, or kube-proxy in one of its modes. A
//! *scenario* ([`Scenario`]) is a function that makes Services and asks them from some place; it says by name for which
//! tests of Kubernetes it stands ([`catalogue`]). It runs once for each family and protocol that it is about, a *case*
//! each. All subjects serve the same cluster, one after the other: one API server, three nodes, the same pods and
//! clients ([`stage`]).
//!
//! What a scenario asks for is what svclb must do. Where kube-proxy is known to do something else the scenario says
//! so, with the reason, and the case then counts as one that differs and not as one that failed.

pub mod ask;
pub mod catalogue;
pub mod objects;
pub mod play;
mod proxies;
mod report;
mod run;
pub mod scenario;
pub mod scenarios;
pub mod stage;
mod subject;

pub use report::{Report, Row, Verdict};
pub use run::{Options, run, selected};
pub use scenario::{Case, Differs, Family, Scenario, Turn};
pub use subject::Subject;
