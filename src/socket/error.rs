//! One error per operation.

use crate::code::{Code, Fault};
use crate::endpoint::{Endpoint, ParseEndpointError};

/// A `connect` that can't begin, or one attempt that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The text is no endpoint.
    #[error(transparent)]
    Endpoint(#[from] ParseEndpointError),
    /// `*` says where to listen, not whom to dial.
    #[error("{0} can be bound but not dialled: name the host")]
    NotDialable(Endpoint),
    /// `tls+tcp://` without the keys for it.
    #[error("{0} takes keys: `Options::tls` (feature `tls`)")]
    NoTls(Endpoint),
    /// The socket is closed.
    #[error("the socket is closed")]
    Closed,
    /// Called outside of a tokio runtime, which connections need for their tasks.
    #[error("sockets need a tokio runtime: call this from async code that tokio runs")]
    NoRuntime,
    /// No connection could be made.
    #[error("can't connect to {endpoint}: {source}")]
    Io {
        /// Whom.
        endpoint: Endpoint,
        /// What the system said.
        source: std::io::Error,
    },
    /// A connection was made, but the handshake failed; it may work next time.
    #[error("handshake with {endpoint} failed: {reason}")]
    Handshake {
        /// Whom.
        endpoint: Endpoint,
        /// Why.
        reason: String,
    },
    /// One side refused the other for good.
    #[error("refused by {endpoint}: {reason}")]
    Refused {
        /// Whom.
        endpoint: Endpoint,
        /// Why.
        reason: String,
    },
}

impl ConnectError {
    /// `RS0001` to `RS0007`, or `RS0020`.
    ///
    /// ```
    /// assert_eq!(ripstop::socket::ConnectError::Closed.code().to_string(), "RS0003");
    /// ```
    pub fn code(&self) -> Code {
        match self {
            Self::Endpoint(error) => error.code(),
            Self::NotDialable(_) => Code::new(2),
            Self::NoTls(_) => Code::new(20),
            Self::Closed => Code::new(3),
            Self::NoRuntime => Code::new(7),
            Self::Io { .. } => Code::new(4),
            Self::Handshake { .. } => Code::new(5),
            Self::Refused { .. } => Code::new(6),
        }
    }

    /// Where to look first.
    ///
    /// ```
    /// assert_eq!(ripstop::socket::ConnectError::Closed.fault(), ripstop::Fault::Caller);
    /// ```
    pub fn fault(&self) -> Fault {
        match self {
            Self::Endpoint(_) | Self::NotDialable(_) | Self::NoTls(_) | Self::Closed | Self::NoRuntime => {
                Fault::Caller
            }
            Self::Io { .. } => Fault::Network,
            Self::Handshake { .. } | Self::Refused { .. } => Fault::Peer,
        }
    }

    /// Whether the same attempt may succeed later.
    ///
    /// ```
    /// assert!(!ripstop::socket::ConnectError::Closed.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Handshake { .. })
    }
}

/// A `bind` that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The text is no endpoint.
    #[error(transparent)]
    Endpoint(#[from] ParseEndpointError),
    /// `tls+tcp://` without the keys for it.
    #[error("{0} takes keys: `Options::tls` (feature `tls`)")]
    NoTls(Endpoint),
    /// The socket is closed.
    #[error("the socket is closed")]
    Closed,
    /// Called outside of a tokio runtime, which listeners need for their tasks.
    #[error("sockets need a tokio runtime: call this from async code that tokio runs")]
    NoRuntime,
    /// The system refused: the port is taken, the address is not this machine's, no permission.
    #[error("can't listen at {endpoint}: {source}")]
    Io {
        /// Where.
        endpoint: Endpoint,
        /// What the system said.
        source: std::io::Error,
    },
}

impl BindError {
    /// `RS0001`, `RS0003`, `RS0007`, `RS0008` or `RS0020`.
    ///
    /// ```
    /// assert_eq!(ripstop::socket::BindError::Closed.code().to_string(), "RS0003");
    /// ```
    pub fn code(&self) -> Code {
        match self {
            Self::Endpoint(error) => error.code(),
            Self::NoTls(_) => Code::new(20),
            Self::Closed => Code::new(3),
            Self::NoRuntime => Code::new(7),
            Self::Io { .. } => Code::new(8),
        }
    }

    /// Where to look first.
    ///
    /// ```
    /// assert_eq!(ripstop::socket::BindError::Closed.fault(), ripstop::Fault::Caller);
    /// ```
    pub fn fault(&self) -> Fault {
        match self {
            Self::Endpoint(_) | Self::NoTls(_) | Self::Closed | Self::NoRuntime => Fault::Caller,
            Self::Io { .. } => Fault::Local,
        }
    }

    /// Whether the same call may succeed later: when the port has become free.
    ///
    /// ```
    /// assert!(!ripstop::socket::BindError::Closed.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Io { .. })
    }
}

/// `disconnect` or `unbind` of an endpoint that this socket does not have.
///
/// ```
/// let push = ripstop::socket::Push::new();
/// let error = push.disconnect("inproc://nobody").unwrap_err();
/// assert_eq!(error.to_string(), "this socket has no endpoint inproc://nobody");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this socket has no endpoint {0}")]
pub struct NoSuchEndpoint(pub(super) String);

impl NoSuchEndpoint {
    /// `RS0009`.
    ///
    /// ```
    /// # let push = ripstop::socket::Push::new();
    /// assert_eq!(push.disconnect("inproc://nobody").unwrap_err().code().to_string(), "RS0009");
    /// ```
    pub fn code(&self) -> Code {
        Code::new(9)
    }

    /// The caller's.
    ///
    /// ```
    /// # let push = ripstop::socket::Push::new();
    /// assert_eq!(push.disconnect("inproc://nobody").unwrap_err().fault(), ripstop::Fault::Caller);
    /// ```
    pub fn fault(&self) -> Fault {
        Fault::Caller
    }

    /// Never.
    ///
    /// ```
    /// # let push = ripstop::socket::Push::new();
    /// assert!(!push.disconnect("inproc://nobody").unwrap_err().is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        false
    }
}

/// A message that was not queued.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// `try_send` only: there is no peer, or every peer's queue is at its high-water mark. `send` waits.
    #[error("no peer can take a message now")]
    Full,
    /// The first frame names no peer of this ROUTER.
    #[error("no peer has the routing id `{0}`")]
    Unroutable(String),
    /// Larger than [`Options::max_message`](super::Options::max_message).
    #[error("a message of {size} bytes; at most {max} are allowed")]
    TooLarge {
        /// The sum of the frames, in bytes.
        size: usize,
        /// Allowed, in bytes.
        max: usize,
    },
    /// Not now: a `Rep` sends only after it received.
    #[error("nothing to answer: a REP socket receives a request before it sends")]
    State,
    /// The socket is closed.
    #[error("the socket is closed")]
    Closed,
}

impl SendError {
    /// `RS0003`, `RS0010` to `RS0013`.
    ///
    /// ```
    /// assert_eq!(ripstop::socket::SendError::Full.code().to_string(), "RS0010");
    /// ```
    pub fn code(&self) -> Code {
        Code::new(match self {
            Self::Closed => 3,
            Self::Full => 10,
            Self::Unroutable(_) => 11,
            Self::TooLarge { .. } => 12,
            Self::State => 13,
        })
    }

    /// Where to look first.
    ///
    /// ```
    /// assert_eq!(ripstop::socket::SendError::Full.fault(), ripstop::Fault::Peer);
    /// ```
    pub fn fault(&self) -> Fault {
        match self {
            Self::Full | Self::Unroutable(_) => Fault::Peer,
            Self::TooLarge { .. } | Self::State | Self::Closed => Fault::Caller,
        }
    }

    /// Whether the same send may succeed later.
    ///
    /// ```
    /// assert!(ripstop::socket::SendError::Full.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full | Self::Unroutable(_))
    }
}

/// A receive that will bring nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The socket is closed, and everything that had come was received.
    #[error("the socket is closed")]
    Closed,
    /// Not now: a `Req` receives only after it sent, a `Rep` not again before it answered.
    #[error("{0}")]
    State(&'static str),
    /// `Req` only: the connection ended after the request was handed to it, so that no reply can come. Whether the
    /// request was processed is unknown.
    #[error("the connection that the request went out on is gone")]
    PeerLost,
}

impl RecvError {
    /// `RS0003`, `RS0013` or `RS0014`.
    ///
    /// ```
    /// assert_eq!(ripstop::socket::RecvError::PeerLost.code().to_string(), "RS0014");
    /// ```
    pub fn code(&self) -> Code {
        Code::new(match self {
            Self::Closed => 3,
            Self::State(_) => 13,
            Self::PeerLost => 14,
        })
    }

    /// Where to look first.
    ///
    /// ```
    /// assert_eq!(ripstop::socket::RecvError::PeerLost.fault(), ripstop::Fault::Network);
    /// ```
    pub fn fault(&self) -> Fault {
        match self {
            Self::Closed | Self::State(_) => Fault::Caller,
            Self::PeerLost => Fault::Network,
        }
    }

    /// Whether asking again may help. The request may then be processed twice.
    ///
    /// ```
    /// assert!(ripstop::socket::RecvError::PeerLost.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::PeerLost)
    }
}
