//! What a line has read and not handed out, in what order: no I/O.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque, hash_map::Entry},
    time::Duration,
};

use tokio::time::Instant;

use crate::durable::{Id, Item, Millis};

/// Items read at once, and how many are looked at ahead while no puller takes any.
pub(super) const PAGE: usize = 256;
/// Items that are kept in memory although their pullers take no more, while others' do.
const HELD: usize = 4096;

/// An item that is to be handed to a puller.
pub(super) struct Ready {
    pub(super) item: Item,
    /// Where it may have been worked on already: it goes back there, until then.
    pub(super) doubt: Option<(String, Instant)>,
}

/// What a line has read and not sent.
#[derive(Default)]
pub(super) struct Desk {
    /// The last id that was read.
    pub(super) cursor: Id,
    /// There may be more behind it.
    pub(super) more: bool,
    pub(super) ready: VecDeque<Ready>,
    /// Read, and not due yet.
    pub(super) later: BinaryHeap<Reverse<(Millis, Id)>>,
    /// Due, and to be read again.
    pub(super) due: Vec<Id>,
    keys: Keys,
    /// Nothing that is ready expires before this.
    expires: Option<Millis>,
    /// No puller takes anything now.
    pub(super) full: bool,
}

/// Keys of which an item is on its way, and what waits behind it.
#[derive(Default)]
struct Keys {
    owners: HashMap<Id, String>,
    waiting: HashMap<String, VecDeque<Id>>,
}

impl Keys {
    /// `true`: it may go on; `false`: it waits for the one that is on its way.
    fn enter(&mut self, id: Id, key: &str) -> bool {
        if self.owners.contains_key(&id) {
            return true;
        }
        match self.waiting.entry(key.to_owned()) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().push_back(id);
                false
            }
            Entry::Vacant(vacant) => {
                vacant.insert(VecDeque::new());
                self.owners.insert(id, key.to_owned());
                true
            }
        }
    }

    /// It is gone: the next of its key.
    fn leave(&mut self, id: Id) -> Option<Id> {
        let key = self.owners.remove(&id)?;
        let Entry::Occupied(mut waiting) = self.waiting.entry(key) else { return None };
        let Some(next) = waiting.get_mut().pop_front() else {
            waiting.remove();
            return None;
        };
        self.owners.insert(next, waiting.key().clone());
        Some(next)
    }
}

impl Desk {
    /// Nothing has been read.
    pub(super) fn new() -> Self {
        Self { more: true, ..Self::default() }
    }

    /// Whether more may be read.
    pub(super) fn has_room(&self) -> bool {
        self.ready.len() < if self.full { PAGE } else { HELD }
    }

    /// An item was read: it is handed out now, later, or after others of its key.
    pub(super) fn admit(&mut self, item: Item, time: Millis, same_first: Duration) {
        let late = item.due > time;
        // One that has failed holds its key until its next attempt; one that is scheduled does not.
        if (!late || item.attempts > 0)
            && let Some(key) = &item.labels.key
            && !self.keys.enter(item.id, key)
        {
            return;
        }
        if late {
            return self.later.push(Reverse((item.due, item.id)));
        }
        let until = Instant::now() + same_first;
        let doubt = item.doubt.as_ref().map(|doubt| (doubt.holder.clone(), until));
        self.expires = [self.expires, item.expires].into_iter().flatten().min();
        self.ready.push_back(Ready { item, doubt });
    }

    /// Takes out what is ready and whose time is over, wherever it stands: whoever is in front may wait for long.
    pub(super) fn expired(&mut self, time: Millis) -> Vec<Item> {
        if self.expires.is_none_or(|first| first > time) {
            return Vec::new();
        }
        let is_over = |ready: &Ready| ready.item.expires.is_some_and(|expires| expires <= time);
        let (over, ready) = std::mem::take(&mut self.ready).into_iter().partition::<Vec<_>, _>(is_over);
        self.ready = ready.into();
        self.expires = self.ready.iter().filter_map(|ready| ready.item.expires).min();
        over.into_iter().map(|ready| ready.item).collect()
    }

    /// It is owed no more.
    pub(super) fn leave(&mut self, id: Id) {
        self.due.extend(self.keys.leave(id));
    }

    /// When there is something to do, if nobody says anything.
    pub(super) fn next(&self, time: Millis) -> Option<Duration> {
        let due =
            self.later.peek().map(|Reverse((due, _))| Duration::from_millis(due.0.saturating_sub(time.0)));
        let now = Instant::now();
        // The first that will have waited long enough for its instance: few, and only while one is away. One that has waits for
        // somebody to pull, like the others.
        let doubt = self.ready.iter().filter_map(|ready| ready.doubt.as_ref().map(|(_, until)| *until));
        let doubt = doubt.filter(|until| *until > now).min().map(|until| until - now);
        let expires = self.expires.map(|expires| Duration::from_millis(expires.0.saturating_sub(time.0)));
        [due, doubt, expires].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::{Doubt, Labels};

    fn item(id: Id, expires: Option<u64>, doubt: Option<Doubt>) -> Item {
        let (created, due, expires) = (Millis(0), Millis(0), expires.map(Millis));
        let (queue, body, labels) = ("a".into(), bytes::Bytes::new(), Labels::default());
        Item { id, queue, body, labels, created, due, expires, attempts: 0, error: None, doubt, lost: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn it_never_has_to_be_looked_at_again_at_once() {
        let same_first = Duration::from_secs(5);
        let mut desk = Desk::new();
        let doubt = Doubt { since: Millis(0), holder: "node-1".into() };
        desk.admit(item(1, None, Some(doubt)), Millis(0), same_first);
        desk.admit(item(2, Some(9000), None), Millis(0), same_first);
        assert_eq!(desk.next(Millis(0)), Some(same_first));
        // Nobody pulls: what has waited for its instance waits on, and for nothing.
        tokio::time::advance(same_first).await;
        assert_eq!(desk.next(Millis(5000)), Some(Duration::from_secs(4)));
        assert!(desk.expired(Millis(8999)).is_empty());
        let over: Vec<_> = desk.expired(Millis(9000)).into_iter().map(|item| item.id).collect();
        assert_eq!((over, desk.ready.len(), desk.next(Millis(9000))), (vec![2], 1, None));
    }
}
