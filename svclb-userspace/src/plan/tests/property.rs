//! Random histories of Services, with writes that fail and agents that die.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use svclb_common::addr::Addr4;
use svclb_common::service::scope;

use super::safety::{Wanted, check_between, expected, see};
use super::scenario::{Agent, key, tables};
use crate::desired::PortTables;
use crate::tables::fake::FakeTables;
use crate::tables::faulty::{Fault, FaultyTables};

/// One change: a port, and what it wants from now on.
#[derive(Clone, Debug)]
struct Change {
    port: u8,
    tables: Option<PortTables<Addr4>>,
}

fn change() -> impl Strategy<Value = Change> {
    (0..8u8).prop_flat_map(|port| {
        let protocol = key(port).protocol;
        let frontends = vec((1..6u8, scope::CLUSTER..=scope::EXTERNAL), 0..4);
        let tables = (frontends, vec((1..12u8, 0..4u8), 0..6), vec(1..5u8, 0..3), 0..2u32).prop_map(
            move |(frontends, endpoints, ranges, affinity)| tables(protocol, &frontends, &endpoints, &ranges, affinity),
        );
        proptest::option::weighted(0.8, tables).prop_map(move |tables| Change { port, tables })
    })
}

fn apply(agent: &mut Agent, changes: &[Change]) {
    for Change { port, tables } in changes {
        agent.want(&key(*port), tables.clone());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn tables_show_what_is_wanted_and_the_copy_of_them_is_exact(history in vec(vec(change(), 1..5), 1..8)) {
        let mut fake = FakeTables::new(FakeTables::<Addr4>::SMALL);
        let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
        for changes in &history {
            apply(&mut agent, changes);
            let report = agent.run(&mut fake);
            prop_assert!(report.failures.is_empty(), "{:?}", report.failures);
            prop_assert!(agent.planner.is_settled());
            prop_assert_eq!(agent.planner.content(), &fake.content);
            prop_assert_eq!(see(&fake.content), expected(&agent.wanted));
            prop_assert_eq!(agent.run(&mut fake).writes, 0, "nothing is left to do");
        }
    }

    #[test]
    fn every_prefix_of_a_plan_is_safe_and_a_new_agent_completes_it(
        first in vec(change(), 1..8),
        second in vec(change(), 1..6),
    ) {
        let mut fake = FakeTables::new(FakeTables::<Addr4>::SMALL);
        let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
        apply(&mut agent, &first);
        agent.run(&mut fake);
        let old = agent.wanted.clone();
        for cut in 0.. {
            // Each attempt starts from the same tables with a new agent that dies at write `cut`.
            let mut attempt = Agent::start(&fake, &old, Duration::ZERO);
            let mut tables = FaultyTables::new(fake.clone(), Fault::From(cut));
            apply(&mut attempt, &second);
            let done = attempt.run(&mut tables).failures.is_empty();
            check_between(&tables.inner.content, &attempt.config, &old, &attempt.wanted);
            let mut left = tables.inner;
            let mut heir = Agent::start(&left, &attempt.wanted, Duration::ZERO);
            let report = heir.run(&mut left);
            prop_assert!(report.failures.is_empty(), "{:?}", report.failures);
            prop_assert_eq!(see(&left.content), expected(&attempt.wanted));
            if done {
                break;
            }
        }
    }

    #[test]
    fn writes_that_fail_now_and_then_are_made_up_for(
        history in vec(vec(change(), 1..5), 1..6),
        parts in 2..10u64,
        seed in any::<u64>(),
    ) {
        let mut tables = FaultyTables::new(FakeTables::new(FakeTables::<Addr4>::SMALL), Fault::OneIn(parts, seed));
        let mut agent = Agent::start(&tables.inner, &Wanted::new(), Duration::ZERO);
        for changes in &history {
            let old = agent.wanted.clone();
            tables.fault = Fault::OneIn(parts, seed);
            apply(&mut agent, changes);
            agent.run(&mut tables);
            check_between(&tables.inner.content, &agent.config, &old, &agent.wanted);
            prop_assert_eq!(agent.planner.content(), &tables.inner.content);
            tables.fault = Fault::Never;
            agent.run(&mut tables);
            let report = agent.run(&mut tables);
            prop_assert!(report.failures.is_empty(), "{:?}", report.failures);
            prop_assert!(agent.planner.is_settled());
            prop_assert_eq!(see(&tables.inner.content), expected(&agent.wanted));
        }
    }

    #[test]
    fn the_order_of_changes_does_not_matter(changes in vec(change(), 1..8), order in any::<u64>()) {
        // One change for each port, in two orders, each written at once.
        let mut last: std::collections::BTreeMap<u8, Change> = std::collections::BTreeMap::new();
        for change in &changes {
            last.insert(change.port, change.clone());
        }
        let sorted: Vec<Change> = last.into_values().collect();
        let mut shuffled = sorted.clone();
        shuffled.sort_by_key(|change| (u64::from(change.port) + 1).wrapping_mul(order | 1));
        let ends = [sorted, shuffled].map(|changes| {
            let mut fake = FakeTables::new(FakeTables::<Addr4>::SMALL);
            let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
            for change in changes {
                apply(&mut agent, &[change]);
                agent.run(&mut fake);
            }
            see(&fake.content)
        });
        prop_assert_eq!(&ends[0], &ends[1]);
    }
}
