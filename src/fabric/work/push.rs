//! The sending side of push-pull.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use dashmap::DashMap;
use serde::Serialize;
use tokio::{sync::Notify, time::timeout_at};

use crate::{
    envelope::{self, CreditBody, EncodeError, ErrorBody, Header, Kind, check_subject, root},
    fabric::{
        Fate, Node,
        error::PushError,
        link::{Lane, PeerLink},
        shared::{Shared, deadline},
        wire::{self, Envelope, Outgoing, own},
    },
    message::Frame,
    observe::flow::Flow as Counted,
    security::Action,
    socket::{
        Limit,
        core::Flow,
        pipe::{Pipe, Put},
    },
    sync::lock,
    zmtp::Received,
};

/// Every queue that this node pushes to.
#[derive(Default)]
pub(crate) struct Outlets {
    queues: DashMap<String, Arc<Queue>>,
}

/// One queue: the pullers that have granted credit for it.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<Pullers>,
    /// This node has pushed to it; else a puller only named it.
    ours: AtomicBool,
    /// Credit came, a full connection has room again, or a puller went.
    changed: Notify,
    /// What is pushed to it, once this node does.
    counted: OnceLock<Arc<Counted>>,
}

#[derive(Default)]
struct Pullers {
    outlets: Vec<Outlet>,
    /// Where the next item begins to look, so that the pullers take turns.
    next: usize,
    /// Connections to pullers that do not count, and why.
    forbidden: Vec<(u64, String)>,
}

impl Pullers {
    /// Whether it was one of them.
    fn leave(&mut self, pipe: &Pipe) -> bool {
        let before = self.outlets.len();
        self.outlets.retain(|outlet| outlet.pipe.id() != pipe.id());
        self.forbidden.retain(|(of, _)| *of != pipe.id());
        self.outlets.len() < before
    }
}

/// What a puller's queue counts in its memory account beside the name: the queue's place in the table, and its own there.
const QUEUE: usize = 512;
/// Why a peer says no is kept up to this length, in bytes.
const REASON: usize = 255;

fn cost(queue: &str) -> usize {
    queue.len() + QUEUE
}

struct Outlet {
    pipe: Arc<Pipe>,
    /// The puller's node id, as it says it.
    #[cfg(feature = "durable")]
    node: Option<Bytes>,
    credit: u64,
}

impl Outlet {
    fn new(pipe: &Arc<Pipe>, credit: u32) -> Self {
        Self {
            pipe: pipe.clone(),
            #[cfg(feature = "durable")]
            node: pipe.peer().and_then(|peer| peer.property(wire::property::NODE).cloned()),
            credit: u64::from(credit),
        }
    }

    /// `None`: it takes nothing now.
    fn offer(&mut self, item: &Outgoing<'_>) -> Option<Put> {
        if self.credit == 0 {
            return None;
        }
        let put = self.pipe.try_put(item);
        if !put.is_queued() {
            return None;
        }
        self.credit -= 1;
        Some(put)
    }
}

impl Outlets {
    /// The roots of the queues pushed to, for the reconciler that decides whom to dial.
    pub(crate) fn roots(&self) -> Vec<String> {
        let ours = self.queues.iter().filter(|entry| entry.ours.load(Ordering::Relaxed));
        ours.map(|entry| root(entry.key()).to_owned()).collect()
    }

    /// The queue to push to, if it is known, and whether this is the first push to it. It is marked while the table
    /// is locked, so that `forget` cannot remove it in between.
    fn known(&self, name: &str) -> Option<(Arc<Queue>, bool)> {
        let queue = self.queues.get(name)?;
        // Mostly read: all pushers share the mark.
        let new = !queue.ours.load(Ordering::Relaxed) && !queue.ours.swap(true, Ordering::Relaxed);
        Some((queue.clone(), new))
    }

    /// The queue for whoever has something for it, and will have until it is taken.
    #[cfg(feature = "durable")]
    pub(super) fn wanted(&self, shared: &Shared, name: &str) -> Arc<Queue> {
        let (queue, new) = self.queue(name);
        queue.counted.get_or_init(|| shared.counted.pushed(name));
        if new || lock(&queue.state).outlets.is_empty() {
            shared.reconcile();
        }
        queue
    }

    /// Whether somebody pulls the queue.
    #[cfg(feature = "durable")]
    pub(super) fn has_pullers(&self, name: &str) -> bool {
        self.queues.get(name).is_some_and(|queue| !lock(&queue.state).outlets.is_empty())
    }

    fn queue(&self, name: &str) -> (Arc<Queue>, bool) {
        let queue = self.queues.entry(name.to_owned()).or_default();
        let new = !queue.ours.swap(true, Ordering::Relaxed);
        (queue.clone(), new)
    }

    /// What pullers say: credit, hello, goaway.
    pub(crate) fn deliver(
        &self,
        shared: &Arc<Shared>,
        link: &Arc<PeerLink>,
        pipe: &Arc<Pipe>,
        received: &mut Received,
    ) -> Flow {
        received.commands.clear();
        for message in received.messages.drain(..) {
            let parts = match wire::parse(&message) {
                Ok(parts) => parts,
                Err(reason) => return Flow::Close(reason),
            };
            match parts.header.as_ref().map(|header| header.kind) {
                Some(Kind::Credit) => match envelope::decode_body::<CreditBody>(parts.body) {
                    Ok(CreditBody(credit)) => match shared.guard.may(pipe, Action::Pull, parts.subject) {
                        Ok(()) => {
                            if let Err(limit) = self.grant(parts.subject, pipe, credit) {
                                shared.gate.limited(limit, pipe.origin().remote(), std::time::Instant::now());
                                return Flow::Close(limit.to_string());
                            }
                        }
                        Err(reason) => self.forbid(parts.subject, pipe, reason),
                    },
                    Err(error) => return Flow::Close(error.to_string()),
                },
                Some(Kind::Hello | Kind::Manifest) => shared.heard(link, parts.body),
                #[cfg(feature = "durable")]
                Some(Kind::Progress) => {
                    let id = parts.header.as_ref().map_or(0, |header| header.id);
                    if let Some(outbox) = shared.outbox.get() {
                        outbox.extended(pipe, parts.subject, id);
                    }
                }
                #[cfg(feature = "durable")]
                Some(kind @ (Kind::Ack | Kind::Nack)) => {
                    let error = || envelope::decode_body::<ErrorBody>(parts.body).unwrap_or_default();
                    let id = parts.header.as_ref().map_or(0, |header| header.id);
                    if let Some(outbox) = shared.outbox.get() {
                        outbox.told(pipe, parts.subject, id, (kind == Kind::Nack).then(error));
                    }
                }
                Some(Kind::Error) => {
                    let said = envelope::decode_body::<ErrorBody>(parts.body).map(|error| error.message);
                    self.forbid(parts.subject, pipe, said.unwrap_or_default());
                }
                // This puller no longer pulls the queue.
                Some(Kind::Cancel) => self.withdrawn(parts.subject, pipe),
                Some(Kind::Goaway) => {
                    self.lost(pipe);
                    // Behind the items that are queued: the puller takes nothing more after it.
                    wire::last(pipe, Envelope::None, own::GOAWAY, Header::new(Kind::Goaway, 0), &());
                }
                _ => {}
            }
        }
        Flow::Continue
    }

    /// Credit for a queue that we don't push to is no use yet, but may be soon. It is the puller's to keep within bounds.
    fn grant(&self, name: &str, pipe: &Arc<Pipe>, credit: u32) -> Result<(), Limit> {
        let queue = self.queues.entry(name.to_owned()).or_default();
        let kept = {
            let mut pullers = lock(&queue.state);
            pullers.forbidden.retain(|(of, _)| *of != pipe.id());
            match pullers.outlets.iter_mut().find(|outlet| outlet.pipe.id() == pipe.id()) {
                Some(outlet) => {
                    outlet.credit = outlet.credit.saturating_add(u64::from(credit));
                    true
                }
                None => {
                    let kept = pipe.keep(cost(name));
                    if kept {
                        pullers.outlets.push(Outlet::new(pipe, credit));
                    }
                    kept
                }
            }
        };
        if kept {
            queue.changed.notify_waiters();
            return Ok(());
        }
        drop(queue);
        self.queues.remove_if(name, |_, queue| !queue.is_useful());
        Err(Limit::PeerMemory)
    }

    /// One side of this connection may not. It is kept only for a queue that we push to.
    fn forbid(&self, name: &str, pipe: &Pipe, mut reason: String) {
        let Some(queue) = self.queues.get(name).filter(|queue| queue.ours.load(Ordering::Relaxed)) else {
            return self.withdrawn(name, pipe);
        };
        reason.truncate(reason.floor_char_boundary(REASON));
        queue.forget(name, pipe);
        lock(&queue.state).forbidden.push((pipe.id(), reason));
        queue.changed.notify_waiters();
    }

    fn withdrawn(&self, name: &str, pipe: &Pipe) {
        self.queues.remove_if(name, |_, queue| !queue.forget(name, pipe));
    }

    /// The puller behind this connection takes nothing more.
    pub(crate) fn lost(&self, pipe: &Pipe) {
        self.queues.retain(|name, queue| queue.forget(name, pipe));
    }

    /// A connection that was full has room: whoever waits with credit left may go on.
    pub(crate) fn writable(&self, pipe: &Pipe) {
        for queue in &self.queues {
            if lock(&queue.state).outlets.iter().any(|outlet| outlet.pipe.id() == pipe.id()) {
                queue.changed.notify_waiters();
            }
        }
    }
}

/// Whether an item found a puller.
pub(super) enum Offered {
    Taken(Put),
    /// Pullers there are, but none with credit and room.
    Full,
    Nobody,
    /// The only ones there are do not let us, or may not pull.
    Forbidden(String),
}

/// Which puller an item is for.
#[cfg(feature = "durable")]
#[derive(Clone, Copy)]
pub(super) enum Choice<'a> {
    Any,
    /// The one that this key belongs to, as long as it is there.
    Key(&'a str),
    /// The one with this node id.
    Node(&'a [u8]),
}

impl Queue {
    /// As [`Queue::offer`], to one puller.
    #[cfg(feature = "durable")]
    pub(super) fn offer_to(
        &self,
        item: &Outgoing<'_>,
        choice: Choice<'_>,
        taken: impl FnOnce(&Pipe),
    ) -> Offered {
        let mut pullers = lock(&self.state);
        let mut outlets = pullers.outlets.iter_mut();
        let chosen = match choice {
            Choice::Any => {
                drop(pullers);
                return self.offer(item, taken);
            }
            Choice::Key(key) => {
                outlets.max_by_key(|outlet| crate::fabric::balance::weight(&outlet.node, key))
            }
            Choice::Node(node) => outlets.rfind(|outlet| outlet.node.as_deref() == Some(node)),
        };
        let Some(chosen) = chosen else { return Offered::Nobody };
        match chosen.offer(item) {
            Some(put) => {
                self.count();
                taken(&chosen.pipe);
                Offered::Taken(put)
            }
            None => Offered::Full,
        }
    }

    /// The node id of the puller that this key belongs to; `None`: nobody pulls.
    #[cfg(feature = "durable")]
    pub(super) fn owner(&self, key: &str) -> Option<String> {
        let pullers = lock(&self.state);
        let owner =
            pullers.outlets.iter().max_by_key(|outlet| crate::fabric::balance::weight(&outlet.node, key))?;
        Some(String::from_utf8_lossy(owner.node.as_deref()?).into_owned())
    }

    /// Credit has come, or room, or a puller has gone.
    #[cfg(feature = "durable")]
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// `false`: the queue is of no use any more.
    fn forget(&self, name: &str, pipe: &Pipe) -> bool {
        if lock(&self.state).leave(pipe) {
            pipe.forget(cost(name));
        }
        self.changed.notify_waiters();
        self.is_useful()
    }

    fn count(&self) {
        if let Some(counted) = self.counted.get() {
            counted.count();
        }
    }

    fn is_useful(&self) -> bool {
        self.ours.load(Ordering::Relaxed) || !lock(&self.state).outlets.is_empty()
    }

    /// `taken` is told of the puller that gets it.
    pub(super) fn offer(&self, item: &Outgoing<'_>, taken: impl FnOnce(&Pipe)) -> Offered {
        let mut pullers = lock(&self.state);
        let count = pullers.outlets.len();
        for _ in 0..count {
            pullers.next = (pullers.next + 1) % count;
            let next = pullers.next;
            let Some(outlet) = pullers.outlets.get_mut(next) else { break };
            if let Some(put) = outlet.offer(item) {
                self.count();
                taken(&outlet.pipe);
                return Offered::Taken(put);
            }
        }
        match pullers.forbidden.first() {
            _ if count > 0 => Offered::Full,
            Some((_, reason)) => Offered::Forbidden(reason.clone()),
            None => Offered::Nobody,
        }
    }
}

/// A work item being pushed by [`Node::push`]. Await it to push.
#[must_use = "nothing is pushed until this is awaited"]
pub struct Push<'a, T: ?Sized> {
    node: Node,
    queue: &'a str,
    item: &'a T,
    timeout: Option<Duration>,
}

impl<'a, T: Serialize + Sync + ?Sized> Push<'a, T> {
    pub(crate) fn new(node: &Node, queue: &'a str, item: &'a T) -> Self {
        Self { node: node.clone(), queue, item, timeout: None }
    }

    /// How long to wait for a puller with room. Default: `timeouts.call`, 10 s.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.push("emails", "hello").timeout(std::time::Duration::from_secs(1)).await?;
    /// # Ok(()) }
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

#[cfg(feature = "durable")]
impl<'a, T: Serialize + Sync + ?Sized> Push<'a, T> {
    /// Keeps the item on this node's disk until somebody has processed it: once this is awaited, neither a crash of this
    /// node nor one of whoever works on it loses it. It takes a `data_dir`. What is thus pushed is delivered at least once.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let receipt = node.push("emails", "hello").durable().await?; // it is on disk
    /// receipt.processed().await?; // and now somebody has done it
    /// # Ok(()) }
    /// ```
    pub fn durable(self) -> super::outbox::push::Durable<'a, T> {
        super::outbox::push::Durable::new(self.node, self.queue, self.item)
    }
}

impl<T: ?Sized> Push<'_, T> {
    async fn wait(&self, queue: &Queue, body: &Bytes) -> Result<Fate, PushError> {
        let shared = self.node.shared();
        wait(shared, self.queue, queue, body, self.timeout.unwrap_or(shared.options.call_timeout)).await
    }
}

/// What the first try left.
enum First {
    Done(Result<Fate, PushError>),
    Wait { queue: Arc<Queue>, body: Bytes },
}

impl<'a, T: Serialize + Sync + ?Sized> IntoFuture for Push<'a, T> {
    type Output = Result<Fate, PushError>;
    type IntoFuture = Pushing<'a, T>;

    fn into_future(self) -> Self::IntoFuture {
        Pushing { first: Some(self), slow: None }
    }
}

type Slow<'a> = Pin<Box<dyn Future<Output = Result<Fate, PushError>> + Send + 'a>>;

/// An item that is being pushed: a [`Push`] that is awaited. Cancel safe: a cancelled one has queued nothing.
#[must_use = "nothing is pushed until this is awaited"]
pub struct Pushing<'a, T: ?Sized> {
    first: Option<Push<'a, T>>,
    /// A future of its own only for who has to wait: mostly a puller with credit is there.
    slow: Option<Slow<'a>>,
}

impl<'a, T: Serialize + Sync + ?Sized> Future for Pushing<'a, T> {
    type Output = Result<Fate, PushError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(push) = self.first.take() {
            if push.node.shared().turn.is_due() {
                self.slow = Some(Box::pin(async move {
                    push.node.shared().turn.take().await;
                    match first(push.node.shared(), push.queue, push.item) {
                        First::Done(result) => result,
                        First::Wait { queue, body } => push.wait(&queue, &body).await,
                    }
                }));
            } else {
                match first(push.node.shared(), push.queue, push.item) {
                    First::Done(result) => return Poll::Ready(result),
                    First::Wait { queue, body } => {
                        self.slow = Some(Box::pin(async move { push.wait(&queue, &body).await }));
                    }
                }
            }
        }
        match &mut self.slow {
            Some(slow) => slow.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// The usual way: a puller with credit is there, nothing is copied but into its connection's batch.
fn first<T: Serialize + ?Sized>(shared: &Arc<Shared>, name: &str, item: &T) -> First {
    if shared.is_closed() {
        return First::Done(Err(PushError::Draining));
    }
    let (queue, new) = match shared.outlets.known(name) {
        Some(known) => known,
        None => match check_subject(name) {
            Ok(()) => shared.outlets.queue(name),
            Err(error) => return First::Done(Err(error.into())),
        },
    };
    if new || lock(&queue.state).outlets.is_empty() {
        queue.counted.get_or_init(|| shared.counted.pushed(name));
        shared.reconcile();
    }
    let limit = shared.options.max_message;
    let put = |body: Frame<'_>| {
        let size = body.as_slice().len();
        if size > limit {
            return First::Done(Err(PushError::TooLarge { queue: name.into(), size, limit }));
        }
        match queue.offer(&outgoing(name, body), |_| {}) {
            Offered::Taken(put) => {
                shared.turn.note(put);
                First::Done(Ok(Fate::Queued))
            }
            _ => First::Wait { queue: queue.clone(), body: body.to_bytes() },
        }
    };
    wire::encoded(item, put).unwrap_or_else(|error: EncodeError| First::Done(Err(error.into())))
}

/// Kind 4 with every default, encoded once for all.
static WORK_HEADER: std::sync::LazyLock<Vec<u8>> =
    std::sync::LazyLock::new(|| wire::header(&Header::new(Kind::Work, 0)));

fn outgoing<'a>(name: &'a str, body: Frame<'a>) -> Outgoing<'a> {
    Outgoing { envelope: Envelope::None, subject: name, header: &WORK_HEADER, body }
}

/// Waits for a puller, for credit, or for room.
async fn wait(
    shared: &Arc<Shared>,
    name: &str,
    queue: &Queue,
    body: &Bytes,
    timeout: Duration,
) -> Result<Fate, PushError> {
    let deadline = deadline(timeout);
    let item = outgoing(name, Frame::Shared(body));
    loop {
        let changed = queue.changed.notified();
        tokio::pin!(changed);
        // Registered before the try, so that credit that comes in between is not missed.
        changed.as_mut().enable();
        let offered = queue.offer(&item, |_| {});
        match &offered {
            Offered::Taken(_) => return Ok(Fate::Queued),
            // Unless one that may is still being dialled.
            Offered::Forbidden(reason) if shared.all_up(name, Lane::Work) => {
                return Err(PushError::Forbidden { queue: name.to_owned(), reason: reason.clone() });
            }
            _ => {}
        }
        let closed = shared.closed();
        tokio::select! {
            in_time = timeout_at(deadline, changed) => if in_time.is_err() {
                let (queue, after) = (name.to_owned(), timeout);
                return Err(match offered {
                    Offered::Nobody => {
                        let nearest = shared.directory.nearest(root(name)).filter(|nearest| nearest != root(name));
                        PushError::NoPuller { queue, after, nearest }
                    }
                    Offered::Forbidden(reason) => PushError::Forbidden { queue, reason },
                    Offered::Full | Offered::Taken(_) => PushError::Full { queue, after },
                });
            },
            () = closed => return Err(PushError::Draining),
        }
    }
}

show!([T: ?Sized] Push<'_, T>, "Push", this, { queue: this.queue, timeout: this.timeout });
