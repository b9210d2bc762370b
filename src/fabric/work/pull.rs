//! The receiving side of push-pull.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::{Future, IntoFuture, poll_fn},
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use serde::de::DeserializeOwned;

use crate::{
    envelope::{CreditBody, Header, Kind, check_subject, group_of, is_group},
    fabric::{
        Node,
        context::PeerName,
        error::{ReceiveError, SubscribeError},
        events::durable::Registered,
        inbox::{Fill, Inbox, Item, Note},
        shared::Shared,
        wire::{self, Envelope},
        work::{
            answer::{Answers, Key, say, untouched},
            delivery::{Delivery, refused},
        },
    },
    security::Action,
    socket::{
        core::{Admit, Core, Disconnect, Flow, Origin, Refusal},
        pipe::Pipe,
    },
    sync::lock,
    transport::tls::Proof,
    zmtp::{Peer, Received},
};

/// The default of [`PullBuilder::prefetch`].
const PREFETCH: u32 = 1024;
/// A log line about work that nobody here pulls is written once in so many items.
const LOG_EVERY: u64 = 10_000;

/// Every queue that this node pulls.
pub(crate) struct Pulls {
    shared: Weak<Shared>,
    state: Mutex<State>,
    answers: Arc<Mutex<Answers>>,
}

#[derive(Default)]
struct State {
    queues: BTreeMap<String, PulledQueue>,
    /// Our own nodes that push to us, by connection.
    pushers: HashMap<u64, Arc<Pipe>>,
    unclaimed: u64,
    /// No credit is granted any more.
    draining: bool,
    /// The queues take nothing more.
    ended: bool,
}

/// One queue: all pulls of this node share what comes in.
struct PulledQueue {
    inbox: Arc<Inbox>,
    window: u32,
    pulls: usize,
    /// Taken by the application and not yet granted again, by connection. Below 0 when a pull that went leaves more
    /// credit out than the window.
    spent: HashMap<u64, i64>,
    /// Pushers that may not, by connection.
    refused: HashSet<u64>,
}

impl PulledQueue {
    /// So many more items from this connection, if it may push here.
    fn grant(&mut self, shared: &Shared, pipe: &Pipe, queue: &str, credit: u32) {
        if let Err(reason) = shared.guard.may(pipe, Action::Push, queue) {
            if self.refused.insert(pipe.id()) {
                // It takes all credit back.
                self.spent.remove(&pipe.id());
                wire::refused(pipe, queue, &reason);
            }
        } else if credit > 0 {
            wire::urgent(pipe, Envelope::None, queue, Header::new(Kind::Credit, 0), &CreditBody(credit));
        }
    }

    /// Rules have changed: whoever may only now gets the whole window.
    #[cfg(feature = "tls")]
    fn look_again(&mut self, shared: &Shared, pipe: &Pipe, queue: &str) {
        let window = if self.refused.remove(&pipe.id()) { self.window } else { 0 };
        self.grant(shared, pipe, queue, window);
    }
}

impl Pulls {
    pub(crate) fn new(shared: Weak<Shared>) -> Self {
        Self { shared, state: Mutex::default(), answers: Arc::default() }
    }

    /// What was done here before, and where it is written down from now on.
    #[cfg(feature = "durable")]
    pub(super) fn remember(&self, disk: super::outbox::Disk, limit: u64, done: impl Iterator<Item = Key>) {
        lock(&self.answers).remember(disk, limit, done);
    }

    pub(crate) fn queues(&self) -> Vec<String> {
        lock(&self.state).queues.keys().cloned().collect()
    }

    fn open(&self, queue: &str, prefetch: u32, shared: &Shared) -> Arc<Inbox> {
        let mut state = lock(&self.state);
        let State { queues, pushers, ended, .. } = &mut *state;
        let entry = queues.entry(queue.to_owned()).or_insert_with(|| PulledQueue {
            inbox: Arc::new(Inbox::new(shared.options.queue_messages, shared.options.queue_bytes)),
            window: 0,
            pulls: 0,
            spent: HashMap::new(),
            refused: HashSet::new(),
        });
        entry.pulls += 1;
        // Each pull widens the window of every pusher.
        entry.window = entry.window.saturating_add(prefetch);
        if *ended {
            entry.inbox.close();
        } else {
            pushers.values().for_each(|pipe| entry.grant(shared, pipe, queue, prefetch));
        }
        entry.inbox.clone()
    }

    fn close(&self, queue: &str, prefetch: u32) {
        let mut state = lock(&self.state);
        let State { queues, pushers, .. } = &mut *state;
        let Some(entry) = queues.get_mut(queue) else { return };
        entry.pulls -= 1;
        if entry.pulls > 0 {
            // What is out for this pull is not granted again.
            entry.window = entry.window.saturating_sub(prefetch);
            pushers.keys().for_each(|pipe| *entry.spent.entry(*pipe).or_default() -= i64::from(prefetch));
            return;
        }
        let abandoned = queues.remove(queue);
        // While the state is locked, lest the word overtake the credit of a pull that is opened now.
        for pipe in pushers.values() {
            wire::urgent(pipe, Envelope::None, queue, Header::new(Kind::Cancel, 0), &());
        }
        drop(state);
        if let Some(entry) = abandoned {
            entry.inbox.abandon(|pipe, item| {
                let parts = item.note.answered.then(|| wire::parse(&item.message).ok()).flatten();
                parts.is_some_and(|parts| give_back(pipe, queue, parts.header.as_ref()))
            });
        }
    }

    /// The application took so many items of this connection: grants again when half the window is used up.
    fn taken(&self, shared: &Shared, queue: &str, pipe: &Arc<Pipe>, items: u32) {
        let mut state = lock(&self.state);
        if state.draining || !state.pushers.contains_key(&pipe.id()) {
            return;
        }
        let Some(entry) = state.queues.get_mut(queue) else { return };
        let spent = entry.spent.entry(pipe.id()).or_default();
        *spent += i64::from(items);
        if *spent >= i64::from(entry.window / 2).max(1) {
            let credit = std::mem::take(spent);
            entry.grant(shared, pipe, queue, u32::try_from(credit).unwrap_or(u32::MAX));
        }
    }

    /// A node of ours that pushes came in: it learns who we are and how much we take.
    fn joined(&self, shared: &Shared, pipe: &Arc<Pipe>) {
        let mut state = lock(&self.state);
        if state.draining {
            return;
        }
        state.pushers.insert(pipe.id(), pipe.clone());
        for (queue, entry) in &mut state.queues {
            entry.grant(shared, pipe, queue, entry.window);
        }
    }

    /// Permissions have changed.
    #[cfg(feature = "tls")]
    pub(crate) fn look_again(&self, shared: &Shared) {
        let mut state = lock(&self.state);
        let State { queues, pushers, draining, .. } = &mut *state;
        if *draining {
            return;
        }
        for (queue, entry) in queues {
            pushers.values().for_each(|pipe| entry.look_again(shared, pipe, queue));
        }
    }

    fn left(&self, pipe: &Arc<Pipe>) {
        let mut state = lock(&self.state);
        state.pushers.remove(&pipe.id());
        state.queues.values_mut().for_each(|entry| {
            entry.spent.remove(&pipe.id());
            entry.refused.remove(&pipe.id());
        });
    }

    /// No more credit; what is here can still be taken.
    pub(crate) fn drain(&self) {
        lock(&self.state).draining = true;
    }

    /// The queues take nothing more: their readers end after the last item.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        state.queues.values().for_each(|entry| entry.inbox.close());
    }

    /// The queues with their inboxes.
    pub(crate) fn inboxes(&self) -> Vec<(String, Arc<Inbox>)> {
        lock(&self.state).queues.iter().map(|(name, queue)| (name.clone(), queue.inbox.clone())).collect()
    }

    /// Items that came in and were not taken.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.state).queues.values().map(|entry| entry.inbox.len()).sum()
    }

    fn deliver(&self, shared: &Arc<Shared>, pipe: &Arc<Pipe>, received: &mut Received) -> Flow {
        received.commands.clear();
        let mut done = 0;
        let mut flow = Flow::Continue;
        {
            let mut state = lock(&self.state);
            let mut nobody = 0;
            // Of many for one queue only the first is looked up.
            let mut run: Option<(&str, Option<Fill<'_>>)> = None;
            let mut parser = wire::Parser::default();
            for message in &received.messages {
                let parts = match parser.parse(message) {
                    Ok(parts) => parts,
                    Err(reason) => {
                        metrics::counter!("ripstop_messages_malformed_total", "lane" => "work").increment(1);
                        flow = Flow::Close(reason);
                        break;
                    }
                };
                match parts.header.as_ref().map_or(Kind::Work, |header| header.kind) {
                    Kind::Work => {}
                    Kind::Goaway => {
                        shared.goaway_confirmed(pipe.id());
                        done += 1;
                        continue;
                    }
                    _ => {
                        done += 1;
                        continue;
                    }
                }
                if run.as_ref().is_none_or(|(queue, _)| *queue != parts.subject) {
                    // The one before is let go first.
                    run = None;
                    if shared.guard.may(pipe, Action::Push, parts.subject).is_err() {
                        metrics::counter!("ripstop_work_dropped_total", "reason" => "forbidden").increment(1);
                        give_back(pipe, parts.subject, parts.header.as_ref());
                        done += 1;
                        continue;
                    }
                    run = Some((
                        parts.subject,
                        state.queues.get(parts.subject).map(|entry| entry.inbox.fill(pipe, pipe.id())),
                    ));
                }
                match run.as_mut().and_then(|(_, fill)| fill.as_mut()) {
                    None if give_back(pipe, parts.subject, parts.header.as_ref()) => {}
                    None => nobody += 1,
                    Some(_) if !may_have_topic(shared, pipe, parts.subject, parts.header.as_ref()) => {
                        metrics::counter!("ripstop_work_dropped_total", "reason" => "forbidden").increment(1);
                        if let Some(header) = &parts.header {
                            say(pipe, parts.subject, header.id, Some(&refused("it may not publish that")));
                        }
                    }
                    Some(fill) => {
                        if !fill.has_room() {
                            flow = Flow::Pause;
                            break;
                        }
                        let answered = parts.header.is_some_and(|header| waits_for_ack(&header));
                        fill.put(message.clone(), Note { answered, ..Note::default() });
                    }
                }
                done += 1;
            }
            drop(run);
            if nobody > 0 {
                let before = state.unclaimed;
                state.unclaimed += nobody;
                metrics::counter!("ripstop_work_dropped_total", "reason" => "nobody_pulls").increment(nobody);
                if before == 0 || before / LOG_EVERY != state.unclaimed / LOG_EVERY {
                    let (peer, total) = (pipe.origin().remote().to_owned(), state.unclaimed);
                    tracing::warn!(%peer, total, "work for queues that nobody pulls here was dropped");
                }
            }
        }
        received.messages.drain(..done);
        flow
    }
}

/// Whether an event in the queue of a durable subscription is one of the pattern's, and its sender may publish it.
fn may_have_topic(shared: &Shared, pipe: &Pipe, queue: &str, header: Option<&Header>) -> bool {
    if !is_group(queue) {
        return true;
    }
    let rare = header.and_then(|header| header.fields.rare());
    let Some(topic) = rare.filter(|rare| rare.ob.is_some()).and_then(|rare| rare.sj.as_deref()) else {
        return false;
    };
    let meant = group_of(queue).is_some_and(|(_, pattern)| pattern.matches(topic));
    meant && shared.guard.may(pipe, Action::Publish, topic).is_ok()
}

/// Tells whoever keeps an item that nobody works on it here; `false` where nobody keeps it.
fn give_back(pipe: &Pipe, queue: &str, header: Option<&Header>) -> bool {
    let kept = header.filter(|header| waits_for_ack(header));
    if let Some(header) = kept {
        say(pipe, queue, header.id, Some(&untouched()));
    }
    kept.is_some()
}

/// Whether whoever pushed it keeps it until it is acked.
fn waits_for_ack(header: &Header) -> bool {
    header.fields.rare().is_some_and(|rare| rare.ob.is_some())
}

/// The [`Core`] behind pushers: our own nodes with credit, and foreign PUSH sockets, which only back-pressure slows.
pub(crate) struct PullsCore {
    pub(crate) pulls: Arc<Pulls>,
    pub(crate) credited: bool,
}

impl Core for PullsCore {
    fn admit(&self, _: &Peer, _: &Origin, _: &Proof) -> Admit {
        Admit::Now(Err(Refusal { reason: "not a listener".into(), last: false }))
    }

    fn joined(&self, pipe: &Arc<Pipe>) {
        if let Some(shared) = self.pulls.shared.upgrade() {
            shared.accepted(pipe);
            if self.credited {
                self.pulls.joined(&shared, pipe);
            }
        }
    }

    fn deliver(&self, pipe: &Arc<Pipe>, received: &mut Received) -> Flow {
        let Some(shared) = self.pulls.shared.upgrade() else { return Flow::Close("the node is gone".into()) };
        self.pulls.deliver(&shared, pipe, received)
    }

    fn left(&self, pipe: &Arc<Pipe>, _: &Disconnect) {
        self.pulls.left(pipe);
        if let Some(shared) = self.pulls.shared.upgrade() {
            shared.accepted_left(pipe);
        }
    }
}

/// A pull being prepared by [`Node::pull`]. Await it to begin.
#[must_use = "nothing is pulled until this is awaited"]
pub struct PullBuilder<T> {
    node: Node,
    queue: String,
    prefetch: u32,
    subscribed: Option<Registered>,
    body: PhantomData<fn() -> T>,
}

impl<T> PullBuilder<T> {
    pub(crate) fn new(node: &Node, queue: &str) -> Self {
        Self {
            node: node.clone(),
            queue: queue.to_owned(),
            prefetch: PREFETCH,
            subscribed: None,
            body: PhantomData,
        }
    }

    pub(crate) fn of(mut self, queue: String) -> Self {
        self.queue = queue;
        self
    }

    /// Of events that their publishers keep: see [`Subscribe::durable`](crate::fabric::Subscribe::durable).
    pub(crate) fn subscribed(mut self, subscribed: Registered) -> Self {
        self.subscribed = Some(subscribed);
        self
    }

    /// How many items each pusher may send ahead of what was taken here. Default 1,024. A small number spreads slow
    /// work evenly; it is also how much is lost if this process dies.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let mut films = node.pull::<String>("films").prefetch(1).await?;
    /// # Ok(()) }
    /// ```
    pub fn prefetch(mut self, items: u32) -> Self {
        self.prefetch = items.max(1);
        self
    }
}

impl<T: 'static> IntoFuture for PullBuilder<T> {
    type Output = Result<Pull<T>, SubscribeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            if self.subscribed.is_none() {
                check_subject(&self.queue)?;
            }
            let shared = self.node.shared();
            if shared.is_draining() {
                return Err(SubscribeError::Draining);
            }
            if let Err(reason) = shared.may_itself(Action::Pull, &self.queue) {
                return Err(SubscribeError::Forbidden { subject: self.queue, reason });
            }
            let inbox = shared.pulls.open(&self.queue, self.prefetch, shared);
            let pull = Pull {
                node: self.node.clone(),
                queue: self.queue.into(),
                prefetch: self.prefetch,
                inbox,
                owed: Mutex::default(),
                _subscribed: self.subscribed,
                body: PhantomData,
            };
            shared.roots_changed().await;
            Ok(pull)
        })
    }
}

/// A stream of work items, shared with every other pull of the same queue. It ends when the node drains and the
/// last item was taken. Dropping the last pull of a queue ends it here; items not yet taken are dropped and counted.
pub struct Pull<T> {
    node: Node,
    queue: Arc<str>,
    prefetch: u32,
    inbox: Arc<Inbox>,
    owed: Mutex<Owed>,
    /// The publishers keep events for it.
    _subscribed: Option<Registered>,
    body: PhantomData<fn() -> T>,
}

/// Items that were taken of one connection and not granted again. Who sent an item gets credit for the next one only when
/// that is asked for, so that who takes a certain number of items and leaves has been sent no more.
#[derive(Default)]
struct Owed {
    pipe: Option<Arc<Pipe>>,
    /// Who that is.
    from: Option<Arc<str>>,
    items: u32,
}

impl<T: DeserializeOwned> Pull<T> {
    /// The next item; `None` when the node has drained. Cancel safe: an item is never lost between two calls.
    ///
    /// # Errors
    /// [`ReceiveError`] when the item is not a `T`: it says where. The ones after it are unaffected.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let first = node.pull::<String>("emails").await?.recv().await;
    /// # Ok(()) }
    /// ```
    pub async fn recv(&mut self) -> Option<Result<Delivery<T>, ReceiveError>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery<T>, ReceiveError>>> {
        loop {
            match ready!(self.poll_take(cx)) {
                None => return Poll::Ready(None),
                Some((item, from, pipe)) => {
                    if let Some(delivery) = self.delivery(&item, from, pipe.as_ref()) {
                        return Poll::Ready(Some(delivery));
                    }
                }
            }
        }
    }

    /// The next item, who sent it, and over which connection, if it wants an answer.
    #[allow(clippy::type_complexity)]
    fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<(Item, Option<Arc<str>>, Option<Arc<Pipe>>)>> {
        {
            let mut owed = lock(&self.owed);
            let owed = &mut *owed;
            // Not at every item: the window is as wide as several of these.
            if owed.items >= (self.prefetch / 8).max(1) {
                self.settle(owed);
            }
            let taken = self.inbox.poll_take(cx, |pipe| {
                if !owed.pipe.as_ref().is_some_and(|owed| Arc::ptr_eq(owed, pipe)) {
                    self.settle(owed);
                    *owed = Owed { pipe: Some(pipe.clone()), from: PeerName::service_of(pipe), items: 0 };
                }
            });
            let item = match taken {
                Poll::Ready(Some(item)) => item,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    self.settle(owed);
                    return Poll::Pending;
                }
            };
            owed.items += 1;
            let pipe = owed.pipe.clone().filter(|_| item.note.answered);
            Poll::Ready(Some((item, owed.from.clone(), pipe)))
        }
    }

    /// `None`: it has come before.
    fn delivery(
        &self,
        item: &Item,
        from: Option<Arc<str>>,
        pipe: Option<&Arc<Pipe>>,
    ) -> Option<Result<Delivery<T>, ReceiveError>> {
        let queue = self.queue.clone();
        let plain = Delivery {
            body: (),
            queue,
            from,
            attempt: 1,
            key: None,
            topic: None,
            first_seen: None,
            fence: 0,
            traceparent: None,
            answer: None,
        };
        let about = match pipe {
            Some(pipe) => self.durable(item, pipe, plain)?,
            None => plain,
        };
        // It was parsed when it came in, and the body is what comes last.
        let body = item.message.frames().last().unwrap_or_default();
        Some(match wire::decoded(body, self.node.shared().options.body, "work") {
            Ok(body) => Ok(about.with(body)),
            Err(reason) => {
                about.failed(&refused(reason.to_string()));
                Err(ReceiveError::Decode { subject: self.queue.to_string(), reason })
            }
        })
    }

    /// What the header says of an item that waits for an answer. `None`: it has come before.
    fn durable(&self, item: &Item, pipe: &Arc<Pipe>, plain: Delivery<()>) -> Option<Delivery<()>> {
        let header = wire::parse(&item.message).ok().and_then(|parts| parts.header);
        let Some((fields, id)) = header.map(|header| (header.fields, header.id)) else { return Some(plain) };
        let Some((rare, outbox)) = fields.rare().and_then(|rare| Some((rare, rare.ob.as_deref()?))) else {
            return Some(plain);
        };
        let key = Key { sender: plain.from.clone().unwrap_or_default(), outbox: outbox.into(), id };
        let answer = Answers::begin(&self.node.shared().pulls.answers, key, &self.queue, pipe)?;
        Some(Delivery {
            attempt: fields.at.unwrap_or(1),
            key: rare.k.as_deref().map(Into::into),
            topic: rare.sj.as_deref().map(Into::into),
            first_seen: rare
                .ps
                .and_then(|pushed| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(pushed))),
            fence: fields.sq.unwrap_or(0),
            traceparent: rare.tp.as_deref().map(Into::into),
            answer: Some(answer),
            ..plain
        })
    }

    pub(crate) fn queue(&self) -> &str {
        &self.queue
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }
}

impl<T: DeserializeOwned> futures_core::Stream for Pull<T> {
    type Item = Result<Delivery<T>, ReceiveError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_recv(cx)
    }
}

impl<T> Pull<T> {
    /// Credit for what was taken.
    fn settle(&self, owed: &mut Owed) {
        let items = std::mem::take(&mut owed.items);
        if let (Some(pipe), 1..) = (&owed.pipe, items) {
            let shared = self.node.shared();
            shared.pulls.taken(shared, &self.queue, pipe, items);
        }
    }
}

impl<T> Drop for Pull<T> {
    fn drop(&mut self) {
        let shared = self.node.shared();
        shared.pulls.close(&self.queue, self.prefetch);
        // If others pull the queue, they need the credit.
        self.settle(&mut lock(&self.owed));
        shared.roots_changed_later();
    }
}

show!([T] PullBuilder<T>, "PullBuilder", this, { queue: this.queue, prefetch: this.prefetch });

show!([T] Pull<T>, "Pull", this, { queue: this.queue, prefetch: this.prefetch, waiting: this.inbox.len() });
