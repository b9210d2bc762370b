//! What is owed to one queue, and the task that delivers it.
//!
//! Items of one key go one after the other: the next is read when the one before is done or given up. Where it goes, a
//! hash over the pullers decides, so that a key stays where it is for as long as its puller does.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet, VecDeque},
    pin::pin,
    sync::{Arc, Mutex, Weak, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Outbox, Patience,
    desk::{Desk, PAGE},
    millis, now,
};
use crate::{
    durable::{Doubt, Id, Item, Journal, Millis, NewLetter, Reason, StoreError, Write},
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
    node: String,
    /// Whoever had it before, if that is in doubt.
    holder: Option<String>,
    lost: u32,
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
    /// Whoever had it last has not worked on it.
    Untouched(Sent),
    /// The connection has ended, or nothing was heard for too long.
    Lost(Sent),
    Expired(u32),
    /// Nobody would remember any more whether it was done.
    Doubtful(u32),
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
            Some(error) if error.retry == Some(Verdict::Elsewhere) => Outcome::Untouched(sent),
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

/// The task of one line.
pub(super) struct Task {
    pub(super) shared: Weak<Shared>,
    pub(super) journal: Journal,
    pub(super) patience: Patience,
    /// What somebody has had goes to nobody else.
    pub(super) pinned: bool,
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
        let mut desk = Desk::new();
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
            let room = desk.has_room();
            if leaving == Phase::Running && (!desk.due.is_empty() || (desk.more && room)) {
                continue;
            }
            let lease = self.patience.lease;
            // One that leaves hands nothing out any more.
            let next = if leaving == Phase::Running { desk.next(now()) } else { None };
            let due = Instant::now() + next.map_or(lease / 10, |due| due.min(lease / 10));
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
            desk.ready.retain(|ready| {
                let stays = !hurried.contains(&ready.item.id);
                due.extend((!stays).then_some(ready.item.id));
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
            items.into_iter().for_each(|item| desk.admit(item, time, self.patience.same_first));
            // Somebody has taken it away.
            ids.into_iter().filter(|id| !found.contains(id)).for_each(|id| desk.leave(id));
        }
        if desk.more && desk.has_room() {
            let (name, cursor) = (self.line.queue.clone(), desk.cursor);
            let page = self.journal.look(move |store| store.page(&name, cursor, PAGE)).await?;
            desk.more = !page.is_empty();
            for item in page {
                desk.cursor = item.id;
                desk.admit(item, time, self.patience.same_first);
            }
        }
        if self.pinned {
            self.pin(queue, desk, time).await?;
        }
        self.offer(queue, desk, time);
        Ok(())
    }

    /// Writes down who is to have what nobody has had yet, before it does.
    async fn pin(&self, queue: &Queue, desk: &mut Desk, since: Millis) -> Result<(), StoreError> {
        let free = desk.ready.iter_mut().map(|ready| &mut ready.item).filter(|item| item.doubt.is_none());
        let pinned = free.map_while(|item| {
            let id = item.id.to_string();
            let holder = queue.owner(item.labels.key.as_deref().unwrap_or(&id))?;
            Some((item, Doubt { since, holder }))
        });
        let pinned: Vec<_> = pinned.collect();
        if pinned.is_empty() {
            return Ok(());
        }
        let write = |(item, doubt): &(&mut Item, Doubt)| Write::Doubt {
            id: item.id,
            doubt: doubt.clone(),
            lost: false,
        };
        self.journal.commit(pinned.iter().map(write).collect()).await?;
        pinned.into_iter().for_each(|(item, doubt)| item.doubt = Some(doubt));
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
        let writes: Vec<_> = told.iter().flat_map(|told| self.writes_of(told, time)).flatten().collect();
        if !writes.is_empty()
            && let Err(error) = self.journal.commit(writes.clone()).await
        {
            lock(&self.line.state).told.extend(told);
            return Err(error);
        }
        for write in writes {
            self.written(write, desk);
        }
        // Read again with what has been written of it.
        let again =
            |told: Told| matches!(told.outcome, Outcome::Untouched(_) | Outcome::Lost(_)).then_some(told.id);
        desk.due.extend(told.into_iter().filter_map(again));
        Ok(())
    }

    /// What is to be written of an item.
    fn writes_of(&self, told: &Told, now: Millis) -> [Option<Write>; 2] {
        let id = told.id;
        let sure = |sent: &Sent| (sent.holder.as_ref() == Some(&sent.node)).then_some(Write::Sure(id));
        let dead = |reason, attempts, error: String| {
            let instance = None;
            Some(Write::Dead(NewLetter {
                item: id,
                reason,
                died: now,
                attempts,
                error,
                chain: Vec::new(),
                instance,
            }))
        };
        match &told.outcome {
            Outcome::Done => [Some(Write::Done(id)), None],
            Outcome::Untouched(sent) => [sure(sent), None],
            Outcome::Lost(sent) if sent.lost + 1 >= self.patience.losses => {
                let error =
                    format!("whoever had it was lost, {} times, the last time {}", sent.lost + 1, sent.to);
                [dead(Reason::Lost, sent.attempts, error), None]
            }
            Outcome::Lost(sent) => {
                let doubt = Doubt { since: now, holder: sent.node.clone() };
                [Some(Write::Doubt { id, doubt, lost: true }), None]
            }
            Outcome::Expired(attempts) => {
                [dead(Reason::Expired, *attempts, "it was not processed in its time".into()), None]
            }
            Outcome::Doubtful(attempts) => {
                let error = "it may have been done, and nobody would remember that any more: replay it if it was not, or purge it";
                [dead(Reason::Doubt, *attempts, error.into()), None]
            }
            Outcome::Failed(sent, error) => [Some(self.failed(id, sent, error, now)), sure(sent)],
        }
    }

    fn failed(&self, id: Id, sent: &Sent, error: &ErrorBody, now: Millis) -> Write {
        let refused = error.retry == Some(Verdict::Never);
        let attempts = sent.attempts + 1;
        let message = error.message.clone();
        if refused || attempts >= self.patience.attempts {
            return Write::Dead(NewLetter {
                item: id,
                reason: if refused { Reason::Refused } else { Reason::Attempts },
                died: now,
                attempts,
                error: message,
                chain: error.chain.clone(),
                instance: Some(sent.to.clone()),
            });
        }
        let pause = error.retry_after_ms.unwrap_or_else(|| self.patience.pause(attempts));
        Write::Retry { id, due: now.after(pause), attempts, error: message }
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
        let over = desk.expired(time);
        if !over.is_empty() {
            let over =
                over.into_iter().map(|item| Told { id: item.id, outcome: Outcome::Expired(item.attempts) });
            lock(&self.line.state).told.extend(over);
            self.line.wake.notify_one();
        }
        while let Some(ready) = desk.ready.pop_front() {
            let item = &ready.item;
            if item.doubt.as_ref().is_some_and(|doubt| doubt.since.after(millis(self.patience.doubt)) <= time)
            {
                let outcome = Outcome::Doubtful(item.attempts);
                lock(&self.line.state).told.push(Told { id: item.id, outcome });
                self.line.wake.notify_one();
                continue;
            }
            let choice = match (&item.labels.key, &ready.doubt, &item.doubt) {
                (_, _, Some(doubt)) if self.pinned => Choice::Node(doubt.holder.as_bytes()),
                (Some(key), ..) => Choice::Key(key),
                (None, Some((node, until)), _) if *until > instant => Choice::Node(node.as_bytes()),
                // Nobody is there to whom it could be pinned.
                _ if self.pinned => Choice::Node(&[]),
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
        // In front, in the order in which they were; they are few where many are ready.
        held.into_iter().rev().for_each(|ready| desk.ready.push_front(ready));
    }

    fn hand_out(&self, queue: &Queue, item: &Item, choice: Choice<'_>) -> Offered {
        let mut header = Header::new(Kind::Work, item.id);
        header.fields.at = Some(item.attempts + 1);
        header.fields.sq = Some(Outbox::fence(&self.fence));
        let rare = header.fields.rare_mut();
        rare.ob = Some(self.journal.outbox().as_ref().into());
        rare.k = item.labels.key.as_deref().map(Into::into);
        rare.sj = item.labels.topic.as_deref().map(Into::into);
        rare.tp = item.labels.trace.as_deref().map(Into::into);
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
                node: node_of(pipe),
                holder: item.doubt.as_ref().map(|doubt| doubt.holder.clone()),
                lost: item.lost,
                to: pipe.origin().remote().to_owned(),
                since: Instant::now(),
                attempts: item.attempts,
            };
            state.sent.insert(item.id, sent);
        })
    }
}

/// A peer's node id, as it says it; empty for one that says none.
fn node_of(pipe: &Pipe) -> String {
    let peer = pipe.peer();
    let said = peer.as_ref().and_then(|peer| peer.property(property::NODE));
    said.map(|said| String::from_utf8_lossy(said).into_owned()).unwrap_or_default()
}
