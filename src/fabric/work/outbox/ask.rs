//! Looking into a node's store, from here or from another node: `$node.store`.

use serde::{Deserialize, Serialize};

use super::{
    Outbox,
    kept::{KeptItem, KeptQueue, KeptSubscription},
    letters::DeadLetter,
};
use crate::{
    discovery::NodeId,
    fabric::{
        Context, HandlerError, Node,
        calls::{client, server},
        error::{CallError, PushError},
        shared::Shared,
        wire::own,
    },
};

/// Those who look at once.
const AT_ONCE: usize = 4;
/// The most that is listed at once.
pub(super) const PAGE: usize = 1000;

/// What can be asked of a store.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    Queues,
    Items { queue: String, after: u64, limit: usize },
    Item(u64),
    Cancel(u64),
    Flush(u64),
    Release(u64),
    Subscriptions,
    Unsubscribe(String),
    Letters { after: u64, limit: usize },
    Replay(u64),
    Purge(u64),
}

/// What it says.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum Told {
    Queues(Vec<KeptQueue>),
    Items(Vec<KeptItem>),
    Item(Option<Box<KeptItem>>),
    Subscriptions(Vec<KeptSubscription>),
    Letters(Vec<DeadLetter>),
    /// What it was about was there.
    Was(bool),
    Count(u64),
    Id(Option<u64>),
}

/// The store of one node: this one's, or another's.
#[derive(Clone, Debug)]
pub(super) struct StoreOf {
    node: Node,
    at: Option<NodeId>,
}

impl StoreOf {
    pub(super) fn new(node: &Node) -> Self {
        Self { node: node.clone(), at: None }
    }

    pub(super) fn at(self, node: NodeId) -> Self {
        Self { at: Some(node).filter(|at| *at != self.node.id()), ..self }
    }

    pub(super) async fn ask(&self, ask: Ask) -> Result<Told, PushError> {
        let shared = self.node.shared();
        match self.at {
            None => Outbox::of(shared)?.answer(ask).await,
            Some(node) => client::ask_own(shared, node, own::STORE, &ask).await.map_err(elsewhere),
        }
    }
}

fn elsewhere(error: CallError) -> PushError {
    match error {
        CallError::NoSuchMethod { .. } => PushError::NoStore,
        CallError::Forbidden { reason, .. } => PushError::Forbidden { queue: own::STORE.to_owned(), reason },
        error => PushError::Elsewhere { reason: error.to_string() },
    }
}

/// A node of another release says something that this one does not know.
pub(super) fn unexpected(told: &Told) -> PushError {
    PushError::Elsewhere { reason: format!("it answered something else: {told:.64?}") }
}

impl Outbox {
    /// Lets others look, who may.
    pub(crate) fn offer(shared: &Shared) {
        let answer = |ask: Ask, context: Context| async move {
            let outbox = Self::of(context.shared())?;
            Ok::<_, HandlerError>(outbox.answer(ask).await?)
        };
        server::offer_own(shared, own::STORE, AT_ONCE, answer);
    }

    pub(super) async fn answer(&self, ask: Ask) -> Result<Told, PushError> {
        Ok(match ask {
            Ask::Queues => Told::Queues(self.queues().await?),
            Ask::Items { queue, after, limit } => Told::Items(self.items(queue, after, limit).await?),
            Ask::Item(id) => Told::Item(self.item(id).await?.map(Box::new)),
            Ask::Cancel(id) => Told::Was(self.cancel(id).await?),
            Ask::Flush(id) => Told::Was(self.flush(id).await?),
            Ask::Release(id) => Told::Was(self.release(id).await?),
            Ask::Subscriptions => Told::Subscriptions(self.subscriptions().await),
            Ask::Unsubscribe(queue) => Told::Count(self.unregister(&queue).await?),
            Ask::Letters { after, limit } => Told::Letters(self.letters(after, limit).await?),
            Ask::Replay(letter) => Told::Id(self.replay(letter).await?),
            Ask::Purge(letter) => Told::Was(self.purge(letter).await?),
        })
    }
}
