//! One connection's outgoing queue, as whoever sends sees it, and the few signals to its task.
//!
//! One short lock per message: puts append encoded bytes, the connection's task swaps whole chunks out.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::message::{Frame, Frames};
use crate::socket::account::Account;
use crate::socket::batch::{self, Encoded, Outgoing, Sending};
use crate::socket::core::{LinkOptions, Origin};
use crate::sync::lock;
use crate::zmtp::Peer;

/// What became of a put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Put {
    Queued,
    /// Queued, and that filled a batch: whoever can wait lets the connection's task have its turn.
    Batched,
    /// At the high-water mark; [`Pipe::space`] or `Core::writable` says when to try again.
    Full,
    /// The connection is closing or gone (or the message is over 2 GiB).
    Closed,
}

impl Put {
    #[inline]
    pub(crate) fn is_queued(self) -> bool {
        matches!(self, Self::Queued | Self::Batched)
    }
}

/// Whether it is time to let the connections' tasks write what was just filled, while it is in the cache.
#[derive(Default)]
pub(crate) struct Turn(AtomicBool);

impl Turn {
    #[inline]
    pub(crate) fn note(&self, put: Put) {
        if put == Put::Batched {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Before a put, so that a send that is cancelled here has queued nothing.
    pub(crate) async fn take(&self) {
        self.0.store(false, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}

/// One connection's (or, for a dial with `keep_queue`, one dialled endpoint's) outgoing queue.
pub(crate) struct Pipe {
    id: u64,
    state: Mutex<State>,
    who: Mutex<Who>,
    account: Account,
    space: Notify,
    idle: Notify,
    end: Notify,
}

struct State {
    out: Outgoing,
    phase: Phase,
    /// The connection's task, to be woken: by a put only when it is `parked`, by signals always.
    task: Option<Waker>,
    parked: bool,
    /// A chunk or control bytes are being written.
    writing: bool,
    /// Somebody was told that the pipe is full and has not been told that it no longer is.
    refused: bool,
    resumed: bool,
}

enum Phase {
    Open,
    /// Flushing, until then.
    Closing(Arc<str>, Option<Instant>),
    /// To be ended at once.
    Aborted(Arc<str>),
    Closed,
}

struct Who {
    peer: Option<Arc<Peer>>,
    origin: Arc<Origin>,
    about: Option<Arc<dyn Any + Send + Sync>>,
}

impl Pipe {
    pub(super) fn new(origin: Arc<Origin>, options: &LinkOptions) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State {
                out: Outgoing::new(options.hwm_messages, options.hwm_bytes, options.mechanism.seals()),
                phase: Phase::Open,
                task: None,
                parked: false,
                writing: false,
                refused: false,
                resumed: false,
            }),
            who: Mutex::new(Who { peer: None, origin, about: None }),
            account: Account::new(options.memory),
            space: Notify::new(),
            idle: Notify::new(),
            end: Notify::new(),
        })
    }

    /// Unique in this process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Who is at the other end; `None` while there is no connection.
    pub(crate) fn peer(&self) -> Option<Arc<Peer>> {
        lock(&self.who).peer.clone()
    }

    /// What the admission put down about the connection, if it is a `T`.
    pub(crate) fn about<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        lock(&self.who).about.clone()?.downcast().ok()
    }

    pub(crate) fn origin(&self) -> Arc<Origin> {
        lock(&self.who).origin.clone()
    }

    /// Queues one message, or says why not.
    #[inline]
    pub(crate) fn try_put<F: Frames + ?Sized>(&self, frames: &F) -> Put {
        let size = batch::encoded_size(frames);
        self.put_sized(size, |out| out.push(frames))
    }

    /// Queues a message that was encoded once for many.
    pub(crate) fn put_encoded(&self, message: &Encoded) -> Put {
        self.put_sized(message.size(), |out| out.push_encoded(message))
    }

    #[inline]
    fn put_sized(&self, size: usize, push: impl FnOnce(&mut Outgoing) -> bool) -> Put {
        let mut state = lock(&self.state);
        if !matches!(state.phase, Phase::Open) || size > batch::MAX_MESSAGE {
            return Put::Closed;
        }
        if !self.has_room(&state.out, size) {
            state.refused = true;
            return Put::Full;
        }
        self.push(state, push)
    }

    /// Queues one message, dropping the oldest queued ones as far as needed. `None`: closed; else how many were
    /// dropped.
    pub(crate) fn put_dropping_oldest<F: Frames + ?Sized>(&self, frames: &F) -> Option<usize> {
        let size = batch::encoded_size(frames);
        self.put_sized_dropping_oldest(size, |out| _ = out.push(frames))
    }

    /// The same with a message that was encoded once for many.
    pub(crate) fn put_encoded_dropping_oldest(&self, message: &Encoded) -> Option<usize> {
        self.put_sized_dropping_oldest(message.size(), |out| _ = out.push_encoded(message))
    }

    fn put_sized_dropping_oldest(&self, size: usize, push: impl FnOnce(&mut Outgoing)) -> Option<usize> {
        let mut state = lock(&self.state);
        if !matches!(state.phase, Phase::Open) || size > batch::MAX_MESSAGE {
            return None;
        }
        let mut dropped = 0;
        while !self.has_room(&state.out, size) && state.out.drop_oldest() {
            dropped += 1;
        }
        push(&mut state.out);
        let task = state.unpark();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
        Some(dropped)
    }

    /// Whether a message of `frames` would be queued now; if not, the caller counts as having been told so.
    pub(crate) fn has_room_for(&self, size: usize) -> bool {
        let mut state = lock(&self.state);
        let room = !matches!(state.phase, Phase::Open) || self.has_room(&state.out, size);
        state.refused |= !room;
        room
    }

    /// How many messages and bytes can be queued for certain, as long as only the caller queues any.
    pub(crate) fn room(&self) -> (usize, usize) {
        let state = lock(&self.state);
        match state.phase {
            Phase::Open => {
                let (messages, bytes) = state.out.room();
                (messages, bytes.min(self.account.room(state.out.held())))
            }
            // What is put there is dropped.
            _ => (usize::MAX, usize::MAX),
        }
    }

    /// Queues a message for which there was [`room`](Self::room).
    pub(crate) fn put_granted(&self, message: &Encoded) -> Put {
        let state = lock(&self.state);
        if !matches!(state.phase, Phase::Open) || message.size() > batch::MAX_MESSAGE {
            return Put::Closed;
        }
        self.push(state, |out| out.push_encoded(message))
    }

    #[inline]
    fn push(&self, mut state: MutexGuard<'_, State>, push: impl FnOnce(&mut Outgoing) -> bool) -> Put {
        let filled = push(&mut state.out);
        let task = state.unpark();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
        if filled { Put::Batched } else { Put::Queued }
    }

    /// Below the marks, and within what this peer may make us hold. An empty queue takes any message.
    #[inline]
    fn has_room(&self, out: &Outgoing, size: usize) -> bool {
        out.has_room(size) && (out.is_empty() || self.account.allows(out.held() + size))
    }

    /// Queues one message ahead of all others (cancels, credit): never refused unless closed, not counted against
    /// the marks, forgotten when the connection ends. For small messages: it is copied.
    pub(crate) fn put_urgent<F: Frames + ?Sized>(&self, frames: &F) -> Put {
        self.control(|control| control.push_control(frames))
    }

    /// Queues encoded ZMTP frames (subscriptions) ahead of all messages; forgotten when the connection ends.
    pub(crate) fn put_control(&self, bytes: &[u8]) {
        let _ = self.control(|out| out.control.extend_from_slice(bytes));
    }

    fn control(&self, put: impl FnOnce(&mut Outgoing)) -> Put {
        let mut state = lock(&self.state);
        if !matches!(state.phase, Phase::Open) {
            return Put::Closed;
        }
        put(&mut state.out);
        let task = state.unpark();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
        Put::Queued
    }

    /// Queues one message behind all others, past the marks if need be: for a rare small one that must come last.
    pub(crate) fn put_last<F: Frames + ?Sized>(&self, frames: &F) -> Put {
        self.control(|out| _ = out.push(frames))
    }

    /// Waits, after a put found the queue full, until something has been taken and it is at most half full; `false`:
    /// closed. Cancel safe.
    pub(crate) async fn space(&self) -> bool {
        loop {
            let space = self.space.notified();
            {
                let mut state = lock(&self.state);
                if !matches!(state.phase, Phase::Open) {
                    return false;
                }
                // Half empty can still be too full for a large message: then the next take is worth waiting for.
                if state.out.is_half_empty() && !state.refused {
                    return true;
                }
                state.refused = true;
            }
            space.await;
        }
    }

    /// Reading may go on after `Flow::Pause`.
    pub(crate) fn resume(&self) {
        self.signal(|state| state.resumed = true);
    }

    /// Takes no more messages, writes what is queued within `linger` (`None`: however long it takes), then closes.
    /// A later close can only shorten the wait.
    pub(crate) fn close(&self, reason: &str, linger: Option<Duration>) {
        let until = linger.and_then(|linger| Instant::now().checked_add(linger));
        self.signal(|state| match &mut state.phase {
            Phase::Open => state.phase = Phase::Closing(reason.into(), until),
            Phase::Closing(_, before) => {
                *before = match (*before, until) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                }
            }
            Phase::Aborted(_) | Phase::Closed => {}
        });
        self.space.notify_waiters();
        self.end.notify_waiters();
    }

    /// Closes at once; what is queued is dropped.
    pub(crate) fn abort(&self, reason: &str) {
        self.signal(|state| {
            if !matches!(state.phase, Phase::Closed) {
                state.phase = Phase::Aborted(reason.into());
            }
        });
        self.space.notify_waiters();
        self.end.notify_waiters();
    }

    fn signal(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        change(&mut state);
        state.parked = false;
        let task = state.task.clone();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Messages and bytes queued and not yet taken by the connection's task.
    pub(crate) fn queued(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.out.messages, state.out.bytes)
    }

    /// Received from the peer, to be taken by somebody who then says so by [`taken`](Self::taken).
    pub(crate) fn wait(&self, bytes: usize) {
        self.account.wait(bytes);
    }

    /// Taken; `true`: call [`resume`](Self::resume), because this stopped reading.
    #[must_use]
    pub(crate) fn taken(&self, bytes: usize) -> bool {
        self.account.taken(bytes)
    }

    /// Whether what waits is better copied out of the buffers that it came in.
    #[inline]
    pub(crate) fn is_thin(&self) -> bool {
        self.account.is_thin()
    }

    /// Received, and held until the guard is dropped.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        self.wait(bytes);
        Held { pipe: self.clone(), bytes }
    }

    /// Kept for the peer until it says otherwise or leaves; `false`, and nothing is kept: that is more than it may
    /// make us hold.
    pub(crate) fn keep(&self, bytes: usize) -> bool {
        let queued = lock(&self.state).out.held();
        self.account.keep(bytes, queued)
    }

    /// No longer kept.
    pub(crate) fn forget(&self, bytes: usize) {
        self.account.forget(bytes);
    }

    /// Waits until everything queued was written to the system, or the pipe is closed (`false`). Cancel safe.
    pub(crate) async fn flushed(&self) -> bool {
        loop {
            let idle = self.idle.notified();
            {
                let state = lock(&self.state);
                if state.is_flushed() {
                    return true;
                }
                if matches!(state.phase, Phase::Closed) {
                    return false;
                }
            }
            idle.await;
        }
    }

    /// Waits until the pipe is closed for good. Cancel safe.
    pub(crate) async fn ended(&self) {
        loop {
            let end = self.end.notified();
            if self.is_closed() {
                return;
            }
            end.await;
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(lock(&self.state).phase, Phase::Closed)
    }
}

impl State {
    #[inline]
    fn unpark(&mut self) -> Option<Waker> {
        if !self.parked {
            return None;
        }
        self.parked = false;
        self.task.clone()
    }

    fn is_flushed(&self) -> bool {
        self.out.is_empty() && self.out.control.is_empty() && !self.writing
    }
}

/// What the connection's task finds when it looks.
pub(super) enum Signal {
    None,
    /// Flush, then close; give up at the instant.
    Close(Option<Instant>),
    Abort(Arc<str>),
}

/// What the connection's task writes next.
pub(super) enum Next {
    /// Swapped into the buffer that was given.
    Control,
    Chunk(Sending),
    /// Nothing; the next put wakes the task.
    Parked,
    /// Nothing, and nothing will come: the pipe is closing.
    Drained(Arc<str>),
}

/// See [`Pipe::hold`].
pub(crate) struct Held {
    pipe: Arc<Pipe>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.pipe.taken(self.bytes) {
            self.pipe.resume();
        }
    }
}

/// The side of the connection's task.
impl Pipe {
    /// Whether the peer may make us hold more than it does, with this much of a message in the read buffer.
    pub(super) fn may_read(&self, unfinished: usize) -> bool {
        let queued = lock(&self.state).out.held();
        self.account.may_read(unfinished, queued)
    }

    /// A read brought this much.
    pub(super) fn came(&self, bytes: usize) {
        self.account.came(bytes);
    }

    /// Whether somebody has still to take what came.
    pub(super) fn is_waiting(&self) -> bool {
        self.account.waiting() > 0
    }

    /// A connection is up: to `peer`, driven by the task that polls next.
    pub(super) fn attach(
        &self,
        peer: Arc<Peer>,
        origin: Arc<Origin>,
        about: Option<Arc<dyn Any + Send + Sync>>,
    ) {
        *lock(&self.who) = Who { peer: Some(peer), origin, about };
    }

    /// Looks for signals and notes whom to wake for the next. Also returns whether reading may go on.
    pub(super) fn signals(&self, waker: &Waker) -> (Signal, bool) {
        let mut state = lock(&self.state);
        if !state.task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            state.task = Some(waker.clone());
        }
        let resumed = std::mem::take(&mut state.resumed);
        let signal = match &state.phase {
            Phase::Open | Phase::Closed => Signal::None,
            Phase::Closing(_, until) => Signal::Close(*until),
            Phase::Aborted(reason) => Signal::Abort(reason.clone()),
        };
        (signal, resumed)
    }

    /// Whether [`resume`](Self::resume) was called since this was last asked.
    pub(super) fn take_resumed(&self) -> bool {
        std::mem::take(&mut lock(&self.state).resumed)
    }

    /// Hears of the next step towards the end, from the moment it is called.
    pub(super) fn ending(&self) -> tokio::sync::futures::Notified<'_> {
        self.end.notified()
    }

    /// Gives back what was written and takes what is next. `true`: the core wants to hear that there is room again.
    pub(super) fn next(&self, sent: Option<Sending>, control: &mut Vec<u8>) -> (Next, bool) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if let Some(sent) = sent {
            state.out.done(sent);
        }
        if !state.out.control.is_empty() {
            control.clear();
            std::mem::swap(control, &mut state.out.control);
            state.writing = true;
            return (Next::Control, false);
        }
        let next = match state.out.take() {
            Some(chunk) => {
                state.writing = true;
                Next::Chunk(chunk)
            }
            None => {
                let wrote = std::mem::take(&mut state.writing);
                if wrote {
                    self.idle.notify_waiters();
                }
                match &state.phase {
                    Phase::Closing(reason, _) | Phase::Aborted(reason) => Next::Drained(reason.clone()),
                    Phase::Open | Phase::Closed => {
                        state.parked = true;
                        Next::Parked
                    }
                }
            }
        };
        let writable = state.refused && state.out.is_half_empty();
        if writable {
            state.refused = false;
            self.space.notify_waiters();
        }
        (next, writable)
    }

    /// The connection is gone. A kept queue goes on with what had not gone out; else everything is dropped and the
    /// pipe closed. Returns how many messages have an unknown fate, and how many were dropped.
    pub(super) fn detach(&self, sending: Option<Sending>, keep: bool) -> (usize, usize) {
        lock(&self.who).peer = None;
        self.account.forget_all();
        let mut state = lock(&self.state);
        state.task = None;
        state.parked = false;
        state.writing = false;
        state.out.control = Vec::new();
        let unknown = sending.map_or(0, |sending| state.out.restore(sending));
        drop(state);
        (unknown, if keep { 0 } else { self.finish() })
    }

    /// Closes for good; returns how many queued messages were dropped.
    pub(super) fn finish(&self) -> usize {
        let mut state = lock(&self.state);
        state.phase = Phase::Closed;
        state.writing = false;
        let dropped = state.out.clear();
        drop(state);
        self.space.notify_waiters();
        self.idle.notify_waiters();
        self.end.notify_waiters();
        dropped
    }

    /// Whether a pipe without a connection still has a reason to get one: `None` when it is not closing.
    pub(super) fn closing(&self) -> Option<Closing> {
        let state = lock(&self.state);
        match &state.phase {
            Phase::Open => None,
            Phase::Closing(_, until) if !state.out.is_empty() => Some(Closing::Flushing(*until)),
            Phase::Closing(reason, _) | Phase::Aborted(reason) => Some(Closing::Over(reason.clone())),
            Phase::Closed => Some(Closing::Over("closed".into())),
        }
    }

    /// Gives memory back that only a busy connection needs.
    pub(super) fn trim(&self) {
        lock(&self.state).out.trim();
    }
}

/// How far the end of a kept pipe without a connection is.
pub(super) enum Closing {
    /// Messages are queued; they may go out until then.
    Flushing(Option<Instant>),
    Over(Arc<str>),
}

/// Frames behind a routing envelope.
pub(crate) struct Prefixed<'a, F: ?Sized> {
    pub(crate) prefix: &'a [&'a [u8]],
    pub(crate) frames: &'a F,
}

impl<F: Frames + ?Sized> Frames for Prefixed<'_, F> {
    fn frame_count(&self) -> usize {
        // No frames are sent as one empty frame.
        self.prefix.len() + self.frames.frame_count().max(1)
    }

    fn frame_at(&self, index: usize) -> Frame<'_> {
        match self.prefix.get(index) {
            Some(frame) => Frame::Slice(frame),
            None if self.frames.frame_count() == 0 => Frame::Slice(&[]),
            None => self.frames.frame_at(index - self.prefix.len()),
        }
    }
}

/// Frames without the first of them.
pub(crate) struct Tail<'a, F: ?Sized>(pub(crate) &'a F);

impl<F: Frames + ?Sized> Frames for Tail<'_, F> {
    fn frame_count(&self) -> usize {
        self.0.frame_count().saturating_sub(1)
    }

    fn frame_at(&self, index: usize) -> Frame<'_> {
        self.0.frame_at(index + 1)
    }
}
