//! What happens to a socket's connections, as a stream of events.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;

use crate::endpoint::Endpoint;
use crate::socket::limit::Limit;

/// How many events a slow monitor may be behind before it misses the oldest.
const BACKLOG: usize = 1024;

/// Something that happened to a listener or a connection.
///
/// ```
/// use ripstop::socket::Event;
///
/// let event = Event::Listening { endpoint: "inproc://a".parse()? };
/// assert_eq!(event.to_string(), "listening at inproc://a");
/// # Ok::<(), ripstop::endpoint::ParseEndpointError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A listener is up at this (actual) endpoint.
    Listening {
        /// Where.
        endpoint: Endpoint,
    },
    /// A dialled connection finished its handshake; messages flow.
    Connected {
        /// What was dialled.
        endpoint: Endpoint,
        /// The address that answered.
        remote: String,
    },
    /// A peer came in and finished its handshake; messages flow.
    Accepted {
        /// Our listener.
        endpoint: Endpoint,
        /// The peer's address.
        remote: String,
    },
    /// A connection was made but not accepted by both sides.
    HandshakeFailed {
        /// What was dialled, or our listener.
        endpoint: Endpoint,
        /// The peer's address.
        remote: String,
        /// Why.
        reason: String,
    },
    /// A peer hit a limit, and was turned away or slowed down for it.
    Limited {
        /// What was dialled, or our listener.
        endpoint: Endpoint,
        /// The peer's address.
        remote: String,
        /// Which limit; [`Limit`] says what was done.
        limit: Limit,
    },
    /// A connection that had been up ended.
    Disconnected {
        /// What was dialled, or our listener.
        endpoint: Endpoint,
        /// The peer's address.
        remote: String,
        /// Why.
        reason: String,
        /// Messages handed to the system last: they may or may not have arrived.
        unknown: usize,
    },
    /// A dialled endpoint is not connected and will be tried again.
    Retrying {
        /// What is dialled.
        endpoint: Endpoint,
        /// After this time.
        wait: Duration,
        /// What failed.
        reason: String,
    },
    /// A dialled endpoint will not be tried again: disconnected, closed or refused for good.
    GaveUp {
        /// What was dialled.
        endpoint: Endpoint,
        /// Why.
        reason: String,
    },
    /// A listener is gone.
    Unbound {
        /// Where it was.
        endpoint: Endpoint,
    },
    /// A subscription has come from a peer and is in force (only at `Pub` and `XPub`).
    Subscribed {
        /// What was dialled, or our listener.
        endpoint: Endpoint,
        /// The peer's address.
        remote: String,
        /// What its messages begin with.
        prefix: Bytes,
    },
    /// A peer has cancelled a subscription.
    Unsubscribed {
        /// What was dialled, or our listener.
        endpoint: Endpoint,
        /// The peer's address.
        remote: String,
        /// What its messages began with.
        prefix: Bytes,
    },
    /// The monitor was too slow and missed this many events.
    Missed(u64),
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listening { endpoint } => write!(f, "listening at {endpoint}"),
            Self::Connected { endpoint, .. } => write!(f, "connected to {endpoint}"),
            Self::Accepted { endpoint, remote } => write!(f, "accepted {remote} at {endpoint}"),
            Self::HandshakeFailed { endpoint, remote, reason } => {
                write!(f, "handshake with {remote} at {endpoint} failed: {reason}")
            }
            Self::Limited { endpoint, remote, limit } => write!(f, "limited {remote} at {endpoint}: {limit}"),
            Self::Disconnected { endpoint, remote, reason, .. } => {
                write!(f, "disconnected from {remote} at {endpoint}: {reason}")
            }
            Self::Retrying { endpoint, wait, reason } => {
                write!(f, "trying {endpoint} again in {} ms: {reason}", wait.as_millis())
            }
            Self::GaveUp { endpoint, reason } => write!(f, "gave up {endpoint}: {reason}"),
            Self::Unbound { endpoint } => write!(f, "no longer listening at {endpoint}"),
            Self::Subscribed { remote, prefix, .. } => {
                write!(f, "{remote} subscribed to `{}`", prefix.escape_ascii())
            }
            Self::Unsubscribed { remote, prefix, .. } => {
                write!(f, "{remote} cancelled `{}`", prefix.escape_ascii())
            }
            Self::Missed(count) => write!(f, "missed {count} events"),
        }
    }
}

/// A stream of [`Event`]s, from the moment it was asked for.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ripstop::socket::{Event, Pull};
///
/// let pull = Pull::new();
/// let mut monitor = pull.monitor();
/// pull.bind("tcp://127.0.0.1:0").await?;
/// assert!(matches!(monitor.next().await, Some(Event::Listening { .. })));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Monitor(broadcast::Receiver<Event>);

impl Monitor {
    /// The next event; `None` once the socket and all its connections are gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(Event::Missed(count)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// The sending side: cheap to clone, costs next to nothing until somebody listens.
#[derive(Clone, Default, Debug)]
pub(crate) struct Reporter(Arc<OnceLock<broadcast::Sender<Event>>>);

impl Reporter {
    pub(crate) fn monitor(&self) -> Monitor {
        Monitor(self.0.get_or_init(|| broadcast::Sender::new(BACKLOG)).subscribe())
    }

    pub(crate) fn report(&self, event: impl FnOnce() -> Event) {
        if let Some(sender) = self.0.get().filter(|sender| sender.receiver_count() > 0) {
            let _ = sender.send(event());
        }
    }
}
