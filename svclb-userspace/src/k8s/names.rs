//! Names that many objects have in common: of namespaces, nodes, zones and ports.

use std::sync::{Arc, Mutex, PoisonError};

use crate::hashing::HashSet;

/// The names in use.
static NAMES: Mutex<Option<Names>> = Mutex::new(None);

/// The same text for everybody who asks for it: 10,000 Services with 3 endpoints name their namespace, nodes and
/// ports 60,000 times, with 32 bytes each.
pub(super) fn shared(name: &str) -> Arc<str> {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    names.get_or_insert_default().get(name)
}

#[derive(Default)]
struct Names {
    known: HashSet<Arc<str>>,
    /// At how many names those that nobody has any more are forgotten.
    full: usize,
}

impl Names {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        if self.known.len() >= self.full {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            self.full = self.known.len() * 2 + 64;
        }
        let new: Arc<str> = name.into();
        self.known.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_forgotten_when_nobody_has_it() {
        let mut names = Names::default();
        let kept = names.get("kept");
        assert!(Arc::ptr_eq(&kept, &names.get("kept")));
        for number in 0..1000 {
            names.get(&format!("node-{number}"));
        }
        assert!(names.known.len() < 200, "{} names", names.known.len());
        assert!(Arc::ptr_eq(&kept, &names.get("kept")));
    }
}
