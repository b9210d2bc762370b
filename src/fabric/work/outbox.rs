//! The sending side of durable work: an item waits on this node's disk until somebody has processed it.
//!
//! Each queue has a line: a task that reads what is owed in the order in which it was pushed, hands it to pullers that have
//! granted credit, and writes down what they say of it.
//!
//! ```text
//!   push ──▶ Journal ──▶ line: page ──▶ puller ──▶ ack ──▶ done
//!                          ▲                   └──▶ nack ──▶ due again later, or a dead letter
//!                          └────── lost ◀──────┘
//! ```

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    future::{Future, IntoFuture},
    pin::{Pin, pin},
    sync::{Arc, Mutex, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dashmap::DashMap;
use serde::Serialize;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    durable::{Id, Item, Journal, Millis, NewItem, NewLetter, Reason, SeenKey, StoreError, Write},
    envelope::{ErrorBody, Header, Kind, Verdict, check_subject},
    fabric::{
        Fate, Node,
        error::PushError,
        shared::{Phase, Shared},
        wire::{self, Envelope, Outgoing},
        work::{
            answer::{Key, say},
            push::{Offered, Queue},
        },
    },
    message::Frame,
    socket::pipe::Pipe,
    sync::lock,
};

/// Items read at once.
const PAGE: usize = 256;
/// An item that has failed so often is given up.
const ATTEMPTS: u32 = 5;
/// Pauses between attempts: full jitter below a ceiling that doubles from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// An item of which nothing was heard for so long, although its puller is there, counts as lost.
const LEASE: Duration = Duration::from_secs(600);
/// After the store has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Everything that this node owes.
pub(crate) struct Outbox {
    journal: Journal,
    lines: DashMap<String, Arc<Line>>,
}

/// Where a node writes down what it has done for others, before it says so: an ack means that it will not be done again.
pub(super) struct Disk {
    journal: Journal,
    runtime: tokio::runtime::Handle,
    acks: Arc<Mutex<Acks>>,
}

/// Done, and not written down yet.
#[derive(Default)]
struct Acks {
    waiting: Vec<(Key, Arc<str>, Arc<Pipe>)>,
    /// Somebody writes: what waits goes to disk together, next.
    writing: bool,
}

impl Disk {
    pub(super) fn done(&self, key: Key, queue: Arc<str>, pipe: Arc<Pipe>) {
        let mut acks = lock(&self.acks);
        acks.waiting.push((key, queue, pipe));
        if !std::mem::replace(&mut acks.writing, true) {
            self.runtime.spawn(write_acks(self.journal.clone(), self.acks.clone()));
        }
    }
}

async fn write_acks(journal: Journal, acks: Arc<Mutex<Acks>>) {
    loop {
        let done = {
            let mut acks = lock(&acks);
            acks.writing = !acks.waiting.is_empty();
            std::mem::take(&mut acks.waiting)
        };
        if done.is_empty() {
            return;
        }
        let at = now();
        let seen = done.iter().map(|(Key { sender, outbox, id }, ..)| {
            let key = SeenKey { sender: sender.to_string(), outbox: outbox.to_string(), id: *id };
            Write::Seen { key, at }
        });
        if let Err(error) = journal.commit(seen.collect()).await {
            let items = done.len();
            tracing::warn!(%error, items, "what was done may be done again after a restart");
        }
        for (key, queue, pipe) in done {
            say(&pipe, &queue, key.id, None);
        }
    }
}

/// What is owed to one queue.
struct Line {
    queue: String,
    state: Mutex<State>,
    /// Something was pushed, or told.
    wake: Notify,
}

#[derive(Default)]
struct State {
    sent: HashMap<Id, Sent>,
    told: Vec<Told>,
    waiting: HashMap<Id, oneshot::Sender<Result<Fate, PushError>>>,
    /// Pushes whose id is not known yet, and what was heard meanwhile of ids for which nobody waits.
    entering: usize,
    early: HashMap<Id, Result<Fate, PushError>>,
}

/// An item that a puller has, or is about to get.
struct Sent {
    pipe: u64,
    to: String,
    since: Instant,
    attempts: u32,
}

/// What became of an item that was sent.
enum Told {
    Done(Id),
    Failed {
        id: Id,
        attempts: u32,
        to: String,
        error: ErrorBody,
    },
    /// Nothing says that anybody has worked on it.
    Again(Id),
    Expired {
        id: Id,
        attempts: u32,
    },
}

pub(super) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn backoff(attempts: u32) -> u64 {
    let ceiling = BACKOFF.0.saturating_mul(1 << attempts.min(16)).min(BACKOFF.1);
    let ceiling = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX);
    fastrand::u64(ceiling / 2..=ceiling)
}

impl Outbox {
    pub(crate) fn new(journal: Journal) -> Self {
        Self { journal, lines: DashMap::new() }
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Remembers what was done here before this node started.
    pub(crate) async fn remember(&self, shared: &Arc<Shared>) -> Result<(), StoreError> {
        let done = self.journal.look(|store| store.seen()).await?;
        let key = |SeenKey { sender, outbox, id }| Key { sender: sender.into(), outbox: outbox.into(), id };
        let (journal, runtime) = (self.journal.clone(), shared.runtime.clone());
        let disk = Disk { journal, runtime, acks: Arc::default() };
        shared.pulls.remember(disk, done.into_iter().map(key));
        Ok(())
    }

    /// Goes on with what is owed and nobody here has pushed.
    pub(crate) async fn resume(&self, shared: &Arc<Shared>) -> Result<(), StoreError> {
        for queue in self.journal.look(|store| store.queues()).await? {
            self.line(shared, &queue).wake.notify_one();
        }
        Ok(())
    }

    fn line(&self, shared: &Arc<Shared>, queue: &str) -> Arc<Line> {
        if let Some(line) = self.lines.get(queue) {
            return line.clone();
        }
        let line = self.lines.entry(queue.to_owned()).or_insert_with(|| {
            let line =
                Arc::new(Line { queue: queue.to_owned(), state: Mutex::default(), wake: Notify::new() });
            shared.spawn(run(Arc::downgrade(shared), self.journal.clone(), line.clone()));
            line
        });
        line.clone()
    }

    /// A puller says what became of an item. Only what was sent over this connection is heard.
    pub(crate) fn told(&self, pipe: &Pipe, queue: &str, id: Id, error: Option<ErrorBody>) {
        let Some(line) = self.lines.get(queue).map(|line| line.clone()) else { return };
        let mut state = lock(&line.state);
        if state.sent.get(&id).is_none_or(|sent| sent.pipe != pipe.id()) {
            return;
        }
        let Some(sent) = state.sent.remove(&id) else { return };
        state.told.push(match error {
            None => Told::Done(id),
            Some(error) if error.retry == Some(Verdict::Elsewhere) => Told::Again(id),
            Some(error) => Told::Failed { id, attempts: sent.attempts + 1, to: sent.to, error },
        });
        drop(state);
        line.wake.notify_one();
    }

    /// A connection to a puller has ended: what it had is due again.
    pub(crate) fn lost(&self, pipe: &Pipe) {
        for line in &self.lines {
            line.lose(|sent| sent.pipe == pipe.id());
        }
    }
}

impl Line {
    fn lose(&self, is_lost: impl Fn(&Sent) -> bool) {
        let mut state = lock(&self.state);
        let lost: Vec<_> = state.sent.extract_if(|_, sent| is_lost(sent)).map(|(id, _)| id).collect();
        if !lost.is_empty() {
            metrics::counter!("ripstop_outbox_redelivered_total", "reason" => "lost")
                .increment(lost.len() as u64);
            state.told.extend(lost.into_iter().map(Told::Again));
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Tells whoever waits for this item.
    fn settle(&self, id: Id, outcome: Result<Fate, PushError>) {
        let mut state = lock(&self.state);
        if let Some(waiting) = state.waiting.remove(&id) {
            let _ = waiting.send(outcome);
        } else if state.entering > 0 {
            state.early.insert(id, outcome);
        }
    }

    fn dead(&self, reason: &str) -> PushError {
        PushError::Dead { queue: self.queue.clone(), reason: reason.to_owned() }
    }
}

/// What a line has read and not sent.
#[derive(Default)]
struct Desk {
    /// The last id that was read.
    cursor: Id,
    /// There was more behind it.
    more: bool,
    ready: VecDeque<Item>,
    /// Read, and not due yet.
    later: BinaryHeap<Reverse<(Millis, Id)>>,
}

/// The task of one line.
async fn run(shared: Weak<Shared>, journal: Journal, line: Arc<Line>) {
    deliver(shared, journal, &line).await;
    // Nobody here will hear any more.
    lock(&line.state).waiting.clear();
}

async fn deliver(shared: Weak<Shared>, journal: Journal, line: &Line) {
    let Some(mut phase) = shared.upgrade().map(|shared| shared.phase.subscribe()) else { return };
    let mut desk = Desk { more: true, ..Desk::default() };
    loop {
        let mut woken = pin!(line.wake.notified());
        woken.as_mut().enable();
        let Some(queue) = shared.upgrade().map(|shared| shared.outlets.wanted(&shared, &line.queue)) else {
            return;
        };
        let mut changed = pin!(queue.changed());
        changed.as_mut().enable();
        let leaving = *phase.borrow_and_update();
        if let Err(error) = turn(&journal, line, &queue, &mut desk, leaving).await {
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
        if desk.ready.is_empty() && desk.more && leaving == Phase::Running {
            continue;
        }
        let due = desk.later.peek().map(|Reverse((due, _))| due.0.saturating_sub(now().0));
        let due = Instant::now() + due.map_or(LEASE / 10, Duration::from_millis).min(LEASE / 10);
        tokio::select! {
            () = woken => {}
            () = changed => {}
            () = sleep_until(due) => line.lose(|sent| sent.since.elapsed() > LEASE),
            ended = phase.changed() => if ended.is_err() { return },
        }
    }
}

async fn turn(
    journal: &Journal,
    line: &Line,
    queue: &Queue,
    desk: &mut Desk,
    phase: Phase,
) -> Result<(), StoreError> {
    write_down(journal, line, desk).await?;
    if phase > Phase::Running {
        return Ok(());
    }
    let time = now();
    let mut due = Vec::new();
    while desk.later.peek().is_some_and(|Reverse((at, _))| *at <= time) && due.len() < PAGE {
        due.extend(desk.later.pop().map(|Reverse((_, id))| id));
    }
    if !due.is_empty() {
        let read = move |store: &mut dyn crate::durable::Store| {
            due.into_iter().filter_map(|id| store.item(id).transpose()).collect::<Result<Vec<_>, _>>()
        };
        desk.ready.extend(journal.look(read).await?);
    }
    if desk.ready.is_empty() {
        let (name, cursor) = (line.queue.clone(), desk.cursor);
        let page = journal.look(move |store| store.page(&name, cursor, PAGE)).await?;
        desk.more = page.len() == PAGE;
        for item in page {
            desk.cursor = item.id;
            match item.due > time {
                true => desk.later.push(Reverse((item.due, item.id))),
                false => desk.ready.push_back(item),
            }
        }
    }
    offer(journal.outbox(), line, queue, desk, time);
    Ok(())
}

/// Puts on disk what pullers have said, and then tells whoever waits for it.
async fn write_down(journal: &Journal, line: &Line, desk: &mut Desk) -> Result<(), StoreError> {
    let told = std::mem::take(&mut lock(&line.state).told);
    if told.is_empty() {
        return Ok(());
    }
    let time = now();
    let mut writes = Vec::new();
    for told in &told {
        writes.push(match told {
            Told::Done(id) => Write::Done(*id),
            Told::Again(_) => continue,
            Told::Expired { id, attempts } => Write::Dead(NewLetter {
                item: *id,
                reason: Reason::Expired,
                died: time,
                attempts: *attempts,
                error: "it was not processed in its time".into(),
                chain: Vec::new(),
                instance: None,
            }),
            Told::Failed { id, attempts, to, error } => {
                let refused = error.retry == Some(Verdict::Never);
                match refused || *attempts >= ATTEMPTS {
                    true => Write::Dead(NewLetter {
                        item: *id,
                        reason: if refused { Reason::Refused } else { Reason::Attempts },
                        died: time,
                        attempts: *attempts,
                        error: error.message.clone(),
                        chain: error.chain.clone(),
                        instance: Some(to.clone()),
                    }),
                    false => Write::Retry {
                        id: *id,
                        due: time.after(error.retry_after_ms.unwrap_or_else(|| backoff(*attempts - 1))),
                        attempts: *attempts,
                        error: error.message.clone(),
                    },
                }
            }
        });
    }
    if !writes.is_empty()
        && let Err(error) = journal.commit(writes.clone()).await
    {
        lock(&line.state).told.extend(told);
        return Err(error);
    }
    for write in writes {
        match write {
            Write::Done(id) => {
                metrics::counter!("ripstop_outbox_processed_total").increment(1);
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
                line.settle(letter.item, Err(line.dead(error)));
            }
            _ => {}
        }
    }
    for told in told {
        if let Told::Again(id) = told {
            desk.later.push(Reverse((time, id)));
        }
    }
    Ok(())
}

/// Hands what is ready to pullers, until none takes more.
fn offer(outbox: &str, line: &Line, queue: &Queue, desk: &mut Desk, time: Millis) {
    while let Some(item) = desk.ready.front() {
        let mut state = lock(&line.state);
        if item.expires.is_some_and(|expires| expires <= time) {
            state.told.push(Told::Expired { id: item.id, attempts: item.attempts });
            line.wake.notify_one();
        } else {
            let mut header = Header::new(Kind::Work, item.id);
            header.fields.at = Some(item.attempts + 1);
            header.fields.rare_mut().ob = Some(outbox.into());
            let outgoing = Outgoing {
                envelope: Envelope::None,
                subject: &line.queue,
                header: &wire::header(&header),
                body: Frame::Shared(&item.body),
            };
            // The answer waits for the state, and so finds what it answers.
            let sent = |pipe: &Pipe| {
                let (to, since) = (pipe.origin().remote().to_owned(), Instant::now());
                let sent = Sent { pipe: pipe.id(), to, since, attempts: item.attempts };
                state.sent.insert(item.id, sent);
            };
            let Offered::Taken(_) = queue.offer(&outgoing, sent) else { return };
        }
        desk.ready.pop_front();
    }
}

/// A durable push, made by [`Push::durable`](super::push::Push::durable). Await it to keep the item.
#[must_use = "nothing is kept until this is awaited"]
pub struct Durable<'a, T: ?Sized> {
    node: Node,
    queue: &'a str,
    item: &'a T,
    due: Option<Duration>,
    lives: Option<Duration>,
}

impl<'a, T: Serialize + Sync + ?Sized> Durable<'a, T> {
    pub(super) fn new(node: Node, queue: &'a str, item: &'a T) -> Self {
        Self { node, queue, item, due: None, lives: None }
    }

    /// Delivers the item no sooner than this from now, restarts or not. Default: at once.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.push("emails", "reminder").durable().after(std::time::Duration::from_secs(600)).await?;
    /// # Ok(()) }
    /// ```
    pub fn after(mut self, pause: Duration) -> Self {
        self.due = Some(pause);
        self
    }

    /// How long the item is worth delivering; then it becomes a dead letter. Default: for ever.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.push("emails", "your code").durable().expires(std::time::Duration::from_secs(600)).await?;
    /// # Ok(()) }
    /// ```
    pub fn expires(mut self, lives: Duration) -> Self {
        self.lives = Some(lives);
        self
    }

    async fn keep(self) -> Result<Receipt, PushError> {
        let shared = self.node.shared();
        if shared.is_draining() {
            return Err(PushError::Draining);
        }
        check_subject(self.queue)?;
        let body = wire::body(self.item)?;
        let (queue, size, limit) = (self.queue.to_owned(), body.len(), shared.options.max_message);
        if size > limit {
            return Err(PushError::TooLarge { queue, size, limit });
        }
        let outbox = shared.outbox.get().ok_or(PushError::NoStore)?;
        let line = outbox.line(shared, self.queue);
        let created = now();
        let later = |pause: Duration| created.after(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        let due = self.due.map_or(created, later);
        let item = NewItem { queue, body, created, due, expires: self.lives.map(later) };
        let entering = Entering::new(&line);
        let kept = outbox.journal.commit(vec![Write::Put(item)]).await?;
        let id = kept.first().copied().flatten().unwrap_or(0);
        let outcome = entering.wait(id);
        line.wake.notify_one();
        metrics::counter!("ripstop_outbox_kept_total").increment(1);
        Ok(Receipt { id, outcome, line })
    }
}

impl<'a, T: Serialize + Sync + ?Sized> IntoFuture for Durable<'a, T> {
    type Output = Result<Receipt, PushError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.keep())
    }
}

/// A push whose id is not known yet.
struct Entering<'a>(&'a Line);

impl<'a> Entering<'a> {
    fn new(line: &'a Line) -> Self {
        lock(&line.state).entering += 1;
        Self(line)
    }

    /// From here on its outcome is heard, if it has not been already.
    fn wait(self, id: Id) -> oneshot::Receiver<Result<Fate, PushError>> {
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

/// An item that is on disk here. Dropping this changes nothing: it will be delivered.
pub struct Receipt {
    id: Id,
    outcome: oneshot::Receiver<Result<Fate, PushError>>,
    line: Arc<Line>,
}

impl Receipt {
    /// What names the item in this node's outbox, for ever.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("kept as {}", node.push("emails", "hello").durable().await?.id());
    /// # Ok(()) }
    /// ```
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Waits until a handler has processed the item: [`Fate::Processed`]. Cancel safe: the item is delivered all the same.
    ///
    /// # Errors
    /// [`PushError::Dead`] when it has become a dead letter; [`PushError::Draining`] when this node leaves first.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.push("emails", "hello").durable().await?.processed().await?;
    /// # Ok(()) }
    /// ```
    pub async fn processed(mut self) -> Result<Fate, PushError> {
        (&mut self.outcome).await.unwrap_or(Err(PushError::Draining))
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        lock(&self.line.state).waiting.remove(&self.id);
    }
}

show!([T: ?Sized] Durable<'_, T>, "Durable", this, { queue: this.queue, after: this.due, expires: this.lives });

show!([] Receipt, "Receipt", this, { queue: this.line.queue, id: this.id });
