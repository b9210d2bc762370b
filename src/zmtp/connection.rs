//! One connection's whole life: handshake, traffic, heartbeats, end.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::command::{Control, bad};
use super::curve::Sealer;
use super::decoder::Decoder;
use super::handshake::{Handshake, Security, Step};
use super::{Command, Config, Heartbeat, Limits, Local, Peer, ProtocolError, SocketType, greeting};
use crate::message::Message;

/// What a call of [`Connection::input`] brought. Keep one and drain it, so that its memory is reused.
///
/// ```
/// assert!(ripstop::zmtp::Received::default().messages.is_empty());
/// ```
#[derive(Default, Debug)]
pub struct Received {
    /// Whole messages, in order.
    pub messages: Vec<Message>,
    /// Subscriptions and their ends, in order; only where we publish.
    pub commands: Vec<Command>,
}

/// Where a connection stands.
///
/// ```
/// use ripstop::zmtp::{Config, Connection, State};
///
/// let connection = Connection::new(Config::default(), std::time::Instant::now());
/// assert_eq!(connection.state(), State::Handshaking);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The peer's READY has not come yet.
    Handshaking,
    /// The peer's READY has been read, ours is held back: [`Connection::answer`] or [`Connection::refuse`].
    AwaitingAnswer,
    /// Messages may flow.
    Ready,
    /// Refused, or an error was returned. What is in [`Connection::output`] may still be written.
    Closed,
}

/// One connection, seen as pure protocol.
///
/// ```
/// use bytes::BytesMut;
/// use ripstop::zmtp::{Config, Connection, Local, Received, SocketType, State, frame};
///
/// let now = std::time::Instant::now();
/// let local = |socket_type| Config { local: Some(Local::new(socket_type)), ..Config::default() };
/// let mut push = Connection::new(local(SocketType::Push), now);
/// let mut pull = Connection::new(local(SocketType::Pull), now);
/// let mut received = Received::default();
/// for _ in 0..2 {
///     let mut bytes = push.output().split();
///     pull.input(&mut bytes, now, &mut received)?;
///     push.input(pull.output(), now, &mut received)?;
/// }
/// assert_eq!((push.state(), pull.state()), (State::Ready, State::Ready));
///
/// let mut bytes = BytesMut::new();
/// frame::put(&mut bytes, false, false, b"work");
/// pull.input(&mut bytes, now, &mut received)?;
/// assert_eq!(received.messages, ["work".into()]);
/// # Ok::<(), ripstop::zmtp::ProtocolError>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    local: Option<Local>,
    peer: Option<Peer>,
    limits: Limits,
    heartbeat: Option<Heartbeat>,
    decoder: Decoder,
    security: Security,
    output: BytesMut,
    /// The handshake has to be over by then.
    handshake_by: Instant,
    /// The last sign of life.
    life: Instant,
    next_ping: Instant,
    /// What the peer's last PING asked for, until something else comes.
    ttl: Option<Duration>,
}

#[derive(Debug)]
enum Phase {
    Handshake(Handshake),
    Awaiting,
    Ready,
    Closed,
}

/// PINGs and PONGs wait for what is already waiting to be written: a peer that only sends PINGs and never reads
/// must not make the output grow.
const MAX_PENDING_CONTROL: usize = 4096;

impl Connection {
    /// A connection that has just been made; the greeting is in [`output`](Self::output), and the time for the
    /// handshake runs.
    ///
    /// ```
    /// # use ripstop::zmtp::{Config, Connection};
    /// let mut connection = Connection::new(Config::default(), std::time::Instant::now());
    /// assert_eq!(connection.output().len(), 64);
    /// ```
    pub fn new(config: Config, now: Instant) -> Self {
        let Config { local, mechanism, limits, heartbeat } = config;
        let (name, as_server) = mechanism.role();
        Self {
            phase: Phase::Handshake(Handshake::Greeting(mechanism)),
            local,
            peer: None,
            decoder: Decoder::new(&limits),
            security: Security::Null,
            output: BytesMut::from(&greeting::encode(name, as_server)[..]),
            handshake_by: later(now, limits.handshake),
            limits,
            heartbeat,
            life: now,
            next_ping: now,
            ttl: None,
        }
    }

    /// Consumes all of `buf` that is complete. Call it when bytes have been appended to `buf`; what is incomplete
    /// stays there, and must still be there, unchanged, at the next call. Messages are split off without copying
    /// and share the buffer's memory.
    ///
    /// While the answer is awaited ([`State::AwaitingAnswer`]) what follows the peer's READY stays in `buf`: call
    /// again after [`answer`](Self::answer), even if nothing more has come. When closed, `buf` is just emptied.
    ///
    /// Errors: the connection is closed, with nothing more to send; messages that came before are in `out`.
    ///
    /// ```
    /// # use ripstop::zmtp::{Config, Connection, ProtocolError, Received};
    /// # let now = std::time::Instant::now();
    /// let mut connection = Connection::new(Config::default(), now);
    /// let mut bytes = bytes::BytesMut::from("GET / HTTP/1.1");
    /// let outcome = connection.input(&mut bytes, now, &mut Received::default());
    /// assert_eq!(outcome, Err(ProtocolError::NotZmtp));
    /// ```
    pub fn input(
        &mut self,
        buf: &mut BytesMut,
        now: Instant,
        out: &mut Received,
    ) -> Result<(), ProtocolError> {
        self.life = now;
        self.ttl = None; // as libzmq does: whatever comes after a PING settles it
        self.consume(buf, out).inspect_err(|_| self.phase = Phase::Closed)
    }

    fn consume(&mut self, buf: &mut BytesMut, out: &mut Received) -> Result<(), ProtocolError> {
        loop {
            match std::mem::replace(&mut self.phase, Phase::Closed) {
                Phase::Handshake(handshake) => {
                    let local = self.local.as_ref();
                    match handshake.step(buf, &self.limits, local, &mut self.output)? {
                        Step::Wait(handshake) => {
                            self.phase = Phase::Handshake(handshake);
                            return Ok(());
                        }
                        Step::Again(handshake) => self.phase = Phase::Handshake(handshake),
                        Step::Done(peer, security) => {
                            self.peer = Some(peer);
                            self.security = security;
                            self.phase = match self.local.take() {
                                Some(local) => {
                                    self.pair(local.socket_type)?;
                                    match self.security {
                                        Security::Null => self.local = Some(local), // said long ago
                                        _ => self.greet(local)?,
                                    }
                                    Phase::Ready
                                }
                                None => Phase::Awaiting,
                            };
                        }
                    }
                }
                Phase::Ready => {
                    self.phase = Phase::Ready;
                    return self.traffic(buf, out);
                }
                Phase::Awaiting => {
                    self.phase = Phase::Awaiting;
                    return Ok(());
                }
                Phase::Closed => {
                    buf.clear();
                    return Ok(());
                }
            }
        }
    }

    /// Both socket types are known.
    fn pair(&mut self, ours: SocketType) -> Result<(), ProtocolError> {
        let Some(peer) = &self.peer else { return Ok(()) };
        let theirs = peer.socket_type;
        if !ours.pairs_with(theirs) {
            return Err(ProtocolError::IncompatiblePeer { ours, theirs });
        }
        if matches!(ours, SocketType::Pub | SocketType::XPub) {
            self.decoder.take_subscriptions();
        }
        if let Some(heartbeat) = self.heartbeat {
            self.next_ping = later(self.life, heartbeat.interval);
        }
        Ok(())
    }

    /// Sends our READY if it has not been sent.
    fn greet(&mut self, local: Local) -> Result<(), ProtocolError> {
        let security = std::mem::replace(&mut self.security, Security::Null);
        self.security = security.ready(&local, &mut self.output)?;
        if self.security.sealer().is_some() {
            self.decoder.opens();
        }
        self.local = Some(local);
        Ok(())
    }

    fn traffic(&mut self, buf: &mut BytesMut, out: &mut Received) -> Result<(), ProtocolError> {
        let Self { decoder, output, ttl, local, security, .. } = self;
        let (mut sealer, opener) = security.halves();
        let publishes =
            local.as_ref().is_some_and(|l| matches!(l.socket_type, SocketType::Pub | SocketType::XPub));
        decoder.run(buf, out, opener, |body, commands| {
            match Control::parse(body)? {
                Control::Ping { ttl: tenths, context } => {
                    *ttl = (tenths > 0).then(|| Duration::from_millis(u64::from(tenths) * 100));
                    if output.len() < MAX_PENDING_CONTROL {
                        put(sealer.as_deref_mut(), &Control::Pong(context), output)?;
                    }
                }
                // Copied: a subscription is kept for long and must not keep the read buffer.
                Control::Subscribe(prefix) if publishes => {
                    commands.push(Command::Subscribe(Bytes::copy_from_slice(prefix)));
                }
                Control::Cancel(prefix) if publishes => {
                    commands.push(Command::Cancel(Bytes::copy_from_slice(prefix)));
                }
                Control::Error(reason) => {
                    return Err(ProtocolError::Refused(reason.escape_ascii().to_string()));
                }
                Control::Ready(_) => return Err(bad("READY", "it comes twice")),
                Control::Pong(_) | Control::Subscribe(_) | Control::Cancel(_) | Control::Unknown(_) => {}
            }
            Ok(())
        })
    }

    /// How many bytes to make room for before the next read, if a frame has begun: what is missing of it, but no
    /// more than had come of its message after the last input (or 64 KiB), so that memory follows what is received
    /// and never what a header announces. 0: nothing in particular.
    ///
    /// ```
    /// # use ripstop::zmtp::{Config, Connection};
    /// let connection = Connection::new(Config::default(), std::time::Instant::now());
    /// assert_eq!(connection.wanted(), 0);
    /// ```
    pub fn wanted(&self) -> usize {
        self.decoder.wanted()
    }

    /// Sends the READY that was held back. Then call [`input`](Self::input) for what is already in the buffer.
    ///
    /// Errors: [`ProtocolError::IncompatiblePeer`] and [`ProtocolError::BadMetadata`]; the connection is closed.
    /// When nothing was held back, nothing happens.
    ///
    /// ```
    /// # use ripstop::zmtp::{Config, Connection, Local, SocketType, State};
    /// let mut connection = Connection::new(Config::default(), std::time::Instant::now());
    /// connection.answer(Local::new(SocketType::Rep))?; // too early: nobody has asked
    /// assert_eq!(connection.state(), State::Handshaking);
    /// # Ok::<(), ripstop::zmtp::ProtocolError>(())
    /// ```
    pub fn answer(&mut self, local: Local) -> Result<(), ProtocolError> {
        if !matches!(self.phase, Phase::Awaiting) {
            return Ok(());
        }
        self.phase = Phase::Closed; // unless all goes well
        self.pair(local.socket_type)?;
        self.greet(local)?;
        self.phase = Phase::Ready;
        Ok(())
    }

    /// Queues a final ERROR with this reason (at most 255 bytes of it) and closes. Peers do not dial again after
    /// that; to turn one away for now, just close the transport.
    ///
    /// ```
    /// # use ripstop::zmtp::{Config, Connection, State};
    /// let mut connection = Connection::new(Config::default(), std::time::Instant::now());
    /// connection.refuse("not here");
    /// assert_eq!(connection.state(), State::Closed);
    /// assert!(connection.output().ends_with(b"\x05ERROR\x08not here"));
    /// ```
    pub fn refuse(&mut self, reason: &str) {
        if !matches!(self.phase, Phase::Closed) {
            // Its only error is a frame that is cut off, which this one is not.
            let _ = put(self.security.sealer(), &Control::Error(reason.as_bytes()), &mut self.output);
            self.phase = Phase::Closed;
        }
    }

    /// The bytes to send, always whole: greeting, the mechanism's commands, PING, PONG, ERROR. Write them between two
    /// messages of the outgoing batch, and clear them. With CURVE they are sealed already, so take them before the next
    /// seal.
    ///
    /// ```
    /// # use ripstop::zmtp::{Config, Connection};
    /// let mut connection = Connection::new(Config::default(), std::time::Instant::now());
    /// let greeting = connection.output().split().freeze();
    /// assert!(connection.output().is_empty() && greeting[0] == 0xff);
    /// ```
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Appends outgoing frames to `out` as this connection has to send them: sealed with CURVE, as they are with NULL. Write
    /// `out` before anything that is sealed later, [`output`](Self::output) included.
    ///
    /// Errors: with CURVE, if `frames` are not whole frames; nothing of the broken one was appended.
    ///
    /// ```
    /// # use ripstop::zmtp::{Config, Connection, frame};
    /// let mut connection = Connection::new(Config::default(), std::time::Instant::now());
    /// let (mut plain, mut out) = (bytes::BytesMut::new(), bytes::BytesMut::new());
    /// frame::put(&mut plain, false, false, b"work");
    /// connection.seal(&plain, &mut out)?;
    /// assert_eq!(out, plain);
    /// # Ok::<(), ripstop::zmtp::ProtocolError>(())
    /// ```
    pub fn seal(&mut self, frames: &[u8], out: &mut BytesMut) -> Result<(), ProtocolError> {
        match self.sealer() {
            Some(sealer) => sealer.put(frames, out),
            None => {
                out.extend_from_slice(frames);
                Ok(())
            }
        }
    }

    /// What seals outgoing messages; `None` with NULL, or before the handshake is over. What was sealed before must be
    /// written before: the nonces have to rise.
    pub(crate) fn sealer(&mut self) -> Option<&mut Sealer> {
        self.security.sealer()
    }

    /// Where the connection stands.
    ///
    /// ```
    /// # use ripstop::zmtp::{Config, Connection, State};
    /// let connection = Connection::new(Config::default(), std::time::Instant::now());
    /// assert_eq!(connection.state(), State::Handshaking);
    /// ```
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Handshake(_) => State::Handshaking,
            Phase::Awaiting => State::AwaitingAnswer,
            Phase::Ready => State::Ready,
            Phase::Closed => State::Closed,
        }
    }

    /// Who the peer says it is, once its READY has been read.
    ///
    /// ```
    /// # use ripstop::zmtp::{Config, Connection};
    /// let connection = Connection::new(Config::default(), std::time::Instant::now());
    /// assert!(connection.peer().is_none());
    /// ```
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// When to call [`timeout`](Self::timeout); every other call may move it. `None`: never.
    ///
    /// ```
    /// # use ripstop::zmtp::{Config, Connection};
    /// let now = std::time::Instant::now();
    /// let config = Config::default();
    /// let by = now + config.limits.handshake;
    /// assert_eq!(Connection::new(config, now).deadline(), Some(by));
    /// ```
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Handshake(_) | Phase::Awaiting => Some(self.handshake_by),
            Phase::Ready => {
                let ping = self.beats().map(|_| self.next_ping);
                ping.into_iter().chain(self.dead_at()).min()
            }
            Phase::Closed => None,
        }
    }

    /// A deadline may have passed: puts a PING into the output, or gives the peer up. Too early a call does
    /// nothing. One that is late by half of [`Heartbeat::timeout`] or more shows that this process was stopped,
    /// not the peer, so that the peer gets another half.
    ///
    /// Errors: [`ProtocolError::HandshakeTimeout`], [`ProtocolError::PeerDead`]; the connection is closed.
    ///
    /// ```
    /// # use ripstop::zmtp::{Config, Connection, ProtocolError};
    /// let now = std::time::Instant::now();
    /// let mut connection = Connection::new(Config::default(), now);
    /// let late = now + std::time::Duration::from_secs(5);
    /// assert_eq!(connection.timeout(late), Err(ProtocolError::HandshakeTimeout));
    /// ```
    pub fn timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        match self.phase {
            Phase::Handshake(_) | Phase::Awaiting if self.handshake_by <= now => {
                self.phase = Phase::Closed;
                return Err(ProtocolError::HandshakeTimeout);
            }
            Phase::Ready => {}
            _ => return Ok(()),
        }
        if let Some(dead_at) = self.dead_at()
            && dead_at <= now
        {
            let half = dead_at.saturating_duration_since(self.life) / 2;
            if now < dead_at + half {
                self.phase = Phase::Closed;
                return Err(ProtocolError::PeerDead);
            }
            self.life = now.checked_sub(half).unwrap_or(now);
        }
        if let Some(heartbeat) = self.beats()
            && self.next_ping <= now
        {
            self.next_ping = later(now, heartbeat.interval);
            if self.output.len() < MAX_PENDING_CONTROL {
                let ttl = u16::try_from(heartbeat.timeout.as_millis() / 100).unwrap_or(u16::MAX);
                let ping = Control::Ping { ttl, context: &[] };
                put(self.security.sealer(), &ping, &mut self.output)?;
            }
        }
        Ok(())
    }

    /// A sign of life other than input. Call it when a write went on after the kernel had no room: then the peer
    /// has taken something. (A write that found room at once says nothing about the peer.) Call it also while
    /// reading is suspended, when the deadline has passed: that silence is ours.
    ///
    /// ```
    /// # use ripstop::zmtp::{Config, Connection};
    /// let now = std::time::Instant::now();
    /// Connection::new(Config::default(), now).wrote(now);
    /// ```
    pub fn wrote(&mut self, now: Instant) {
        self.life = self.life.max(now);
    }

    /// The heartbeat, if this peer can have one.
    fn beats(&self) -> Option<Heartbeat> {
        self.heartbeat.filter(|_| self.peer.as_ref().is_some_and(|p| p.minor >= 1))
    }

    /// When the peer counts as dead unless something is heard of it.
    fn dead_at(&self) -> Option<Instant> {
        let patience = self.beats().map(|h| h.timeout);
        patience.into_iter().chain(self.ttl).min().map(|patience| later(self.life, patience))
    }
}

/// Appends a command to `out`, sealed if there is a sealer.
fn put(sealer: Option<&mut Sealer>, control: &Control<'_>, out: &mut BytesMut) -> Result<(), ProtocolError> {
    let Some(sealer) = sealer else {
        control.encode(out);
        return Ok(());
    };
    let mut plain = BytesMut::new();
    control.encode(&mut plain);
    sealer.put(&plain, out)
}

/// `Instant + Duration` that cannot overflow, nor stand still: 1 ms to 34 years.
fn later(now: Instant, by: Duration) -> Instant {
    now + by.clamp(Duration::from_millis(1), Duration::from_secs(1 << 30))
}
