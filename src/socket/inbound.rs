//! What a socket has received and nobody has taken yet: one queue per peer, served in turn.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::message::Message;
use crate::socket::account::OVERHEAD;
use crate::socket::core::Flow;
use crate::socket::pipe::Pipe;
use crate::sync::lock;

/// All peers' queues. One lock per read of a connection and one per `recv`.
pub(super) struct Inbound {
    state: Mutex<Queues>,
    ready: Notify,
    hwm_messages: usize,
    hwm_bytes: usize,
}

#[derive(Default)]
pub(super) struct Queues {
    peers: Vec<Option<Queue>>,
    /// Pipe to index.
    index: HashMap<u64, usize>,
    /// Who has messages, in the order of service.
    ring: VecDeque<usize>,
    /// Receivers that wait, or have been woken and have not come yet.
    waiting: usize,
}

struct Queue {
    pipe: Arc<Pipe>,
    /// The routing id under which a ROUTER knows the peer.
    label: Bytes,
    /// One for each read that brought many; never an empty one.
    batches: VecDeque<Batch>,
    /// Emptied ones, whose memory is used again.
    spare: Vec<Vec<Message>>,
    len: usize,
    /// Of whole batches: what is taken counts until its batch is empty.
    bytes: usize,
    paused: bool,
    /// Reading waits a moment.
    breathing: bool,
    /// The peer has left: the queue goes with its last message.
    gone: bool,
}

struct Batch {
    messages: VecDeque<Message>,
    bytes: usize,
    /// As it counts for the peer's account.
    held: usize,
}

/// A read that brings fewer is copied behind the last batch rather than become one.
const BATCH: usize = 64;
/// With so many bytes unread a peer's next read waits a moment for half of them to be taken: what is read far ahead of a
/// receiver that keeps up has left the processor's cache when it is taken, and buffers for it cost page faults.
const AHEAD: usize = 256 * 1024;
/// Messages of one peer before another has its turn, where many are taken at once.
const TURN: usize = 16;
/// Emptied batches kept for reuse.
const SPARES: usize = 4;

/// One message, and whom it came from.
pub(super) struct From<'a> {
    pub(super) message: Message,
    pub(super) pipe: &'a Arc<Pipe>,
    pub(super) label: &'a Bytes,
}

impl Inbound {
    /// Marks per peer; 0: no limit.
    pub(super) fn new(hwm_messages: usize, hwm_bytes: usize) -> Self {
        let or_max = |mark: usize| if mark == 0 { usize::MAX } else { mark };
        Self {
            state: Mutex::default(),
            ready: Notify::new(),
            hwm_messages: or_max(hwm_messages),
            hwm_bytes: or_max(hwm_bytes),
        }
    }

    /// A peer is there, again or anew.
    pub(super) fn joined(&self, pipe: &Arc<Pipe>, label: Bytes) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if let Some(index) = state.index.get(&pipe.id()) {
            if let Some(Some(queue)) = state.peers.get_mut(*index) {
                queue.gone = false;
            }
            return;
        }
        let queue = Queue {
            pipe: pipe.clone(),
            label,
            batches: VecDeque::new(),
            spare: Vec::new(),
            len: 0,
            bytes: 0,
            paused: false,
            breathing: false,
            gone: false,
        };
        let index = state.peers.iter().position(Option::is_none).unwrap_or(state.peers.len());
        if index == state.peers.len() {
            state.peers.push(None);
        }
        if let Some(slot) = state.peers.get_mut(index) {
            *slot = Some(queue);
        }
        state.index.insert(pipe.id(), index);
    }

    /// A peer has left for good. What came from it can still be received.
    pub(super) fn left(&self, pipe: &Arc<Pipe>) {
        let mut state = lock(&self.state);
        let Some(index) = state.index.remove(&pipe.id()) else { return };
        let Some(slot) = state.peers.get_mut(index) else { return };
        match slot {
            Some(queue) if queue.len > 0 => queue.gone = true,
            _ => *slot = None,
        }
    }

    /// Takes all that one read brought, or as much as the peer's marks allow.
    pub(super) fn deliver(&self, pipe: &Arc<Pipe>, messages: &mut Vec<Message>) -> Flow {
        if messages.is_empty() {
            return Flow::Continue;
        }
        let mut state = lock(&self.state);
        let queues = &mut *state;
        let Some(index) = queues.index.get(&pipe.id()).copied() else { return Flow::Continue };
        let Some(Some(queue)) = queues.peers.get_mut(index) else { return Flow::Continue };
        let was_empty = queue.len == 0;
        let mut room = self.hwm_messages.saturating_sub(queue.len).min(messages.len());
        let allowed = self.hwm_bytes.saturating_sub(queue.bytes);
        let mut bytes = 0usize;
        for (i, message) in messages.iter().enumerate().take(room) {
            let sum = bytes.saturating_add(message.size());
            // An empty queue takes any message.
            if sum > allowed && !(was_empty && i == 0) {
                room = i;
                break;
            }
            bytes = sum;
        }
        queue.paused = room < messages.len();
        if room == 0 {
            return Flow::Pause;
        }
        queue.len += room;
        queue.bytes += bytes;
        let flow = match queue.bytes >= AHEAD {
            _ if queue.paused => Flow::Pause,
            true => Flow::Breathe,
            false => Flow::Continue,
        };
        queue.breathing = flow == Flow::Breathe;
        let held = bytes + room * OVERHEAD;
        pipe.wait(held);
        if pipe.is_thin() {
            messages.iter_mut().take(room).for_each(|message| *message = message.to_owned_buffer());
        }
        match queue.batches.back_mut() {
            Some(last) if room < BATCH || room < messages.len() => {
                last.messages.extend(messages.drain(..room));
                last.bytes += bytes;
                last.held += held;
            }
            _ => {
                // The usual case, for free: the buffer itself is queued, and an empty one goes back.
                let mut taken = std::mem::replace(messages, queue.spare.pop().unwrap_or_default());
                messages.extend(taken.drain(room..));
                queue.batches.push_back(Batch { messages: taken.into(), bytes, held });
            }
        }
        if was_empty {
            queues.ring.push_back(index);
        }
        self.wake(state);
        flow
    }

    /// Adds one message, whatever the marks say; returns whether they allow more.
    pub(super) fn push(&self, pipe: &Arc<Pipe>, message: Message) -> bool {
        let mut state = lock(&self.state);
        let queues = &mut *state;
        let Some(index) = queues.index.get(&pipe.id()).copied() else { return true };
        let Some(Some(queue)) = queues.peers.get_mut(index) else { return true };
        let bytes = message.size();
        queue.len += 1;
        queue.bytes += bytes;
        let held = bytes + OVERHEAD;
        pipe.wait(held);
        match queue.batches.back_mut() {
            Some(last) => {
                last.messages.push_back(message);
                last.bytes += bytes;
                last.held += held;
            }
            None => queue.batches.push_back(Batch { messages: [message].into(), bytes, held }),
        }
        let more = queue.len < self.hwm_messages && queue.bytes < self.hwm_bytes;
        queue.paused |= !more;
        if queue.len == 1 {
            queues.ring.push_back(index);
        }
        self.wake(state);
        more
    }

    /// Wakes one receiver, if any waits; it wakes the next if it leaves something.
    fn wake(&self, state: MutexGuard<'_, Queues>) {
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.ready.notify_one();
        }
    }

    /// Wakes every receiver, to look at something other than the queues.
    pub(super) fn wake_all(&self) {
        // Taken, so that a receiver which has looked already is counted among those who wait.
        drop(lock(&self.state));
        self.ready.notify_waiters();
    }

    /// Looks once: `take` may pop.
    #[inline]
    pub(super) fn look<R>(&self, take: impl FnOnce(&mut Taker<'_>) -> R) -> R {
        let mut state = lock(&self.state);
        let mut taker = Taker { inbound: self, queues: &mut state, resume: None };
        let taken = take(&mut taker);
        let resume = taker.resume.take();
        if state.waiting > 0 && !state.ring.is_empty() {
            self.wake(state);
        } else {
            drop(state);
        }
        if let Some(pipe) = resume {
            pipe.resume();
        }
        taken
    }

    /// The next message, if there is one.
    #[inline]
    pub(super) fn try_pop(&self) -> Option<Message> {
        self.look(|taker| taker.pop(|from| from.message))
    }

    /// Waits until `take` gives something. Cancel safe: nothing is taken unless it is returned.
    pub(super) async fn wait<R>(&self, mut take: impl FnMut(&mut Taker<'_>) -> Option<R>) -> R {
        if let Some(taken) = self.look(&mut take) {
            return taken;
        }
        loop {
            let ready = self.ready.notified();
            let taken = self.look(|taker| {
                let taken = take(taker);
                if taken.is_none() {
                    taker.queues.waiting += 1;
                }
                taken
            });
            if let Some(taken) = taken {
                return taken;
            }
            let waiting = Waiting(self);
            ready.await;
            drop(waiting);
        }
    }
}

/// Counts a receiver out when it has come back, or was cancelled (then `Notified` passes its wake-up on).
struct Waiting<'a>(&'a Inbound);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).waiting -= 1;
    }
}

/// The queues, locked, in the hands of one receiver.
pub(super) struct Taker<'a> {
    inbound: &'a Inbound,
    queues: &'a mut Queues,
    resume: Option<Arc<Pipe>>,
}

impl Taker<'_> {
    /// Takes the next message; peers have their turns.
    #[inline]
    pub(super) fn pop<R>(&mut self, map: impl FnOnce(From<'_>) -> R) -> Option<R> {
        let (mut map, mut mapped) = (Some(map), None);
        self.turn(1, |from| mapped = map.take().map(|map| map(from)))?;
        mapped
    }

    /// Takes `max` messages at most; returns how many. Peers have their turns, of a few messages each.
    #[inline]
    pub(super) fn pop_many(&mut self, max: usize, mut each: impl FnMut(From<'_>)) -> usize {
        let mut count = 0;
        while count < max {
            let most = if self.queues.ring.len() > 1 { TURN } else { usize::MAX };
            match self.turn(most.min(max - count), &mut each) {
                Some(taken) => count += taken,
                None => break,
            }
        }
        count
    }

    /// Takes as much as that of one batch of the peer whose turn it is.
    #[inline]
    fn turn(&mut self, most: usize, mut each: impl FnMut(From<'_>)) -> Option<usize> {
        let index = *self.queues.ring.front()?;
        let slot = self.queues.peers.get_mut(index)?;
        let queue = slot.as_mut()?;
        let batch = queue.batches.front_mut()?;
        let taken = most.min(batch.messages.len());
        for message in batch.messages.drain(..taken) {
            each(From { message, pipe: &queue.pipe, label: &queue.label });
        }
        queue.len -= taken;
        let mut resume = false;
        if batch.messages.is_empty()
            && let Some(batch) = queue.batches.pop_front()
        {
            queue.bytes -= batch.bytes;
            resume = queue.pipe.taken(batch.held);
            if queue.spare.len() < SPARES {
                queue.spare.push(batch.messages.into());
            }
        }
        if queue.breathing && queue.bytes <= AHEAD / 2 {
            queue.breathing = false;
            resume = true;
        }
        if queue.paused
            && queue.len <= self.inbound.hwm_messages / 2
            && queue.bytes <= self.inbound.hwm_bytes / 2
        {
            queue.paused = false;
            resume = true;
        }
        if resume && let Some(earlier) = self.resume.replace(queue.pipe.clone()) {
            earlier.resume();
        }
        let (empty, gone) = (queue.len == 0, queue.gone);
        if empty && gone {
            *slot = None;
        }
        if empty {
            self.queues.ring.pop_front();
        } else if self.queues.ring.len() > 1 {
            self.queues.ring.rotate_left(1);
        }
        Some(taken)
    }
}
