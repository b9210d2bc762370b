//! ZMTP 3.1, the protocol of ZeroMQ, and 3.0 to older peers: bytes and `now` in; messages, bytes to send and the
//! next deadline out. Nothing here knows sockets, clocks or randomness.
//!
//! ```text
//!   bytes from the peer ──▶ Connection::input ──▶ Received { messages, commands }
//!   bytes to the peer   ◀── Connection::output    (greeting, READY, PING, PONG, ERROR)
//!   a timer             ◀── Connection::deadline ──▶ Connection::timeout
//! ```
//!
//! Outgoing messages do not pass through [`Connection`]: whoever sends writes frames with [`frame`] straight into
//! the outgoing batch. (With CURVE they have to be sealed: [`Connection::seal`].)
//!
//! - `greeting`: 64 bytes each way, before any frame
//! - [`frame`]: headers and bodies
//! - [`command`]: READY, ERROR, SUBSCRIBE, CANCEL, PING, PONG
//! - `handshake`: greeting, mechanism, the peer's metadata; `null` is the mechanism without security, `curve` that with
//! - `connection`: the whole life of one connection; `decoder` its traffic
//!
//! Rules come from RFC 23 and 37 (ZMTP); where those are loose, from what libzmq 4.3 does.

pub mod command;
mod connection;
#[cfg(feature = "curve")]
pub mod curve;
#[cfg(not(feature = "curve"))]
#[path = "no_curve.rs"]
pub(crate) mod curve;
mod decoder;
mod error;
pub mod frame;
mod greeting;
mod handshake;
mod null;
mod socket_type;
#[cfg(test)]
mod tests;

pub use command::Command;
pub use connection::{Connection, Received, State};
pub use error::ProtocolError;
pub(crate) use error::WANTS_KEYS;
pub use handshake::{Local, Mechanism, Peer};
pub use socket_type::{ParseSocketTypeError, SocketType};

use std::time::Duration;

use bytes::BytesMut;

/// What one side of a connection wants of it.
///
/// ```
/// use ripstop::zmtp::{Config, Heartbeat, Local, SocketType};
///
/// let dialling = Config { local: Some(Local::new(SocketType::Dealer)), ..Config::default() };
/// assert!(Config::default().local.is_none() && dialling.heartbeat == Some(Heartbeat::default()));
/// ```
#[derive(Debug)]
pub struct Config {
    /// What our READY says. Default `None`: our READY is held back until the peer's has been read and
    /// [`Connection::answer`] is called, so that one listener can be several sockets. Two sides that both hold
    /// theirs back wait for each other until the handshake times out: the dialling side always says.
    pub local: Option<Local>,
    /// How the two sides prove who they are, which both have to agree on. Default [`Mechanism::Null`]: not at all.
    pub mechanism: Mechanism,
    /// Bounds on what the peer may send.
    pub limits: Limits,
    /// PINGs and the death of silent peers; `None` turns both off, but PINGs are still answered and the time to
    /// live that a peer's PING asks for is still kept. Default: [`Heartbeat::default`].
    pub heartbeat: Option<Heartbeat>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            local: None,
            mechanism: Mechanism::Null,
            limits: Limits::default(),
            heartbeat: Some(Heartbeat::default()),
        }
    }
}

/// Bounds on what a peer may send. They hold from the first byte on, and memory follows the bytes that came,
/// never the lengths that were announced.
///
/// ```
/// let limits = ripstop::zmtp::Limits::default();
/// assert_eq!(limits.max_message, 16 << 20);
/// ```
#[derive(Clone, Debug)]
pub struct Limits {
    /// The most bytes all frames of one message may have together. Default 16 MiB; above 3 GiB it counts as 3 GiB.
    pub max_message: usize,
    /// The most frames one message may have; an empty one still costs 10 bytes of memory or more. Default 1,024.
    pub max_frames: usize,
    /// The longest command, and the longest subscription, in bytes. Commands that come between the frames of
    /// one message may have this much together. Default 64 KiB.
    pub max_command: usize,
    /// How long the whole handshake may take, from [`Connection::new`] to the last READY. Default 5 s.
    pub handshake: Duration,
    /// The longest frame before the handshake has finished, in bytes. Default 64 KiB.
    pub max_unauthenticated_frame: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message: 16 << 20,
            max_frames: 1024,
            max_command: 64 << 10,
            handshake: Duration::from_secs(5),
            max_unauthenticated_frame: 64 << 10,
        }
    }
}

/// When to ask a peer for a sign of life, and when to give it up. Peers that speak ZMTP 3.0 know no PING: they
/// get none, and their silence is no death.
///
/// ```
/// let heartbeat = ripstop::zmtp::Heartbeat::default();
/// assert!(heartbeat.interval < heartbeat.timeout);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// Between two PINGs. Default 2 s. They go out whether or not the peer is silent, as libzmq's do, because the
    /// time to live in each (see `timeout`) tells the peer to expect the next.
    pub interval: Duration,
    /// A peer of which nothing was heard for this long is dead. Default 6 s. It is also the time to live in each
    /// PING, by which the peer may give us up; the wire carries tenths of a second, 6,553.5 s at most.
    pub timeout: Duration,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { interval: Duration::from_secs(2), timeout: Duration::from_secs(6) }
    }
}

/// A greeting that tells a plain peer that encryption is wanted, from a side that will not go on with it.
pub(crate) fn secured_greeting() -> [u8; greeting::LEN] {
    greeting::encode("CURVE", true)
}

/// Appends a subscription (or its end) to `out`, as a SUBSCRIBE or CANCEL command to peers of ZMTP 3.1 and
/// later, as a message of one byte and the prefix to 3.0 peers. `minor` is [`Peer::minor`].
///
/// ```
/// let mut out = bytes::BytesMut::new();
/// ripstop::zmtp::encode_subscription(0, true, b"orders", &mut out);
/// assert_eq!(&out[..], b"\x00\x07\x01orders");
/// ripstop::zmtp::encode_subscription(1, false, b"", &mut out);
/// assert!(out.ends_with(b"\x04\x07\x06CANCEL"));
/// ```
pub fn encode_subscription(minor: u8, subscribe: bool, prefix: &[u8], out: &mut BytesMut) {
    use command::Control;
    if minor >= 1 {
        match subscribe {
            true => Control::Subscribe(prefix).encode(out),
            false => Control::Cancel(prefix).encode(out),
        }
    } else {
        out.extend_from_slice(&frame::header(prefix.len() + 1, false, false));
        out.extend_from_slice(&[u8::from(subscribe)]);
        out.extend_from_slice(prefix);
    }
}
