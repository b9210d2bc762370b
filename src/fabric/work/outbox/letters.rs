//! Dead letters: what this node pushed durably and nobody could do, kept until somebody has looked at it.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::{
    durable::{Letter, Reason, Write},
    envelope::{self, DecodeError},
    fabric::{
        Node,
        error::PushError,
        work::outbox::{Outbox, now},
    },
};

/// Why an item became a dead letter.
///
/// ```
/// assert_eq!(ripstop::fabric::Death::Expired.to_string(), "expired");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Death {
    /// It failed as often as it may.
    Attempts,
    /// Whoever worked on it refused it for good, or could not read it.
    Refused,
    /// It was not processed in its time.
    Expired,
}

impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Attempts => Reason::Attempts.as_str(),
            Self::Refused => Reason::Refused.as_str(),
            Self::Expired => Reason::Expired.as_str(),
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
#[derive(Clone, PartialEq, Eq, Debug)]
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
            },
            attempts: about.attempts,
            error: about.error,
            chain: about.chain,
            at: about.instance,
            replayed: letter.replay.is_some(),
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
    node: Node,
}

impl DeadLetters {
    pub(crate) fn new(node: &Node) -> Self {
        Self { node: node.clone() }
    }

    fn outbox(&self) -> Result<&Arc<Outbox>, PushError> {
        Outbox::of(self.node.shared())
    }

    /// Those behind the one with this id (0: from the first), oldest first, so many at most.
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
        let letters = self.outbox()?.journal().look(move |store| store.letters(after, limit)).await?;
        Ok(letters.into_iter().map(DeadLetter::from).collect())
    }

    /// Tries it again, as a new item with attempts of its own; says whether it does: not if there is no such letter, or it is being
    /// tried already. The letter stays until the new item was processed; if that fails too, its letter takes the place of this one.
    ///
    /// # Errors
    /// As for [`DeadLetters::list`].
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// assert!(node.dead_letters().replay(7).await?);
    /// # Ok(()) }
    /// ```
    pub async fn replay(&self, letter: u64) -> Result<bool, PushError> {
        let outbox = self.outbox()?;
        let replayed = outbox.journal().commit(vec![Write::Replay { letter, now: now() }]).await?;
        let replayed = replayed.first().copied().flatten().is_some();
        if replayed {
            outbox.resume().await?;
        }
        Ok(replayed)
    }

    /// Throws it away.
    ///
    /// # Errors
    /// As for [`DeadLetters::list`].
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.dead_letters().purge(7).await?;
    /// # Ok(()) }
    /// ```
    pub async fn purge(&self, letter: u64) -> Result<(), PushError> {
        self.outbox()?.journal().commit(vec![Write::Purge(letter)]).await?;
        Ok(())
    }
}
