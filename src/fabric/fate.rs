//! What became of a message.

use std::fmt;

/// What became of a message that was sent.
///
/// ```
/// use ripstop::fabric::{DropReason, Fate};
///
/// assert_eq!(Fate::Dropped(DropReason::NoSubscriber).to_string(), "dropped: nobody subscribes");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Fate {
    /// In the outgoing queue of a connection to the receiver; at most once from here on.
    Queued,
    /// The receiving node has it.
    Accepted,
    /// The receiving handler succeeded.
    Processed,
    /// It was handed to a connection that then died: it may or may not have arrived.
    Unknown,
    /// Nobody has it.
    Dropped(DropReason),
}

/// Why a message was dropped.
///
/// ```
/// assert_eq!(ripstop::fabric::DropReason::NoSubscriber.to_string(), "nobody subscribes");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum DropReason {
    /// Nobody subscribes to the subject.
    NoSubscriber,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSubscriber => f.write_str("nobody subscribes"),
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queued => f.write_str("queued"),
            Self::Accepted => f.write_str("accepted"),
            Self::Processed => f.write_str("processed"),
            Self::Unknown => f.write_str("unknown"),
            Self::Dropped(reason) => write!(f, "dropped: {reason}"),
        }
    }
}
