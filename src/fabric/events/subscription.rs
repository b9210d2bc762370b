//! The receiving side of pub-sub.

use std::{
    collections::{BTreeMap, HashMap},
    future::{Future, IntoFuture, poll_fn},
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, Mutex, RwLock, Weak},
    task::{Context, Poll},
};

use bytes::BytesMut;
use serde::de::DeserializeOwned;

use crate::{
    Message,
    envelope::{self, ErrorBody, Kind, Pattern},
    fabric::{
        Node,
        error::{ReceiveError, SubscribeError},
        events::durable::SubscribeDurably,
        inbox::{Fill, Inbox, Item, Note},
        shared::Shared,
        wire::{self, property},
    },
    security::Action,
    socket::{
        core::{Admit, Core, Disconnect, Flow, Origin, Refusal},
        pipe::Pipe,
    },
    sync::{lock, read, write},
    transport::tls::Proof,
    zmtp::{Peer, Received, encode_subscription},
};

/// Sequence numbers are kept for this many subjects of one publisher; beyond it `missed` is not told for new ones.
const SEQUENCES: usize = 65_536;

struct Entry {
    id: u64,
    pattern: Pattern,
    inbox: Arc<Inbox>,
}

/// Every subscription of this node, and every connection that feeds them.
#[derive(Default)]
pub(crate) struct Subscriptions {
    entries: RwLock<Vec<Arc<Entry>>>,
    feeds: Mutex<Feeds>,
    /// Queues in which publishers keep events for this node, what is in them, and how many here pull them. Locked after `feeds`.
    groups: Mutex<BTreeMap<String, (Pattern, usize)>>,
}

#[derive(Default)]
struct Feeds {
    /// By connection.
    all: HashMap<u64, Feed>,
    /// What was heard of each publisher, by the first connection that brought its events: another one that takes over
    /// goes on from there.
    heard: HashMap<u64, Heard>,
}

/// Last sequence number by subject.
type Heard = HashMap<Box<str>, u64>;

/// One connection to a publisher.
struct Feed {
    pipe: Arc<Pipe>,
    /// Its place in [`Feeds::heard`].
    heard: u64,
    /// The connection that it takes over from and that is still heard: what follows a gap waits for it.
    after: Option<u64>,
    /// It took over from another one, which has brought some of its events before: also those that are still under way
    /// when the other one has left.
    successor: bool,
    /// The subject that it was last found to be allowed to publish, under this generation of the table: mostly the next
    /// one's, too.
    allowed: Option<(Box<str>, u64)>,
}

impl Feed {
    fn may_publish(&mut self, shared: &Shared, subject: &str) -> bool {
        let Some(generation) = shared.guard.generation() else { return true };
        if self.allowed.as_ref().is_some_and(|(allowed, of)| **allowed == *subject && *of == generation) {
            return true;
        }
        let may = shared.guard.may(&self.pipe, Action::Publish, subject).is_ok();
        if may {
            self.allowed = Some((subject.into(), generation));
        }
        may
    }
}

impl Subscriptions {
    /// The patterns, for the reconciler that decides whom to dial.
    pub(crate) fn patterns(&self) -> Vec<Pattern> {
        let mut patterns: Vec<_> = read(&self.entries).iter().map(|entry| entry.pattern.clone()).collect();
        patterns.extend(lock(&self.groups).values().map(|(pattern, _)| pattern.clone()));
        patterns
    }

    /// The subscriptions with their inboxes.
    pub(crate) fn inboxes(&self) -> Vec<(String, Arc<Inbox>)> {
        let entries = read(&self.entries);
        entries.iter().map(|entry| (entry.pattern.as_str().to_owned(), entry.inbox.clone())).collect()
    }

    fn add(&self, entry: Arc<Entry>) {
        let feeds = lock(&self.feeds);
        write(&self.entries).push(entry.clone());
        // ZMTP counts subscriptions: the same prefix twice is cancelled twice.
        feeds.all.values().for_each(|feed| tell(&feed.pipe, true, [entry.pattern.prefix()]));
    }

    /// Publishers are to keep events in this queue: they hear so as of a subscription.
    pub(super) fn register(&self, queue: &str, pattern: &Pattern) {
        let feeds = lock(&self.feeds);
        let mut groups = lock(&self.groups);
        let (_, count) = groups.entry(queue.to_owned()).or_insert_with(|| (pattern.clone(), 0));
        *count += 1;
        if *count == 1 {
            feeds.all.values().for_each(|feed| tell(&feed.pipe, true, [queue]));
        }
    }

    /// Nobody here pulls the queue any more. Publishers go on keeping events in it.
    pub(super) fn unregister(&self, queue: &str) {
        let feeds = lock(&self.feeds);
        let mut groups = lock(&self.groups);
        let Some((_, count)) = groups.get_mut(queue) else { return };
        *count -= 1;
        if *count == 0 {
            groups.remove(queue);
            feeds.all.values().for_each(|feed| tell(&feed.pipe, false, [queue]));
        }
    }

    fn remove(&self, id: u64) {
        let mut feeds = lock(&self.feeds);
        let mut entries = write(&self.entries);
        if let Some(index) = entries.iter().position(|entry| entry.id == id) {
            let entry = entries.remove(index);
            // What is published from now on and not subscribed is not missed by a later subscription.
            for heard in feeds.heard.values_mut() {
                // Only what this one matched: all entries against all subjects would take minutes for thousands.
                heard.retain(|subject, _| {
                    !entry.pattern.matches(subject)
                        || entries.iter().any(|other| other.pattern.matches(subject))
                });
            }
            drop(entries);
            feeds.all.values().for_each(|feed| tell(&feed.pipe, false, [entry.pattern.prefix()]));
        }
    }

    /// A connection to a publisher is up: it learns every prefix. It may take over from another one, which is heard until
    /// it has left: events come once, and in order.
    pub(crate) fn joined(&self, pipe: &Arc<Pipe>, after: Option<&Arc<Pipe>>) {
        let mut feeds = lock(&self.feeds);
        let entries = read(&self.entries);
        let groups = lock(&self.groups);
        let prefixes = entries.iter().map(|entry| entry.pattern.prefix());
        tell(pipe, true, prefixes.chain(groups.keys().map(String::as_str)));
        drop(groups);
        // A connection that has ended meanwhile was taken off the list already.
        if !pipe.is_closed() {
            // One that was restarted counts from the beginning.
            let same = |after: &&Arc<Pipe>| {
                let who = |pipe: &Pipe, name| pipe.peer().and_then(|peer| peer.property(name).cloned());
                let same = |name| who(after, name) == who(pipe, name);
                same(property::NODE) && same(property::EPOCH)
            };
            let before = after.filter(same).and_then(|after| feeds.all.get(&after.id()));
            let heard = before.map_or(pipe.id(), |before| before.heard);
            let after = before.map(|before| before.pipe.id());
            feeds.heard.entry(heard).or_default();
            let successor = after.is_some();
            feeds.all.insert(pipe.id(), Feed { pipe: pipe.clone(), heard, after, successor, allowed: None });
        }
    }

    pub(crate) fn left(&self, pipe: &Arc<Pipe>) {
        let mut feeds = lock(&self.feeds);
        let Feeds { all, heard } = &mut *feeds;
        let Some(gone) = all.remove(&pipe.id()) else { return };
        let mut heirs = all.values_mut().filter(|feed| feed.heard == gone.heard).peekable();
        if heirs.peek().is_none() {
            heard.remove(&gone.heard);
        }
        for heir in heirs.filter(|heir| heir.after == Some(pipe.id())) {
            heir.after = None;
            heir.pipe.resume();
        }
    }

    /// Hands the events of one read to the subscriptions that match.
    pub(crate) fn deliver(&self, shared: &Shared, pipe: &Arc<Pipe>, received: &mut Received) -> Flow {
        received.commands.clear();
        let mut done = 0;
        let mut flow = Flow::Continue;
        {
            let mut feeds = lock(&self.feeds);
            let entries = read(&self.entries);
            let Feeds { all, heard } = &mut *feeds;
            let heir = all.values().find(|heir| heir.after == Some(pipe.id())).map(|heir| heir.pipe.clone());
            // Another connection to the same publisher has taken over.
            let Some(feed) = all.get_mut(&pipe.id()) else {
                received.messages.clear();
                return Flow::Continue;
            };
            let twice = heir.is_some() || feed.successor;
            let peer = feed.heard;
            let heard = heard.entry(peer).or_default();
            let mut run = Run::default();
            let mut parser = wire::Parser::default();
            for message in &received.messages {
                let Ok(incoming) = parser.parse(message) else {
                    metrics::counter!("ripstop_messages_malformed_total", "lane" => "events").increment(1);
                    done += 1;
                    continue;
                };
                let header = incoming.header.as_ref();
                // A word of refusal goes the way of the event that does not come.
                if header.is_some_and(|header| !matches!(header.kind, Kind::Event | Kind::Error)) {
                    done += 1;
                    continue;
                }
                if !feed.may_publish(shared, incoming.subject) {
                    done += 1;
                    continue;
                }
                let sequence = header.and_then(|header| header.fields.sq);
                let last = heard.get(incoming.subject).copied();
                if let (Some(now), Some(last), true) = (sequence, last, twice) {
                    // Two connections bring the same when one takes over from the other.
                    if now <= last {
                        done += 1;
                        continue;
                    }
                    if now > last + 1 && feed.after.is_some() {
                        flow = Flow::Pause;
                        break;
                    }
                }
                // Numbers rise by one; the first one seen tells nothing about earlier ones.
                let missed = match (sequence, last) {
                    (Some(now), Some(last)) => now.saturating_sub(last).saturating_sub(1),
                    _ => 0,
                };
                let refusal = header.is_some_and(|header| header.kind == Kind::Error);
                let note = Note { missed, refusal, ..Note::default() };
                match run.offer(&entries, incoming.subject, message, (pipe, peer), note) {
                    Offered::Taken => {}
                    Offered::Full => {
                        flow = Flow::Pause;
                        break;
                    }
                    // A word of what is subscribed no longer, or of more than the pattern means.
                    Offered::Unwanted => {
                        done += 1;
                        continue;
                    }
                }
                if missed > 0 {
                    metrics::counter!("ripstop_events_missed_total").increment(missed);
                }
                if let Some(now) = sequence {
                    if let Some(last) = heard.get_mut(incoming.subject) {
                        *last = now;
                    } else if heard.len() < SEQUENCES {
                        heard.insert(incoming.subject.into(), now);
                    }
                }
                done += 1;
            }
            drop(run);
            // It may go on where this one is now.
            if let Some(heir) = heir {
                heir.resume();
            }
        }
        received.messages.drain(..done);
        flow
    }
}

enum Offered {
    Taken,
    /// A matching subscription is full; the message must be offered again after the pause.
    Full,
    Unwanted,
}

/// The subscriptions that the last event went to: mostly the next one's, too.
#[derive(Default)]
struct Run<'a> {
    subject: Option<&'a str>,
    first: Option<Fill<'a>>,
    others: Vec<Fill<'a>>,
}

impl<'a> Run<'a> {
    fn offer(
        &mut self,
        entries: &'a [Arc<Entry>],
        subject: &'a str,
        message: &Message,
        (pipe, peer): (&'a Arc<Pipe>, u64),
        note: Note,
    ) -> Offered {
        if self.subject != Some(subject) {
            // The ones before are let go first.
            *self = Self::default();
            let mut matching = entries.iter().filter(|entry| entry.pattern.matches(subject));
            self.first = matching.next().map(|entry| entry.inbox.fill(pipe, peer));
            self.others = matching.map(|entry| entry.inbox.fill(pipe, peer)).collect();
            self.subject = Some(subject);
        }
        let Some(first) = &mut self.first else { return Offered::Unwanted };
        // All or none: otherwise the ones with room would see the event twice after the pause.
        if !first.has_room() || !self.others.iter_mut().all(Fill::has_room) {
            return Offered::Full;
        }
        for fill in &mut self.others {
            fill.put(message.clone(), note);
        }
        first.put(message.clone(), note);
        Offered::Taken
    }
}

fn tell<'a>(pipe: &Pipe, subscribe: bool, prefixes: impl IntoIterator<Item = &'a str>) {
    let minor = pipe.peer().map_or(0, |peer| peer.minor);
    let mut out = BytesMut::new();
    for prefix in prefixes {
        encode_subscription(minor, subscribe, prefix.as_bytes(), &mut out);
    }
    if !out.is_empty() {
        pipe.put_control(&out);
    }
}

/// The [`Core`] behind foreign PUB and XPUB sockets that dialled in.
pub(crate) struct FeedCore {
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) shared: Weak<Shared>,
}

impl Core for FeedCore {
    fn admit(&self, _: &Peer, _: &Origin, _: &Proof) -> Admit {
        Admit::Now(Err(Refusal { reason: "not a listener".into(), last: false }))
    }

    fn joined(&self, pipe: &Arc<Pipe>) {
        self.subscriptions.joined(pipe, None);
        if let Some(shared) = self.shared.upgrade() {
            shared.accepted(pipe);
        }
    }

    fn deliver(&self, pipe: &Arc<Pipe>, received: &mut Received) -> Flow {
        let Some(shared) = self.shared.upgrade() else { return Flow::Close("the node is gone".into()) };
        self.subscriptions.deliver(&shared, pipe, received)
    }

    fn left(&self, pipe: &Arc<Pipe>, _: &Disconnect) {
        self.subscriptions.left(pipe);
        if let Some(shared) = self.shared.upgrade() {
            shared.accepted_left(pipe);
        }
    }
}

/// One received event.
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
/// let mut orders = node.subscribe::<String>("orders.*").await?;
/// while let Some(Ok(event)) = orders.recv().await {
///     println!("{}: {} ({} missed before it)", event.subject, event.body, event.missed);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event<T> {
    /// What was published.
    pub body: T,
    /// Where: the topic's whole subject.
    pub subject: Arc<str>,
    /// How many events of this subject and publisher were lost right before this one, because a queue to this
    /// subscriber was full. 0 for foreign publishers, who do not number their events.
    pub missed: u64,
}

/// A subscription being prepared by [`Node::subscribe`]. Await it to subscribe.
#[must_use = "nothing is subscribed until this is awaited"]
pub struct Subscribe<T> {
    node: Node,
    pattern: String,
    body: PhantomData<fn() -> T>,
}

impl<T> Subscribe<T> {
    pub(crate) fn new(node: &Node, pattern: &str) -> Self {
        Self { node: node.clone(), pattern: pattern.to_owned(), body: PhantomData }
    }

    /// Has every publisher of what matches keep its events for this name until they are processed, whoever of those that
    /// subscribe under it is there: each event goes to one of them. A publisher keeps them from the first time that it has heard of the
    /// name on (it persists), if it publishes durably: see [`Publisher::keep`](crate::fabric::Publisher::keep).
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let mut orders = node.subscribe::<String>("orders.*").durable("billing").await?;
    /// while let Some(Ok(order)) = orders.recv().await {
    ///     println!("{:?}: {}", order.topic, order.body);
    ///     order.ack();
    /// }
    /// # Ok(()) }
    /// ```
    pub fn durable(self, name: &str) -> SubscribeDurably<T> {
        SubscribeDurably::new(self.node, self.pattern, name)
    }
}

impl<T: 'static> IntoFuture for Subscribe<T> {
    type Output = Result<Subscription<T>, SubscribeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let pattern = Pattern::parse(&self.pattern)?;
            let shared = self.node.shared();
            if shared.is_draining() {
                return Err(SubscribeError::Draining);
            }
            let inbox = Arc::new(Inbox::new(shared.options.queue_messages, shared.options.queue_bytes));
            let id = shared.next_id();
            shared.subscriptions.add(Arc::new(Entry { id, pattern, inbox: inbox.clone() }));
            shared.note_inbox(&inbox);
            shared.reconcile();
            Ok(Subscription { node: self.node, id, inbox, last: Mutex::new("".into()), body: PhantomData })
        })
    }
}

/// A stream of events. It ends when the node drains. Dropping it unsubscribes.
///
/// When it is not read fast enough its queue fills (65,536 events or 16 MiB by default); then the connections that
/// feed it stop reading, and each publisher's policy decides.
pub struct Subscription<T> {
    node: Node,
    id: u64,
    inbox: Arc<Inbox>,
    /// The subject of the last event.
    last: Mutex<Arc<str>>,
    body: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Subscription<T> {
    /// The next event; `None` when the node has drained. An event that is not a `T` is an error of its own, and the
    /// ones after it are unaffected. Cancel safe.
    ///
    /// # Errors
    /// [`ReceiveError`] when the event is not a `T`: it says where.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let first = node.subscribe::<String>("orders.>").await?.recv().await;
    /// # Ok(()) }
    /// ```
    pub async fn recv(&mut self) -> Option<Result<Event<T>, ReceiveError>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Event<T>, ReceiveError>>> {
        let taken = self.inbox.poll_take(cx, |_| {});
        taken.map(|taken| taken.map(|item| self.event(&item)))
    }

    fn event(&self, item: &Item) -> Result<Event<T>, ReceiveError> {
        // It was parsed when it came in: the subject is what comes first, and the body what comes last.
        let mut frames = item.message.frames();
        let subject = frames.next().and_then(|subject| std::str::from_utf8(subject).ok()).unwrap_or_default();
        let body = frames.last().unwrap_or_default();
        if item.note.refusal {
            let said = envelope::decode_body::<ErrorBody>(body).map(|error| error.message);
            let (subject, reason) = (subject.to_owned(), said.unwrap_or_default());
            return Err(ReceiveError::Forbidden { subject, reason });
        }
        match wire::decoded(body, self.node.shared().options.body, "events") {
            Ok(body) => Ok(Event { body, subject: self.subject(subject), missed: item.note.missed }),
            Err(reason) => Err(ReceiveError::Decode { subject: subject.to_owned(), reason }),
        }
    }

    /// Mostly that of the event before.
    fn subject(&self, subject: &str) -> Arc<str> {
        let mut last = lock(&self.last);
        if **last != *subject {
            *last = subject.into();
        }
        last.clone()
    }
}

impl<T: DeserializeOwned> futures_core::Stream for Subscription<T> {
    type Item = Result<Event<T>, ReceiveError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_recv(cx)
    }
}

impl<T> Drop for Subscription<T> {
    fn drop(&mut self) {
        self.node.shared().subscriptions.remove(self.id);
        self.inbox.abandon(|_, _| false);
    }
}

show!([T] Subscribe<T>, "Subscribe", this, { pattern: this.pattern });

show!([T] Subscription<T>, "Subscription", this, { id: this.id, waiting: this.inbox.len() });
