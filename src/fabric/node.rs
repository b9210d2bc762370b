//! One process's place in a fabric.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
};

use serde::{Serialize, de::DeserializeOwned};

#[cfg(feature = "durable")]
use crate::fabric::work::outbox::{kept::Kept, letters::DeadLetters};
use crate::{
    discovery::{Directory, NodeId},
    endpoint::Endpoint,
    fabric::{
        builder::NodeBuilder,
        calls::{
            client::Call,
            probe::may_call,
            server::Serve,
            stream::{CallStream, ReplySink},
        },
        context::Context,
        drain,
        error::{CallError, HandlerError, StartError},
        events::{publisher::Publish, subscription::Subscribe},
        observe::inspect::Inspect,
        peers::{PeerInfo, PeerWatch},
        shared::Shared,
        work::{pull::PullBuilder, push::Push, worker::Work},
    },
    observe::{NodeHealth, NodeStats},
    sync::lock,
};

/// A handle to this process's place in a fabric: cheap to clone, usable from everywhere.
///
/// When the last handle (and the last publisher, subscription, pull and worker) is dropped, the node drains in the
/// background. A handler that captures a handle is one of them: it keeps its node alive, [`Context::node`] does not.
///
/// ```no_run
/// use ripstop::Node;
///
/// # #[tokio::main] async fn main() -> ripstop::Result<()> {
/// let node = Node::start("pricing").await?;
/// node.serve("pricing.quote", |qty: u64, _ctx| async move { Ok(250 * qty) }).await?;
/// let cents: u64 = node.call("pricing.quote", &3u64).await?;
/// node.run().await
/// # }
/// ```
pub struct Node {
    shared: Arc<Shared>,
}

impl Clone for Node {
    fn clone(&self) -> Self {
        self.shared.handle()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.shared.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            drain::begin(&self.shared);
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("service", &self.shared.service)
            .field("id", &self.shared.id)
            .field("fabric", &self.shared.fabric)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Starts a node of this service with `ripstop.toml` from the working directory, if there is one, and the
    /// environment (`RIPSTOP_…`). It listens on loopback unless told otherwise.
    ///
    /// # Errors
    /// [`StartError`] when the configuration is wrong or a listener cannot be opened.
    ///
    /// ```no_run
    /// # async fn f() -> ripstop::Result<()> {
    /// let node = ripstop::Node::start("pricing").await?;
    /// # Ok(()) }
    /// ```
    pub async fn start(service: &str) -> Result<Self, StartError> {
        let loaded = crate::config::Config::load(None)?;
        NodeBuilder::new(service).loaded(loaded).start().await
    }

    /// A builder that reads neither file nor environment.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripstop::Result<()> {
    /// use ripstop::{Node, discovery::Memory};
    ///
    /// let lan = Memory::new();
    /// let node = Node::builder("pricing").local(false).source(lan.source()).start().await?;
    /// assert_eq!(node.service(), "pricing");
    /// # Ok(()) }
    /// ```
    pub fn builder(service: &str) -> NodeBuilder {
        NodeBuilder::new(service)
    }

    /// A handle that is counted already.
    pub(crate) fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// This node's id.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("{}", node.id());
    /// # Ok(()) }
    /// ```
    pub fn id(&self) -> NodeId {
        self.shared.id
    }

    /// The fabric's name.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// assert_eq!(node.fabric(), "default");
    /// # Ok(()) }
    /// ```
    pub fn fabric(&self) -> &str {
        &self.shared.fabric
    }

    /// The service that this node is an instance of.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// assert_eq!(node.service(), "pricing");
    /// # Ok(()) }
    /// ```
    pub fn service(&self) -> &str {
        &self.shared.service
    }

    /// The service's version, as configured; may be empty.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("{}", node.version());
    /// # Ok(()) }
    /// ```
    pub fn version(&self) -> &str {
        &self.shared.version
    }

    /// Where this node can be dialled, as it announces it.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("{:?}", node.endpoints());
    /// # Ok(()) }
    /// ```
    pub fn endpoints(&self) -> Vec<Endpoint> {
        lock(&self.shared.endpoints).clone()
    }

    /// Who is there, merged from all discovery sources.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("{} instances", node.directory().all().len());
    /// # Ok(()) }
    /// ```
    pub fn directory(&self) -> &Directory {
        &self.shared.directory
    }

    /// Offers a method. The handler runs in a task of its own for each request; it is cancelled when the caller gives
    /// up or the deadline passes, and its panic fails that request alone.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.serve("pricing.quote", |qty: u64, _ctx| async move { Ok(250 * qty) }).await?;
    /// # Ok(()) }
    /// ```
    pub fn serve<Q, R, F, Fut>(&self, subject: &str, handler: F) -> Serve
    where
        Q: DeserializeOwned + Send + 'static,
        R: Serialize,
        F: Fn(Q, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
    {
        Serve::new(self, subject, handler)
    }

    /// Calls a method: any live instance of the service answers. The first call waits up to 2 s for discovery.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let cents: u64 = node.call("pricing.quote", &3u64).await?;
    /// # Ok(()) }
    /// ```
    pub fn call<Q: Serialize + ?Sized, R: DeserializeOwned>(&self, subject: &str, request: &Q) -> Call<R> {
        Call::new(self, subject, request)
    }

    /// Calls a method for a stream of replies: see [`Replies`](crate::fabric::Replies). A method that answers once gives one.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let mut ticks = node.call_stream::<_, u64>("clock.ticks", &10u64).await?;
    /// while let Some(tick) = ticks.recv().await {
    ///     println!("{}", tick?);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn call_stream<Q: Serialize + ?Sized, R: DeserializeOwned>(
        &self,
        subject: &str,
        request: &Q,
    ) -> CallStream<R> {
        CallStream::new(self, subject, request)
    }

    /// Offers a method that answers with a stream: the handler sends one reply after the other, and waits while the reader takes none.
    /// Deadline, cancellation and panics are as for [`Node::serve`].
    ///
    /// ```no_run
    /// # use ripstop::fabric::ReplySink;
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.serve_stream("clock.ticks", |count: u64, _ctx, replies: ReplySink<u64>| async move {
    ///     for tick in 0..count {
    ///         replies.send(&tick).await?;
    ///     }
    ///     Ok(())
    /// }).await?;
    /// # Ok(()) }
    /// ```
    pub fn serve_stream<Q, R, F, Fut>(&self, subject: &str, handler: F) -> Serve
    where
        Q: DeserializeOwned + Send + 'static,
        R: Serialize,
        F: Fn(Q, Context, ReplySink<R>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        Serve::stream(self, subject, handler)
    }

    /// Whether an instance would take a call of this method from this node: whether it has it, and lets us. Nothing is run there.
    ///
    /// # Errors
    /// [`CallError::NoSuchMethod`], [`CallError::Forbidden`], [`CallError::Full`]; [`CallError::NoInstance`] and
    /// [`CallError::Deadline`] when it does not answer.
    ///
    /// Cancel safe.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// for peer in node.peers().await {
    ///     if let Some(id) = peer.node {
    ///         println!("{}: {:?}", peer.service, node.may_call("pricing.quote", id).await);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn may_call(&self, subject: &str, instance: NodeId) -> Result<(), CallError> {
        may_call(&self.shared, instance, subject).await
    }

    /// Opens a topic to publish events on.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let orders = node.publisher::<String>("orders.created").await?;
    /// orders.ready(1).await?;
    /// orders.publish(&"o-1".to_string()).await?;
    /// # Ok(()) }
    /// ```
    pub fn publisher<T: Serialize>(&self, subject: &str) -> Publish<T> {
        Publish::new(self, subject)
    }

    /// Subscribes to every subject that matches: `*` stands for one token, a last `>` for one or more.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let mut orders = node.subscribe::<String>("orders.*").await?;
    /// # Ok(()) }
    /// ```
    pub fn subscribe<T: DeserializeOwned>(&self, pattern: &str) -> Subscribe<T> {
        Subscribe::new(self, pattern)
    }

    /// Pushes one item: one of those who pull the queue takes it. Waits for a puller with room.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.push("emails", "hello").await?;
    /// # Ok(()) }
    /// ```
    pub fn push<'a, T: Serialize + Sync + ?Sized>(&self, queue: &'a str, item: &'a T) -> Push<'a, T> {
        Push::new(self, queue, item)
    }

    /// What was pushed durably from here and is not processed yet.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// for queue in node.kept().queues().await? {
    ///     println!("{} wait for {}", queue.items, queue.queue);
    /// }
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "durable")]
    pub fn kept(&self) -> Kept {
        Kept::new(self)
    }

    /// What was pushed durably from here and nobody could do.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// for letter in node.dead_letters().list(0, 100).await? {
    ///     println!("{}: {}", letter.queue, letter.error);
    /// }
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "durable")]
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self)
    }

    /// Pulls items of a queue, as a stream.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let mut emails = node.pull::<String>("emails").await?;
    /// # Ok(()) }
    /// ```
    pub fn pull<T: DeserializeOwned>(&self, queue: &str) -> PullBuilder<T> {
        PullBuilder::new(self, queue)
    }

    /// Pulls items of a queue and runs a handler for each.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.work("emails", |mail: String, _ctx| async move { println!("{mail}"); Ok(()) }).concurrency(8).await?;
    /// # Ok(()) }
    /// ```
    pub fn work<T, F, Fut>(&self, queue: &str, handler: F) -> Work
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        Work::new(self, queue, handler)
    }

    /// Everyone this node knows of, each asked just now whether it is there (1 s at most, all side by side).
    /// Within the first 400 ms of a node's life it waits for discovery to have told of everyone.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) {
    /// for peer in node.peers().await {
    ///     println!("{} {:?} {:?}", peer.service, peer.node, peer.rtt);
    /// }
    /// # }
    /// ```
    pub async fn peers(&self) -> Vec<PeerInfo> {
        crate::fabric::peers::peers(&self.shared).await
    }

    /// Joins and leaves, as they happen. Those who are there already come first, as joins.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) {
    /// let mut watch = node.watch_peers();
    /// while let Some(event) = watch.recv().await {
    ///     println!("{event:?}");
    /// }
    /// # }
    /// ```
    pub fn watch_peers(&self) -> PeerWatch {
        PeerWatch::new(self)
    }

    /// Another node, or this one, as it sees itself: what it offers, what it has counted, whether it is well.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// for peer in node.peers().await {
    ///     if let Some(id) = peer.node {
    ///         println!("{}: {:?}", peer.service, node.inspect(id).health().await?.reasons);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn inspect(&self, node: NodeId) -> Inspect {
        Inspect::new(self, node)
    }

    /// What this node has counted.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) {
    /// println!("{} methods", node.stats().await.served.len());
    /// # }
    /// ```
    pub async fn stats(&self) -> NodeStats {
        self.shared.stats().await
    }

    /// Whether this node is ready to be sent requests, and if not, why.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) {
    /// println!("{:?}", node.health().reasons);
    /// # }
    /// ```
    pub fn health(&self) -> NodeHealth {
        self.shared.health()
    }

    /// Waits until everything that was sent so far has been handed to the system. Cancel safe.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) {
    /// node.flush().await;
    /// # }
    /// ```
    pub async fn flush(&self) {
        drain::flush(&self.shared).await;
    }

    /// Leaves the fabric in good order: says goaway, begins nothing new, finishes what is under way, flushes, closes;
    /// 10 s at most (`timeouts.drain`). A second call waits for the first. Cancel safe: a drain once begun goes on.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) {
    /// node.drain().await;
    /// # }
    /// ```
    pub async fn drain(&self) {
        drain::drain(&self.shared).await;
    }

    /// Runs until SIGTERM or SIGINT, then drains. The only place that handles signals.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.run().await
    /// # }
    /// ```
    pub async fn run(&self) -> crate::Result<()> {
        drain::signal().await.map_err(|error| StartError::Listen {
            endpoint: "SIGTERM and SIGINT".into(),
            reason: error.to_string(),
        })?;
        self.drain().await;
        Ok(())
    }
}
