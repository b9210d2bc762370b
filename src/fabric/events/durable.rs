//! Subscriptions for which publishers keep events until they are processed.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use serde::de::DeserializeOwned;

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
