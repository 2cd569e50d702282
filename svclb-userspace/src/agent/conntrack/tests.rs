//! Sysctls as files in a folder.

use tempfile::TempDir;

use super::*;

const NAME: &str = "timeout";

/// A machine with this sysctl at a value, and a folder for notes.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn with(value: u64) -> Self {
        let machine = Self::new();
        machine.set(value);
        machine
    }

    fn sysctls(&self) -> Folder {
        Folder::at(self.0.path())
    }

    fn notes(&self) -> Notes {
        Notes::beside(self.0.path())
    }

    fn set(&self, value: u64) {
        fs::write(self.0.path().join(NAME), format!("{value}\n")).expect("a file");
    }

    fn get(&self) -> u64 {
        self.sysctls().read(NAME).expect("a number").expect("it is there")
    }

    /// An agent that wants this starts.
    fn start(&self, wanted: Wanted) -> Conntrack {
        let mut conntrack = Conntrack::new(self.sysctls(), self.notes(), vec![wanted]);
        conntrack.write();
        conntrack
    }

    fn clean_up(&self) -> usize {
        let restored = restore(&self.sysctls(), &self.notes()).expect("it can be written");
        assert_eq!(self.notes().names().expect("a list"), Vec::<String>::new());
        restored
    }
}

#[test]
fn a_value_is_written_and_put_back() {
    let machine = Machine::with(60);
    assert!(!machine.start(Wanted::exactly(NAME, 3600)).waits());
    assert_eq!(machine.get(), 3600);
    assert_eq!((machine.clean_up(), machine.get()), (1, 60));
    assert_eq!(machine.clean_up(), 0, "it is done once");
}

#[test]
fn what_is_enough_already_is_never_touched() {
    for wanted in [Wanted::at_least(NAME, 100), Wanted::exactly(NAME, 200)] {
        let machine = Machine::with(200);
        machine.start(wanted);
        assert_eq!((machine.get(), machine.clean_up()), (200, 0), "{wanted}");
    }
    let machine = Machine::with(50);
    machine.start(Wanted::at_least(NAME, 100));
    assert_eq!(machine.get(), 100);
}

#[test]
fn a_value_is_written_when_its_file_comes_and_only_once() {
    let machine = Machine::new();
    let mut agent = machine.start(Wanted::exactly(NAME, 3600));
    assert!(agent.waits());
    machine.set(60);
    agent.write();
    assert_eq!((machine.get(), agent.waits()), (3600, false));
    machine.set(10);
    agent.write();
    assert_eq!(machine.get(), 10, "who changes it later has the last word");
}

#[test]
fn what_was_there_before_the_first_of_several_agents_is_put_back() {
    let machine = Machine::with(60);
    for value in [3600, 3600, 7200] {
        machine.start(Wanted::exactly(NAME, value));
        assert_eq!(machine.get(), value);
    }
    assert_eq!((machine.clean_up(), machine.get()), (1, 60));
}

#[test]
fn what_somebody_else_wrote_stays() {
    let machine = Machine::with(60);
    machine.start(Wanted::exactly(NAME, 3600));
    machine.set(90);
    assert_eq!((machine.clean_up(), machine.get()), (0, 90));

    machine.start(Wanted::exactly(NAME, 3600));
    machine.set(120);
    machine.start(Wanted::exactly(NAME, 3600));
    assert_eq!((machine.clean_up(), machine.get()), (1, 120), "the second agent found it there");
}

#[test]
fn a_value_that_cannot_be_written_is_left_and_not_noted() {
    let machine = Machine::new();
    // A folder in its place can be neither read nor written.
    fs::create_dir(machine.0.path().join(NAME)).expect("a folder");
    assert!(!machine.start(Wanted::exactly(NAME, 3600)).waits(), "it is not tried for ever");
    assert_eq!(machine.notes().names().expect("a list"), Vec::<String>::new());
}

#[test]
fn a_sysctl_that_is_gone_does_not_hinder_cleanup() {
    let machine = Machine::with(60);
    machine.start(Wanted::exactly(NAME, 3600));
    fs::remove_file(machine.0.path().join(NAME)).expect("it is there");
    assert_eq!(machine.clean_up(), 0);
}

#[test]
fn cpus_are_counted_in_ranges() {
    for (list, cpus) in [("0\n", Some(1)), ("0-3,5,7-8\n", Some(7)), ("", None), ("3-1", None)] {
        assert_eq!(count(list), cpus, "{list:?}");
    }
    assert!(online_cpus() >= 1);
}
