//! What a peer can run into: one table of limits, with the option that sets each.

use std::fmt;

/// A limit that a peer has hit, and that it was turned away or slowed down for.
///
/// ```
/// use ripstop::socket::Limit;
///
/// assert_eq!(Limit::ConnectionsPerAddress.reason(), "connections-per-address");
/// assert_eq!(Limit::Handshakes.to_string(), "too many handshakes at once (limits.handshakes)");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Limit {
    /// Connections that are up, in all: the new one was closed.
    Connections,
    /// Connections that are up, from one address: the new one was closed.
    ConnectionsPerAddress,
    /// Handshakes under way at one listener: the oldest was given up for a new one.
    Handshakes,
    /// Handshakes under way from one address: its oldest was given up for its new one.
    HandshakesPerAddress,
    /// New connections a second from one address: the new one was closed.
    HandshakeRate,
    /// File descriptors of this process: the oldest handshake was given up.
    Descriptors,
    /// Subscriptions of one peer: it was disconnected.
    Subscriptions,
    /// The length of one subscription: its peer was disconnected.
    SubscriptionLength,
    /// The bytes of one peer's subscriptions: it was disconnected.
    SubscriptionBytes,
    /// All that one peer makes us hold: it is not read from until some of it is gone, or, if that can't help, disconnected.
    PeerMemory,
}

impl Limit {
    /// Every limit, in the order of their documentation.
    ///
    /// ```
    /// assert!(ripstop::socket::Limit::ALL.iter().all(|limit| !limit.reason().is_empty()));
    /// ```
    pub const ALL: [Self; 10] = [
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::Handshakes,
        Self::HandshakesPerAddress,
        Self::HandshakeRate,
        Self::Descriptors,
        Self::Subscriptions,
        Self::SubscriptionLength,
        Self::SubscriptionBytes,
        Self::PeerMemory,
    ];

    /// A short label that never changes: the `reason` of `ripstop_socket_limited_total`.
    ///
    /// ```
    /// assert_eq!(ripstop::socket::Limit::PeerMemory.reason(), "peer-memory");
    /// ```
    pub fn reason(self) -> &'static str {
        self.row().0
    }

    fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::Connections => ("connections", "too many connections (limits.connections)"),
            Self::ConnectionsPerAddress => (
                "connections-per-address",
                "too many connections from this address (limits.connections_per_address)",
            ),
            Self::Handshakes => ("handshakes", "too many handshakes at once (limits.handshakes)"),
            Self::HandshakesPerAddress => (
                "handshakes-per-address",
                "too many handshakes at once from this address (limits.handshakes_per_address)",
            ),
            Self::HandshakeRate => (
                "handshake-rate",
                "too many new connections a second from this address (limits.handshake_rate)",
            ),
            Self::Descriptors => ("descriptors", "no file descriptors left"),
            Self::Subscriptions => ("subscriptions", "too many subscriptions (limits.subscriptions)"),
            Self::SubscriptionLength => {
                ("subscription-length", "too long a subscription (limits.subscription_length)")
            }
            Self::SubscriptionBytes => {
                ("subscription-bytes", "too many bytes of subscriptions (limits.subscription_bytes)")
            }
            Self::PeerMemory => ("peer-memory", "too much memory for one peer (limits.peer_memory)"),
        }
    }

    /// Counts it.
    pub(crate) fn count(self) {
        metrics::counter!("ripstop_socket_limited_total", "reason" => self.reason()).increment(1);
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().1)
    }
}
