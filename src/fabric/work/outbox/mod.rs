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

mod ask;
mod desk;
mod groups;
pub(crate) mod kept;
pub(crate) mod letters;
mod line;
pub(crate) mod push;

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use dashmap::DashMap;

use crate::{
    config::DurableConfig,
    durable::{Id, Journal, Millis, ReplyKey, SeenKey, StoreError, Write},
    envelope::{ErrorBody, Pattern},
    fabric::{
        calls::server::{Busy, Working},
        error::PushError,
        shared::Shared,
        work::answer::{Key, say},
    },
    socket::pipe::Pipe,
    sync::lock,
};
use line::Line;

/// Everything that this node owes.
pub(crate) struct Outbox {
    shared: Weak<Shared>,
    journal: Journal,
    patience: Patience,
    /// Queues whose items go to nobody else than who had them first.
    pinned: Vec<Pattern>,
    lines: DashMap<String, Arc<Line>>,
    groups: groups::Groups,
    /// Numbers deliveries, rising over all starts of this node.
    fence: Arc<AtomicU64>,
    /// How long an item lives that says nothing itself.
    lives: Option<Duration>,
}

/// When to try again, and when no more.
#[derive(Clone, Copy)]
struct Patience {
    attempts: u32,
    /// Full jitter below a ceiling that doubles from the first to the second.
    retry: (Duration, Duration),
    lease: Duration,
    same_first: Duration,
    /// In doubt for longer than this, an item is given up.
    doubt: Duration,
    /// And so is one that was lost so often together with whoever had it.
    losses: u32,
}

impl Patience {
    /// Milliseconds until the next attempt.
    fn pause(&self, failed: u32) -> u64 {
        let ceiling = self.retry.0.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(self.retry.1);
        let ceiling = millis(ceiling);
        fastrand::u64(ceiling / 2..=ceiling)
    }
}

pub(crate) fn now() -> Millis {
    Millis::of(SystemTime::now())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Millis {
    fn of(time: SystemTime) -> Self {
        Self(millis(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }

    fn time(self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.0)).unwrap_or(UNIX_EPOCH)
    }
}

impl Outbox {
    pub(crate) fn new(shared: &Arc<Shared>, journal: Journal, config: &DurableConfig) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            journal,
            patience: Patience {
                attempts: config.attempts,
                retry: (config.retry_min, config.retry_max),
                lease: config.lease,
                same_first: config.same_first,
                doubt: config.dedup_for,
                losses: config.losses,
            },
            // It was checked when it was read.
            pinned: config.pinned.iter().filter_map(|pinned| Pattern::parse(pinned).ok()).collect(),
            lines: DashMap::new(),
            groups: groups::Groups::new(config),
            // The epoch is counted on disk: what an earlier start has given out is lower.
            fence: Arc::new(AtomicU64::new(shared.epoch << 32)),
            lives: Some(config.expires).filter(|lives| !lives.is_zero()),
        }
    }

    /// That of a node with a place on disk.
    pub(crate) fn of(shared: &Shared) -> Result<&Arc<Self>, PushError> {
        shared.outbox.get().ok_or(PushError::NoStore)
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Remembers what was done here before this node started.
    pub(crate) async fn remember(&self, shared: &Arc<Shared>, limit: u64) -> Result<(), StoreError> {
        let done = self.journal.look(|store| store.seen()).await?;
        let key = |SeenKey { sender, outbox, id }| Key { sender: sender.into(), outbox: outbox.into(), id };
        let (journal, runtime, busy) =
            (self.journal.clone(), shared.runtime.clone(), shared.methods.busy.clone());
        let disk = Disk { journal, runtime, busy, acks: Arc::default() };
        shared.pulls.remember(disk, limit, done.into_iter().map(key));
        Ok(())
    }

    /// Goes on with what is owed and nobody here has pushed.
    pub(crate) async fn resume(&self) -> Result<(), StoreError> {
        for queue in self.journal.look(|store| store.queues()).await? {
            self.wake(&queue);
        }
        Ok(())
    }

    /// Something has come for this queue.
    fn wake(&self, queue: &str) {
        if let Some(line) = self.line(queue) {
            line.came();
        }
    }

    /// `None`: the node is gone, or nobody is to get what is in this queue.
    fn line(&self, queue: &str) -> Option<Arc<Line>> {
        if let Some(line) = self.lines.get(queue) {
            return Some(line.clone());
        }
        if queue == crate::durable::RETAINED {
            return None;
        }
        let shared = self.shared.upgrade()?;
        let line = self.lines.entry(queue.to_owned()).or_insert_with(|| {
            let line = Arc::new(Line::new(queue));
            let task = line::Task {
                shared: self.shared.clone(),
                journal: self.journal.clone(),
                patience: self.patience,
                pinned: self.pinned.iter().any(|pinned| pinned.matches(queue)),
                fence: self.fence.clone(),
                line: line.clone(),
            };
            shared.spawn(task.run());
            line
        });
        Some(line.clone())
    }

    /// A puller says what became of an item. Only what was sent over this connection is heard.
    pub(crate) fn told(&self, pipe: &Pipe, queue: &str, id: Id, error: Option<ErrorBody>) {
        if let Some(line) = self.lines.get(queue).map(|line| line.clone()) {
            line.told(pipe, id, error);
        }
    }

    /// A puller is still at work on an item.
    pub(crate) fn extended(&self, pipe: &Pipe, queue: &str, id: Id) {
        if let Some(line) = self.lines.get(queue).map(|line| line.clone()) {
            line.extended(pipe, id);
        }
    }

    /// A connection to a puller has ended: what it had is due again.
    pub(crate) fn lost(&self, pipe: &Pipe) {
        for line in &self.lines {
            line.lose(|sent| sent.pipe == pipe.id());
        }
    }

    /// The answer that was given to a call with a key before.
    pub(crate) async fn reply(&self, key: ReplyKey) -> Result<Option<Bytes>, StoreError> {
        self.journal.look(move |store| store.reply(&key)).await
    }

    /// Keeps the answer to a call with a key.
    pub(crate) async fn keep_reply(&self, key: ReplyKey, body: Bytes) -> Result<(), StoreError> {
        self.journal.commit(vec![Write::Reply { key, body, at: now() }]).await.map(drop)
    }

    /// The next delivery's number.
    fn fence(fence: &AtomicU64) -> u64 {
        fence.fetch_add(1, Ordering::Relaxed)
    }
}

/// Where a node writes down what it has done for others, before it says so: an ack means that it will not be done again.
pub(super) struct Disk {
    journal: Journal,
    runtime: tokio::runtime::Handle,
    /// A drain waits for what is being written down.
    busy: Busy,
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
            self.runtime.spawn(write_acks(self.journal.clone(), self.acks.clone(), self.busy.begin()));
        }
    }
}

async fn write_acks(journal: Journal, acks: Arc<Mutex<Acks>>, _busy: Working) {
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
