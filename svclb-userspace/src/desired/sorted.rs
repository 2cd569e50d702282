//! A small map that does not change.

use std::collections::BTreeMap;
use std::slice::Iter;

/// Keys in order and their values. A tree takes the room of eleven entries for one; a Service port has one or two
/// frontends and mostly few endpoints, and there are tens of thousands of both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sorted<K, V>(Box<[(K, V)]>);

impl<K: Ord, V> Sorted<K, V> {
    /// Number of entries.
    pub const fn count(&self) -> usize {
        self.0.len()
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        let place = self.0.binary_search_by(|(own, _)| own.cmp(key)).ok()?;
        self.0.get(place).map(|(_, value)| value)
    }

    /// Whether there is such a key.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }
}

impl<K, V> Sorted<K, V> {
    /// All entries, in the order of their keys.
    pub fn iter(&self) -> Entries<'_, K, V> {
        Entries(self.0.iter())
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self(Box::default())
    }
}

/// Of two entries with one key the last counts.
impl<K: Ord, V> FromIterator<(K, V)> for Sorted<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        Self(BTreeMap::from_iter(entries).into_iter().collect())
    }
}

/// See [`Sorted::iter`].
#[derive(Clone, Debug)]
pub struct Entries<'a, K, V>(Iter<'a, (K, V)>);

impl<'a, K, V> Iterator for Entries<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, value)| (key, value))
    }
}

impl<'a, K, V> IntoIterator for &'a Sorted<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Entries<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_in_order_and_the_last_of_a_key_counts() {
        let map: Sorted<u8, u8> = [(3, 1), (1, 2), (3, 4)].into_iter().collect();
        assert_eq!(map.iter().collect::<Vec<_>>(), [(&1, &2), (&3, &4)]);
        assert_eq!(map.keys().collect::<Vec<_>>(), [&1, &3]);
        assert_eq!((map.get(&3), map.get(&2), map.contains_key(&1)), (Some(&4), None, true));
    }
}
