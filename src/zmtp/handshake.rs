//! From the first byte to the peer's READY: greeting, then the mechanism's commands.
//!
//! ```text
//!   greeting ───▶ mechanism ───▶ peer's READY read ───▶ traffic
//!                 (null.rs)      (our READY may still be held back: `Connection::answer`)
//! ```

use bytes::{Buf, Bytes, BytesMut};

use super::command::{Control, bad, properties, put_property};
use super::{Limits, ProtocolError, SocketType, frame, greeting, null};

/// What our READY says.
///
/// ```
/// use ripstop::zmtp::{Local, SocketType};
///
/// let mut local = Local::new(SocketType::Dealer);
/// local.metadata.push(("Identity".into(), "worker-1".into()));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Local {
    /// Our socket type; READY begins with it.
    pub socket_type: SocketType,
    /// Further properties: `Identity` (at most 255 bytes), and `X-…` of one's own. Names have 1 to 255 bytes.
    pub metadata: Vec<(String, Bytes)>,
}

impl Local {
    /// A socket of this type without further properties.
    ///
    /// ```
    /// use ripstop::zmtp::{Local, SocketType};
    ///
    /// assert!(Local::new(SocketType::Pub).metadata.is_empty());
    /// ```
    pub fn new(socket_type: SocketType) -> Self {
        Self { socket_type, metadata: Vec::new() }
    }

    /// Appends our READY to `out`.
    pub(super) fn put_ready(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        let mut metadata = Vec::with_capacity(64);
        put_property(&mut metadata, SOCKET_TYPE, self.socket_type.as_str().as_bytes());
        for (name, value) in &self.metadata {
            if !(1..=255).contains(&name.len()) || value.len() > i32::MAX as usize {
                return Err(ProtocolError::BadMetadata(name.chars().take(64).collect()));
            }
            put_property(&mut metadata, name, value);
        }
        Control::Ready(&metadata).encode(out);
        Ok(())
    }
}

/// Who is on the other side, by its own account: NULL proves nothing.
///
/// ```
/// use ripstop::zmtp::{Peer, SocketType};
///
/// let peer = Peer {
///     socket_type: SocketType::Dealer,
///     minor: 1,
///     identity: "worker-1".into(),
///     metadata: vec![("X-Lane".into(), "calls".into())],
/// };
/// assert_eq!(peer.property("x-lane").map(|v| &v[..]), Some(&b"calls"[..]));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its socket type.
    pub socket_type: SocketType,
    /// It speaks ZMTP 3.`minor`.
    pub minor: u8,
    /// Its `Identity`, empty if it gave none: at most 255 bytes, a wish and no proof.
    pub identity: Bytes,
    /// All properties of its READY, in order, no name twice.
    pub metadata: Vec<(String, Bytes)>,
}

const SOCKET_TYPE: &str = "Socket-Type";

/// Bounds the work of looking for repeated names.
const MAX_PROPERTIES: usize = 64;

impl Peer {
    /// The property of this name, in whatever case.
    ///
    /// ```
    /// # use ripstop::zmtp::{Peer, SocketType};
    /// # let peer = Peer { socket_type: SocketType::Rep, minor: 0, identity: "".into(), metadata: vec![] };
    /// assert_eq!(peer.property("X-Lane"), None);
    /// ```
    pub fn property(&self, name: &str) -> Option<&Bytes> {
        find(&self.metadata, name)
    }

    /// Reads a READY. Values are copied, so that a peer kept for long does not keep a read buffer.
    pub(super) fn from_metadata(metadata: &[u8], minor: u8) -> Result<Self, ProtocolError> {
        let mut all: Vec<(String, Bytes)> = Vec::new();
        for property in properties(metadata) {
            let (name, value) = property?;
            if find(&all, name).is_some() {
                return Err(bad("READY", "a property comes twice"));
            }
            if all.len() == MAX_PROPERTIES {
                return Err(bad("READY", "it has more than 64 properties"));
            }
            all.push((name.to_owned(), Bytes::copy_from_slice(value)));
        }
        let name = find(&all, SOCKET_TYPE).ok_or(bad("READY", "it has no Socket-Type"))?;
        let socket_type = SocketType::from_bytes(name).ok_or_else(|| {
            ProtocolError::UnknownSocketType(
                name.iter().take(16).copied().flat_map(std::ascii::escape_default).map(char::from).collect(),
            )
        })?;
        let identity = find(&all, "Identity").cloned().unwrap_or_default();
        if identity.len() > 255 {
            return Err(bad("READY", "its Identity is longer than 255 bytes"));
        }
        Ok(Self { socket_type, minor, identity, metadata: all })
    }
}

fn find<'a>(metadata: &'a [(String, Bytes)], name: &str) -> Option<&'a Bytes> {
    metadata.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The peer's side of the handshake, until its READY. Each step consumes the one before.
#[derive(Debug)]
pub(super) enum Handshake {
    /// Waiting for the 64 bytes.
    Greeting(Mechanism),
    /// Greeted by a peer of ZMTP 3.`minor`; the mechanism's commands are going on.
    Mechanism(Mechanism, u8),
}

/// The security mechanism, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mechanism {
    /// No security, no state.
    Null,
}

impl Mechanism {
    /// Its name in the greeting.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => null::NAME,
        }
    }
}

/// What a step of the handshake came to.
pub(super) enum Step {
    /// More bytes are needed.
    Wait(Handshake),
    /// The greeting is over: commands may be sent. Step again.
    Greeted(Handshake),
    /// The peer's READY has been read; what follows in the buffer is traffic.
    Done(Peer),
}

impl Handshake {
    /// Consumes one greeting or one command from `buf`, if it is whole.
    pub(super) fn step(self, buf: &mut BytesMut, limits: &Limits) -> Result<Step, ProtocolError> {
        match self {
            Self::Greeting(mechanism) => match greeting::parse(buf, mechanism.name())? {
                None => Ok(Step::Wait(self)),
                Some(greeting) => {
                    buf.advance(greeting::LEN);
                    Ok(Step::Greeted(Self::Mechanism(mechanism, greeting.minor)))
                }
            },
            Self::Mechanism(mechanism, minor) => {
                let Some(head) = frame::parse(buf)? else { return Ok(Step::Wait(self)) };
                if !head.command {
                    return Err(ProtocolError::EarlyMessage);
                }
                let max = limits.max_command.min(limits.max_unauthenticated_frame);
                if head.len > max as u64 {
                    return Err(ProtocolError::CommandTooLarge { size: head.len, max });
                }
                let end = head.header + head.len as usize;
                let Some(body) = buf.get(head.header..end) else { return Ok(Step::Wait(self)) };
                let peer = match mechanism {
                    Mechanism::Null => null::command(body, minor)?,
                };
                buf.advance(end);
                Ok(Step::Done(peer))
            }
        }
    }
}
