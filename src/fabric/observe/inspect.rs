//! Asking a node what it says of itself.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;

use crate::{
    discovery::NodeId,
    fabric::{
        Node,
        calls::client::{ask_own, ping_instance},
        error::CallError,
        shared::Shared,
        wire::own,
    },
    observe::{NodeHealth, NodeInfo, NodeStats},
};

/// One node as it sees itself, this one or another; made by [`Node::inspect`].
///
/// Where there are keys, every member may ask for the health and whether it is there, and who has `admin = true` for the rest.
/// Each question takes `timeouts.call` at most, and fails with [`CallError`]: `NoInstance` where discovery knows no such node,
/// `Forbidden`, or `NoSuchMethod` from a release that does not answer it.
#[derive(Clone, Debug)]
pub struct Inspect {
    node: Node,
    at: NodeId,
}

impl Inspect {
    pub(crate) fn new(node: &Node, at: NodeId) -> Self {
        Self { node: node.clone(), at }
    }

    /// The answer of another node, or of this one itself.
    async fn ask<R: DeserializeOwned>(
        &self,
        subject: &'static str,
        here: impl FnOnce(&Shared) -> R,
    ) -> Result<R, CallError> {
        let shared = self.node.shared();
        match self.at == shared.id {
            true => Ok(here(shared)),
            false => ask_own(shared, self.at, subject, &()).await,
        }
    }

    /// Who it is and what it offers.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("{:?}", node.inspect(node.id()).info().await?.methods);
    /// # Ok(()) }
    /// ```
    pub async fn info(&self) -> Result<NodeInfo, CallError> {
        self.ask(own::INFO, Shared::info).await
    }

    /// What it has counted.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("{} connections", node.inspect(node.id()).stats().await?.links.accepted);
    /// # Ok(()) }
    /// ```
    pub async fn stats(&self) -> Result<NodeStats, CallError> {
        let shared = self.node.shared();
        match self.at == shared.id {
            true => Ok(shared.stats().await),
            false => ask_own(shared, self.at, own::STATS, &()).await,
        }
    }

    /// Whether it is well.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// assert!(node.inspect(node.id()).health().await?.ready);
    /// # Ok(()) }
    /// ```
    pub async fn health(&self) -> Result<NodeHealth, CallError> {
        self.ask(own::HEALTH, Shared::health).await
    }

    /// Its configuration in force, by key, each value as in `ripstop.toml`. Keys and passwords are never in it.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("{}", node.inspect(node.id()).config().await?["limits.max_message"]);
    /// # Ok(()) }
    /// ```
    pub async fn config(&self) -> Result<BTreeMap<String, String>, CallError> {
        self.ask(own::CONFIG, Shared::settings).await
    }

    /// How long it takes to answer; it is connected first, if it is not yet, which does not count.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("{:?}", node.inspect(node.id()).ping().await?);
    /// # Ok(()) }
    /// ```
    pub async fn ping(&self) -> Result<Duration, CallError> {
        let (shared, started) = (self.node.shared(), Instant::now());
        match self.at == shared.id {
            true => Ok(started.elapsed()),
            false => ping_instance(shared, self.at).await,
        }
    }
}
