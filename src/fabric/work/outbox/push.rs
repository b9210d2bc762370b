//! Durable pushes: `node.push(…).durable()`.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::oneshot;

use super::{
    Outbox,
    line::{Entering, Line},
    millis, now,
};
use crate::{
    durable::{Id, Labels, Millis, NewItem, Write},
    envelope::check_subject,
    fabric::{Fate, Node, error::PushError, trace, wire},
};

/// The longest key, in bytes.
const MAX_KEY: usize = 1024;

/// A durable push, made by [`Push::durable`](crate::fabric::Push::durable). Await it to keep the item.
#[must_use = "nothing is kept until this is awaited"]
pub struct Durable<'a, T: ?Sized> {
    node: Node,
    queue: &'a str,
    item: &'a T,
    how: How<'a>,
}

/// Order and time of what is kept.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct How<'a> {
    pub(crate) key: Option<&'a str>,
    pub(crate) due: Option<SystemTime>,
    pub(crate) lives: Option<Duration>,
}

impl How<'_> {
    pub(crate) fn after(&mut self, pause: Duration) {
        self.due = SystemTime::now().checked_add(pause);
    }

    /// A new item.
    pub(super) fn item(
        &self,
        queue: &str,
        body: Bytes,
        topic: Option<&str>,
        created: Millis,
        outbox: &Outbox,
    ) -> Result<NewItem, PushError> {
        if let Some(length) = self.key.map(str::len).filter(|length| *length > MAX_KEY) {
            return Err(PushError::Key { length, limit: MAX_KEY });
        }
        Ok(NewItem {
            queue: queue.to_owned(),
            body,
            labels: Labels {
                key: self.key.map(str::to_owned),
                topic: topic.map(str::to_owned),
                trace: Some(trace::child()),
            },
            created,
            due: self.due.map_or(created, Millis::of),
            expires: self.lives.or(outbox.lives).map(|lives| created.after(millis(lives))),
        })
    }
}

impl<'a, T: Serialize + Sync + ?Sized> Durable<'a, T> {
    pub(in crate::fabric::work) fn new(node: Node, queue: &'a str, item: &'a T) -> Self {
        Self { node, queue, item, how: How::default() }
    }

    /// Items of one queue with the same key go one after the other, in the order in which they were pushed here, to the same
    /// instance for as long as it is there: the next one goes when the one before is done, or has become a dead letter. Other
    /// senders' items of that key are not waited for. 1,024 bytes at most. Default: none.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.push("accounts.book", "+7 EUR").durable().key("customer-4711").await?;
    /// # Ok(()) }
    /// ```
    pub fn key(mut self, key: &'a str) -> Self {
        self.how.key = Some(key);
        self
    }

    /// Delivers the item no sooner than this, by this machine's clock, restarts or not. Default: at once.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let tomorrow = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400);
    /// node.push("emails", "good morning").durable().at(tomorrow).await?;
    /// # Ok(()) }
    /// ```
    pub fn at(mut self, time: SystemTime) -> Self {
        self.how.due = Some(time);
        self
    }

    /// Delivers the item no sooner than this from now, restarts or not. Default: at once.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.push("emails", "reminder").durable().after(std::time::Duration::from_secs(600)).await?;
    /// # Ok(()) }
    /// ```
    pub fn after(mut self, pause: Duration) -> Self {
        self.how.after(pause);
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
        self.how.lives = Some(lives);
        self
    }

    async fn keep(self) -> Result<Receipt, PushError> {
        let shared = self.node.shared();
        if shared.is_draining() {
            return Err(PushError::Draining);
        }
        check_subject(self.queue)?;
        let body = wire::body(self.item)?;
        let (size, limit) = (body.len(), shared.options.max_message);
        if size > limit {
            return Err(PushError::TooLarge { queue: self.queue.to_owned(), size, limit });
        }
        let outbox = Outbox::of(shared)?;
        let item = self.how.item(self.queue, body, None, now(), outbox)?;
        let line = outbox.line(self.queue).ok_or(PushError::Draining)?;
        let entering = Entering::new(&line);
        metrics::counter!("ripstop_outbox_kept_total").increment(1);
        let kept = outbox.journal.commit(vec![Write::Put(item)]).await?;
        Ok(Receipt::new(&line, &entering, kept.into_iter().next().flatten()))
    }
}

impl Outbox {
    /// Keeps items, all of them or none, and what has to be written with them.
    pub(super) async fn keep(
        &self,
        items: Vec<NewItem>,
        more: Vec<Write>,
    ) -> Result<Vec<Receipt>, PushError> {
        let lines: Vec<_> = items.iter().filter_map(|item| self.line(&item.queue)).collect();
        let entering: Vec<_> = lines.iter().map(|line| Entering::new(line)).collect();
        metrics::counter!("ripstop_outbox_kept_total").increment(items.len() as u64);
        let kept = self.journal.commit(items.into_iter().map(Write::Put).chain(more).collect()).await?;
        let receipts = lines.iter().zip(&entering).zip(kept);
        Ok(receipts.map(|((line, entering), id)| Receipt::new(line, entering, id)).collect())
    }
}

impl<'a, T: Serialize + Sync + ?Sized> IntoFuture for Durable<'a, T> {
    type Output = Result<Receipt, PushError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.keep())
    }
}

/// An item that is on disk here. Dropping this changes nothing: it will be delivered.
pub struct Receipt {
    id: Id,
    outcome: oneshot::Receiver<Result<Fate, PushError>>,
    line: Arc<Line>,
}

impl Receipt {
    /// The item is on disk, and whoever delivers it is told.
    fn new(line: &Arc<Line>, entering: &Entering<'_>, id: Option<Id>) -> Self {
        let id = id.unwrap_or_default();
        let outcome = entering.wait(id);
        line.came();
        Self { id, outcome, line: line.clone() }
    }

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

/// An event that is on disk here, for every durable subscription. Dropping this changes nothing: it will be delivered.
pub struct KeptEvent {
    receipts: Vec<Receipt>,
}

impl KeptEvent {
    pub(crate) fn new(receipts: Vec<Receipt>) -> Self {
        Self { receipts }
    }

    /// For how many durable subscriptions it is kept; 0 when it is only retained for those that come later.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let orders = node.publisher::<u64>("orders.created").await?;
    /// assert_eq!(orders.keep(&7).await?.subscriptions(), 2);
    /// # Ok(()) }
    /// ```
    pub fn subscriptions(&self) -> usize {
        self.receipts.len()
    }

    /// Waits until every durable subscription has processed it. Cancel safe.
    ///
    /// # Errors
    /// As for [`Receipt::processed`], of the first that has failed.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let orders = node.publisher::<u64>("orders.created").await?;
    /// orders.keep(&7).await?.processed().await?;
    /// # Ok(()) }
    /// ```
    pub async fn processed(self) -> Result<(), PushError> {
        for receipt in self.receipts {
            receipt.processed().await?;
        }
        Ok(())
    }
}

show!([] KeptEvent, "KeptEvent", this, { subscriptions: this.receipts.len() });

impl Drop for Receipt {
    fn drop(&mut self) {
        self.line.forget(self.id);
    }
}

show!([T: ?Sized] Durable<'_, T>, "Durable", this, { queue: this.queue, how: this.how });

show!([] Receipt, "Receipt", this, { queue: this.line.queue, id: this.id });
