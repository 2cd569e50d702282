//! Hash tables of the agent's own.
//!
//! A first synchronization hashes some hundred thousand names and addresses. The standard library's hash function
//! took a quarter of its time; this one is five times as fast. Its seed is random for each process, so that the
//! names of Services cannot be chosen to collide.

/// A hash map.
pub type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
/// A hash set.
pub type HashSet<K> = std::collections::HashSet<K, foldhash::fast::RandomState>;
