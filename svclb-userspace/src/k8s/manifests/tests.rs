//! Folders that change, and files that are bad.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::follow;
use crate::model::{Event, Kind, Model, ServiceName};

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME}\n\
                       spec: {clusterIP: 10.96.0.1, ports: [{port: PORT}]}\n---\n";

fn service(name: &str, port: u16) -> String {
    SERVICE.replace("NAME", name).replace("PORT", &port.to_string())
}

/// A folder that is followed, and what was told of it.
struct Followed {
    folder: TempDir,
    events: UnboundedReceiver<Event>,
    model: Model,
    problems: Vec<String>,
}

impl Followed {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (sender, events) = unbounded_channel();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("a file");
        }
        follow(folder.path(), "n1", sender).expect("the folder can be followed");
        let mut followed = Self { folder, events, model: Model::default(), problems: vec![] };
        followed.until(|followed| followed.model.complete());
        followed
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("a file");
    }

    /// Takes in what is told until something holds.
    #[track_caller]
    fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !holds(self) {
            match self.events.try_recv() {
                Ok(Event::Bad(problem)) => self.problems.push(problem.message),
                Ok(event) => self.model.apply(event),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
            assert!(Instant::now() < deadline, "it does not come true: {:?}, {:?}", self.model, self.problems);
        }
    }

    fn port(&self, name: &str) -> Option<u16> {
        let service = self.model.service(&ServiceName::new("default", name))?;
        service.ports.first().map(|port| port.port)
    }
}

#[test]
fn a_folder_is_followed_as_files_come_change_and_go() {
    let mut followed = Followed::new(&[("a.yaml", &(service("a", 80) + &service("b", 81)))]);
    assert_eq!((followed.port("a"), followed.port("b")), (Some(80), Some(81)));
    followed.write("c.yml", &service("c", 82));
    followed.until(|followed| followed.port("c") == Some(82));
    followed.write("a.yaml", &service("a", 90));
    followed.until(|followed| followed.port("a") == Some(90) && followed.port("b").is_none());
    fs::rename(followed.path().join("c.yml"), followed.path().join("c.txt")).expect("it can be renamed");
    followed.until(|followed| followed.port("c").is_none());
    assert!(followed.problems.is_empty(), "{:?}", followed.problems);
}

#[test]
fn a_file_that_is_no_yaml_keeps_its_last_good_state() {
    let mut followed = Followed::new(&[("a.yaml", &service("a", 80))]);
    followed.write("a.yaml", "kind: [");
    followed.until(|followed| !followed.problems.is_empty());
    assert!(followed.problems[0].contains("no YAML"), "{:?}", followed.problems);
    followed.write("b.yaml", &service("b", 81));
    followed.until(|followed| followed.port("b") == Some(81));
    assert_eq!(followed.port("a"), Some(80));
    followed.write("a.yaml", &service("a", 90));
    followed.until(|followed| followed.port("a") == Some(90));
    assert_eq!(followed.problems.len(), 1, "told once: {:?}", followed.problems);
}

#[test]
fn an_object_that_is_bad_keeps_its_last_good_state_and_others_go_on() {
    let mut followed = Followed::new(&[("a.yaml", &(service("a", 80) + &service("b", 81)))]);
    let bad = service("a", 80).replace("[{port: 80}]", "7") + &service("b", 91);
    followed.write("a.yaml", &bad);
    followed.until(|followed| followed.port("b") == Some(91));
    assert_eq!(followed.port("a"), Some(80));
    assert!(followed.problems[0].starts_with("Service default/a: "), "{:?}", followed.problems);
}

#[test]
fn a_folder_that_is_not_there_is_refused_by_name() {
    let (sender, _events) = unbounded_channel();
    let error = follow(Path::new("/nonexistent/manifests"), "n1", sender).expect_err("it is not there");
    assert!(error.to_string().contains("/nonexistent/manifests"), "{error}");
}

#[test]
fn every_kind_is_listed_even_in_an_empty_folder() {
    let followed = Followed::new(&[]);
    assert_eq!(followed.model.missing(), Vec::<Kind>::new());
}
