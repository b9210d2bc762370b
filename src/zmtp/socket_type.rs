//! The eleven socket types, and which can talk to which.

use std::fmt;
use std::str::FromStr;

/// A socket type, as READY names it (RFCs 28 to 31).
///
/// ```
/// use ripstop::zmtp::SocketType;
///
/// assert_eq!("DEALER".parse(), Ok(SocketType::Dealer));
/// assert_eq!(SocketType::XPub.as_str(), "XPUB");
/// assert!(SocketType::Pub.pairs_with(SocketType::Sub));
/// assert!(!SocketType::Pub.pairs_with(SocketType::Pull));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SocketType {
    /// Asks, then waits for the answer.
    Req,
    /// Answers.
    Rep,
    /// Asks and answers without waiting.
    Dealer,
    /// Like `Dealer`, and names the peer of each message.
    Router,
    /// Sends to whoever subscribed.
    Pub,
    /// Subscribes.
    Sub,
    /// `Pub` that hands out the subscriptions.
    XPub,
    /// `Sub` that can send upstream.
    XSub,
    /// Sends work, each message to one peer.
    Push,
    /// Receives work.
    Pull,
    /// One peer, both ways.
    Pair,
}

impl SocketType {
    /// All of them.
    ///
    /// ```
    /// assert_eq!(ripstop::zmtp::SocketType::ALL.len(), 11);
    /// ```
    pub const ALL: [Self; 11] = [
        Self::Req,
        Self::Rep,
        Self::Dealer,
        Self::Router,
        Self::Pub,
        Self::Sub,
        Self::XPub,
        Self::XSub,
        Self::Push,
        Self::Pull,
        Self::Pair,
    ];

    /// The name on the wire.
    ///
    /// ```
    /// assert_eq!(ripstop::zmtp::SocketType::Req.as_str(), "REQ");
    /// ```
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Req => "REQ",
            Self::Rep => "REP",
            Self::Dealer => "DEALER",
            Self::Router => "ROUTER",
            Self::Pub => "PUB",
            Self::Sub => "SUB",
            Self::XPub => "XPUB",
            Self::XSub => "XSUB",
            Self::Push => "PUSH",
            Self::Pull => "PULL",
            Self::Pair => "PAIR",
        }
    }

    /// The type with this name on the wire, or `None`.
    ///
    /// ```
    /// use ripstop::zmtp::SocketType;
    ///
    /// assert_eq!(SocketType::from_bytes(b"PAIR"), Some(SocketType::Pair));
    /// assert_eq!(SocketType::from_bytes(b"pair"), None);
    /// ```
    pub fn from_bytes(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str().as_bytes() == name)
    }

    /// Whether the two can talk. It does not matter which side asks.
    ///
    /// ```
    /// use ripstop::zmtp::SocketType::{Dealer, Rep, Router};
    ///
    /// assert!(Rep.pairs_with(Dealer) && Router.pairs_with(Router) && !Rep.pairs_with(Router));
    /// ```
    pub fn pairs_with(self, other: Self) -> bool {
        use SocketType::*;
        match self {
            Req => matches!(other, Rep | Router),
            Rep => matches!(other, Req | Dealer),
            Dealer => matches!(other, Rep | Dealer | Router),
            Router => matches!(other, Req | Dealer | Router),
            Pub | XPub => matches!(other, Sub | XSub),
            Sub | XSub => matches!(other, Pub | XPub),
            Push => other == Pull,
            Pull => other == Push,
            Pair => other == Pair,
        }
    }
}

impl fmt::Display for SocketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is not the name of a socket type.
///
/// ```
/// use ripstop::zmtp::SocketType;
///
/// assert!("DEALR".parse::<SocketType>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a socket type: write req, rep, dealer, router, pub, sub, xpub, xsub, push, pull or pair")]
pub struct ParseSocketTypeError;

impl FromStr for SocketType {
    type Err = ParseSocketTypeError;

    /// Upper and lower case are the same, because people type these.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|t| t.as_str().eq_ignore_ascii_case(text)).ok_or(ParseSocketTypeError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairing_is_symmetric_and_as_in_libzmq() {
        let mut pairs = 0;
        for a in SocketType::ALL {
            assert_eq!(SocketType::from_bytes(a.as_str().as_bytes()), Some(a));
            assert_eq!(a.to_string().to_lowercase().parse(), Ok(a));
            for b in SocketType::ALL {
                assert_eq!(a.pairs_with(b), b.pairs_with(a), "{a} {b}");
                pairs += usize::from(a.pairs_with(b));
            }
        }
        assert_eq!(pairs, 21);
    }
}
