//! Subscriptions for which publishers keep events until they are processed.

#[cfg(feature = "durable")]
use std::time::Duration;
use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

#[cfg(feature = "durable")]
use bytes::Bytes;
#[cfg(feature = "durable")]
use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(feature = "durable")]
use crate::{
    envelope::EncodeError,
    fabric::{
        error::PublishError,
        events::publisher::Publisher,
        work::outbox::push::{How, KeptEvent},
    },
};

use crate::{
    envelope::{Pattern, group_queue},
    fabric::{
        Node,
        context::Context,
        error::{HandlerError, SubscribeError},
        work::{
            pull::{Pull, PullBuilder},
            worker::Worker,
        },
    },
};

/// A durable subscription being prepared by [`Subscribe::durable`](crate::fabric::Subscribe::durable). Await it to
/// subscribe: it is a pull of what publishers keep, and each event is a delivery with a topic.
#[must_use = "nothing is subscribed until this is awaited"]
pub struct SubscribeDurably<T> {
    pull: PullBuilder<T>,
    node: Node,
    pattern: String,
    name: String,
}

impl<T> SubscribeDurably<T> {
    pub(super) fn new(node: Node, pattern: String, name: &str) -> Self {
        Self { pull: PullBuilder::new(&node, ""), node, pattern, name: name.to_owned() }
    }

    /// How many events each publisher may send ahead of what was taken here. Default 1,024.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let mut orders = node.subscribe::<String>("orders.*").durable("billing").prefetch(1).await?;
    /// # Ok(()) }
    /// ```
    pub fn prefetch(mut self, events: u32) -> Self {
        self.pull = self.pull.prefetch(events);
        self
    }

    fn prepared(self) -> Result<PullBuilder<T>, SubscribeError> {
        let pattern = Pattern::parse(&self.pattern)?;
        let queue = group_queue(&self.name, &pattern).map_err(|reason| SubscribeError::Name { reason })?;
        self.node.shared().subscriptions.register(&queue, &pattern);
        let registered = Registered { node: self.node.clone(), queue: queue.clone() };
        self.node.shared().reconcile();
        Ok(self.pull.of(queue).subscribed(registered))
    }

    /// Runs a handler for each event, so many at once: `Ok` is that it is processed, `Err` that it is to come again.
    ///
    /// # Errors
    /// As when it is awaited.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let orders = node.subscribe::<String>("orders.*").durable("billing");
    /// orders.work(8, |order, ctx| async move { println!("{}: {order}", ctx.subject()); Ok(()) }).await?;
    /// # Ok(()) }
    /// ```
    pub async fn work<F, Fut>(self, concurrency: usize, handler: F) -> Result<Worker, SubscribeError>
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        Worker::start(self.prepared()?, handler, concurrency).await
    }
}

impl<T: 'static> IntoFuture for SubscribeDurably<T> {
    type Output = Result<Pull<T>, SubscribeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.prepared()?.await })
    }
}

/// An event to be kept, made by [`Publisher::keep`](crate::fabric::Publisher::keep). Await it to keep it.
#[cfg(feature = "durable")]
#[must_use = "nothing is kept until this is awaited"]
pub struct Keep<'a, T> {
    publisher: &'a Publisher<T>,
    body: Result<Bytes, EncodeError>,
    how: How<'a>,
}

#[cfg(feature = "durable")]
impl<'a, T> Keep<'a, T> {
    pub(super) fn new(publisher: &'a Publisher<T>, body: Result<Bytes, EncodeError>) -> Self {
        Self { publisher, body, how: How::default() }
    }

    /// In each durable subscription, events with the same key go one after the other, in the order in which they were kept here, to
    /// the same instance: see [`Durable::key`](crate::fabric::Durable::key). 1,024 bytes at most. Default: none.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let orders = node.publisher::<u64>("orders.created").await?;
    /// orders.keep(&7).key("customer-4711").await?;
    /// # Ok(()) }
    /// ```
    pub fn key(mut self, key: &'a str) -> Self {
        self.how.key = Some(key);
        self
    }

    /// Delivers the event to durable subscriptions no sooner than this from now, restarts or not; to others it goes at once.
    /// Default: at once.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let orders = node.publisher::<u64>("orders.reminded").await?;
    /// orders.keep(&7).after(std::time::Duration::from_secs(600)).await?;
    /// # Ok(()) }
    /// ```
    pub fn after(mut self, pause: Duration) -> Self {
        self.how.after(pause);
        self
    }

    /// How long the event is worth delivering to durable subscriptions; then it becomes a dead letter. Default: for ever.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let orders = node.publisher::<u64>("orders.created").await?;
    /// orders.keep(&7).expires(std::time::Duration::from_secs(600)).await?;
    /// # Ok(()) }
    /// ```
    pub fn expires(mut self, lives: Duration) -> Self {
        self.how.lives = Some(lives);
        self
    }
}

#[cfg(feature = "durable")]
impl<'a, T: Serialize> IntoFuture for Keep<'a, T> {
    type Output = Result<KeptEvent, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { publisher, body, how } = self;
        Box::pin(async move { publisher.keep_encoded(body?, how).await })
    }
}

#[cfg(feature = "durable")]
show!([T] Keep<'_, T>, "Keep", this, { how: this.how });

/// Has publishers know of a durable subscription, for as long as it is here.
pub(crate) struct Registered {
    node: Node,
    queue: String,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.node.shared().subscriptions.unregister(&self.queue);
    }
}

show!([T] SubscribeDurably<T>, "SubscribeDurably", this, { pattern: this.pattern, name: this.name });
