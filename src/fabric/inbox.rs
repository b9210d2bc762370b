//! A bounded queue between connections and the handle that reads it: a subscription or a pull.
//!
//! When it is full the connections that feed it stop reading, so that back-pressure reaches the sender, whose policy
//! decides; nothing is dropped here.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use crate::{
    Message,
    socket::{account::OVERHEAD, pipe::Pipe},
    sync::lock,
};

/// One received message and where it came from.
pub(crate) struct Item {
    pub(crate) message: Message,
    pub(crate) pipe: Arc<Pipe>,
    /// Events lost before this one, by the publisher's numbers.
    pub(crate) missed: u64,
}

pub(crate) struct Inbox {
    messages: usize,
    bytes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    /// Connections that were paused because of this queue.
    paused: Vec<Arc<Pipe>>,
    readers: Vec<Waker>,
    closed: bool,
}

impl Inbox {
    /// A queue that is full at this many messages or bytes.
    pub(crate) fn new(messages: usize, bytes: usize) -> Self {
        Self { messages: messages.max(1), bytes: bytes.max(1), state: Mutex::default() }
    }

    /// Whether there is room; if not, `pipe` is resumed once there is.
    pub(crate) fn has_room(&self, pipe: &Arc<Pipe>) -> bool {
        let mut state = lock(&self.state);
        let room = state.closed || (state.items.len() < self.messages && state.bytes < self.bytes);
        if !room && !state.paused.iter().any(|paused| Arc::ptr_eq(paused, pipe)) {
            // Peers may come and go while the reader stands still.
            state.paused.retain(|paused| !paused.is_closed());
            state.paused.push(pipe.clone());
        }
        room
    }

    /// Adds `item`, over the mark too: ask `has_room` first. One for a closed queue is dropped and counted.
    pub(crate) fn put(&self, mut item: Item) {
        if item.pipe.is_thin() {
            item.message = item.message.to_owned_buffer();
        }
        let wake = {
            let mut state = lock(&self.state);
            if state.closed {
                metrics::counter!("ripstop_messages_dropped_total", "reason" => "reader_gone").increment(1);
                return;
            }
            let counts = item.message.size() + OVERHEAD;
            item.pipe.wait(counts);
            state.bytes += counts;
            state.items.push_back(item);
            // One reader is the rule, and its place is kept.
            let first = state.readers.pop();
            let others =
                if state.readers.is_empty() { Vec::new() } else { std::mem::take(&mut state.readers) };
            first.into_iter().chain(others)
        };
        wake.for_each(Waker::wake);
    }

    /// The next item; `None` when the queue is closed and empty.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let (item, resume) = {
            let mut state = lock(&self.state);
            let Some(item) = state.items.pop_front() else {
                if state.closed {
                    return Poll::Ready(None);
                }
                if !state.readers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    state.readers.push(cx.waker().clone());
                }
                return Poll::Pending;
            };
            let counts = item.message.size() + OVERHEAD;
            state.bytes -= counts;
            let stopped = item.pipe.taken(counts);
            let room = state.items.len() <= self.messages / 2 && state.bytes <= self.bytes / 2;
            let mut resume = if room { std::mem::take(&mut state.paused) } else { Vec::new() };
            if stopped && !resume.iter().any(|pipe| Arc::ptr_eq(pipe, &item.pipe)) {
                resume.push(item.pipe.clone());
            }
            (item, resume)
        };
        resume.iter().for_each(|pipe| pipe.resume());
        Poll::Ready(Some(item))
    }

    /// Takes no more; what is in it can still be read.
    pub(crate) fn close(&self) {
        let (readers, paused) = {
            let mut state = lock(&self.state);
            state.closed = true;
            (std::mem::take(&mut state.readers), std::mem::take(&mut state.paused))
        };
        readers.into_iter().for_each(Waker::wake);
        paused.iter().for_each(|pipe| pipe.resume());
    }

    /// Closes the queue and counts what nobody will read.
    pub(crate) fn abandon(&self) {
        self.close();
        let left = std::mem::take(&mut lock(&self.state).items);
        for item in &left {
            if item.pipe.taken(item.message.size() + OVERHEAD) {
                item.pipe.resume();
            }
        }
        if !left.is_empty() {
            metrics::counter!("ripstop_messages_dropped_total", "reason" => "reader_gone")
                .increment(left.len() as u64);
        }
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.state).items.len()
    }
}
