//! The tests of Kubernetes' own end-to-end suite for the network, as of the release that the cluster binary is built
//! from: which of them are about traffic to Services, and which are not.
//!
//! A test is named by its file below `test/e2e/network` and its own text. What it asserts is said in our words. Those
//! about traffic are to be shown by a scenario each, which names them ([`Scenario::upstream`]); the others say why no
//! proxy could fail them.

mod load_balancers;
mod networking;
mod services;

use super::{scenario::Scenario, scenarios};

/// A test of Kubernetes.
#[derive(Debug)]
pub struct Upstream {
    /// `FILE: TEXT`.
    pub name: &'static str,
    /// Whether it is about traffic.
    pub about: About,
}

/// What a test of Kubernetes is about.
#[derive(Debug)]
pub enum About {
    /// Traffic to Services, or what a proxy tells others. What the test asserts.
    Traffic(&'static str),
    /// Nothing in which a proxy takes part. Why.
    NoProxy(&'static str),
}

const fn traffic(name: &'static str, asserts: &'static str) -> Upstream {
    Upstream { name, about: About::Traffic(asserts) }
}

const fn no_proxy(name: &'static str, reason: &'static str) -> Upstream {
    Upstream { name, about: About::NoProxy(reason) }
}

/// All tests.
pub fn all() -> impl Iterator<Item = &'static Upstream> {
    [services::TESTS, networking::TESTS, load_balancers::TESTS].into_iter().flatten()
}

/// The scenarios that stand for a test.
pub fn scenarios_for(test: &Upstream) -> impl Iterator<Item = &'static Scenario> {
    let name = test.name;
    scenarios::all().filter(move |scenario| scenario.upstream.contains(&name))
}

/// The tests about traffic for which no scenario stands.
pub fn without_scenario() -> impl Iterator<Item = &'static Upstream> {
    all().filter(|test| matches!(test.about, About::Traffic(_)) && scenarios_for(test).next().is_none())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_tests_and_no_two_scenarios_have_one_name() {
        let mut tests = BTreeSet::new();
        assert!(all().all(|test| tests.insert(test.name)));
        let mut names = BTreeSet::new();
        for scenario in scenarios::all() {
            assert!(names.insert(scenario.name), "two scenarios are named {}", scenario.name);
        }
    }

    #[test]
    fn scenarios_stand_for_tests_that_exist_and_are_about_traffic() {
        for scenario in scenarios::all() {
            for name in scenario.upstream {
                let test = all().find(|test| test.name == *name);
                let about = test.map(|test| &test.about);
                assert!(matches!(about, Some(About::Traffic(_))), "{}: {name}: {about:?}", scenario.name);
            }
        }
    }

    #[test]
    fn a_test_is_named_by_its_file() {
        for test in all() {
            assert!(test.name.split_once(".go: ").is_some_and(|(file, _)| !file.contains('/')), "{}", test.name);
        }
    }
}
