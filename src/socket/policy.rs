//! One table: for each socket type who gets what, and what happens when nobody can take it.

use crate::zmtp::SocketType;

/// Who gets an outgoing message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outgoing {
    /// Nobody: the socket does not send.
    None,
    /// One peer after the other, skipping those that are full (RFC 28 "round-robin").
    RoundRobin,
    /// Everybody whose subscription matches.
    Matching,
    /// Everybody.
    All,
    /// The peer that the first frame names.
    Labelled,
    /// The peer that asked last.
    Asker,
}

/// What happens to a message that its peer's queue has no room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Full {
    Wait,
    /// As [`Options::when_full`](super::Options::when_full) says.
    Option,
}

/// What is done with incoming messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Incoming {
    /// Discarded.
    None,
    /// Queued per peer, received in turn.
    Fair,
    /// The same, but only what an own subscription matches.
    Filtered,
}

/// One row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Policy {
    pub(super) outgoing: Outgoing,
    pub(super) full: Full,
    pub(super) incoming: Incoming,
    /// A dialled endpoint has a queue from the beginning, which outlives connections. Not where what is sent
    /// depends on who is there.
    pub(super) keep_queue: bool,
    /// Only one peer.
    pub(super) exclusive: bool,
}

pub(super) fn of(socket_type: SocketType) -> Policy {
    use SocketType as T;
    let (outgoing, full, incoming, keep_queue, exclusive) = match socket_type {
        //           who gets it           no room       incoming            keep   exclusive
        T::Req => (Outgoing::RoundRobin, Full::Wait, Incoming::Fair, true, false),
        T::Rep => (Outgoing::Asker, Full::Wait, Incoming::Fair, false, false),
        T::Dealer => (Outgoing::RoundRobin, Full::Wait, Incoming::Fair, true, false),
        T::Router => (Outgoing::Labelled, Full::Wait, Incoming::Fair, false, false),
        T::Pub => (Outgoing::Matching, Full::Option, Incoming::None, false, false),
        T::XPub => (Outgoing::Matching, Full::Option, Incoming::Fair, false, false),
        T::Sub => (Outgoing::None, Full::Wait, Incoming::Filtered, false, false),
        T::XSub => (Outgoing::All, Full::Wait, Incoming::Fair, false, false),
        T::Push => (Outgoing::RoundRobin, Full::Wait, Incoming::None, true, false),
        T::Pull => (Outgoing::None, Full::Wait, Incoming::Fair, false, false),
        T::Pair => (Outgoing::RoundRobin, Full::Wait, Incoming::Fair, true, true),
    };
    Policy { outgoing, full, incoming, keep_queue, exclusive }
}

/// Whether a socket of this type publishes, and so keeps its peers' subscriptions.
pub(super) fn publishes(socket_type: SocketType) -> bool {
    of(socket_type).outgoing == Outgoing::Matching
}

/// Whether a socket of this type subscribes, and so tells each new peer its own subscriptions.
pub(super) fn subscribes(socket_type: SocketType) -> bool {
    matches!(socket_type, SocketType::Sub | SocketType::XSub)
}
