//! What whoever works on an item says of it, where somebody waits to hear that.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    envelope::{ErrorBody, Header, Kind, Verdict},
    fabric::wire::{self, Envelope},
    socket::pipe::Pipe,
    sync::lock,
};

/// Items remembered as done, so that one that comes again because its ack was lost is not done twice.
const REMEMBERED: usize = 65_536;

/// Names an item: who pushes it, and the outbox and the number that it gave it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key {
    pub(crate) sender: Arc<str>,
    pub(crate) outbox: Arc<str>,
    pub(crate) id: u64,
}

/// The items that are being worked on here, and those that were done last.
#[derive(Default)]
pub(super) struct Answers {
    working: HashMap<Key, Weak<Answer>>,
    done: HashSet<Key>,
    order: VecDeque<Key>,
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
        if answers.done.contains(&key) {
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
        });
        answers.working.insert(key, Arc::downgrade(&answer));
        Some(answer)
    }

    /// What was done before this node started.
    #[cfg(feature = "durable")]
    pub(super) fn remember(&mut self, disk: super::outbox::Disk, done: impl Iterator<Item = Key>) {
        done.for_each(|key| self.end(&key, true));
        self.disk = Some(disk);
    }

    fn end(&mut self, key: &Key, done: bool) {
        self.working.remove(key);
        if done && self.done.insert(key.clone()) {
            self.order.push_back(key.clone());
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.done.remove(&oldest);
            }
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
}

impl Answer {
    pub(super) fn ack(&self) {
        self.give(None);
    }

    pub(super) fn nack(&self, error: &ErrorBody) {
        self.give(Some(error));
    }

    fn give(&self, error: Option<&ErrorBody>) {
        if self.given.swap(true, Ordering::Relaxed) {
            return;
        }
        // Before it is said: what is said may bring the next attempt.
        let mut answers = lock(&self.answers);
        answers.end(&self.key, error.is_none());
        let pipe = lock(&self.pipe).clone();
        #[cfg(feature = "durable")]
        if let (None, Some(disk)) = (error, &answers.disk) {
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
