//! A bounded queue between connections and the handle that reads it: a subscription or a pull.
//!
//! ```text
//!   connection's task ── fill ──▶ tail: batches ══ swapped when the head is empty ══▶ head: batches ── take ──▶ reader
//! ```
//!
//! One end each, so that the connection and the reader do not wait for each other at every message; what is counted
//! between them is counted once for a batch. When it is full the connections that feed it stop reading, so that
//! back-pressure reaches the sender, whose policy decides; nothing is dropped here.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crate::{
    Message,
    socket::{account::OVERHEAD, pipe::Pipe},
    sync::lock,
};

/// A reader tells what it has taken after so many messages, if its batch has as many.
const TELL: usize = 64;
/// Emptied batches that are kept, and how large.
const SPARES: usize = 8;
const SPARE: usize = 1024;

pub(crate) struct Inbox {
    messages: usize,
    bytes: usize,
    head: Mutex<Head>,
    /// Locked after `head`, if both are.
    tail: Mutex<Tail>,
    /// In both, as far as it was told.
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    /// Somebody wants to hear when there is room.
    pausing: AtomicBool,
}

/// What one connection brought.
struct Batch {
    pipe: Arc<Pipe>,
    items: VecDeque<Item>,
}

struct Item {
    message: Message,
    /// Events lost before this one, by the publisher's numbers.
    missed: u64,
}

#[derive(Default)]
struct Head {
    batches: VecDeque<Batch>,
    /// Taken of the first batch and not told yet.
    taken: usize,
    taken_bytes: usize,
    spare: Vec<VecDeque<Item>>,
}

#[derive(Default)]
struct Tail {
    batches: VecDeque<Batch>,
    spare: Vec<VecDeque<Item>>,
    /// Connections that were paused because of this queue.
    paused: Vec<Arc<Pipe>>,
    readers: Vec<Waker>,
    closed: bool,
}

fn counts(message: &Message) -> usize {
    message.size() + OVERHEAD
}

impl Inbox {
    /// A queue that is full at this many messages or bytes.
    pub(crate) fn new(messages: usize, bytes: usize) -> Self {
        Self {
            messages: messages.max(1),
            bytes: bytes.max(1),
            head: Mutex::default(),
            tail: Mutex::default(),
            waiting: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            pausing: AtomicBool::new(false),
        }
    }

    /// Puts what `pipe` brings, until it is dropped.
    pub(crate) fn fill<'a>(&'a self, pipe: &'a Arc<Pipe>) -> Fill<'a> {
        Fill { inbox: self, pipe, tail: lock(&self.tail), thin: pipe.is_thin(), put: 0, put_bytes: 0 }
    }

    fn has_room(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) < self.messages
            && self.waiting_bytes.load(Ordering::SeqCst) < self.bytes
    }

    fn is_half_empty(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) <= self.messages / 2
            && self.waiting_bytes.load(Ordering::SeqCst) <= self.bytes / 2
    }

    /// The next message and what was missed before it, after `from` was shown whose it is; `None` when the queue is
    /// closed and empty.
    pub(crate) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        from: impl FnOnce(&Arc<Pipe>),
    ) -> Poll<Option<(Message, u64)>> {
        let mut head = lock(&self.head);
        if head.batches.is_empty() {
            let mut tail = lock(&self.tail);
            if tail.batches.is_empty() {
                if tail.closed {
                    return Poll::Ready(None);
                }
                if !tail.readers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    tail.readers.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
            mem::swap(&mut head.batches, &mut tail.batches);
            tail.spare.append(&mut head.spare);
            tail.spare.truncate(SPARES);
        }
        let taken = self.take(&mut head, from);
        drop(head);
        let (item, stopped) = taken;
        if let Some(pipe) = stopped {
            pipe.resume();
        }
        if self.pausing.load(Ordering::SeqCst) && self.is_half_empty() {
            self.resume();
        }
        Poll::Ready(item.map(|item| (item.message, item.missed)))
    }

    /// Also gives the connection that waits to hear of it.
    fn take(&self, head: &mut Head, from: impl FnOnce(&Arc<Pipe>)) -> (Option<Item>, Option<Arc<Pipe>>) {
        let Some(batch) = head.batches.front_mut() else { return (None, None) };
        from(&batch.pipe);
        let item = batch.items.pop_front();
        head.taken += 1;
        head.taken_bytes += item.as_ref().map_or(0, |item| counts(&item.message));
        let done = batch.items.is_empty();
        let few = head.taken < TELL.min(self.messages / 16) && head.taken_bytes < self.bytes / 16;
        if few && !done {
            return (item, None);
        }
        let (taken, bytes) = (mem::take(&mut head.taken), mem::take(&mut head.taken_bytes));
        self.waiting.fetch_sub(taken, Ordering::SeqCst);
        self.waiting_bytes.fetch_sub(bytes, Ordering::SeqCst);
        let stopped = batch.pipe.taken(bytes).then(|| batch.pipe.clone());
        if done && let Some(mut batch) = head.batches.pop_front() {
            batch.items.shrink_to(SPARE);
            if head.spare.len() < SPARES {
                head.spare.push(batch.items);
            }
        }
        (item, stopped)
    }

    fn resume(&self) {
        let paused = {
            let mut tail = lock(&self.tail);
            self.pausing.store(false, Ordering::SeqCst);
            mem::take(&mut tail.paused)
        };
        paused.iter().for_each(|pipe| pipe.resume());
    }

    /// Takes no more; what is in it can still be read.
    pub(crate) fn close(&self) {
        let readers = {
            let mut tail = lock(&self.tail);
            tail.closed = true;
            mem::take(&mut tail.readers)
        };
        readers.into_iter().for_each(Waker::wake);
        self.resume();
    }

    /// Closes the queue and counts what nobody will read.
    pub(crate) fn abandon(&self) {
        self.close();
        let mut head = lock(&self.head);
        let mut batches = mem::take(&mut head.batches);
        let told_later = mem::take(&mut head.taken_bytes);
        head.taken = 0;
        batches.append(&mut lock(&self.tail).batches);
        drop(head);
        let mut dropped = 0;
        for (n, batch) in batches.iter().enumerate() {
            dropped += batch.items.len() as u64;
            let bytes: usize = batch.items.iter().map(|item| counts(&item.message)).sum();
            if batch.pipe.taken(bytes + if n == 0 { told_later } else { 0 }) {
                batch.pipe.resume();
            }
        }
        self.waiting.store(0, Ordering::SeqCst);
        self.waiting_bytes.store(0, Ordering::SeqCst);
        if dropped > 0 {
            metrics::counter!("ripstop_messages_dropped_total", "reason" => "reader_gone").increment(dropped);
        }
    }

    /// How many messages wait.
    pub(crate) fn len(&self) -> usize {
        let head = lock(&self.head);
        self.waiting.load(Ordering::SeqCst).saturating_sub(head.taken)
    }
}

/// The end of a queue, in the hands of one connection for as long as it has something to put.
pub(crate) struct Fill<'a> {
    inbox: &'a Inbox,
    pipe: &'a Arc<Pipe>,
    tail: MutexGuard<'a, Tail>,
    thin: bool,
    /// Since the last time it was told.
    put: usize,
    put_bytes: usize,
}

impl Fill<'_> {
    /// Whether there is room; if not, the connection is resumed once there is.
    pub(crate) fn has_room(&mut self) -> bool {
        let inbox = self.inbox;
        let (waiting, bytes) = (&inbox.waiting, &inbox.waiting_bytes);
        let full = |put: usize, put_bytes: usize| {
            waiting.load(Ordering::Relaxed) + put >= inbox.messages
                || bytes.load(Ordering::Relaxed) + put_bytes >= inbox.bytes
        };
        if self.tail.closed || !full(self.put, self.put_bytes) {
            return true;
        }
        self.tell();
        if !self.tail.paused.iter().any(|paused| Arc::ptr_eq(paused, self.pipe)) {
            // Peers may come and go while the reader stands still.
            self.tail.paused.retain(|paused| !paused.is_closed());
            self.tail.paused.push(self.pipe.clone());
        }
        inbox.pausing.store(true, Ordering::SeqCst);
        // The reader may have taken something before it saw that.
        inbox.has_room()
    }

    /// Adds a message, over the mark too: ask `has_room` first. One for a closed queue is dropped and counted.
    pub(crate) fn put(&mut self, mut message: Message, missed: u64) {
        if self.tail.closed {
            metrics::counter!("ripstop_messages_dropped_total", "reason" => "reader_gone").increment(1);
            return;
        }
        if self.thin {
            message = message.to_owned_buffer();
        }
        self.put += 1;
        self.put_bytes += counts(&message);
        let Tail { batches, spare, .. } = &mut *self.tail;
        let item = Item { message, missed };
        match batches.back_mut().filter(|batch| Arc::ptr_eq(&batch.pipe, self.pipe)) {
            Some(batch) => batch.items.push_back(item),
            None => {
                let mut items = spare.pop().unwrap_or_default();
                items.push_back(item);
                batches.push_back(Batch { pipe: self.pipe.clone(), items });
            }
        }
    }

    /// Before the reader can take any of it: it has the tail to itself.
    fn tell(&mut self) {
        let (put, bytes) = (mem::take(&mut self.put), mem::take(&mut self.put_bytes));
        if put > 0 {
            self.pipe.wait(bytes);
            self.inbox.waiting.fetch_add(put, Ordering::SeqCst);
            self.inbox.waiting_bytes.fetch_add(bytes, Ordering::SeqCst);
        }
    }
}

impl Drop for Fill<'_> {
    fn drop(&mut self) {
        self.tell();
        if self.tail.batches.is_empty() {
            return;
        }
        // One reader is the rule, and its place is kept.
        let first = self.tail.readers.pop();
        let others =
            if self.tail.readers.is_empty() { Vec::new() } else { mem::take(&mut self.tail.readers) };
        first.into_iter().chain(others).for_each(Waker::wake);
    }
}
