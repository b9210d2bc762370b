//! What stands behind connections, and what passes between it and them.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::Endpoint;
use crate::socket::error::ConnectError;
use crate::socket::mechanism::{CurveKeys, Mechanism};
use crate::socket::pipe::Pipe;
use crate::transport::tls::{Acceptor, Connector, Proof};
use crate::zmtp::{self, Heartbeat, Limits, Local, Received};

/// A socket, or a lane of the fabric. Every method is called from a connection's task and must not block; none is
/// called with a lock of the engine held, so all of [`Pipe`]'s methods may be used inside.
pub(crate) trait Core: Send + Sync + 'static {
    /// The peer's READY has been read, and whatever it could prove is proven. To a dialled connection our READY was sent already (from
    /// [`DialOptions::local`]); to an accepted one it is sent now, from the admission. Later calls for this
    /// connection go to [`Admission::core`].
    fn admit(&self, peer: &zmtp::Peer, from: &Origin, proof: &Proof) -> Admit;

    /// Messages may flow. May put, e.g. subscriptions by [`Pipe::put_control`].
    fn joined(&self, pipe: &Arc<Pipe>);

    /// All of one read: drain it. After [`Flow::Pause`] nothing more is read, and what is left in `received` is
    /// offered again, once [`Pipe::resume`] was called (also if it was called before this returned).
    fn deliver(&self, pipe: &Arc<Pipe>, received: &mut Received) -> Flow;

    /// The pipe went from full to at most half full, and somebody had been told that it is full.
    fn writable(&self, _pipe: &Arc<Pipe>) {}

    /// The connection is gone; called once for each `joined`. A pipe that outlives its connections
    /// ([`Disconnect::retrying`]) still takes messages.
    fn left(&self, pipe: &Arc<Pipe>, why: &Disconnect);

    /// A dial or a handshake failed. `retry_in` is `None` when there will be no further attempt.
    fn failed(&self, _origin: &Origin, _error: &ConnectError, _retry_in: Option<Duration>) {}
}

/// The answer to a peer that wants to come in.
pub(crate) enum Admit {
    Now(Result<Admission, Refusal>),
    /// Somebody has to be asked. Nothing of the peer's is read meanwhile; the future has to end by itself.
    Later(Pin<Box<dyn Future<Output = Result<Admission, Refusal>> + Send>>),
}

/// A peer may come in.
pub(crate) struct Admission {
    /// What our READY says (to an accepted connection; ignored for a dialled one).
    pub(crate) local: Local,
    /// Whom this connection's later calls go to.
    pub(crate) core: Arc<dyn Core>,
    /// What the core wants to find again with this connection: [`Pipe::about`].
    pub(crate) about: Option<Arc<dyn Any + Send + Sync>>,
}

/// A peer may not come in.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    /// Send a ZMTP ERROR, which peers take as final; else just close, and they try again.
    pub(crate) last: bool,
}

/// What a connection is to do after it delivered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    Continue,
    /// All is taken, and there is plenty: read on when [`Pipe::resume`] is called, or a moment later.
    Breathe,
    Pause,
    /// End the connection; the reason goes to the log, the monitor and [`Core::left`].
    Close(String),
}

/// One `dial`, unique in this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct DialId(pub(crate) u64);

/// How a connection came to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// We dialled `endpoint`; `remote` is the address that answered, empty before one did.
    Dialled { endpoint: Endpoint, dial: DialId, remote: String },
    /// A peer at `remote` came in through our listener at `endpoint`.
    Accepted { endpoint: Endpoint, remote: String },
}

impl Origin {
    pub(crate) fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Dialled { endpoint, .. } | Self::Accepted { endpoint, .. } => endpoint,
        }
    }

    pub(crate) fn remote(&self) -> &str {
        match self {
            Self::Dialled { remote, .. } | Self::Accepted { remote, .. } => remote,
        }
    }

    pub(crate) fn dial(&self) -> Option<DialId> {
        match self {
            Self::Dialled { dial, .. } => Some(*dial),
            Self::Accepted { .. } => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dialled { endpoint, .. } => write!(f, "{endpoint}"),
            Self::Accepted { endpoint, remote } => write!(f, "{remote} (at {endpoint})"),
        }
    }
}

/// Why and how a connection ended.
#[derive(Clone, Debug)]
pub(crate) struct Disconnect {
    pub(crate) reason: String,
    /// We closed it, after flushing.
    pub(crate) clean: bool,
    /// The dial goes on, and a pipe that is kept still takes messages.
    pub(crate) retrying: bool,
    /// Messages of the batch that was being written: handed to the system, fate unknown.
    pub(crate) unknown: usize,
    /// Messages that were queued and are now dropped; 0 while the queue is kept.
    pub(crate) dropped: usize,
}

/// What a connection keeps to, on either side.
#[derive(Clone, Debug)]
pub(crate) struct LinkOptions {
    pub(crate) limits: Limits,
    /// `None`: no PINGs, and silence is no death.
    pub(crate) heartbeat: Option<Heartbeat>,
    /// Messages queued for the peer and not yet taken by the connection's task; 0: no limit.
    pub(crate) hwm_messages: usize,
    /// The same in bytes; 0: no limit. An empty queue takes any message.
    pub(crate) hwm_bytes: usize,
    /// All that one connection may make us hold, in bytes; 0: no limit.
    pub(crate) memory: usize,
    /// How the two sides prove who they are, if not by TLS; for a listener, [`ListenOptions::curve`] decides. A pipe that outlives its connections has one for all of them.
    pub(crate) mechanism: Mechanism,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            heartbeat: Some(Heartbeat::default()),
            hwm_messages: 65_536,
            hwm_bytes: 16 << 20,
            memory: 64 << 20,
            mechanism: Mechanism::Null,
        }
    }
}

/// When to try again: after a random time between 0 and `min * 2^n`, `max` at most ("full jitter").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reconnect {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { min: Duration::from_millis(50), max: Duration::from_secs(5) }
    }
}

impl Reconnect {
    /// The wait before attempt `n` after the last success, counted from 0.
    pub(crate) fn wait(&self, n: u32) -> Duration {
        let ceiling = self.min.saturating_mul(1u32.checked_shl(n).unwrap_or(u32::MAX)).min(self.max);
        Duration::from_nanos(fastrand::u64(0..=u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// How to listen.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListenOptions {
    pub(crate) link: LinkOptions,
    /// TLS for those who begin with it; everyone else has to speak CURVE. `None`: no TLS.
    pub(crate) tls: Option<Acceptor>,
    /// CURVE for those who do not begin with TLS, and nobody without it. `None`: no CURVE.
    pub(crate) curve: Option<CurveKeys>,
}

/// How to dial.
#[derive(Clone, Debug)]
pub(crate) struct DialOptions {
    /// What our READY says.
    pub(crate) local: Local,
    pub(crate) link: LinkOptions,
    /// TLS, and nothing without it; `None`: plain ZMTP.
    pub(crate) tls: Option<Connector>,
    /// One pipe from now on, which outlives connections and takes messages before the first; else one per connection.
    pub(crate) keep_queue: bool,
    /// `None`: one attempt, one connection.
    pub(crate) reconnect: Option<Reconnect>,
}
