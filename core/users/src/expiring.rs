//! A bounded table of things that are good for a while.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

/// Entries that all live equally long; the oldest make room when the table is full.
#[derive(Debug)]
pub(crate) struct Expiring<K, V> {
    entries: HashMap<K, (u64, V)>,
    /// Keys in the order of their insertion, and so of their expiry; taken ones stay until they
    /// would have expired.
    order: VecDeque<(u64, K)>,
    lifetime_ms: u64,
    capacity: usize,
}

impl<K: Clone + Eq + Hash, V> Expiring<K, V> {
    pub(crate) fn new(lifetime: Duration, capacity: usize) -> Self {
        let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        Self { entries: HashMap::new(), order: VecDeque::new(), lifetime_ms, capacity }
    }

    pub(crate) fn lifetime_ms(&self) -> u64 {
        self.lifetime_ms
    }

    /// Adds an entry under a key that was never used before.
    pub(crate) fn insert(&mut self, now_ms: u64, key: K, value: V) {
        self.expire(now_ms);
        while self.order.len() >= self.capacity {
            self.drop_oldest();
        }
        let expires_ms = now_ms.saturating_add(self.lifetime_ms);
        self.order.push_back((expires_ms, key.clone()));
        self.entries.insert(key, (expires_ms, value));
    }

    /// When this entry goes, if it is there.
    pub(crate) fn expires_ms(&self, key: &K) -> Option<u64> {
        self.entries.get(key).map(|(expires_ms, _)| *expires_ms)
    }

    pub(crate) fn get_mut(&mut self, now_ms: u64, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).filter(|(expires, _)| *expires > now_ms).map(|(_, value)| value)
    }

    pub(crate) fn take(&mut self, now_ms: u64, key: &K) -> Option<V> {
        let (expires_ms, value) = self.entries.remove(key)?;
        (expires_ms > now_ms).then_some(value)
    }

    /// Drops what has expired.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        while self.order.front().is_some_and(|(expires_ms, _)| *expires_ms <= now_ms) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_expire_and_are_taken_once() {
        let mut table = Expiring::new(Duration::from_millis(10), 8);
        table.insert(0, "one", 1);
        table.insert(5, "two", 2);
        assert_eq!(table.get_mut(9, &"one"), Some(&mut 1));
        assert_eq!(table.get_mut(10, &"one"), None);
        assert_eq!(table.take(10, &"two"), Some(2));
        assert_eq!(table.take(10, &"two"), None);
        table.expire(100);
        assert!(table.order.is_empty() && table.entries.is_empty());
    }

    #[test]
    fn the_oldest_make_room() {
        let mut table = Expiring::new(Duration::from_millis(10), 3);
        for key in 0..100 {
            table.insert(0, key, ());
            assert!(table.order.len() <= 3 && table.entries.len() <= 3);
        }
        assert!(table.get_mut(0, &99).is_some());
        assert!(table.get_mut(0, &96).is_none());
    }
}
