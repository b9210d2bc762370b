//! What whoever works on an item says of it, where somebody waits to hear that.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    envelope::{ErrorBody, Header, Kind, Verdict},
    fabric::{
        effect::{Effect, Recorded, What},
        wire::{self, Envelope},
    },
    socket::pipe::Pipe,
    sync::lock,
};

/// Items remembered as done, so that one that comes again because its ack was lost is not done twice; where they are kept on
/// disk, `durable.dedup` says how many.
const REMEMBERED: u64 = 65_536;

/// Names an item: who pushes it, and the outbox and the number that it gave it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key {
    pub(crate) sender: Arc<str>,
    pub(crate) outbox: Arc<str>,
    pub(crate) id: u64,
}

/// Ids of one outbox. On disk there may be millions of them.
#[cfg(feature = "durable")]
type Ids = roaring::RoaringTreemap;

/// Ids of one outbox.
#[cfg(not(feature = "durable"))]
#[derive(Default)]
struct Ids(std::collections::BTreeSet<u64>);

#[cfg(not(feature = "durable"))]
impl Ids {
    fn contains(&self, id: u64) -> bool {
        self.0.contains(&id)
    }

    fn insert(&mut self, id: u64) -> bool {
        self.0.insert(id)
    }

    fn min(&self) -> Option<u64> {
        self.0.first().copied()
    }

    fn remove(&mut self, id: u64) -> bool {
        self.0.remove(&id)
    }
}

/// The items that are being worked on here, and those that were done last.
#[derive(Default)]
pub(super) struct Answers {
    working: HashMap<Key, Weak<Answer>>,
    /// By outbox: its ids are minted one after the other, and so take next to no room.
    done: HashMap<(Arc<str>, Arc<str>), Ids>,
    count: u64,
    limit: Option<u64>,
    /// Where what is done is written down before that is said; a node without a place on disk remembers it only itself.
    #[cfg(feature = "durable")]
    disk: Option<super::outbox::Disk>,
}

impl Answers {
    /// An item has come; `None`: it has come before. Whoever works on it then answers on the newer connection, and what was done
    /// is acked again.
    pub(super) fn begin(
        this: &Arc<Mutex<Self>>,
        key: Key,
        queue: &Arc<str>,
        pipe: &Arc<Pipe>,
    ) -> Option<Arc<Answer>> {
        let mut answers = lock(this);
        if let Some(answer) = answers.working.get(&key).and_then(Weak::upgrade) {
            *lock(&answer.pipe) = pipe.clone();
            return None;
        }
        if answers.is_done(&key) {
            drop(answers);
            say(pipe, queue, key.id, None);
            return None;
        }
        let answer = Arc::new(Answer {
            answers: this.clone(),
            key: key.clone(),
            queue: queue.clone(),
            pipe: Mutex::new(pipe.clone()),
            given: AtomicBool::new(false),
            recorded: Recorded::default(),
        });
        answers.working.insert(key, Arc::downgrade(&answer));
        Some(answer)
    }

    /// What was done before this node started.
    #[cfg(feature = "durable")]
    pub(super) fn remember(
        &mut self,
        disk: super::outbox::Disk,
        limit: u64,
        done: impl Iterator<Item = Key>,
    ) {
        self.limit = Some(limit);
        done.for_each(|key| self.end(&key, true));
        self.disk = Some(disk);
    }

    fn is_done(&self, key: &Key) -> bool {
        #[cfg(feature = "durable")]
        if crate::sync::is_mutated("dedup") {
            return false;
        }
        let of = (key.sender.clone(), key.outbox.clone());
        self.done.get(&of).is_some_and(|done| done.contains(key.id))
    }

    fn end(&mut self, key: &Key, done: bool) {
        self.working.remove(key);
        if !done {
            return;
        }
        let of = (key.sender.clone(), key.outbox.clone());
        let ids = self.done.entry(of).or_default();
        self.count += u64::from(ids.insert(key.id));
        if self.count > self.limit.unwrap_or(REMEMBERED) {
            // The oldest of the same outbox: its ids rise.
            let oldest = ids.min().is_some_and(|oldest| ids.remove(oldest));
            self.count -= u64::from(oldest);
        }
    }
}

/// The answer that somebody waits for. The first one counts; dropped without one, it is that nobody worked on the item.
pub(super) struct Answer {
    answers: Arc<Mutex<Answers>>,
    key: Key,
    queue: Arc<str>,
    /// The newest connection that has brought the item.
    pipe: Mutex<Arc<Pipe>>,
    given: AtomicBool,
    /// It was written down together with what was done.
    recorded: Recorded,
}

impl Answer {
    pub(super) fn ack(&self) {
        self.give(None);
    }

    pub(super) fn nack(&self, error: &ErrorBody) {
        self.give(Some(error));
    }

    /// What is to be done.
    pub(super) fn effect(&self) -> Effect {
        let Key { sender, outbox, id } = self.key.clone();
        Effect::new(What::Item { sender, outbox, id }, self.recorded.clone())
    }

    /// It is still being worked on.
    pub(super) fn extend(&self) {
        let pipe = lock(&self.pipe).clone();
        wire::urgent(&pipe, Envelope::None, &self.queue, Header::new(Kind::Progress, self.key.id), &());
    }

    fn give(&self, error: Option<&ErrorBody>) {
        if self.given.swap(true, Ordering::Relaxed) {
            return;
        }
        let recorded = self.recorded.is_set();
        let error = error.filter(|_| !recorded);
        // Before it is said: what is said may bring the next attempt.
        let mut answers = lock(&self.answers);
        answers.end(&self.key, error.is_none());
        let pipe = lock(&self.pipe).clone();
        #[cfg(feature = "durable")]
        if let (None, false, Some(disk)) = (error, recorded, &answers.disk) {
            return disk.done(self.key.clone(), self.queue.clone(), pipe);
        }
        drop(answers);
        say(&pipe, &self.queue, self.key.id, error);
    }
}

/// Says what became of an item.
pub(super) fn say(pipe: &Pipe, queue: &str, id: u64, error: Option<&ErrorBody>) {
    match error {
        None => wire::urgent(pipe, Envelope::None, queue, Header::new(Kind::Ack, id), &()),
        Some(error) => wire::urgent(pipe, Envelope::None, queue, Header::new(Kind::Nack, id), error),
    }
}

/// Nobody worked on it here: another may.
pub(super) fn untouched() -> ErrorBody {
    ErrorBody { retry: Some(Verdict::Elsewhere), ..ErrorBody::new("", "it was given back without an answer") }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.nack(&untouched());
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("id", &self.key.id).field("given", &self.given).finish_non_exhaustive()
    }
}
