//! Every script on tables in memory; then with every single write failing once, and with an agent that
//! dies at every single write and another that takes over.

use svclb_common::addr::{Addr4, Addr6};
use svclb_common::config::Config;
use svclb_tests::script::world::{Settings, Stage};
use svclb_tests::script::{Script, all, show};
use svclb_userspace::plan::Limits;
use svclb_userspace::tables::fake::{FakeTables, config};
use svclb_userspace::tables::faulty::{Fault, FaultyTables};

type Fake = (FakeTables<Addr4>, FakeTables<Addr6>);
type Faulty = Stage<FaultyTables<FakeTables<Addr4>>, FaultyTables<FakeTables<Addr6>>>;

const LIMITS: Limits = FakeTables::<Addr4>::SMALL;

fn empty() -> Fake {
    (FakeTables::new(LIMITS), FakeTables::new(LIMITS))
}

fn settings_config() -> Config {
    config(&LIMITS)
}

#[test]
fn every_script_shows_its_tables() {
    for mut script in all("scripts") {
        let (v4, v6) = empty();
        let mut stage = Stage::new(&script.settings(), &settings_config(), v4, v6);
        for step in script.steps() {
            stage.tell(&step.files);
            let report = stage.sync();
            assert!(report.failures.is_empty(), "{}: {:?}", script.name(), report.failures);
            assert!(stage.drift().is_empty(), "{}: the copy of the tables is not exact", script.name());
            let (v4, v6) = stage.tables();
            let shown = show(v4, v6);
            script.check_tables(&step, &shown, "on tables in memory");
        }
    }
}

#[test]
fn an_agent_that_starts_at_any_step_writes_nothing_anew() {
    for script in all("scripts") {
        for last in 0..script.steps().len() {
            let mut stage = faulty(&script, last, empty());
            assert!(stage.sync().failures.is_empty());
            let (v4, v6) = stage.into_tables();
            let mut again = Stage::new(&script.settings(), &settings_config(), v4, v6);
            again.tell(&script.steps()[last].files);
            assert_eq!(again.sync().writes, 0, "{}, tables number {}", script.name(), last + 1);
        }
    }
}

#[test]
fn a_write_that_fails_is_made_up_for() {
    for mut script in all("scripts") {
        for (last, step) in script.steps().iter().enumerate() {
            for cut in 0.. {
                let mut stage = faulty(&script, last, empty());
                set_fault(&mut stage, Fault::Once(cut));
                let failed = !stage.sync().failures.is_empty();
                set_fault(&mut stage, Fault::Never);
                let again = stage.sync();
                assert!(again.failures.is_empty() && stage.is_settled(), "{}: {again:?}", script.name());
                let (v4, v6) = stage.tables();
                let shown = show(v4, v6);
                script.check_tables(step, &shown, &format!("when write {cut} had failed"));
                if !failed {
                    break;
                }
            }
        }
    }
}

#[test]
fn an_agent_that_dies_at_any_write_leaves_tables_that_another_completes() {
    for mut script in all("scripts") {
        for (last, step) in script.steps().iter().enumerate() {
            for cut in 0.. {
                let mut stage = faulty(&script, last, empty());
                set_fault(&mut stage, Fault::From(cut));
                let died = !stage.sync().failures.is_empty();
                let (v4, v6) = stage.into_tables();
                let mut heir = Stage::new(&script.settings(), &settings_config(), v4.inner, v6.inner);
                heir.tell(&step.files);
                let report = heir.sync();
                assert!(report.failures.is_empty() && heir.is_settled(), "{}: {report:?}", script.name());
                let (v4, v6) = heir.tables();
                let shown = show(v4, v6);
                script.check_tables(step, &shown, &format!("when the agent had died at write {cut}"));
                if !died {
                    break;
                }
            }
        }
    }
}

/// A stage at which all steps before `last` are done, and `last` is told and not written yet.
fn faulty(script: &Script, last: usize, (v4, v6): Fake) -> Faulty {
    let settings: &Settings = &script.settings();
    let v4 = FaultyTables::new(v4, Fault::Never);
    let v6 = FaultyTables::new(v6, Fault::Never);
    let mut stage = Stage::new(settings, &settings_config(), v4, v6);
    for (number, step) in script.steps().iter().enumerate().take(last + 1) {
        stage.tell(&step.files);
        if number < last {
            stage.sync();
        }
    }
    stage
}

fn set_fault(stage: &mut Faulty, fault: Fault) {
    let (v4, v6) = stage.tables();
    (v4.fault, v4.tried) = (fault, 0);
    (v6.fault, v6.tried) = (fault, 0);
}
