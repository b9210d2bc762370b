//! From the first byte to the peer's READY: greeting, then the mechanism's commands.
//!
//! ```text
//!   greeting ───▶ mechanism ───────▶ peer's READY read ───▶ traffic
//!                 (null.rs, curve/)  (our READY may still be held back: `Connection::answer`)
//! ```

use bytes::{Buf, Bytes, BytesMut};

use super::command::{Control, bad, properties, put_property};
#[cfg(feature = "curve")]
use super::curve;
use super::curve::{Opener, Sealer};
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
        Control::Ready(&self.properties()?).encode(out);
        Ok(())
    }

    /// The properties, as READY and INITIATE carry them.
    pub(super) fn properties(&self) -> Result<Vec<u8>, ProtocolError> {
        let mut metadata = Vec::with_capacity(64);
        put_property(&mut metadata, SOCKET_TYPE, self.socket_type.as_str().as_bytes());
        for (name, value) in &self.metadata {
            if !(1..=255).contains(&name.len()) || value.len() > i32::MAX as usize {
                return Err(ProtocolError::BadMetadata(name.chars().take(64).collect()));
            }
            put_property(&mut metadata, name, value);
        }
        Ok(metadata)
    }
}

/// Who is on the other side: by its own account, but for `public_key`.
///
/// ```
/// use ripstop::zmtp::{Peer, SocketType};
///
/// let peer = Peer {
///     socket_type: SocketType::Dealer,
///     minor: 1,
///     identity: "worker-1".into(),
///     public_key: None,
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
    /// The lasting CURVE key that it has proven to have; `None` with NULL, which proves nothing.
    pub public_key: Option<[u8; 32]>,
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
    /// # let (socket_type, identity) = (SocketType::Rep, "".into());
    /// # let peer = Peer { socket_type, minor: 0, identity, public_key: None, metadata: vec![] };
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
        Ok(Self { socket_type, minor, identity, public_key: None, metadata: all })
    }
}

fn find<'a>(metadata: &'a [(String, Bytes)], name: &str) -> Option<&'a Bytes> {
    metadata.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The security mechanism of a connection. A CURVE one is used up by it, as are the random bytes in it.
///
/// ```
/// use ripstop::zmtp::{Config, Mechanism};
///
/// assert!(matches!(Config::default().mechanism, Mechanism::Null));
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Mechanism {
    /// No security.
    #[default]
    Null,
    /// CURVE, as the side that knows the other's key. It needs [`Config::local`](super::Config::local).
    #[cfg(feature = "curve")]
    CurveClient(curve::Client),
    /// CURVE, as the side whose key is known.
    #[cfg(feature = "curve")]
    CurveServer(curve::Server),
}

impl Mechanism {
    /// Its name in the greeting, and whether this side is its server.
    pub(super) fn role(&self) -> (&'static str, bool) {
        match self {
            Self::Null => (null::NAME, false),
            #[cfg(feature = "curve")]
            Self::CurveClient(_) => (curve::NAME, false),
            #[cfg(feature = "curve")]
            Self::CurveServer(_) => (curve::NAME, true),
        }
    }
}

/// The peer's side of the handshake, until its READY. Each step consumes the one before.
#[derive(Debug)]
pub(super) enum Handshake {
    /// Waiting for the 64 bytes.
    Greeting(Mechanism),
    /// Greeted by a peer of ZMTP 3.`minor`; READY is to come.
    Null(u8),
    /// The same, and where CURVE stands.
    #[cfg(feature = "curve")]
    Curve(curve::Stage, u8),
}

/// What a step of the handshake came to.
pub(super) enum Step {
    /// More bytes are needed.
    Wait(Handshake),
    /// Step again.
    Again(Handshake),
    /// The peer's READY has been read, and if we have said what ours is to say, it was sent. What follows in the buffer
    /// is traffic.
    Done(Peer, Security),
}

/// What protects the traffic.
#[derive(Debug)]
pub(super) enum Security {
    /// Nothing.
    Null,
    /// CURVE, once our READY is sent.
    #[cfg(feature = "curve")]
    Pending(curve::Pending),
    /// CURVE.
    #[cfg_attr(not(feature = "curve"), allow(dead_code))]
    Curve(Sealer, Opener),
}

impl Security {
    /// Sends our READY, which was held back.
    pub(super) fn ready(self, local: &Local, out: &mut BytesMut) -> Result<Self, ProtocolError> {
        Ok(match self {
            Self::Null => {
                local.put_ready(out)?;
                self
            }
            #[cfg(feature = "curve")]
            Self::Pending(pending) => {
                let (sealer, opener) = pending.ready(&local.properties()?, out);
                Self::Curve(sealer, opener)
            }
            Self::Curve(..) => self,
        })
    }

    pub(super) fn sealer(&mut self) -> Option<&mut Sealer> {
        match self {
            Self::Curve(sealer, _) => Some(sealer),
            _ => None,
        }
    }

    pub(super) fn halves(&mut self) -> (Option<&mut Sealer>, Option<&mut Opener>) {
        match self {
            Self::Curve(sealer, opener) => (Some(sealer), Some(opener)),
            _ => (None, None),
        }
    }
}

impl Handshake {
    /// Consumes one greeting or one command from `buf`, if it is whole, and appends what is to be said next to `out`.
    /// `local`: what our READY says, if it is known yet.
    pub(super) fn step(
        self,
        buf: &mut BytesMut,
        limits: &Limits,
        local: Option<&Local>,
        out: &mut BytesMut,
    ) -> Result<Step, ProtocolError> {
        if let Self::Greeting(mechanism) = self {
            let (name, as_server) = mechanism.role();
            let Some(greeting) = greeting::parse(buf, name)? else {
                return Ok(Step::Wait(Self::Greeting(mechanism)));
            };
            if as_server && greeting.as_server {
                return Err(ProtocolError::TwoServers);
            }
            buf.advance(greeting::LEN);
            return Ok(Step::Again(Self::greeted(mechanism, greeting.minor, local, out)?));
        }
        let Some(head) = frame::parse(buf)? else { return Ok(Step::Wait(self)) };
        if !head.command {
            return Err(ProtocolError::EarlyMessage);
        }
        let max = limits.max_command.min(limits.max_unauthenticated_frame).min(self.longest());
        if head.len > max as u64 {
            return Err(ProtocolError::CommandTooLarge { size: head.len, max });
        }
        let end = head.header + head.len as usize;
        let Some(body) = buf.get(head.header..end) else { return Ok(Step::Wait(self)) };
        let step = match self {
            Self::Greeting(_) => Step::Wait(self), // not any more
            Self::Null(minor) => Step::Done(null::command(body, minor)?, Security::Null),
            #[cfg(feature = "curve")]
            Self::Curve(stage, minor) => curve_step(stage, body, minor, local, out)?,
        };
        buf.advance(end);
        Ok(step)
    }

    /// The peer's greeting has been read.
    fn greeted(
        mechanism: Mechanism,
        minor: u8,
        local: Option<&Local>,
        out: &mut BytesMut,
    ) -> Result<Self, ProtocolError> {
        Ok(match mechanism {
            Mechanism::Null => {
                if let Some(local) = local {
                    local.put_ready(out)?;
                }
                Self::Null(minor)
            }
            #[cfg(feature = "curve")]
            Mechanism::CurveClient(client) => Self::Curve(curve::Stage::client(client, out)?, minor),
            #[cfg(feature = "curve")]
            Mechanism::CurveServer(server) => Self::Curve(curve::Stage::server(server), minor),
        })
    }

    /// The longest command that can be right now.
    fn longest(&self) -> usize {
        match self {
            #[cfg(feature = "curve")]
            Self::Curve(stage, _) => stage.longest().unwrap_or(usize::MAX),
            _ => usize::MAX,
        }
    }
}

#[cfg(feature = "curve")]
fn curve_step(
    stage: curve::Stage,
    body: &[u8],
    minor: u8,
    local: Option<&Local>,
    out: &mut BytesMut,
) -> Result<Step, ProtocolError> {
    let ours = || local.ok_or(ProtocolError::BadMetadata(SOCKET_TYPE.to_owned()))?.properties();
    let (metadata, key, security) = match stage.command(body, ours, out)? {
        curve::Step::Next(stage) => return Ok(Step::Again(Handshake::Curve(stage, minor))),
        curve::Step::Connected { metadata, peer, sealer, opener } => {
            (metadata, peer, Security::Curve(sealer, opener))
        }
        curve::Step::Pending { metadata, peer, pending } => (metadata, peer, Security::Pending(pending)),
    };
    let peer = Peer { public_key: Some(*key.as_bytes()), ..Peer::from_metadata(&metadata, minor)? };
    Ok(Step::Done(peer, security))
}
