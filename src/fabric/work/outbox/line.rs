//! What is owed to one queue, and the task that delivers it.
//!
//! Items of one key go one after the other: the next is read when the one before is done or given up. Where it goes, a
//! hash over the pullers decides, so that a key stays where it is for as long as its puller does.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque, hash_map::Entry},
    pin::pin,
    sync::{Arc, Mutex, Weak, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep, sleep_until},
};

use super::{Outbox, Patience, now};
use crate::{
    durable::{Id, Item, Journal, Millis, NewLetter, Reason, StoreError, Write},
    envelope::{ErrorBody, Header, Kind, Verdict},
    fabric::{
        Fate,
        error::PushError,
        shared::{Phase, Shared},
        wire::{self, Envelope, Outgoing, property},
        work::push::{Choice, Offered, Queue},
    },
    message::Frame,
    socket::pipe::Pipe,
    sync::lock,
};

/// Items read at once.
const PAGE: usize = 256;
/// Items that are kept in memory although their pullers take no more, while others' do.
const HELD: usize = 4096;
/// After the store has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What is owed to one queue.
pub(super) struct Line {
    pub(super) queue: String,
    state: Mutex<State>,
    /// Something was pushed, or told.
    wake: Notify,
}

#[derive(Default)]
struct State {
    sent: HashMap<Id, Sent>,
    told: Vec<Told>,
    /// Something was pushed: there is more behind the last that was read.
    came: bool,
    /// Due now, whatever was said before.
    hurried: HashSet<Id>,
    waiting: HashMap<Id, oneshot::Sender<Result<Fate, PushError>>>,
    /// Pushes whose id is not known yet, and what was heard meanwhile of ids for which nobody waits.
    entering: usize,
    early: HashMap<Id, Result<Fate, PushError>>,
}

/// An item that a puller has, or is about to get.
pub(super) struct Sent {
    pub(super) pipe: u64,
    /// The puller's node id, as it says it.
    node: Option<Bytes>,
    to: String,
    since: Instant,
    attempts: u32,
}

/// What became of an item that was sent.
struct Told {
    id: Id,
    outcome: Outcome,
}

enum Outcome {
    Done,
    Failed(Sent, ErrorBody),
    /// Nothing says that anybody has worked on it.
    Untouched,
    /// The connection has ended, or nothing was heard for too long.
    Lost(Sent),
    Expired(u32),
}

impl Line {
    pub(super) fn new(queue: &str) -> Self {
        Self { queue: queue.to_owned(), state: Mutex::default(), wake: Notify::new() }
    }

    /// Something was kept for this queue.
    pub(super) fn came(&self) {
        lock(&self.state).came = true;
        self.wake.notify_one();
    }

    pub(super) fn told(&self, pipe: &Pipe, id: Id, error: Option<ErrorBody>) {
        let mut state = lock(&self.state);
        if state.sent.get(&id).is_none_or(|sent| sent.pipe != pipe.id()) {
            return;
        }
        let Some(sent) = state.sent.remove(&id) else { return };
        let outcome = match error {
            None => Outcome::Done,
            Some(error) if error.retry == Some(Verdict::Elsewhere) => Outcome::Untouched,
            Some(error) => Outcome::Failed(sent, error),
        };
        state.told.push(Told { id, outcome });
        drop(state);
        self.wake.notify_one();
    }

    pub(super) fn extended(&self, pipe: &Pipe, id: Id) {
        let mut state = lock(&self.state);
        if let Some(sent) = state.sent.get_mut(&id).filter(|sent| sent.pipe == pipe.id()) {
            sent.since = Instant::now();
        }
    }

    pub(super) fn lose(&self, is_lost: impl Fn(&Sent) -> bool) {
        let mut state = lock(&self.state);
        let State { sent, told, .. } = &mut *state;
        let before = told.len();
        let lost = sent.extract_if(|_, sent| is_lost(sent));
        told.extend(lost.map(|(id, sent)| Told { id, outcome: Outcome::Lost(sent) }));
        let lost = told.len() - before;
        if lost > 0 {
            metrics::counter!("ripstop_outbox_redelivered_total", "reason" => "lost").increment(lost as u64);
            drop(state);
            self.wake.notify_one();
        }
    }

    pub(super) fn hurry(&self, id: Id) {
        lock(&self.state).hurried.insert(id);
        self.wake.notify_one();
    }

    /// Tells whoever waits for this item.
    pub(super) fn settle(&self, id: Id, outcome: Result<Fate, PushError>) {
        let mut state = lock(&self.state);
        if let Some(waiting) = state.waiting.remove(&id) {
            let _ = waiting.send(outcome);
        } else if state.entering > 0 {
            state.early.insert(id, outcome);
        }
    }

    pub(super) fn dead(&self, reason: &str) -> PushError {
        PushError::Dead { queue: self.queue.clone(), reason: reason.to_owned() }
    }

    /// Nobody waits for this item any more.
    pub(super) fn forget(&self, id: Id) {
        lock(&self.state).waiting.remove(&id);
    }

    /// How many pullers have now.
    pub(super) fn under_way(&self) -> usize {
        lock(&self.state).sent.len()
    }
}

/// Items that are being kept: their ids are not known yet.
pub(super) struct Entering<'a>(&'a Line);

impl<'a> Entering<'a> {
    pub(super) fn new(line: &'a Line) -> Self {
        lock(&line.state).entering += 1;
        Self(line)
    }

    /// From here on the outcome is heard, if it has not been already.
    pub(super) fn wait(&self, id: Id) -> oneshot::Receiver<Result<Fate, PushError>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = lock(&self.0.state);
        match state.early.remove(&id) {
            Some(outcome) => drop(sender.send(outcome)),
            None => drop(state.waiting.insert(id, sender)),
        }
        drop(state);
        receiver
    }
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.entering -= 1;
        if state.entering == 0 {
            state.early.clear();
        }
    }
}

/// An item that is to be handed to a puller.
struct Ready {
    item: Item,
    /// Where it may have been worked on already: it goes back there, until then.
    doubt: Option<(Bytes, Instant)>,
}

/// What a line has read and not sent.
#[derive(Default)]
struct Desk {
    /// The last id that was read.
    cursor: Id,
    /// There may be more behind it.
    more: bool,
    ready: VecDeque<Ready>,
    /// Read, and not due yet.
    later: BinaryHeap<Reverse<(Millis, Id)>>,
    /// Due, and to be read again.
    due: Vec<Id>,
    doubt: HashMap<Id, (Bytes, Instant)>,
    keys: Keys,
    /// No puller takes anything now.
    full: bool,
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
    /// An item was read: it is handed out now, later, or after others of its key.
    fn admit(&mut self, item: Item, time: Millis) {
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
        let doubt = self.doubt.remove(&item.id);
        self.ready.push_back(Ready { item, doubt });
    }

    /// It is owed no more.
    fn leave(&mut self, id: Id) {
        self.doubt.remove(&id);
        self.due.extend(self.keys.leave(id));
    }

    /// When there is something to do, if nobody says anything.
    fn next(&self, time: Millis) -> Option<Duration> {
        let due =
            self.later.peek().map(|Reverse((due, _))| Duration::from_millis(due.0.saturating_sub(time.0)));
        let now = Instant::now();
        // The first that has waited long enough for its instance: few, and only while one is away.
        let doubt =
            self.ready.iter().filter_map(|ready| ready.doubt.as_ref()).map(|(_, until)| *until - now).min();
        [due, doubt].into_iter().flatten().min()
    }
}

/// The task of one line.
pub(super) struct Task {
    pub(super) shared: Weak<Shared>,
    pub(super) journal: Journal,
    pub(super) patience: Patience,
    pub(super) fence: Arc<AtomicU64>,
    pub(super) line: Arc<Line>,
}

impl Task {
    pub(super) async fn run(self) {
        self.deliver().await;
        // Nobody here will hear any more.
        lock(&self.line.state).waiting.clear();
    }

    async fn deliver(&self) {
        let line = &*self.line;
        let Some(mut phase) = self.shared.upgrade().map(|shared| shared.phase.subscribe()) else { return };
        let mut desk = Desk { more: true, ..Desk::default() };
        loop {
            let mut woken = pin!(line.wake.notified());
            woken.as_mut().enable();
            let Some(queue) = self.shared.upgrade().map(|shared| shared.outlets.wanted(&shared, &line.queue))
            else {
                return;
            };
            let mut changed = pin!(queue.changed());
            changed.as_mut().enable();
            let leaving = *phase.borrow_and_update();
            if let Err(error) = self.turn(&queue, &mut desk, leaving).await {
                if error == StoreError::Closed {
                    return;
                }
                tracing::warn!(%error, queue = line.queue, "what is owed cannot be read or written for now");
                sleep(PAUSE).await;
                continue;
            }
            if leaving >= Phase::Closed {
                return;
            }
            let room = desk.ready.is_empty() || (!desk.full && desk.ready.len() < HELD);
            if leaving == Phase::Running && (!desk.due.is_empty() || (desk.more && room)) {
                continue;
            }
            let lease = self.patience.lease;
            let due = Instant::now() + desk.next(now()).map_or(lease / 10, |due| due.min(lease / 10));
            tokio::select! {
                () = woken => {}
                () = changed => {}
                () = sleep_until(due) => line.lose(|sent| sent.since.elapsed() > lease),
                ended = phase.changed() => if ended.is_err() { return },
            }
        }
    }

    async fn turn(&self, queue: &Queue, desk: &mut Desk, phase: Phase) -> Result<(), StoreError> {
        self.write_down(desk).await?;
        if phase > Phase::Running {
            return Ok(());
        }
        let time = now();
        let hurried = std::mem::take(&mut lock(&self.line.state).hurried);
        if !hurried.is_empty() {
            let due = &mut desk.due;
            desk.later.retain(|Reverse((_, id))| {
                let stays = !hurried.contains(id);
                due.extend((!stays).then_some(*id));
                stays
            });
        }
        while desk.due.len() < PAGE && desk.later.peek().is_some_and(|Reverse((at, _))| *at <= time) {
            desk.due.extend(desk.later.pop().map(|Reverse((_, id))| id));
        }
        if !desk.due.is_empty() {
            let (ids, due) = (desk.due.clone(), desk.due.clone());
            let read = move |store: &mut dyn crate::durable::Store| {
                due.into_iter().filter_map(|id| store.item(id).transpose()).collect::<Result<Vec<_>, _>>()
            };
            let items = self.journal.look(read).await?;
            desk.due.clear();
            let found: HashSet<_> = items.iter().map(|item| item.id).collect();
            items.into_iter().for_each(|item| desk.admit(item, time));
            // Somebody has taken it away.
            ids.into_iter().filter(|id| !found.contains(id)).for_each(|id| desk.leave(id));
        }
        if desk.more && (desk.ready.is_empty() || (!desk.full && desk.ready.len() < HELD)) {
            let (name, cursor) = (self.line.queue.clone(), desk.cursor);
            let page = self.journal.look(move |store| store.page(&name, cursor, PAGE)).await?;
            desk.more = !page.is_empty();
            for item in page {
                desk.cursor = item.id;
                desk.admit(item, time);
            }
        }
        self.offer(queue, desk, time);
        Ok(())
    }

    /// Puts on disk what pullers have said, and then tells whoever waits for it.
    async fn write_down(&self, desk: &mut Desk) -> Result<(), StoreError> {
        let told = {
            let mut state = lock(&self.line.state);
            desk.more |= std::mem::take(&mut state.came);
            std::mem::take(&mut state.told)
        };
        if told.is_empty() {
            return Ok(());
        }
        let time = now();
        let writes: Vec<_> = told.iter().filter_map(|told| self.write_of(told, time)).collect();
        if !writes.is_empty()
            && let Err(error) = self.journal.commit(writes.clone()).await
        {
            lock(&self.line.state).told.extend(told);
            return Err(error);
        }
        for write in writes {
            self.written(write, desk);
        }
        for Told { id, outcome } in told {
            match outcome {
                Outcome::Untouched => desk.due.push(id),
                Outcome::Lost(sent) => {
                    let until = Instant::now() + self.patience.same_first;
                    desk.doubt.extend(sent.node.map(|node| (id, (node, until))));
                    desk.due.push(id);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn write_of(&self, told: &Told, died: Millis) -> Option<Write> {
        let item = told.id;
        match &told.outcome {
            Outcome::Done => Some(Write::Done(item)),
            Outcome::Untouched | Outcome::Lost(_) => None,
            Outcome::Expired(attempts) => Some(Write::Dead(NewLetter {
                item,
                reason: Reason::Expired,
                died,
                attempts: *attempts,
                error: "it was not processed in its time".into(),
                chain: Vec::new(),
                instance: None,
            })),
            Outcome::Failed(sent, error) => {
                let refused = error.retry == Some(Verdict::Never);
                let attempts = sent.attempts + 1;
                Some(match refused || attempts >= self.patience.attempts {
                    true => Write::Dead(NewLetter {
                        item,
                        reason: if refused { Reason::Refused } else { Reason::Attempts },
                        died,
                        attempts,
                        error: error.message.clone(),
                        chain: error.chain.clone(),
                        instance: Some(sent.to.clone()),
                    }),
                    false => {
                        let pause = error.retry_after_ms.unwrap_or_else(|| self.patience.pause(attempts));
                        Write::Retry {
                            id: item,
                            due: died.after(pause),
                            attempts,
                            error: error.message.clone(),
                        }
                    }
                })
            }
        }
    }

    fn written(&self, write: Write, desk: &mut Desk) {
        let line = &*self.line;
        match write {
            Write::Done(id) => {
                metrics::counter!("ripstop_outbox_processed_total").increment(1);
                desk.leave(id);
                line.settle(id, Ok(Fate::Processed));
            }
            Write::Retry { id, due, .. } => {
                metrics::counter!("ripstop_outbox_redelivered_total", "reason" => "failed").increment(1);
                desk.later.push(Reverse((due, id)));
            }
            Write::Dead(letter) => {
                let reason = letter.reason.as_str();
                metrics::counter!("ripstop_outbox_dead_total", "reason" => reason).increment(1);
                let (queue, error) = (&line.queue, &letter.error);
                tracing::warn!(queue, id = letter.item, reason, error, "an item became a dead letter");
                desk.leave(letter.item);
                line.settle(letter.item, Err(line.dead(error)));
            }
            _ => {}
        }
    }

    /// Hands what is ready to pullers, until none takes more. What only one puller may have waits for it.
    fn offer(&self, queue: &Queue, desk: &mut Desk, time: Millis) {
        let instant = Instant::now();
        let mut held = VecDeque::new();
        desk.full = false;
        while let Some(ready) = desk.ready.pop_front() {
            let item = &ready.item;
            if item.expires.is_some_and(|expires| expires <= time) {
                let outcome = Outcome::Expired(item.attempts);
                lock(&self.line.state).told.push(Told { id: item.id, outcome });
                self.line.wake.notify_one();
                continue;
            }
            let choice = match (&item.labels.key, &ready.doubt) {
                (Some(key), _) => Choice::Key(key),
                (None, Some((node, until))) if *until > instant => Choice::Node(node),
                _ => Choice::Any,
            };
            match self.hand_out(queue, item, choice) {
                Offered::Taken(_) => {}
                _ if matches!(choice, Choice::Any) => {
                    desk.full = true;
                    held.push_back(ready);
                    break;
                }
                _ => held.push_back(ready),
            }
        }
        // In front, in the order in which they were.
        held.append(&mut desk.ready);
        desk.ready = held;
    }

    fn hand_out(&self, queue: &Queue, item: &Item, choice: Choice<'_>) -> Offered {
        let mut header = Header::new(Kind::Work, item.id);
        header.fields.at = Some(item.attempts + 1);
        header.fields.sq = Some(Outbox::fence(&self.fence));
        let rare = header.fields.rare_mut();
        rare.ob = Some(self.journal.outbox().as_ref().into());
        rare.k = item.labels.key.as_deref().map(Into::into);
        rare.sj = item.labels.topic.as_deref().map(Into::into);
        rare.ps = Some(item.created.0);
        let outgoing = Outgoing {
            envelope: Envelope::None,
            subject: &self.line.queue,
            header: &wire::header(&header),
            body: Frame::Shared(&item.body),
        };
        // The answer waits for the state, and so finds what it answers.
        let mut state = lock(&self.line.state);
        queue.offer_to(&outgoing, choice, |pipe| {
            let sent = Sent {
                pipe: pipe.id(),
                node: pipe.peer().and_then(|peer| peer.property(property::NODE).cloned()),
                to: pipe.origin().remote().to_owned(),
                since: Instant::now(),
                attempts: item.attempts,
            };
            state.sent.insert(item.id, sent);
        })
    }
}
