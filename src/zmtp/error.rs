//! Why a connection had to end.

use super::SocketType;
use crate::{Code, Fault};

/// What was wrong with what the peer sent, or did not send. Each of these ends the connection.
///
/// ```
/// use ripstop::zmtp::ProtocolError;
///
/// let error = ProtocolError::NotZmtp;
/// assert_eq!((error.reason(), error.fault()), ("not-zmtp", ripstop::Fault::Peer));
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The first bytes are not a ZMTP greeting: something else dialled this port, or this port is something else.
    #[error("the peer does not speak ZMTP")]
    NotZmtp,
    /// The first byte is that of TLS, which this side does not speak: it has no keys.
    #[error("the peer speaks TLS, but this side has no keys (`[security]` in ripstop.toml)")]
    Tls,
    /// ZMTP 1 or 2 (libzmq before 4.0). Ours starts at 3.0.
    #[error("the peer speaks ZMTP {0}; 3.0 or later is needed")]
    UnsupportedVersion(u8),
    /// A security mechanism that ZMTP does not define.
    #[error("the peer wants the unknown security mechanism `{0}`")]
    UnknownMechanism(String),
    /// A security mechanism other than ours: both sides have to be configured alike.
    #[error("{}", mismatch(ours, theirs))]
    MechanismMismatch {
        /// Ours.
        ours: &'static str,
        /// The peer's.
        theirs: String,
    },
    /// The handshake was not finished in [`Limits::handshake`](super::Limits::handshake).
    #[error("the handshake was not finished in time")]
    HandshakeTimeout,
    /// Nothing came from the peer, and nothing went to it, for as long as heartbeats allow.
    #[error("nothing was heard from the peer for too long")]
    PeerDead,
    /// A frame header with a reserved bit set, or a command that claims to be continued.
    #[error("bad frame flags {0:#04x}")]
    BadFlags(u8),
    /// Part of a message came before the handshake was finished.
    #[error("a message came before the handshake was finished")]
    EarlyMessage,
    /// A command longer than [`Limits::max_command`](super::Limits::max_command).
    #[error("a command of {size} bytes; at most {max} are allowed")]
    CommandTooLarge {
        /// Announced, in bytes.
        size: u64,
        /// Allowed, in bytes.
        max: usize,
    },
    /// A command that is malformed, repeated, or not allowed now.
    #[error("bad {command} command: {problem}")]
    BadCommand {
        /// Its name, or `unnamed`.
        command: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The peer's READY names a socket type that is not among ours.
    #[error("the peer's socket type `{0}` is unknown")]
    UnknownSocketType(String),
    /// Two socket types that cannot talk, such as PUB and PULL.
    #[error("{ours} cannot talk to the peer's {theirs}")]
    IncompatiblePeer {
        /// Ours.
        ours: SocketType,
        /// The peer's.
        theirs: SocketType,
    },
    /// A single frame longer than a whole message may be.
    #[error("a frame of {size} bytes; at most {max} are allowed")]
    FrameTooLarge {
        /// Announced, in bytes.
        size: u64,
        /// Allowed, in bytes.
        max: usize,
    },
    /// The frames of one message add up to more than [`Limits::max_message`](super::Limits::max_message).
    #[error("a message of at least {size} bytes; at most {max} are allowed")]
    MessageTooLarge {
        /// Announced so far, in bytes.
        size: u64,
        /// Allowed, in bytes.
        max: usize,
    },
    /// More frames in one message than [`Limits::max_frames`](super::Limits::max_frames).
    #[error("a message of more than {max} frames")]
    TooManyFrames {
        /// Allowed.
        max: usize,
    },
    /// The peer sent ERROR: a final refusal, in its words.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// CURVE: a box did not open. In HELLO: the client has another server key than ours. In WELCOME: this is another
    /// server. In INITIATE: the client does not have the key it names. In a MESSAGE: it was changed on the way.
    #[error("the box in {0} does not open: a wrong key, or it was changed on the way")]
    CannotOpen(&'static str),
    /// CURVE: a nonce that is not above the last one: something was sent again, or in another order.
    #[error("a CURVE message was repeated or reordered")]
    Replayed,
    /// CURVE: a public key with which everybody could agree on the same secret.
    #[error("a CURVE key of low order")]
    WeakKey,
    /// CURVE: both sides want to be the server of this connection. One side has to dial as a client.
    #[error("both sides want to be the CURVE server")]
    TwoServers,
    /// Our own metadata does not fit the wire: a name has 1 to 255 bytes, a value at most 2^31 - 1.
    #[error("the metadata property `{0}` cannot be sent")]
    BadMetadata(String),
}

impl ProtocolError {
    /// A short label that never changes, for metrics.
    ///
    /// ```
    /// assert_eq!(ripstop::zmtp::ProtocolError::PeerDead.reason(), "peer-dead");
    /// ```
    pub fn reason(&self) -> &'static str {
        self.row().0
    }

    /// The stable code.
    ///
    /// ```
    /// assert_eq!(ripstop::zmtp::ProtocolError::NotZmtp.code().to_string(), "RS0040");
    /// ```
    pub fn code(&self) -> Code {
        Code::new(self.row().1)
    }

    /// Whose fault it was.
    ///
    /// ```
    /// use ripstop::{Fault, zmtp::ProtocolError};
    ///
    /// assert_eq!(ProtocolError::PeerDead.fault(), Fault::Network);
    /// ```
    pub fn fault(&self) -> Fault {
        self.row().2
    }

    /// Whether dialling again may help without anybody changing anything. libzmq and we take a refusal as final.
    ///
    /// ```
    /// use ripstop::zmtp::ProtocolError;
    ///
    /// assert!(ProtocolError::HandshakeTimeout.is_retryable());
    /// assert!(!ProtocolError::Refused("no permission".into()).is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::HandshakeTimeout | Self::PeerDead)
    }

    /// One table: label, code, fault.
    fn row(&self) -> (&'static str, u16, Fault) {
        match self {
            Self::NotZmtp => ("not-zmtp", 40, Fault::Peer),
            Self::Tls => ("tls", 62, Fault::Config),
            Self::UnsupportedVersion(_) => ("unsupported-version", 41, Fault::Peer),
            Self::UnknownMechanism(_) => ("unknown-mechanism", 42, Fault::Peer),
            Self::MechanismMismatch { .. } => ("mechanism-mismatch", 43, Fault::Config),
            Self::HandshakeTimeout => ("handshake-timeout", 44, Fault::Network),
            Self::PeerDead => ("peer-dead", 45, Fault::Network),
            Self::BadFlags(_) => ("bad-flags", 46, Fault::Peer),
            Self::EarlyMessage => ("early-message", 47, Fault::Peer),
            Self::CommandTooLarge { .. } => ("command-too-large", 48, Fault::Peer),
            Self::BadCommand { .. } => ("bad-command", 49, Fault::Peer),
            Self::UnknownSocketType(_) => ("unknown-socket-type", 50, Fault::Peer),
            Self::IncompatiblePeer { .. } => ("incompatible-peer", 51, Fault::Config),
            Self::FrameTooLarge { .. } => ("frame-too-large", 52, Fault::Peer),
            Self::MessageTooLarge { .. } => ("message-too-large", 53, Fault::Peer),
            Self::TooManyFrames { .. } => ("too-many-frames", 54, Fault::Peer),
            Self::Refused(_) => ("refused", 55, Fault::Peer),
            Self::BadMetadata(_) => ("bad-metadata", 56, Fault::Caller),
            Self::CannotOpen(_) => ("cannot-open", 57, Fault::Peer),
            Self::Replayed => ("replayed", 58, Fault::Peer),
            Self::WeakKey => ("weak-key", 59, Fault::Peer),
            Self::TwoServers => ("two-servers", 60, Fault::Config),
        }
    }
}

/// How the reason begins when only somebody with keys can help: whoever dials has to hear of it, and not just its log.
pub(crate) const WANTS_KEYS: &str = "the peer wants encryption";

fn mismatch(ours: &str, theirs: &str) -> String {
    match (ours, theirs) {
        ("NULL", "CURVE") => format!(
            "{WANTS_KEYS} (CURVE), and this side has no keys: a node takes them from `[security]` in ripstop.toml (ripstop keys \
             issue makes them), a socket from ConnectOptions::curve"
        ),
        (_, "NULL") => format!("the peer does not encrypt (NULL), and this side wants {ours}"),
        _ => format!("the peer wants the security mechanism {theirs}, this side {ours}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_stands_for_two_errors() {
        let mut codes = std::collections::HashSet::new();
        for error in [
            ProtocolError::NotZmtp,
            ProtocolError::Tls,
            ProtocolError::HandshakeTimeout,
            ProtocolError::PeerDead,
            ProtocolError::EarlyMessage,
            ProtocolError::CannotOpen("HELLO"),
            ProtocolError::Replayed,
            ProtocolError::WeakKey,
            ProtocolError::TwoServers,
        ] {
            assert!(codes.insert(error.code()), "{error}");
        }
    }
}
