//! A bounded queue between connections and the handle that reads it: a subscription or a pull.
//!
//! ```text
//!   connection ── fill ──▶ lane ─┐
//!   connection ── fill ──▶ lane ─┼─ in turn, some messages at once ──▶ head ── take ──▶ reader
//!   connection ── fill ──▶ lane ─┘
//! ```
//!
//! Each peer with something here has a lane, and the reader takes from them in turn, so that one that floods does
//! not starve the others. Both ends do their counting once for many messages, and wait for each other as rarely. A
//! connection whose lane has its share stops reading, so that back-pressure reaches the sender, whose policy decides;
//! nothing is dropped here.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use crate::{
    Message,
    observe::flow::Watch,
    socket::{account::OVERHEAD, pipe::Pipe},
    sync::lock,
};

/// Messages of one lane that the reader takes at once, while others wait, and while none do.
const TURN: usize = 64;
const ALONE: usize = 1024;
/// Emptied lanes that are kept.
const SPARES: usize = 8;

pub(crate) struct Inbox {
    messages: usize,
    bytes: usize,
    head: Mutex<Head>,
    /// Locked after `head`, if both are.
    tail: Mutex<Tail>,
    /// What was seen of it.
    pub(crate) watch: Mutex<Watch>,
}

/// One received message.
pub(crate) struct Item {
    pub(crate) message: Message,
    pub(crate) note: Note,
}

/// What was found out about a message when it came in.
#[derive(Clone, Copy, Default)]
pub(crate) struct Note {
    /// Events lost before this one, by the publisher's numbers.
    pub(crate) missed: u64,
    /// It is no event, but says why there is none.
    pub(crate) refusal: bool,
    /// Whoever pushed it waits for an ack.
    pub(crate) answered: bool,
}

/// What the reader is taking.
#[derive(Default)]
struct Head {
    items: VecDeque<Item>,
    pipe: Option<Arc<Pipe>>,
    /// Of all that were there, for the connection's account.
    bytes: usize,
}

#[derive(Default)]
struct Tail {
    /// By who sends; never empty.
    lanes: HashMap<u64, Lane>,
    /// Whose turn it is.
    ring: VecDeque<u64>,
    messages: usize,
    bytes: usize,
    /// All messages that ever came in.
    entered: u64,
    spare: Vec<VecDeque<Item>>,
    readers: Vec<Waker>,
    closed: bool,
}

/// What came of one peer, in order.
#[derive(Default)]
struct Lane {
    first: Option<Part>,
    /// Of connections that took over from the first, while something of that is still there.
    more: VecDeque<Part>,
    messages: usize,
    bytes: usize,
    /// Connections that want to hear when there is room.
    paused: Vec<Arc<Pipe>>,
}

/// What came over one connection.
struct Part {
    pipe: Arc<Pipe>,
    items: VecDeque<Item>,
    bytes: usize,
}

impl Lane {
    /// Where what `pipe` brings belongs.
    fn part(&mut self, pipe: &Arc<Pipe>, spare: &mut Vec<VecDeque<Item>>) -> &mut Part {
        let last = self.more.back().or(self.first.as_ref());
        if !last.is_some_and(|last| Arc::ptr_eq(&last.pipe, pipe)) {
            let part = Part { pipe: pipe.clone(), items: spare.pop().unwrap_or_default(), bytes: 0 };
            match self.first {
                None => return self.first.insert(part),
                Some(_) => self.more.push_back(part),
            }
        }
        match self.more.back_mut() {
            Some(last) => last,
            None => self.first.get_or_insert_with(|| Part {
                pipe: pipe.clone(),
                items: VecDeque::new(),
                bytes: 0,
            }),
        }
    }
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
            watch: Mutex::default(),
        }
    }

    /// Puts what `pipe` brings into the lane of its peer, until it is dropped. Connections that take over from each other
    /// share one, so that what they bring stays in order; else it is the connection's own.
    pub(crate) fn fill<'a>(&'a self, pipe: &'a Arc<Pipe>, peer: u64) -> Fill<'a> {
        let mut tail = lock(&self.tail);
        let known = tail.lanes.remove(&peer);
        let lanes = tail.ring.len() + usize::from(known.is_none());
        let share = (self.messages / lanes, self.bytes / lanes);
        let lane = known.unwrap_or_default();
        let before = (lane.messages, lane.bytes);
        Fill { inbox: self, tail, pipe, peer, lane, before, share, thin: pipe.is_thin() }
    }

    /// The next message, after `from` was shown whose it is; `None` when the queue is closed and empty.
    pub(crate) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        from: impl FnOnce(&Arc<Pipe>),
    ) -> Poll<Option<Item>> {
        let mut head = lock(&self.head);
        let mut resume = Vec::new();
        if head.items.is_empty() {
            let mut tail = lock(&self.tail);
            match self.turn(&mut head, &mut tail) {
                Some(paused) => resume = paused,
                None if tail.closed => return Poll::Ready(None),
                None => {
                    if !tail.readers.iter().any(|waker| waker.will_wake(cx.waker())) {
                        tail.readers.push(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
            }
        }
        if let Some(pipe) = &head.pipe {
            from(pipe);
        }
        let item = head.items.pop_front();
        if head.items.is_empty()
            && let Some(pipe) = head.pipe.take()
            && pipe.taken(mem::take(&mut head.bytes))
        {
            resume.push(pipe);
        }
        drop(head);
        resume.iter().for_each(|pipe| pipe.resume());
        Poll::Ready(item)
    }

    /// Takes some messages of the next lane; `None`: nothing is there. Gives the connections that may go on.
    fn turn(&self, head: &mut Head, tail: &mut Tail) -> Option<Vec<Arc<Pipe>>> {
        let peer = tail.ring.pop_front()?;
        let others = tail.ring.len();
        let lane = tail.lanes.get_mut(&peer)?;
        let part = lane.first.as_mut()?;
        let most = self.most(if others == 0 { ALONE } else { TURN });
        if part.items.len() <= most {
            mem::swap(&mut head.items, &mut part.items);
        } else {
            head.items.extend(part.items.drain(..most));
        }
        let bytes = match part.items.is_empty() {
            true => part.bytes,
            false => head.items.iter().map(|item| counts(&item.message)).sum(),
        };
        (head.bytes, head.pipe) = (bytes, Some(part.pipe.clone()));
        part.bytes -= bytes;
        if part.items.is_empty()
            && let Some(part) = mem::replace(&mut lane.first, lane.more.pop_front())
            && tail.spare.len() < SPARES
        {
            tail.spare.push(part.items);
        }
        let (taken, share) = (head.items.len(), (self.messages / (others + 1), self.bytes / (others + 1)));
        lane.messages -= taken;
        lane.bytes -= bytes;
        tail.messages -= taken;
        tail.bytes -= bytes;
        let room = lane.messages <= share.0 / 2 && lane.bytes <= share.1 / 2;
        let resume = if room { mem::take(&mut lane.paused) } else { Vec::new() };
        match lane.first {
            Some(_) => tail.ring.push_back(peer),
            None => drop(tail.lanes.remove(&peer)),
        }
        Some(resume)
    }

    /// What is at the head is no longer counted, so it is a small part of what may wait.
    fn most(&self, turn: usize) -> usize {
        turn.min(self.messages / 16).max(1)
    }

    /// Takes no more; what is in it can still be read.
    pub(crate) fn close(&self) {
        let (readers, paused) = {
            let mut tail = lock(&self.tail);
            tail.closed = true;
            let paused: Vec<_> =
                tail.lanes.values_mut().flat_map(|lane| mem::take(&mut lane.paused)).collect();
            (mem::take(&mut tail.readers), paused)
        };
        readers.into_iter().for_each(Waker::wake);
        paused.iter().for_each(|pipe| pipe.resume());
    }

    /// Closes the queue and counts what nobody will read, but for what `give_back` takes.
    pub(crate) fn abandon(&self, give_back: impl Fn(&Arc<Pipe>, &Item) -> bool) {
        self.close();
        let (head, tail) = {
            let mut head = lock(&self.head);
            let closed = Tail { closed: true, ..Tail::default() };
            (mem::take(&mut *head), mem::replace(&mut *lock(&self.tail), closed))
        };
        let mut dropped = 0;
        let Head { items, pipe, bytes } = head;
        let waited = pipe.map(|pipe| (pipe, items, bytes)).into_iter();
        let parts = tail.lanes.into_values().flat_map(|lane| lane.first.into_iter().chain(lane.more));
        for (pipe, items, bytes) in waited.chain(parts.map(|part| (part.pipe, part.items, part.bytes))) {
            dropped += items.iter().filter(|item| !give_back(&pipe, item)).count() as u64;
            if pipe.taken(bytes) {
                pipe.resume();
            }
        }
        if dropped > 0 {
            metrics::counter!("ripstop_messages_dropped_total", "reason" => "reader_gone").increment(dropped);
        }
    }

    /// How many messages ever came in, and how many wait.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let head = lock(&self.head);
        let tail = lock(&self.tail);
        (tail.entered, (head.items.len() + tail.messages) as u64)
    }

    /// How many messages wait.
    pub(crate) fn len(&self) -> usize {
        let head = lock(&self.head);
        head.items.len() + lock(&self.tail).messages
    }
}

/// The lane of one peer, for as long as one of its connections has something to put.
pub(crate) struct Fill<'a> {
    inbox: &'a Inbox,
    tail: MutexGuard<'a, Tail>,
    pipe: &'a Arc<Pipe>,
    peer: u64,
    /// Given back at the end.
    lane: Lane,
    /// Messages and bytes that were in it.
    before: (usize, usize),
    /// And that fit beside the others.
    share: (usize, usize),
    thin: bool,
}

impl Fill<'_> {
    /// Whether there is room; if not, the connection is resumed once there is. An empty lane takes any message, and some
    /// turns' worth fits whatever others have filled before: else who comes late had one message in each turn.
    pub(crate) fn has_room(&mut self) -> bool {
        let (messages, bytes) = (self.lane.messages, self.lane.bytes);
        let others = (self.tail.messages - self.before.0, self.tail.bytes - self.before.1);
        let room = self.tail.closed
            || messages == 0
            || bytes < self.share.1
                && (messages < 2 * self.inbox.most(TURN)
                    || messages < self.share.0
                        && others.0 + messages < self.inbox.messages
                        && others.1 + bytes < self.inbox.bytes);
        if !room && !self.lane.paused.iter().any(|paused| Arc::ptr_eq(paused, self.pipe)) {
            self.lane.paused.retain(|paused| !paused.is_closed());
            self.lane.paused.push(self.pipe.clone());
        }
        room
    }

    /// Adds a message, over the mark too: ask `has_room` first. One for a closed queue is dropped and counted.
    pub(crate) fn put(&mut self, mut message: Message, note: Note) {
        if self.tail.closed {
            metrics::counter!("ripstop_messages_dropped_total", "reason" => "reader_gone").increment(1);
            return;
        }
        if self.thin {
            message = message.to_owned_buffer();
        }
        let bytes = counts(&message);
        let part = self.lane.part(self.pipe, &mut self.tail.spare);
        part.bytes += bytes;
        part.items.push_back(Item { message, note });
        self.lane.messages += 1;
        self.lane.bytes += bytes;
    }
}

impl Drop for Fill<'_> {
    fn drop(&mut self) {
        let tail = &mut *self.tail;
        let (messages, bytes) = (self.lane.messages - self.before.0, self.lane.bytes - self.before.1);
        if messages > 0 {
            self.pipe.wait(bytes);
            tail.messages += messages;
            tail.bytes += bytes;
            tail.entered += messages as u64;
        }
        if self.lane.messages == 0 {
            return;
        }
        if self.before.0 == 0 {
            tail.ring.push_back(self.peer);
        }
        tail.lanes.insert(self.peer, mem::take(&mut self.lane));
        // One reader is the rule, and its place is kept.
        let first = tail.readers.pop();
        let others = if tail.readers.is_empty() { Vec::new() } else { mem::take(&mut tail.readers) };
        first.into_iter().chain(others).for_each(Waker::wake);
    }
}
