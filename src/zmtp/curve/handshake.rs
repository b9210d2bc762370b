//! HELLO, WELCOME, INITIATE, READY. Each step consumes the one before.
//!
//! ```text
//!   HELLO     5 HELLO | 1 0 | 72 zeroes | C'(32) | nonce(8) | Box[64 zeroes](C'→S) (80)          200 bytes
//!   WELCOME   7 WELCOME | nonce(16) | Box[S', cookie](S→C') (144)                               168 bytes
//!   cookie    nonce(16) | SecretBox[C', s'] (80)
//!   INITIATE  8 INITIATE | cookie(96) | nonce(8) | Box[C, vouch, metadata](C'→S')       257 bytes or more
//!   vouch     nonce(16) | Box[C', S](C→S') (80)
//!   READY     5 READY | nonce(8) | Box[metadata](S'→C')                                  30 bytes or more
//! ```
//! A box is its tag (16), then the ciphertext. HELLO is longer than WELCOME, so that nobody can make a server send more
//! than was sent to it. (RFC 26, "Framing".)

use bytes::BytesMut;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::boxes::{self, Key, TAG};
use super::keys::{KeyPair, PublicKey, SecretKey};
use super::traffic::{Opener, Sealer};
use crate::zmtp::command::{Control, bad};
use crate::zmtp::{ProtocolError, frame};

const HELLO: usize = 200;
const WELCOME: usize = 168;
const INITIATE: usize = 257;
const READY: usize = 30;
const COOKIE: usize = 96;
/// The longest ERROR: its name, and a reason of 255 bytes.
const ERROR: usize = 6 + 256;

const FROM_CLIENT: &[u8; 16] = b"CurveZMQMESSAGEC";
const FROM_SERVER: &[u8; 16] = b"CurveZMQMESSAGES";

/// The dialling side of one connection; it is used up by it.
///
/// ```
/// use ripstop::zmtp::curve::{Client, KeyPair, SecretKey};
///
/// let (server, ours) = (SecretKey::from_bytes([1; 32]).public_key(), SecretKey::from_bytes([2; 32]));
/// let random = [3; 48]; // in earnest: from the operating system, new for each connection
/// let client = Client::new(server, ours.into(), random);
/// ```
#[derive(Debug)]
pub struct Client {
    server: PublicKey,
    keys: KeyPair,
    secret: SecretKey,
    vouch_nonce: [u8; 16],
}

impl Client {
    /// Dials as `keys` a server that must prove to be `server`. Danger: `random` must come from a source for
    /// cryptography and never be used twice.
    ///
    /// ```
    /// # use ripstop::zmtp::curve::{Client, SecretKey};
    /// # let (server, ours) = (SecretKey::from_bytes([1; 32]).public_key(), SecretKey::from_bytes([2; 32]));
    /// let client = Client::new(server, ours.into(), [3; 48]);
    /// ```
    pub fn new(server: PublicKey, keys: KeyPair, random: [u8; 48]) -> Self {
        let random = Zeroizing::new(random);
        let (secret, nonce) = random.split_at(32);
        Self { server, keys, secret: SecretKey::from_bytes(array(secret)), vouch_nonce: array(nonce) }
    }

    /// Appends HELLO to `out`.
    fn hello(self, out: &mut BytesMut) -> Result<Welcomed, ProtocolError> {
        let public = self.secret.public_key();
        let key = boxes::agree(&self.secret, &self.server).ok_or(ProtocolError::WeakKey)?;
        let mut body = Vec::with_capacity(HELLO);
        body.extend_from_slice(b"\x05HELLO\x01\x00");
        body.extend_from_slice(&[0; 72]);
        body.extend_from_slice(public.as_bytes());
        body.extend_from_slice(&1u64.to_be_bytes());
        put_box(&mut body, &key, &short(b"CurveZMQHELLO---", 1), &[&[0; 64]]);
        frame::put(out, false, true, &body);
        Ok(Welcomed { client: self, public, key })
    }
}

/// The listening side of one connection; it is used up by it.
///
/// ```
/// use ripstop::zmtp::curve::{Server, SecretKey};
///
/// let random = [3; 96]; // in earnest: from the operating system, new for each connection
/// let server = Server::new(SecretKey::from_bytes([1; 32]).into(), random);
/// ```
#[derive(Debug)]
pub struct Server {
    keys: KeyPair,
    secret: SecretKey,
    cookie_key: SecretKey,
    nonces: [[u8; 16]; 2],
}

impl Server {
    /// Proves to be `keys`, and takes every client that proves to have the key it names. Danger: `random` must come from
    /// a source for cryptography and never be used twice.
    ///
    /// ```
    /// # use ripstop::zmtp::curve::{Server, SecretKey};
    /// let server = Server::new(SecretKey::from_bytes([1; 32]).into(), [3; 96]);
    /// ```
    pub fn new(keys: KeyPair, random: [u8; 96]) -> Self {
        let random = Zeroizing::new(random);
        let (secret, rest) = random.split_at(32);
        let (cookie_key, nonces) = rest.split_at(32);
        let (one, two) = nonces.split_at(16);
        Self {
            keys,
            secret: SecretKey::from_bytes(array(secret)),
            cookie_key: SecretKey::from_bytes(array(cookie_key)),
            nonces: [array(one), array(two)],
        }
    }

    /// Reads HELLO and appends WELCOME to `out`.
    fn hello(self, body: &[u8], out: &mut BytesMut) -> Result<Initiated, ProtocolError> {
        let mut fields = Fields::of("HELLO", body, HELLO, true)?;
        if fields.take()? != &[1, 0] {
            return Err(bad("HELLO", "its version is not 1.0"));
        }
        if fields.take()? != &[0; 72] {
            return Err(bad("HELLO", "its padding is not of zeroes"));
        }
        let client = PublicKey::from_bytes(*fields.take()?);
        let nonce = u64::from_be_bytes(*fields.take()?);
        let key = boxes::agree(self.keys.secret(), &client).ok_or(ProtocolError::WeakKey)?;
        let signature = fields.open(&key, &short(b"CurveZMQHELLO---", nonce))?;
        if signature.iter().any(|byte| *byte != 0) {
            return Err(bad("HELLO", "its signature is not of zeroes"));
        }

        let [cookie_nonce, welcome_nonce] = &self.nonces;
        let mut cookie = Zeroizing::new(Vec::with_capacity(COOKIE));
        cookie.extend_from_slice(cookie_nonce);
        let content = [&client.as_bytes()[..], self.secret.bytes()];
        put_box(&mut cookie, self.cookie_key.bytes(), &boxes::join(b"COOKIE--", cookie_nonce), &content);
        let mut body = Vec::with_capacity(WELCOME);
        body.extend_from_slice(b"\x07WELCOME");
        body.extend_from_slice(welcome_nonce);
        let public = self.secret.public_key();
        let content = [&public.as_bytes()[..], &cookie];
        put_box(&mut body, &key, &boxes::join(b"WELCOME-", welcome_nonce), &content);
        frame::put(out, false, true, &body);
        Ok(Initiated { server: self, client, last: nonce })
    }
}

/// A client that has said HELLO.
#[derive(Debug)]
pub(in crate::zmtp) struct Welcomed {
    client: Client,
    public: PublicKey,
    key: Key,
}

impl Welcomed {
    /// Reads WELCOME and appends INITIATE, with our metadata, to `out`.
    fn welcome(self, body: &[u8], metadata: &[u8], out: &mut BytesMut) -> Result<Readied, ProtocolError> {
        let Self { client, public, key } = self;
        let mut fields = Fields::of("WELCOME", body, WELCOME, true)?;
        let nonce = boxes::join(b"WELCOME-", fields.take::<16>()?);
        let content = fields.open(&key, &nonce)?;
        let mut content = Fields { command: "WELCOME", rest: &content };
        let server = PublicKey::from_bytes(*content.take()?);
        let cookie: &[u8; COOKIE] = content.take()?;

        let vouch_key = boxes::agree(client.keys.secret(), &server).ok_or(ProtocolError::WeakKey)?;
        let mut vouch = Vec::with_capacity(16 + TAG + 64);
        vouch.extend_from_slice(&client.vouch_nonce);
        let content = [&public.as_bytes()[..], client.server.as_bytes()];
        put_box(&mut vouch, &vouch_key, &boxes::join(b"VOUCH---", &client.vouch_nonce), &content);

        let key = boxes::agree(&client.secret, &server).ok_or(ProtocolError::WeakKey)?;
        let mut body = Vec::with_capacity(INITIATE + metadata.len());
        body.extend_from_slice(b"\x08INITIATE");
        body.extend_from_slice(cookie);
        body.extend_from_slice(&2u64.to_be_bytes());
        let ours = client.keys.public();
        let content = [&ours.as_bytes()[..], &vouch, metadata];
        put_box(&mut body, &key, &short(b"CurveZMQINITIATE", 2), &content);
        frame::put(out, false, true, &body);
        Ok(Readied { server: client.server, key })
    }
}

/// A client that has said INITIATE.
#[derive(Debug)]
pub(in crate::zmtp) struct Readied {
    server: PublicKey,
    key: Key,
}

impl Readied {
    /// Reads READY.
    fn ready(self, body: &[u8]) -> Result<Step, ProtocolError> {
        let mut fields = Fields::of("READY", body, READY, false)?;
        let nonce = u64::from_be_bytes(*fields.take()?);
        let metadata = fields.open(&self.key, &short(b"CurveZMQREADY---", nonce))?.to_vec();
        let sealer = Sealer::new(&self.key, FROM_CLIENT, 3);
        let opener = Opener::new(&self.key, FROM_SERVER, nonce);
        Ok(Step::Connected { metadata, peer: self.server, sealer, opener })
    }
}

/// A server that has said WELCOME.
#[derive(Debug)]
pub(in crate::zmtp) struct Initiated {
    server: Server,
    client: PublicKey,
    last: u64,
}

impl Initiated {
    /// Reads INITIATE: the cookie must be ours, and the vouch that of the lasting key that it names, for this connection.
    fn initiate(self, body: &[u8]) -> Result<Step, ProtocolError> {
        let Self { server, client, last } = self;
        let mut fields = Fields::of("INITIATE", body, INITIATE, false)?;
        let nonce = boxes::join(b"COOKIE--", fields.take::<16>()?);
        let mut cookie = Fields { command: "INITIATE", rest: fields.take::<80>()? };
        let cookie = cookie.open(server.cookie_key.bytes(), &nonce)?;
        let ours = Zeroizing::new([*client.as_bytes(), *server.secret.bytes()]);
        if !bool::from(cookie.ct_eq(ours.as_flattened())) {
            return Err(bad("INITIATE", "its cookie is of another connection"));
        }
        let nonce = u64::from_be_bytes(*fields.take()?);
        if nonce <= last {
            return Err(ProtocolError::Replayed);
        }
        let key = boxes::agree(&server.secret, &client).ok_or(ProtocolError::WeakKey)?;
        let content = fields.open(&key, &short(b"CurveZMQINITIATE", nonce))?;
        let mut content = Fields { command: "INITIATE", rest: &content };
        let peer = PublicKey::from_bytes(*content.take()?);
        let vouch_nonce = boxes::join(b"VOUCH---", content.take::<16>()?);
        let mut vouch = Fields { command: "INITIATE", rest: content.take::<80>()? };
        let vouch_key = boxes::agree(&server.secret, &peer).ok_or(ProtocolError::WeakKey)?;
        let vouch = vouch.open(&vouch_key, &vouch_nonce)?;
        if vouch[..] != *[*client.as_bytes(), *server.keys.public().as_bytes()].as_flattened() {
            return Err(bad("INITIATE", "its vouch is for another connection"));
        }
        let pending = Pending { opener: Opener::new(&key, FROM_CLIENT, nonce), key };
        Ok(Step::Pending { metadata: content.rest.to_vec(), peer, pending })
    }
}

/// A server whose client has proven who it is, and that has not said READY yet.
#[derive(Debug)]
pub(in crate::zmtp) struct Pending {
    key: Key,
    opener: Opener,
}

impl Pending {
    /// Appends READY, with our metadata, to `out`.
    pub(in crate::zmtp) fn ready(self, metadata: &[u8], out: &mut BytesMut) -> (Sealer, Opener) {
        let mut body = Vec::with_capacity(READY + metadata.len());
        body.extend_from_slice(b"\x05READY");
        body.extend_from_slice(&1u64.to_be_bytes());
        put_box(&mut body, &self.key, &short(b"CurveZMQREADY---", 1), &[metadata]);
        frame::put(out, false, true, &body);
        (Sealer::new(&self.key, FROM_SERVER, 2), self.opener)
    }
}

/// Where a handshake stands, on either side.
#[derive(Debug)]
pub(in crate::zmtp) enum Stage {
    Hello(Box<Server>),
    Welcome(Box<Welcomed>),
    Initiate(Box<Initiated>),
    Ready(Box<Readied>),
}

/// What a command of the peer came to.
pub(in crate::zmtp) enum Step {
    /// Another one is expected.
    Next(Stage),
    /// The server is proven and has said READY with this metadata.
    Connected { metadata: Vec<u8>, peer: PublicKey, sealer: Sealer, opener: Opener },
    /// The client is proven, and our READY is due.
    Pending { metadata: Vec<u8>, peer: PublicKey, pending: Pending },
}

impl Stage {
    /// Appends what a client says first to `out`.
    pub(in crate::zmtp) fn client(client: Client, out: &mut BytesMut) -> Result<Self, ProtocolError> {
        Ok(Self::Welcome(Box::new(client.hello(out)?)))
    }

    pub(in crate::zmtp) fn server(server: Server) -> Self {
        Self::Hello(Box::new(server))
    }

    /// The longest command that can be right here, in bytes; `None`: whatever the limits say.
    pub(in crate::zmtp) fn longest(&self) -> Option<usize> {
        match self {
            Self::Hello(_) => Some(HELLO),
            Self::Welcome(_) => Some(ERROR),
            Self::Initiate(_) | Self::Ready(_) => None,
        }
    }

    /// Reads the peer's next command. `metadata`: ours; a client sends it with INITIATE.
    pub(in crate::zmtp) fn command(
        self,
        body: &[u8],
        metadata: impl FnOnce() -> Result<Vec<u8>, ProtocolError>,
        out: &mut BytesMut,
    ) -> Result<Step, ProtocolError> {
        match self {
            Self::Hello(server) => Ok(Step::Next(Self::Initiate(Box::new(server.hello(body, out)?)))),
            Self::Initiate(server) => server.initiate(body),
            // Whoever has not proven to be the server cannot send us away for good.
            Self::Welcome(_) if body.starts_with(b"\x05ERROR") => {
                Err(bad("ERROR", "it came before the server had proven who it is"))
            }
            Self::Welcome(client) => {
                Ok(Step::Next(Self::Ready(Box::new(client.welcome(body, &metadata()?, out)?))))
            }
            Self::Ready(client) => match Control::parse(body)? {
                Control::Error(reason) => Err(ProtocolError::Refused(reason.escape_ascii().to_string())),
                _ => client.ready(body),
            },
        }
    }
}

/// What is left of a command to be read.
struct Fields<'a> {
    command: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// `len`: of the whole command, exactly or at least.
    fn of(command: &'static str, body: &'a [u8], len: usize, exactly: bool) -> Result<Self, ProtocolError> {
        let name = body.split_first().and_then(|(len, rest)| rest.split_at_checked(usize::from(*len)));
        match name {
            Some((name, rest)) if name == command.as_bytes() => match body.len() {
                found if found == len || (found > len && !exactly) => Ok(Self { command, rest }),
                _ => Err(bad(command, "its length is wrong")),
            },
            _ => Err(bad("handshake", "CURVE expects another command now")),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], ProtocolError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(bad(self.command, "its length is wrong"))?;
        self.rest = rest;
        Ok(field)
    }

    /// Opens the box that is the rest.
    fn open(&mut self, key: &[u8; 32], nonce: &[u8; 24]) -> Result<Zeroizing<Vec<u8>>, ProtocolError> {
        let tag = self.take::<TAG>()?;
        let mut content = Zeroizing::new(std::mem::take(&mut self.rest).to_vec());
        match boxes::open(key, nonce, &mut content, tag) {
            true => Ok(content),
            false => Err(ProtocolError::CannotOpen(self.command)),
        }
    }
}

/// Appends a box with this content to `out`.
fn put_box(out: &mut Vec<u8>, key: &[u8; 32], nonce: &[u8; 24], content: &[&[u8]]) {
    let start = out.len();
    out.extend_from_slice(&[0; TAG]);
    content.iter().for_each(|part| out.extend_from_slice(part));
    if let Some((tag, content)) = out.get_mut(start..).and_then(|out| out.split_first_chunk_mut()) {
        *tag = boxes::seal(key, nonce, content);
    }
}

fn short(prefix: &[u8; 16], nonce: u64) -> [u8; 24] {
    boxes::join(prefix, &nonce.to_be_bytes())
}

/// The caller has seen to it that there are `N` bytes.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}
