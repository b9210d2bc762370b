//! Things counted by name, as many names as there is room for: the rest is counted together, as `other`.

use std::sync::{Arc, OnceLock};

use dashmap::DashMap;

/// What names beyond the bound are counted as. No subject or service can be called that by mistake: `other` is a good name, so
/// it is one that is none.
pub(crate) const OTHER: &str = "(other)";

/// Things by name.
pub(crate) struct Table<T> {
    named: DashMap<Box<str>, Arc<T>>,
    most: usize,
    other: OnceLock<Arc<T>>,
}

impl<T> Table<T> {
    /// A table for so many names.
    pub(crate) fn new(most: usize) -> Self {
        // Not one shard for each core and more, as is usual: there are several tables, and they are mostly read.
        Self { named: DashMap::with_shard_amount(4), most, other: OnceLock::new() }
    }

    /// What has this name; made if it is new and there is room.
    pub(crate) fn get(&self, name: &str, make: impl FnOnce(&str) -> T) -> Arc<T> {
        if let Some(known) = self.named.get(name) {
            return known.clone();
        }
        // Two at once may both find room: the bound is exceeded by as many as look at the same moment.
        if self.named.len() >= self.most {
            return self.other.get_or_init(|| Arc::new(make(OTHER))).clone();
        }
        self.named.entry(name.into()).or_insert_with(|| Arc::new(make(name))).clone()
    }

    /// Whether this name is one of those counted apart; it is from now on, if there is room.
    pub(crate) fn is_known(&self, name: &str, make: impl FnOnce() -> T) -> bool {
        if self.named.contains_key(name) {
            return true;
        }
        let room = self.named.len() < self.most;
        if room {
            self.named.insert(name.into(), Arc::new(make()));
        }
        room
    }

    /// Shows everything, in no order, without taking memory for it.
    pub(crate) fn each(&self, mut show: impl FnMut(&T)) {
        self.named.iter().for_each(|entry| show(entry.value()));
        if let Some(other) = self.other.get() {
            show(other);
        }
    }

    /// Everything, by name.
    pub(crate) fn all(&self) -> Vec<(String, Arc<T>)> {
        let named = self.named.iter().map(|entry| (entry.key().to_string(), entry.value().clone()));
        let mut all: Vec<_> = named.collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all.extend(self.other.get().map(|other| (OTHER.to_owned(), other.clone())));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_counted_together() {
        let table = Table::new(2);
        for name in ["b", "a", "c", "d", "a"] {
            table.get(name, str::to_owned);
        }
        let names: Vec<_> = table.all().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b", OTHER]);
        assert_eq!(*table.get("c", str::to_owned), OTHER);
    }
}
