//! The sending side of pub-sub.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
    sync::{
        Arc, Mutex, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dashmap::DashMap;
use serde::Serialize;
use tokio::{sync::watch, time::timeout_at};

#[cfg(feature = "durable")]
use crate::fabric::{
    error::PushError,
    events::durable::Keep,
    work::outbox::{
        Outbox,
        push::{How, KeptEvent},
    },
};
use crate::{
    envelope::{Header, Kind, check_subject, group_of},
    fabric::{
        Fate, Node,
        error::PublishError,
        fate::DropReason,
        guard::Guard,
        shared::{Shared, deadline},
        wire::{self, Envelope, Outgoing},
    },
    message::Frame,
    observe::{
        flow::Flow as Counted,
        names::{NO_SUBSCRIBER, SLOW_SUBSCRIBER},
    },
    security::Action,
    socket::{
        Limit,
        account::SUBSCRIPTION,
        core::{Admit, Core, Disconnect, Flow, Origin, Refusal},
        pipe::{Pipe, Put},
        subscriptions::Caps,
    },
    sync::{lock, read, write},
    transport::tls::Proof,
    zmtp::{Command, Peer, Received},
};

/// What happens to events for a subscriber whose queue is full, because it reads too slowly.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SlowPolicy {
    /// The oldest events that are not yet handed to the connection are dropped and counted; the subscriber learns
    /// from [`Event::missed`](crate::fabric::Event::missed) how many. The default.
    #[default]
    DropOldest,
    /// `publish` waits until there is room: one slow subscriber slows the publisher and so every other subscriber.
    Block,
    /// The subscriber is disconnected. It comes back by itself and gets what is published from then on.
    Disconnect,
}

/// The subscribers of this node, and the topics it publishes.
pub(crate) struct Topics {
    shared: Weak<Shared>,
    subscribers: RwLock<HashMap<u64, Subscriber>>,
    /// Rises with each change of `subscribers`, so that topics know when to look again.
    generation: watch::Sender<u64>,
    topics: DashMap<String, Arc<Topic>>,
    closed: Mutex<Closed>,
}

/// The numbers go on when a topic is opened once more: a lower one would look like an event that was heard before.
#[derive(Default)]
struct Closed {
    /// The last number of each topic that had one.
    last: HashMap<String, u64>,
    /// No topic that `last` does not know had a higher one.
    highest: u64,
}

/// Topics that are closed and whose last number is known, at most. Of one beyond it an event may be told as missed that
/// never was.
const CLOSED: usize = 65_536;

impl Closed {
    fn note(&mut self, subject: &str, last: u64) {
        if self.last.len() >= CLOSED {
            self.highest = self.last.drain().map(|(_, last)| last).fold(self.highest, u64::max);
        }
        if last > 0 {
            self.last.insert(subject.to_owned(), last);
        }
    }

    fn take(&mut self, subject: &str) -> u64 {
        self.last.remove(subject).unwrap_or(self.highest)
    }
}

/// One connection that subscribes.
struct Subscriber {
    pipe: Arc<Pipe>,
    /// How often each prefix was asked for: ZMTP cancels them one by one.
    prefixes: BTreeMap<Bytes, usize>,
    /// The prefixes' lengths, added up.
    bytes: usize,
    /// Topics that it was told it may not have.
    told: HashSet<Box<str>>,
}

impl Subscriber {
    fn wants(&self, subject: &str) -> bool {
        let subject = subject.as_bytes();
        // `$` subjects are the node's own: the empty prefix does not match them.
        let shortest = usize::from(subject.first() == Some(&b'$'));
        // By the subject's beginnings: a peer may have thousands of prefixes, and change them at every moment.
        (shortest..=subject.len())
            .any(|len| self.prefixes.contains_key(subject.get(..len).unwrap_or_default()))
    }

    fn subscribe(&mut self, prefix: &Bytes, caps: Caps) -> Result<(), Limit> {
        if let Some(count) = self.prefixes.get_mut(prefix) {
            *count = count.saturating_add(1);
            return Ok(());
        }
        if prefix.len() > caps.length {
            return Err(Limit::SubscriptionLength);
        }
        if self.prefixes.len() >= caps.count {
            return Err(Limit::Subscriptions);
        }
        if self.bytes + prefix.len() > caps.bytes {
            return Err(Limit::SubscriptionBytes);
        }
        if !self.pipe.keep(prefix.len() + SUBSCRIPTION) {
            return Err(Limit::PeerMemory);
        }
        self.bytes += prefix.len();
        // Copied out of the read buffer, because it is kept for long.
        self.prefixes.insert(Bytes::copy_from_slice(prefix), 1);
        Ok(())
    }

    fn cancel(&mut self, prefix: &Bytes) {
        let Some(count) = self.prefixes.get_mut(prefix) else { return };
        *count -= 1;
        if *count == 0 {
            self.prefixes.remove(prefix);
            self.bytes -= prefix.len();
            self.pipe.forget(prefix.len() + SUBSCRIPTION);
        }
    }
}

/// One topic: the numbers of its events, and who gets them.
pub(crate) struct Topic {
    subject: String,
    state: Mutex<TopicState>,
    /// Under [`SlowPolicy::Block`] one event at a time, lest a later one overtake one that waits.
    turn: tokio::sync::Mutex<()>,
    publishers: AtomicU64,
    counted: Arc<Counted>,
}

#[derive(Default)]
struct TopicState {
    sequence: u64,
    /// As of this generation.
    generation: u64,
    pipes: Vec<Arc<Pipe>>,
    /// The header of the event that is being put, in memory that is kept.
    header: Vec<u8>,
}

impl Topics {
    pub(crate) fn new(shared: Weak<Shared>) -> Self {
        // Topics start at generation 0 and so look once.
        Self {
            shared,
            subscribers: RwLock::default(),
            generation: watch::Sender::new(1),
            topics: DashMap::new(),
            closed: Mutex::default(),
        }
    }

    pub(crate) fn subjects(&self) -> Vec<String> {
        let mut subjects: Vec<_> = self.topics.iter().map(|entry| entry.key().clone()).collect();
        subjects.sort();
        subjects
    }

    fn open(&self, shared: &Shared, subject: &str) -> Arc<Topic> {
        let topic = self.topics.entry(subject.to_owned()).or_insert_with(|| {
            let sequence = lock(&self.closed).take(subject);
            Arc::new(Topic {
                subject: subject.to_owned(),
                state: Mutex::new(TopicState { sequence, ..TopicState::default() }),
                turn: tokio::sync::Mutex::default(),
                publishers: AtomicU64::new(0),
                counted: shared.counted.published(subject),
            })
        });
        topic.publishers.fetch_add(1, Ordering::Relaxed);
        topic.clone()
    }

    /// `true`: that was the topic's last publisher.
    fn close(&self, topic: &Topic) -> bool {
        topic.publishers.fetch_sub(1, Ordering::Relaxed) == 1
            && self
                .topics
                .remove_if(&topic.subject, |_, topic| {
                    let last = topic.publishers.load(Ordering::Relaxed) == 0;
                    // While nobody can open it.
                    if last {
                        lock(&self.closed).note(&topic.subject, lock(&topic.state).sequence);
                    }
                    last
                })
                .is_some()
    }

    /// Who subscribes to it and may. A node of ours that may not is told so, once.
    fn matching(&self, guard: &Guard, subject: &str) -> Vec<Arc<Pipe>> {
        let (mut matching, mut refused) = (Vec::new(), Vec::new());
        for (id, subscriber) in &*read(&self.subscribers) {
            if !subscriber.wants(subject) {
                continue;
            }
            match guard.may(&subscriber.pipe, Action::Subscribe, subject) {
                Ok(()) => matching.push(subscriber.pipe.clone()),
                Err(reason) => refused.push((*id, reason)),
            }
        }
        if !refused.is_empty() {
            self.refuse(subject, &refused);
        }
        matching
    }

    fn refuse(&self, subject: &str, refused: &[(u64, String)]) {
        let mut subscribers = write(&self.subscribers);
        for (id, reason) in refused {
            let Some(subscriber) = subscribers.get_mut(id) else { continue };
            // The topics are ours, so that a peer does not make the list long.
            if subscriber.told.insert(subject.into()) {
                wire::refused(&subscriber.pipe, subject, reason);
            }
        }
    }

    /// Permissions have changed: every topic looks again before its next event, and whoever is refused is told so.
    #[cfg(feature = "tls")]
    pub(crate) fn look_again(&self) {
        write(&self.subscribers).values_mut().for_each(|subscriber| subscriber.told.clear());
        self.changed();
    }

    fn changed(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

/// The [`Core`] behind subscribers.
pub(crate) struct TopicsCore(pub(crate) Arc<Topics>);

impl Core for TopicsCore {
    fn admit(&self, _: &Peer, _: &Origin, _: &Proof) -> Admit {
        Admit::Now(Err(Refusal { reason: "not a listener".into(), last: false }))
    }

    fn joined(&self, pipe: &Arc<Pipe>) {
        let subscriber =
            Subscriber { pipe: pipe.clone(), prefixes: BTreeMap::new(), bytes: 0, told: HashSet::new() };
        write(&self.0.subscribers).insert(pipe.id(), subscriber);
        if let Some(shared) = self.0.shared.upgrade() {
            shared.accepted(pipe);
        }
    }

    fn deliver(&self, pipe: &Arc<Pipe>, received: &mut Received) -> Flow {
        // A subscriber has nothing to say but its subscriptions.
        received.messages.clear();
        if received.commands.is_empty() {
            return Flow::Continue;
        }
        let Some(shared) = self.0.shared.upgrade() else { return Flow::Close("the node is gone".into()) };
        let caps = shared.options.subscriptions;
        let mut groups = Vec::new();
        let subscribed = {
            let mut subscribers = write(&self.0.subscribers);
            let Some(subscriber) = subscribers.get_mut(&pipe.id()) else { return Flow::Continue };
            received.commands.drain(..).try_for_each(|command| match command {
                Command::Subscribe(prefix) => {
                    groups.extend(prefix.starts_with(b"@").then(|| prefix.clone()));
                    subscriber.subscribe(&prefix, caps)
                }
                Command::Cancel(prefix) => {
                    subscriber.cancel(&prefix);
                    Ok(())
                }
            })
        };
        if let Err(limit) = subscribed {
            shared.gate.limited(limit, pipe.origin().remote(), std::time::Instant::now());
            return Flow::Close(limit.to_string());
        }
        self.0.changed();
        if !groups.is_empty() {
            register(&shared, pipe, &groups);
        }
        Flow::Continue
    }

    fn left(&self, pipe: &Arc<Pipe>, _: &Disconnect) {
        write(&self.0.subscribers).remove(&pipe.id());
        self.0.changed();
        if let Some(shared) = self.0.shared.upgrade() {
            shared.accepted_left(pipe);
        }
    }
}

/// Durable subscriptions have come: events are kept for those that may.
fn register(shared: &Arc<Shared>, pipe: &Pipe, queues: &[Bytes]) {
    let queues = queues.iter().filter_map(|queue| std::str::from_utf8(queue).ok());
    let queues: Vec<_> = queues
        .filter(|queue| group_of(queue).is_some() && shared.guard.may(pipe, Action::Pull, queue).is_ok())
        .map(str::to_owned)
        .collect();
    #[cfg(feature = "durable")]
    if let Some(outbox) = shared.outbox.get().cloned() {
        shared.spawn(async move {
            for queue in queues {
                if let Err(error) = outbox.register(&queue).await {
                    tracing::warn!(%error, queue, "no events are kept for a durable subscription");
                }
            }
        });
        return;
    }
    for queue in queues {
        tracing::warn!(queue, "no events are kept for a durable subscription: set data_dir");
    }
}

/// A publisher being prepared by [`Node::publisher`]. Await it to open the topic.
#[must_use = "nothing is opened until this is awaited"]
pub struct Publish<T> {
    node: Node,
    subject: String,
    when_full: SlowPolicy,
    body: PhantomData<fn(T)>,
}

impl<T> Publish<T> {
    pub(crate) fn new(node: &Node, subject: &str) -> Self {
        Self {
            node: node.clone(),
            subject: subject.to_owned(),
            when_full: SlowPolicy::default(),
            body: PhantomData,
        }
    }

    /// What happens when a subscriber reads too slowly. Default: [`SlowPolicy::DropOldest`].
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// use ripstop::fabric::SlowPolicy;
    /// let ticks = node.publisher::<u64>("clock.tick").when_full(SlowPolicy::Disconnect).await?;
    /// # Ok(()) }
    /// ```
    pub fn when_full(mut self, policy: SlowPolicy) -> Self {
        self.when_full = policy;
        self
    }
}

impl<T: 'static> IntoFuture for Publish<T> {
    type Output = Result<Publisher<T>, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            check_subject(&self.subject)?;
            let shared = self.node.shared();
            if shared.is_draining() {
                return Err(PublishError::Draining);
            }
            if let Err(reason) = shared.may_itself(Action::Publish, &self.subject) {
                return Err(PublishError::Forbidden { subject: self.subject, reason });
            }
            let topic = shared.topics.open(shared, &self.subject);
            // Built first, so that a cancelled announcement still closes the topic.
            let publisher =
                Publisher { node: self.node.clone(), topic, when_full: self.when_full, body: PhantomData };
            shared.roots_changed().await;
            Ok(publisher)
        })
    }
}

/// An open topic. Events of one publisher and subject reach each subscriber in order, numbered.
pub struct Publisher<T> {
    node: Node,
    topic: Arc<Topic>,
    when_full: SlowPolicy,
    body: PhantomData<fn(T)>,
}

impl<T: Serialize> Publisher<T> {
    /// Publishes one event to everyone who subscribes to this subject now.
    ///
    /// [`Fate::Queued`]: it is in the queue of every subscriber's connection. [`Fate::Dropped`]: nobody subscribes.
    /// It waits only under [`SlowPolicy::Block`]; cancelled while it waits, the event reaches the subscribers that had room.
    ///
    /// # Errors
    /// [`PublishError`] when the event cannot be written, is too large, or the node is draining.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let ticks = node.publisher::<u64>("clock.tick").await?;
    /// ticks.ready(1).await?;
    /// ticks.publish(&1).await?;
    /// # Ok(()) }
    /// ```
    pub async fn publish(&self, event: &T) -> Result<Fate, PublishError> {
        let _turn = match self.when_full {
            SlowPolicy::Block => Some(match self.topic.turn.try_lock() {
                Ok(turn) => turn,
                Err(_) => self.topic.turn.lock().await,
            }),
            SlowPolicy::DropOldest | SlowPolicy::Disconnect => None,
        };
        let turn = &self.node.shared().turn;
        if turn.is_due() {
            turn.take().await;
        }
        let (fate, waiting) = self.put(event)?;
        self.put_waiting(waiting).await;
        Ok(fate)
    }

    /// Publishes one event, and keeps it on this node's disk for every durable subscription that it has heard of (or that
    /// `[[durable.groups]]` names) until it is processed there: once this has been awaited, a crash of either side loses nothing. It
    /// takes a `data_dir`. Plain subscribers get the event, too, as from [`Publisher::publish`].
    ///
    /// # Errors
    /// [`PublishError::NoDurableGroup`] when nobody would get it, now or (with `durable.retain`) later; [`PublishError::Keep`]; and as for
    /// [`Publisher::publish`]. Nothing was kept then.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let orders = node.publisher::<String>("orders.created").await?;
    /// let kept = orders.keep(&"order 7".to_owned()).await?;
    /// println!("kept for {} subscriptions", kept.subscriptions());
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "durable")]
    pub fn keep(&self, event: &T) -> Keep<'_, T> {
        Keep::new(self, wire::body(event))
    }

    /// What of a kept event is everybody's.
    #[cfg(feature = "durable")]
    pub(super) async fn keep_encoded(&self, body: Bytes, how: How<'_>) -> Result<KeptEvent, PublishError> {
        let shared = self.node.shared();
        if shared.is_draining() {
            return Err(PublishError::Draining);
        }
        let subject = &self.topic.subject;
        let (size, limit) = (body.len(), shared.options.max_message);
        if size > limit {
            return Err(PublishError::TooLarge { subject: subject.clone(), size, limit });
        }
        let failed = |error: PushError| PublishError::Keep(Box::new(error));
        let outbox = Outbox::of(shared).map_err(failed)?;
        let kept = outbox.keep_event(subject, body.clone(), how).await.map_err(failed)?;
        let receipts = kept.ok_or_else(|| PublishError::NoDurableGroup { subject: subject.clone() })?;
        let (_, waiting) = self.put_encoded(shared, Frame::Shared(&body));
        self.put_waiting(waiting).await;
        Ok(KeptEvent::new(receipts))
    }

    async fn put_waiting(&self, waiting: Option<Waiting>) {
        let Some(Waiting { pipes, header, body }) = waiting else { return };
        for pipe in pipes {
            let event = Outgoing {
                envelope: Envelope::None,
                subject: &self.topic.subject,
                header: &header,
                body: Frame::Shared(&body),
            };
            while matches!(pipe.try_put(&event), Put::Full) {
                pipe.space().await;
            }
        }
    }

    /// Encodes once and puts into every queue; what `Block` could not put comes back.
    fn put(&self, event: &T) -> Result<(Fate, Option<Waiting>), PublishError> {
        let shared = self.node.shared();
        if shared.is_closed() {
            return Err(PublishError::Draining);
        }
        // The body is written before the topic is locked: `Serialize` is the user's code.
        let limit = shared.options.max_message;
        wire::encoded(event, |body| {
            let size = body.as_slice().len();
            if size > limit {
                return Err(PublishError::TooLarge { subject: self.topic.subject.clone(), size, limit });
            }
            Ok(self.put_encoded(shared, body))
        })?
    }

    fn put_encoded(&self, shared: &Shared, body: Frame<'_>) -> (Fate, Option<Waiting>) {
        let subject = &self.topic.subject;
        let mut state = lock(&self.topic.state);
        let generation = *shared.topics.generation.borrow();
        if state.generation != generation {
            state.generation = generation;
            state.pipes = shared.topics.matching(&shared.guard, subject);
        }
        if state.pipes.is_empty() {
            self.topic.counted.dropped(NO_SUBSCRIBER, 1);
            return (Fate::Dropped(DropReason::NoSubscriber), None);
        }
        state.sequence += 1;
        self.topic.counted.count();
        let mut header = Header::new(Kind::Event, 0);
        header.fields.sq = Some(state.sequence);
        let TopicState { header: encoded, pipes, .. } = &mut *state;
        encoded.clear();
        header.encode(encoded);
        let event = Outgoing { envelope: Envelope::None, subject, header: encoded, body };
        let mut waiting = Vec::new();
        for pipe in &*pipes {
            match self.when_full {
                SlowPolicy::DropOldest => {
                    let dropped = pipe.put_dropping_oldest(&event).unwrap_or(0);
                    if dropped > 0 {
                        self.topic.counted.dropped(SLOW_SUBSCRIBER, dropped as u64);
                    }
                }
                SlowPolicy::Block | SlowPolicy::Disconnect => match (pipe.try_put(&event), self.when_full) {
                    (Put::Full, SlowPolicy::Block) => waiting.push(pipe.clone()),
                    (put @ Put::Batched, _) => shared.turn.note(put),
                    (Put::Full, _) => {
                        tracing::warn!(%subject, peer = pipe.origin().remote(), "disconnecting a slow subscriber");
                        metrics::counter!("ripstop_slow_subscribers_disconnected_total").increment(1);
                        pipe.abort("too slow a subscriber");
                    }
                    _ => {}
                },
            }
        }
        let waiting = (!waiting.is_empty()).then(|| Waiting {
            pipes: waiting,
            header: encoded.clone(),
            body: body.to_bytes(),
        });
        (Fate::Queued, waiting)
    }

    /// Waits until at least `min_subscribers` connections subscribe to this subject, so that first events are not lost.
    /// Default timeout: `timeouts.call`, 10 s.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let ticks = node.publisher::<u64>("clock.tick").await?;
    /// ticks.ready(2).timeout(std::time::Duration::from_secs(3)).await?;
    /// # Ok(()) }
    /// ```
    pub fn ready(&self, min_subscribers: usize) -> Ready<'_, T> {
        Ready { publisher: self, wanted: min_subscribers, timeout: self.node.shared().options.call_timeout }
    }

    /// How many connections subscribe to this subject now.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// assert_eq!(node.publisher::<u64>("clock.tick").await?.subscribers(), 0);
    /// # Ok(()) }
    /// ```
    pub fn subscribers(&self) -> usize {
        let shared = self.node.shared();
        shared.topics.matching(&shared.guard, &self.topic.subject).len()
    }

    /// The topic's subject.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// assert_eq!(node.publisher::<u64>("clock.tick").await?.subject(), "clock.tick");
    /// # Ok(()) }
    /// ```
    pub fn subject(&self) -> &str {
        &self.topic.subject
    }
}

/// What is left to do under [`SlowPolicy::Block`].
struct Waiting {
    pipes: Vec<Arc<Pipe>>,
    header: Vec<u8>,
    body: Bytes,
}

impl<T> Drop for Publisher<T> {
    fn drop(&mut self) {
        let shared = self.node.shared();
        if shared.topics.close(&self.topic) {
            shared.roots_changed_later();
        }
    }
}

/// Waits for subscribers; made by [`Publisher::ready`]. Cancel safe.
#[must_use = "await it to wait"]
pub struct Ready<'a, T> {
    publisher: &'a Publisher<T>,
    wanted: usize,
    timeout: Duration,
}

impl<T> Ready<'_, T> {
    /// How long to wait at most. Default: `timeouts.call`, 10 s.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let ticks = node.publisher::<u64>("clock.tick").await?;
    /// ticks.ready(1).timeout(std::time::Duration::from_secs(1)).await?;
    /// # Ok(()) }
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl<'a, T: Serialize> IntoFuture for Ready<'a, T> {
    type Output = Result<(), PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { publisher, wanted, timeout } = self;
        let (node, subject) = (publisher.node.clone(), publisher.topic.subject.clone());
        Box::pin(async move {
            let (topics, guard) = (&node.shared().topics, &node.shared().guard);
            let mut generation = topics.generation.subscribe();
            let enough = async {
                while topics.matching(guard, &subject).len() < wanted && generation.changed().await.is_ok() {}
            };
            let deadline = deadline(timeout);
            if timeout_at(deadline, enough).await.is_err() {
                let present = topics.matching(guard, &subject).len();
                return Err(PublishError::NotReady { subject, present, wanted, after: timeout });
            }
            Ok(())
        })
    }
}

show!([T] Publish<T>, "Publish", this, { subject: this.subject, when_full: this.when_full });

show!([T] Publisher<T>, "Publisher", this, { subject: this.topic.subject, when_full: this.when_full });

show!([T] Ready<'_, T>, "Ready", this, { subject: this.publisher.topic.subject, wanted: this.wanted, timeout: this.timeout });
