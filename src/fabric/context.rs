//! What a handler learns beside the body.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    fabric::{Node, guard::Who, shared::Shared, wire::property},
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
}

impl Context {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        subject: Arc<str>,
        deadline: Option<Instant>,
        peer: PeerName,
    ) -> Self {
        Self { shared: shared.clone(), subject, deadline, peer, key: None }
    }

    pub(crate) fn with_key(self, key: Option<Box<str>>) -> Self {
        Self { key, ..self }
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
