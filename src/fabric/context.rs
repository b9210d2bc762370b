//! What a handler learns beside the body.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    fabric::{
        Node,
        effect::{Effect, EffectId, Ledger},
        error::HandlerError,
        guard::Who,
        shared::Shared,
        trace,
        wire::property,
    },
    security::Identity,
    socket::pipe::Pipe,
};

tokio::task_local! {
    /// The deadline of the request being handled: calls made by its handler inherit it.
    pub(crate) static DEADLINE: Option<Instant>;
}

/// Who sent a message: what was proven; without keys what it says of itself, which is a label and no proof.
#[derive(Clone, Default, Debug)]
pub(crate) struct PeerName {
    pub(crate) service: Option<Arc<str>>,
    pub(crate) address: Arc<str>,
}

impl PeerName {
    pub(crate) fn of(pipe: &Pipe) -> Self {
        Self { service: Self::service_of(pipe), address: pipe.origin().remote().into() }
    }

    /// The name alone, for who does not need the address.
    pub(crate) fn service_of<S: for<'a> From<&'a str>>(pipe: &Pipe) -> Option<S> {
        match Who::of(pipe).as_deref() {
            Some(Who { identity: Identity::Service { service, .. }, .. }) => Some(S::from(service)),
            Some(Who { identity, .. }) => Some(S::from(&identity.to_string())),
            None => {
                let peer = pipe.peer();
                let said = peer.as_ref().and_then(|peer| peer.property(property::SERVICE));
                said.and_then(|said| std::str::from_utf8(said).ok()).map(S::from)
            }
        }
    }
}

/// What a handler learns beside the body.
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
/// node.serve("clock.now", |_: (), ctx: ripstop::Context| async move {
///     Ok(format!("{} asked, {:?} left", ctx.caller().unwrap_or("somebody"), ctx.remaining()))
/// }).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
    subject: Arc<str>,
    deadline: Option<Instant>,
    peer: PeerName,
    key: Option<Box<str>>,
    effect: Option<Effect>,
    attempt: u32,
    fence: u64,
    traceparent: Option<Arc<str>>,
}

impl Context {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        subject: Arc<str>,
        deadline: Option<Instant>,
        peer: PeerName,
    ) -> Self {
        let shared = shared.clone();
        Self {
            shared,
            subject,
            deadline,
            peer,
            key: None,
            effect: None,
            attempt: 1,
            fence: 0,
            traceparent: None,
        }
    }

    pub(crate) fn with_key(self, key: Option<Box<str>>, effect: Option<Effect>) -> Self {
        Self { key, effect, ..self }
    }

    /// Of an item.
    pub(crate) fn of_item(
        self,
        effect: Option<Effect>,
        attempt: u32,
        fence: u64,
        traceparent: Option<Arc<str>>,
    ) -> Self {
        Self { effect, attempt, fence, traceparent, ..self }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The subject that was called, or the queue that the work came from.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.serve("clock.now", |_: (), ctx: ripstop::Context| async move { Ok(ctx.subject().to_owned()) }).await?;
    /// # Ok(()) }
    /// ```
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The sender's service. Where the node has keys it is proven, and that of a foreign client is the name under which its
    /// CURVE key is enrolled, such as `curve:reports`. Without keys it is what the sender says; `None`: it says nothing, as
    /// foreign ZeroMQ peers do.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.serve("clock.now", |_: (), ctx: ripstop::Context| async move { Ok(ctx.caller().map(str::to_owned)) }).await?;
    /// # Ok(()) }
    /// ```
    pub fn caller(&self) -> Option<&str> {
        self.peer.service.as_deref()
    }

    /// The name that the caller gave what it asks for: see [`Call::idempotency_key`](crate::fabric::Call::idempotency_key).
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.serve("payments.charge", |_: u64, ctx: ripstop::Context| async move {
    ///     Ok(format!("charged as {}", ctx.idempotency_key().unwrap_or("nothing")))
    /// }).await?;
    /// # Ok(()) }
    /// ```
    pub fn idempotency_key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Names what is to be done once: see [`EffectId`]. `None` for calls without an idempotency key and for work that is not durable.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.work("emails", |_: String, ctx: ripstop::Context| async move {
    ///     println!("{}", if ctx.effect_id().is_some() { "at least once" } else { "at most once" });
    ///     Ok(())
    /// }).await?;
    /// # Ok(()) }
    /// ```
    pub fn effect_id(&self) -> Option<EffectId> {
        self.effect.as_ref().map(Effect::id)
    }

    fn effect(&self) -> Result<&Effect, HandlerError> {
        self.effect.as_ref().ok_or_else(|| {
            let why =
                "nothing names what is to be done once: push it durably, or call it with an idempotency key";
            HandlerError::new(format!("{}: {why}", self.subject)).permanent()
        })
    }

    /// Begins a transaction of the handler's own database with the record that this was done in it; `None`: it was done before. See
    /// [`Ledger`].
    ///
    /// # Errors
    /// Those of the database; and that nothing names what is to be done once: see [`Context::effect_id`].
    ///
    /// Cancel safe if the ledger is: a transaction that is dropped rolls back.
    ///
    /// ```no_run
    /// # use ripstop::fabric::{HandlerError, Ledger};
    /// # async fn f<L: Ledger<Transaction = String>>(ctx: ripstop::Context, ledger: L) -> Result<(), HandlerError> {
    /// if let Some(transaction) = ctx.begin(&ledger).await? {
    ///     println!("new: {transaction}");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn begin<L: Ledger>(&self, ledger: &L) -> Result<Option<L::Transaction>, HandlerError> {
        Ok(ledger.begin(&self.effect()?.id()).await?)
    }

    /// Does something in the SQLite file that this node keeps in its `data_dir`, in one transaction with the record that it was done:
    /// either both are on disk, or neither is. It runs on the store's own thread, which has other work too: keep it short, and call nothing
    /// that waits. Its tables stand beside the node's own: give them names that begin with the service's. To begin, end or nest
    /// transactions is not for it, nor to change pragmas.
    ///
    /// Once this has returned `Ok`, the item is done, whatever the handler returns; and what `effect` has returned is the reply that
    /// whoever repeats a call gets. Once for each delivery.
    ///
    /// # Errors
    /// What `effect` returns, or that it panicked: then nothing of it is kept; that nothing names what is to be done once (see
    /// [`Context::effect_id`]); that this node has no `data_dir`; and that the disk fails.
    ///
    /// When it is cancelled, the transaction may be committed all the same, or not.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.work("accounts.book", |(account, cents): (String, i64), ctx: ripstop::Context| async move {
    ///     ctx.transaction(move |db| {
    ///         db.execute("CREATE TABLE IF NOT EXISTS accounts_balance (account TEXT PRIMARY KEY, cents INTEGER)", ())?;
    ///         let book = "INSERT INTO accounts_balance VALUES (?1, ?2) ON CONFLICT (account) DO UPDATE SET cents = cents + ?2";
    ///         db.execute(book, (&account, cents))?;
    ///         Ok(())
    ///     }).await
    /// }).await?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "durable")]
    pub async fn transaction<R, F>(&self, effect: F) -> Result<R, HandlerError>
    where
        R: serde::Serialize + Send + 'static,
        F: FnOnce(&rusqlite::Connection) -> Result<R, HandlerError> + Send + 'static,
    {
        self.effect()?.clone().transaction(&self.shared, effect).await
    }

    /// Which attempt this is, counted from 1. Always 1 for calls and for work that is not durable.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.work("emails", |_: String, ctx: ripstop::Context| async move { println!("attempt {}", ctx.attempt()); Ok(()) }).await?;
    /// # Ok(()) }
    /// ```
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The W3C trace id of the request that an item of durable work belongs to: 32 hexadecimal digits. Durable work that is pushed from
    /// its handler has the same. `None` for calls, and for work that is not durable.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.work("emails", |_: String, ctx: ripstop::Context| async move { println!("{:?}", ctx.trace_id()); Ok(()) }).await?;
    /// # Ok(()) }
    /// ```
    pub fn trace_id(&self) -> Option<&str> {
        trace::id(self.traceparent.as_deref()?)
    }

    /// Rises with each delivery of one sender: see [`Delivery::fence`](crate::fabric::Delivery::fence). 0 for calls and for work
    /// that is not durable.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.work("emails", |_: String, ctx: ripstop::Context| async move { println!("fence {}", ctx.fence()); Ok(()) }).await?;
    /// # Ok(()) }
    /// ```
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// The sender's address.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.serve("clock.now", |_: (), ctx: ripstop::Context| async move { Ok(ctx.address().to_owned()) }).await?;
    /// # Ok(()) }
    /// ```
    pub fn address(&self) -> &str {
        &self.peer.address
    }

    /// When the caller stops waiting; the handler is cancelled then. `None` for pulled work.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.serve("clock.now", |_: (), ctx: ripstop::Context| async move { Ok(ctx.deadline().is_some()) }).await?;
    /// # Ok(()) }
    /// ```
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How much of the caller's time is left; `None` for pulled work.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.serve("clock.now", |_: (), ctx: ripstop::Context| async move { Ok(ctx.remaining().map(|left| left.as_secs())) }).await?;
    /// # Ok(()) }
    /// ```
    pub fn remaining(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }

    /// The node that serves. Calls made with it from this handler inherit the deadline.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.serve("clock.now", |_: (), ctx: ripstop::Context| async move { Ok(ctx.node().service().to_owned()) }).await?;
    /// # Ok(()) }
    /// ```
    pub fn node(&self) -> Node {
        self.shared.handle()
    }
}

show!([] Context, "Context", this, { subject: this.subject, caller: this.caller(), remaining: this.remaining() });
