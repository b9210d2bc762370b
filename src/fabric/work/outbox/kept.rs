//! What this node owes, for those who want to look at it.

use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Outbox,
    ask::{Ask, PAGE, StoreOf, Told, unexpected},
    now,
};
use crate::{
    discovery::NodeId,
    durable::{Id, Item, Millis, StoreError, Write},
    envelope::{self, DecodeError, group_of},
    fabric::{Node, error::PushError, trace},
    observe::KeptStats,
};

/// An item that waits on this node's disk until somebody has processed it.
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
/// for item in node.kept().list("emails", 0, 100).await? {
///     println!("{} for {}: {} attempts, {:?}", item.id, item.queue, item.attempts, item.error);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[non_exhaustive]
pub struct KeptItem {
    /// Names it on this node, for ever.
    pub id: u64,
    /// The queue that it is for.
    pub queue: String,
    /// The topic, if it is an event.
    pub topic: Option<String>,
    /// Its key, if it has one.
    pub key: Option<String>,
    /// The item, as MessagePack: see [`KeptItem::body`].
    pub bytes: Bytes,
    /// When it was pushed.
    pub pushed: SystemTime,
    /// Not delivered before this.
    pub due: SystemTime,
    /// When it becomes a dead letter, if it has not been processed by then.
    pub expires: Option<SystemTime>,
    /// How often it failed.
    pub attempts: u32,
    /// What it failed with last.
    pub error: Option<String>,
    /// Somebody had it and has not said what became of it, since then.
    #[serde(default)]
    pub in_doubt: Option<SystemTime>,
    /// The node id of whoever that was. In a pinned queue nobody else gets it: see [`Kept::release`].
    #[serde(default)]
    pub holder: Option<String>,
    /// How often whoever had it was lost.
    #[serde(default)]
    pub lost: u32,
    /// The W3C trace id of the request that it belongs to: 32 hexadecimal digits.
    #[serde(default)]
    pub trace_id: Option<String>,
}

impl KeptItem {
    /// The item.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no `T`.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> Result<(), Box<dyn std::error::Error>> {
    /// for item in node.kept().list("emails", 0, 100).await? {
    ///     println!("{}", item.body::<String>()?);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        envelope::decode_body(&self.bytes)
    }
}

impl From<Item> for KeptItem {
    fn from(item: Item) -> Self {
        Self {
            id: item.id,
            queue: item.queue,
            topic: item.labels.topic,
            key: item.labels.key,
            bytes: item.body,
            pushed: item.created.time(),
            due: item.due.time(),
            expires: item.expires.map(crate::durable::Millis::time),
            attempts: item.attempts,
            error: item.error,
            in_doubt: item.doubt.as_ref().map(|doubt| doubt.since.time()),
            holder: item.doubt.map(|doubt| doubt.holder),
            lost: item.lost,
            trace_id: item.labels.trace.as_deref().and_then(trace::id).map(str::to_owned),
        }
    }
}

/// How much waits for one queue.
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
/// for queue in node.kept().queues().await? {
///     println!("{}: {} items, the oldest from {:?}", queue.queue, queue.items, queue.oldest);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[non_exhaustive]
pub struct KeptQueue {
    /// The queue.
    pub queue: String,
    /// Items that wait, those that a puller has included.
    pub items: u64,
    /// Those that a puller has.
    pub under_way: u64,
    /// When the oldest was pushed.
    pub oldest: SystemTime,
}

/// What this node owes. Made by [`Node::kept`].
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
/// for queue in node.kept().queues().await? {
///     println!("{} wait for {}", queue.items, queue.queue);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Kept {
    store: StoreOf,
}

impl Kept {
    pub(crate) fn new(node: &Node) -> Self {
        Self { store: StoreOf::new(node) }
    }

    /// What another node owes instead; where there are keys, it lets only those look who have `admin` there.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// for peer in node.peers().await {
    ///     let Some(id) = peer.node else { continue };
    ///     println!("{}: {} queues", peer.service, node.kept().at(id).queues().await?.len());
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn at(self, node: NodeId) -> Self {
        Self { store: self.store.at(node) }
    }

    /// Queues with something in them.
    ///
    /// # Errors
    /// [`PushError::NoStore`] without a `data_dir`; [`PushError::Store`].
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("{} queues", node.kept().queues().await?.len());
    /// # Ok(()) }
    /// ```
    pub async fn queues(&self) -> Result<Vec<KeptQueue>, PushError> {
        match self.store.ask(Ask::Queues).await? {
            Told::Queues(queues) => Ok(queues),
            told => Err(unexpected(&told)),
        }
    }

    /// Items of a queue behind the one with this id (0: from the first), in the order of delivery, so many at most; 1,000, or 4 MiB, of
    /// them at once.
    ///
    /// # Errors
    /// As for [`Kept::queues`].
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("{} at most", node.kept().list("emails", 0, 10).await?.len());
    /// # Ok(()) }
    /// ```
    pub async fn list(&self, queue: &str, after: u64, limit: usize) -> Result<Vec<KeptItem>, PushError> {
        match self.store.ask(Ask::Items { queue: queue.to_owned(), after, limit }).await? {
            Told::Items(items) => Ok(items),
            told => Err(unexpected(&told)),
        }
    }

    /// One item; `None`: it is not owed (any more).
    ///
    /// # Errors
    /// As for [`Kept::queues`].
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("{:?}", node.kept().get(7).await?);
    /// # Ok(()) }
    /// ```
    pub async fn get(&self, id: u64) -> Result<Option<KeptItem>, PushError> {
        match self.store.ask(Ask::Item(id)).await? {
            Told::Item(item) => Ok(item.map(|item| *item)),
            told => Err(unexpected(&told)),
        }
    }

    /// Takes an item away: it is not delivered (again), and who waits for it is told so. Says whether it was there. What a
    /// puller has already it may still do.
    ///
    /// # Errors
    /// As for [`Kept::queues`].
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.kept().cancel(7).await?;
    /// # Ok(()) }
    /// ```
    pub async fn cancel(&self, id: u64) -> Result<bool, PushError> {
        match self.store.ask(Ask::Cancel(id)).await? {
            Told::Was(there) => Ok(there),
            told => Err(unexpected(&told)),
        }
    }

    /// Delivers an item as soon as somebody takes it, although it is scheduled for later or waits after a failure. Says whether
    /// it was there.
    ///
    /// # Errors
    /// As for [`Kept::queues`].
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.kept().flush(7).await?;
    /// # Ok(()) }
    /// ```
    pub async fn flush(&self, id: u64) -> Result<bool, PushError> {
        match self.store.ask(Ask::Flush(id)).await? {
            Told::Was(there) => Ok(there),
            told => Err(unexpected(&told)),
        }
    }
}

impl Kept {
    /// Says that whoever had an item has not done it, so that another may have it: of an item in a pinned queue (`durable.pinned`) whose
    /// instance will not come back, and of one that has been in doubt for long. If it was done after all, it is done twice. Says whether
    /// it was there.
    ///
    /// # Errors
    /// As for [`Kept::queues`].
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.kept().release(7).await?;
    /// # Ok(()) }
    /// ```
    pub async fn release(&self, id: u64) -> Result<bool, PushError> {
        match self.store.ask(Ask::Release(id)).await? {
            Told::Was(there) => Ok(there),
            told => Err(unexpected(&told)),
        }
    }
}

/// A durable subscription that this node keeps events for.
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
/// for group in node.kept().subscriptions().await? {
///     println!("{} gets {}, and was here last at {:?}", group.name, group.pattern, group.seen);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[non_exhaustive]
pub struct KeptSubscription {
    /// Its name.
    pub name: String,
    /// What it subscribes to.
    pub pattern: String,
    /// The queue in which its events wait: see [`Kept::list`].
    pub queue: String,
    /// When one of its instances was last here, or it was first named; to the hour.
    pub seen: SystemTime,
}

impl Kept {
    /// Durable subscriptions that events are kept for.
    ///
    /// # Errors
    /// As for [`Kept::queues`].
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("{} subscriptions", node.kept().subscriptions().await?.len());
    /// # Ok(()) }
    /// ```
    pub async fn subscriptions(&self) -> Result<Vec<KeptSubscription>, PushError> {
        match self.store.ask(Ask::Subscriptions).await? {
            Told::Subscriptions(subscriptions) => Ok(subscriptions),
            told => Err(unexpected(&told)),
        }
    }

    /// Keeps no more events for this subscription, and throws away what waits for it: gives how many those were. If one of
    /// its instances is here, or comes back, it begins anew.
    ///
    /// # Errors
    /// As for [`Kept::queues`].
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.kept().unsubscribe("@billing/orders.+").await?;
    /// # Ok(()) }
    /// ```
    pub async fn unsubscribe(&self, queue: &str) -> Result<u64, PushError> {
        match self.store.ask(Ask::Unsubscribe(queue.to_owned())).await? {
            Told::Count(events) => Ok(events),
            told => Err(unexpected(&told)),
        }
    }
}

impl Outbox {
    /// How much there is and since when, without counting it all.
    pub(crate) async fn stats(&self) -> Result<KeptStats, StoreError> {
        self.journal()
            .look(|store| {
                let mut first = Vec::new();
                for queue in store.queues()? {
                    first.extend(store.page(&queue, 0, 1)?.into_iter().map(|item| item.created));
                }
                let usage = store.usage();
                let died = store.letters(0, 1)?.first().map(|letter| letter.about.died);
                let age = |since: Option<Millis>| {
                    let age = since.and_then(|since| since.time().elapsed().ok());
                    age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
                };
                Ok(KeptStats {
                    items: usage.messages,
                    bytes: usage.bytes,
                    letters: usage.letters,
                    oldest_ms: age(first.into_iter().min()),
                    letters_oldest_ms: age(died),
                })
            })
            .await
    }

    pub(super) async fn queues(&self) -> Result<Vec<KeptQueue>, StoreError> {
        let depths = self.journal().look(|store| store.depths()).await?;
        let kept = depths.into_iter().map(|depth| {
            let under_way = self.lines.get(&depth.queue).map_or(0, |line| line.under_way() as u64);
            KeptQueue { queue: depth.queue, items: depth.messages, under_way, oldest: depth.oldest.time() }
        });
        Ok(kept.collect())
    }

    pub(super) async fn items(
        &self,
        queue: String,
        after: Id,
        limit: usize,
    ) -> Result<Vec<KeptItem>, StoreError> {
        let items = self.journal().look(move |store| store.page(&queue, after, limit.min(PAGE))).await?;
        Ok(items.into_iter().map(KeptItem::from).collect())
    }

    pub(super) async fn item(&self, id: Id) -> Result<Option<KeptItem>, StoreError> {
        let item = self.journal().look(move |store| store.item(id)).await?;
        Ok(item.map(KeptItem::from))
    }

    pub(super) async fn subscriptions(&self) -> Vec<KeptSubscription> {
        let named = self.known_groups().await.into_iter().filter_map(|group| {
            let name = group_of(&group.queue)?.0.to_owned();
            let (pattern, seen) = (group.pattern.to_string(), group.seen.time());
            Some(KeptSubscription { name, pattern, queue: group.queue, seen })
        });
        named.collect()
    }

    pub(super) async fn cancel(&self, id: Id) -> Result<bool, StoreError> {
        let item = self.journal().look(move |store| store.item(id)).await?;
        let cancelled = self.journal().commit(vec![Write::Cancel(id)]).await?;
        if let Some(line) = item.and_then(|item| self.line(&item.queue)) {
            line.settle(id, Err(line.dead("it was cancelled")));
            // Whoever waits behind it goes on.
            line.hurry(id);
        }
        Ok(cancelled.first().copied().flatten().is_some())
    }

    pub(super) async fn flush(&self, id: Id) -> Result<bool, StoreError> {
        self.move_on(id, Write::Hurry { id, now: now() }).await
    }

    pub(super) async fn release(&self, id: Id) -> Result<bool, StoreError> {
        self.move_on(id, Write::Sure(id)).await
    }

    /// Changes an item, and has it looked at again.
    async fn move_on(&self, id: Id, change: Write) -> Result<bool, StoreError> {
        let item = self.journal().look(move |store| store.item(id)).await?;
        let hurried = self.journal().commit(vec![change]).await?;
        if let Some(line) = item.and_then(|item| self.line(&item.queue)) {
            line.hurry(id);
        }
        Ok(hurried.first().copied().flatten().is_some())
    }
}
