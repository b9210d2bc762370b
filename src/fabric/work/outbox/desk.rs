//! What a line has read and not handed out, in what order: no I/O.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque, hash_map::Entry},
    time::Duration,
};

use tokio::time::Instant;

use crate::durable::{Id, Item, Millis};

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
        self.ready.push_back(Ready { item, doubt });
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
        // The first that has waited long enough for its instance: few, and only while one is away.
        let doubt =
            self.ready.iter().filter_map(|ready| ready.doubt.as_ref()).map(|(_, until)| *until - now).min();
        let expires = self.ready.iter().filter_map(|ready| ready.item.expires).min();
        let expires = expires.map(|expires| Duration::from_millis(expires.0.saturating_sub(time.0)));
        [due, doubt, expires].into_iter().flatten().min()
    }
}
