//! What a store keeps, and the trait in front of it.

use std::sync::Arc;

use bytes::Bytes;

use super::StoreError;
use crate::envelope::Pattern;

/// Milliseconds since 1970, by the clock of whoever says so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(crate) struct Millis(pub(crate) u64);

impl Millis {
    pub(crate) fn after(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

/// What names an item for ever: minted when it is kept, rising, never used again.
pub(crate) type Id = u64;

/// What an item says of itself beside its body.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Labels {
    /// Items of one queue and key are worked on one after the other.
    pub(crate) key: Option<String>,
    /// The topic, if it is an event.
    pub(crate) topic: Option<String>,
    /// The W3C traceparent of the request that it belongs to.
    pub(crate) trace: Option<Arc<str>>,
}

/// An item to be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NewItem {
    pub(crate) queue: String,
    pub(crate) body: Bytes,
    pub(crate) labels: Labels,
    pub(crate) created: Millis,
    /// Not delivered before.
    pub(crate) due: Millis,
    /// Becomes a dead letter if it has not been processed by then.
    pub(crate) expires: Option<Millis>,
}

/// A kept item: what this node owes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Item {
    pub(crate) id: Id,
    pub(crate) queue: String,
    pub(crate) body: Bytes,
    pub(crate) labels: Labels,
    pub(crate) created: Millis,
    pub(crate) due: Millis,
    pub(crate) expires: Option<Millis>,
    /// Attempts that have failed.
    pub(crate) attempts: u32,
    /// Why the last one did.
    pub(crate) error: Option<String>,
    /// It may have been done without our hearing of it.
    pub(crate) doubt: Option<Doubt>,
    /// How often whoever had it was lost.
    pub(crate) lost: u32,
}

/// Somebody has had an item, and has not said what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Doubt {
    /// Since when, at the earliest.
    pub(crate) since: Millis,
    /// The node id of whoever had it last.
    pub(crate) holder: String,
}

/// Why an item became a dead letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    /// It failed as often as it may.
    Attempts,
    /// A handler refused it for good.
    Refused,
    /// It was not processed in its time.
    Expired,
    /// Nobody remembers any more whether it was done.
    Doubt,
    /// Whoever has it is lost, again and again.
    Lost,
}

impl Reason {
    pub(crate) const ALL: [Self; 5] = [Self::Attempts, Self::Refused, Self::Expired, Self::Doubt, Self::Lost];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Doubt => "doubt",
            Self::Lost => "lost",
        }
    }
}

/// What is known of an item that could not be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NewLetter {
    pub(crate) item: Id,
    pub(crate) reason: Reason,
    pub(crate) died: Millis,
    pub(crate) attempts: u32,
    pub(crate) error: String,
    /// The causes, nearest first.
    pub(crate) chain: Vec<String>,
    /// Where it failed last, as `service/id`.
    pub(crate) instance: Option<String>,
}

/// A dead letter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Letter {
    pub(crate) id: Id,
    pub(crate) queue: String,
    pub(crate) body: Bytes,
    pub(crate) labels: Labels,
    pub(crate) created: Millis,
    pub(crate) about: NewLetter,
    /// The item as which it is being tried again.
    pub(crate) replay: Option<Id>,
}

/// What was done here, so that it need not be done twice: who owed it, and the name that it gave it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SeenKey {
    pub(crate) sender: String,
    pub(crate) outbox: String,
    pub(crate) id: Id,
}

/// Names an answer that is kept: who asked, what for, and the name that the caller gave it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ReplyKey {
    pub(crate) caller: String,
    pub(crate) subject: String,
    pub(crate) key: String,
}

/// Who is to get a copy of each event that matches: the instances of one service, under one name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Group {
    /// The queue of its events.
    pub(crate) queue: String,
    pub(crate) pattern: Pattern,
    /// When one of its instances was last here.
    pub(crate) seen: Millis,
}

/// The queue of events that are kept for groups that come later.
pub(crate) const RETAINED: &str = "@";

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Write {
    /// Keeps an item; its id is given back.
    Put(NewItem),
    /// It was processed: it is owed no more. With it goes the letter that it was a replay of.
    Done(Id),
    /// It failed, and is due again.
    Retry { id: Id, due: Millis, attempts: u32, error: String },
    /// This node has it, or had it when it was `lost`, and nothing was heard. The oldest doubt counts.
    Doubt { id: Id, doubt: Doubt, lost: bool },
    /// Whoever had it says that it was not done.
    Sure(Id),
    /// It is given up.
    Dead(NewLetter),
    /// It was done here.
    Seen { key: SeenKey, at: Millis },
    /// A letter is tried again as a new item, whose id is given back; not one that is being tried already.
    Replay { letter: Id, now: Millis },
    /// A letter is thrown away.
    Purge(Id),
    /// It is owed no more, done or not.
    Cancel(Id),
    /// It is due now.
    Hurry { id: Id, now: Millis },
    /// One of the group's instances is here. A new group gets what is retained.
    Group(Group),
    /// Nothing is kept for this group any more, nor what was: how much that was is given back.
    Ungroup(String),
    /// What is retained and older than this goes, some at a time.
    Trim(Millis),
    /// The answer to a call, for those who repeat it.
    Reply { key: ReplyKey, body: Bytes, at: Millis },
}

/// How much may be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Items that wait.
    pub(crate) messages: u64,
    /// The bytes of their bodies.
    pub(crate) bytes: u64,
    /// What was done is remembered this long, in milliseconds,
    pub(crate) seen_for: u64,
    /// and so many of it; and as many answers.
    pub(crate) seen: u64,
}

/// How much is kept.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Usage {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) letters: u64,
}

/// One queue of what is owed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Depth {
    pub(crate) queue: String,
    pub(crate) messages: u64,
    pub(crate) oldest: Millis,
}

/// What somebody does in the store's own file, and the record of it; `None`: nothing of it is to stay.
pub(crate) type Act = Box<dyn FnOnce(&rusqlite::Connection) -> Option<Write> + Send>;

/// Where items, letters and what was seen are kept. Blocking: whoever calls it has a thread for that.
pub(crate) trait Store: Send {
    /// What names this store for ever, so that ids of another that was here before are not taken for its own.
    fn outbox(&self) -> &str;

    fn usage(&self) -> Usage;

    /// All of it or nothing, on disk when this returns. Gives for each change the id that it minted, if it did.
    fn commit(&mut self, writes: &[Write]) -> Result<Vec<Option<Id>>, StoreError>;

    /// Does both in one transaction, on disk when this returns.
    fn act(&mut self, act: Act) -> Result<(), StoreError>;

    /// Queues with something in them.
    fn queues(&mut self) -> Result<Vec<String>, StoreError>;

    /// How much waits in each queue, and since when.
    fn depths(&mut self) -> Result<Vec<Depth>, StoreError>;

    /// Items of a queue behind this id, in order, whether they are due or not; fewer where they are large, and none only
    /// when there are none. Damaged ones are put aside, and are told once.
    fn page(&mut self, queue: &str, after: Id, limit: usize) -> Result<Vec<Item>, StoreError>;

    fn item(&mut self, id: Id) -> Result<Option<Item>, StoreError>;

    /// What was done here and is remembered, oldest first.
    fn seen(&mut self) -> Result<Vec<SeenKey>, StoreError>;

    /// Letters behind this id, in order.
    fn letters(&mut self, after: Id, limit: usize) -> Result<Vec<Letter>, StoreError>;

    fn groups(&mut self) -> Result<Vec<Group>, StoreError>;

    /// The answer that was given to this before.
    fn reply(&mut self, key: &ReplyKey) -> Result<Option<Bytes>, StoreError>;
}
