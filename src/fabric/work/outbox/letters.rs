//! Dead letters: what this node pushed durably and nobody could do, kept until somebody has looked at it.

use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    discovery::NodeId,
    durable::{Id, Letter, Reason, StoreError, Write},
    envelope::{self, DecodeError},
    fabric::{
        Node,
        error::PushError,
        trace,
        work::outbox::{
            Outbox,
            ask::{Ask, PAGE, StoreOf, Told, unexpected},
            now,
        },
    },
};

/// Why an item became a dead letter.
///
/// ```
/// assert_eq!(ripstop::fabric::Death::Expired.to_string(), "expired");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Death {
    /// It failed as often as it may.
    Attempts,
    /// Whoever worked on it refused it for good, or could not read it.
    Refused,
    /// It was not processed in its time.
    Expired,
    /// Somebody had it and never said what became of it, for longer than `durable.dedup_for`: it may have been done, and nobody
    /// would remember that any more.
    Doubt,
    /// Whoever had it was lost, `durable.losses` times: it may be what kills them.
    Lost,
}

impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Attempts => Reason::Attempts.as_str(),
            Self::Refused => Reason::Refused.as_str(),
            Self::Expired => Reason::Expired.as_str(),
            Self::Doubt => Reason::Doubt.as_str(),
            Self::Lost => Reason::Lost.as_str(),
        })
    }
}

/// An item that this node pushed durably and nobody could do.
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
/// for letter in node.dead_letters().list(0, 100).await? {
///     println!("{} for {}: {} after {} attempts: {}", letter.id, letter.queue, letter.death, letter.attempts, letter.error);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Names it on this node.
    pub id: u64,
    /// The queue that it was for.
    pub queue: String,
    /// The topic, if it was an event.
    pub topic: Option<String>,
    /// Its key, if it had one.
    pub key: Option<String>,
    /// The item, as MessagePack: see [`DeadLetter::body`].
    pub bytes: Bytes,
    /// When it was pushed.
    pub pushed: SystemTime,
    /// When it was given up.
    pub died: SystemTime,
    /// Why it was.
    pub death: Death,
    /// How often it failed.
    pub attempts: u32,
    /// What it failed with last.
    pub error: String,
    /// The causes of that, nearest first.
    pub chain: Vec<String>,
    /// The address where it failed last.
    pub at: Option<String>,
    /// It is being tried again. It stays until that has succeeded.
    pub replayed: bool,
    /// The W3C trace id of the request that it belongs to: 32 hexadecimal digits.
    #[serde(default)]
    pub trace_id: Option<String>,
}

impl DeadLetter {
    /// The item.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no `T`.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> Result<(), Box<dyn std::error::Error>> {
    /// for letter in node.dead_letters().list(0, 100).await? {
    ///     println!("{}", letter.body::<String>()?);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        envelope::decode_body(&self.bytes)
    }
}

impl From<Letter> for DeadLetter {
    fn from(letter: Letter) -> Self {
        let about = letter.about;
        Self {
            id: letter.id,
            queue: letter.queue,
            topic: letter.labels.topic,
            key: letter.labels.key,
            bytes: letter.body,
            pushed: letter.created.time(),
            died: about.died.time(),
            death: match about.reason {
                Reason::Attempts => Death::Attempts,
                Reason::Refused => Death::Refused,
                Reason::Expired => Death::Expired,
                Reason::Doubt => Death::Doubt,
                Reason::Lost => Death::Lost,
            },
            attempts: about.attempts,
            error: about.error,
            chain: about.chain,
            at: about.instance,
            replayed: letter.replay.is_some(),
            trace_id: letter.labels.trace.as_deref().and_then(trace::id).map(str::to_owned),
        }
    }
}

/// The dead letters of one node. Made by [`Node::dead_letters`].
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
/// // The mail server works again.
/// for letter in node.dead_letters().list(0, 1000).await? {
///     node.dead_letters().replay(letter.id).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct DeadLetters {
    store: StoreOf,
}

impl DeadLetters {
    pub(crate) fn new(node: &Node) -> Self {
        Self { store: StoreOf::new(node) }
    }

    /// Those of another node instead; where there are keys, it lets only those look who have `admin` there.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// for peer in node.peers().await {
    ///     let Some(id) = peer.node else { continue };
    ///     println!("{}: {:?}", peer.service, node.dead_letters().at(id).list(0, 10).await?);
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn at(self, node: NodeId) -> Self {
        Self { store: self.store.at(node) }
    }

    /// Those behind the one with this id (0: from the first), oldest first, so many at most; 1,000, or 4 MiB, of them at once.
    ///
    /// # Errors
    /// [`PushError::NoStore`] without a `data_dir`; [`PushError::Store`].
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("{} at most", node.dead_letters().list(0, 10).await?.len());
    /// # Ok(()) }
    /// ```
    pub async fn list(&self, after: u64, limit: usize) -> Result<Vec<DeadLetter>, PushError> {
        match self.store.ask(Ask::Letters { after, limit }).await? {
            Told::Letters(letters) => Ok(letters),
            told => Err(unexpected(&told)),
        }
    }

    /// Tries it again, as a new item with attempts of its own, whose id is given; `None` if there is no such letter, or it is being
    /// tried already. The letter stays until the new item was processed; if that fails too, its letter takes the place of this one.
    ///
    /// # Errors
    /// As for [`DeadLetters::list`].
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("tried again as {:?}", node.dead_letters().replay(7).await?);
    /// # Ok(()) }
    /// ```
    pub async fn replay(&self, letter: u64) -> Result<Option<u64>, PushError> {
        match self.store.ask(Ask::Replay(letter)).await? {
            Told::Id(item) => Ok(item),
            told => Err(unexpected(&told)),
        }
    }

    /// Throws it away; says whether it was there.
    ///
    /// # Errors
    /// As for [`DeadLetters::list`].
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.dead_letters().purge(7).await?;
    /// # Ok(()) }
    /// ```
    pub async fn purge(&self, letter: u64) -> Result<bool, PushError> {
        match self.store.ask(Ask::Purge(letter)).await? {
            Told::Was(there) => Ok(there),
            told => Err(unexpected(&told)),
        }
    }
}

impl Outbox {
    pub(super) async fn letters(&self, after: Id, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        let letters = self.journal().look(move |store| store.letters(after, limit.min(PAGE))).await?;
        Ok(letters.into_iter().map(DeadLetter::from).collect())
    }

    pub(super) async fn replay(&self, letter: Id) -> Result<Option<Id>, StoreError> {
        let replayed = self.journal().commit(vec![Write::Replay { letter, now: now() }]).await?;
        let item = replayed.first().copied().flatten();
        if item.is_some() {
            self.resume().await?;
        }
        Ok(item)
    }

    pub(super) async fn purge(&self, letter: Id) -> Result<bool, StoreError> {
        let purged = self.journal().commit(vec![Write::Purge(letter)]).await?;
        Ok(purged.first().copied().flatten().is_some())
    }
}
