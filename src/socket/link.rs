//! One task per connection: where the pure protocol meets the stream.
//!
//! Each turn of its loop writes what is due (protocol output between sealed chunks) and reads what has come. Both
//! directions live in one poll function, so that a blocked write never stops reading, and neither needs a lock or
//! a second task.

use std::io::{self, IoSlice};
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep};

use crate::socket::batch::Sending;
use crate::socket::core::{Admission, Admit, Core, Disconnect, Flow, LinkOptions, Origin, Refusal};
use crate::socket::limit::Limit;
use crate::socket::monitor::{Event, Reporter};
use crate::socket::pipe::{Next, Pipe, Signal};
use crate::socket::readbuf::ReadBuf;
use crate::transport::Stream;
use crate::transport::tls::{Proof, explain};
use crate::zmtp::{self, Config, Connection, Local, ProtocolError, Received, State};

/// After everything is flushed, the peer has this long to close its side too: closing with bytes of the peer's
/// unread would reset the connection and could destroy what we flushed.
const FAREWELL: Duration = Duration::from_secs(1);
/// A connection with this long no traffic gives back its buffers.
const IDLE: Duration = Duration::from_secs(10);
/// After this many a task of this runtime that waits comes first: a read can bring a thousand subscriptions, and the
/// runtime's own budget would let a hundred reads pass.
const TURNS: usize = 8;
/// How long reading waits for a receiver that may be just about to take what there is.
const BREATH: Duration = Duration::from_millis(1);
/// Pieces of a chunk in one vectored write.
const SLICES: usize = 32;

/// What a link begins with.
pub(super) struct Setup {
    pub(super) origin: Arc<Origin>,
    pub(super) proof: Proof,
    pub(super) core: Arc<dyn Core>,
    pub(super) options: LinkOptions,
    /// Dialled: our READY. Accepted: `None`, the core says it.
    pub(super) local: Option<Local>,
    /// The pipe of a dial that keeps its queue.
    pub(super) kept: Option<Arc<Pipe>>,
    pub(super) monitor: Reporter,
    pub(super) owner: Arc<dyn Owner>,
}

/// The dial or listener that a link came from.
pub(super) trait Owner: Send + Sync {
    /// The handshake is over; `false` ends the link.
    fn ready(&self, pipe: &Arc<Pipe>) -> bool;

    /// Whether there will be another connection after this one.
    fn goes_on(&self) -> bool;
}

/// How a link ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) reason: String,
    /// Messages could flow (and `left` was called).
    pub(super) was_up: bool,
    /// One side refused the other for good.
    pub(super) last: bool,
    pub(super) unknown: usize,
}

/// Drives one connection from its first byte to its end. Not an `async fn`, whose future would have room for what it was given
/// beside what it makes of that, for as long as the connection lasts.
pub(super) fn run(stream: Stream, setup: Setup) -> impl Future<Output = End> + Send {
    let link = setup.options.mechanism.begin().map(|mechanism| Box::new(Link::new(stream, setup, mechanism)));
    async move {
        match link {
            Ok(mut link) => {
                let cause = std::future::poll_fn(|cx| link.poll(cx)).await;
                link.end(cause)
            }
            Err(error) => {
                let reason = format!("no random bytes: {error}");
                End { reason, was_up: false, last: false, unknown: 0 }
            }
        }
    }
}

/// Why the loop stopped.
enum Cause {
    /// Ended by us, everything flushed.
    Clean(String),
    /// For good: a ZMTP ERROR went either way.
    Final(String),
    Broken(String),
}

/// A handshake below ZMTP took too long, which is counted as one of ZMTP; what to say of it.
pub(super) fn too_late() -> String {
    count(&ProtocolError::HandshakeTimeout);
    ProtocolError::HandshakeTimeout.to_string()
}

fn count(error: &ProtocolError) {
    metrics::counter!("ripstop_socket_protocol_errors_total", "reason" => error.reason()).increment(1);
}

impl From<ProtocolError> for Cause {
    fn from(error: ProtocolError) -> Self {
        count(&error);
        match error {
            ProtocolError::Refused(_) => Self::Final(error.to_string()),
            _ => Self::Broken(error.to_string()),
        }
    }
}

type Asking = Pin<Box<dyn Future<Output = Result<Admission, Refusal>> + Send>>;

struct Link {
    stream: Stream,
    conn: Connection,
    origin: Arc<Origin>,
    proof: Proof,
    core: Arc<dyn Core>,
    /// Whether the peer may come in is being asked; nothing is read meanwhile.
    asking: Option<Asking>,
    options: LinkOptions,
    pipe: Option<Arc<Pipe>>,
    up: bool,
    /// The pipe outlives this connection.
    keep: bool,
    monitor: Reporter,
    owner: Arc<dyn Owner>,

    // Outgoing: `small` (protocol output, control bytes) goes first, then `sending`.
    small: Vec<u8>,
    small_at: usize,
    sending: Option<Sending>,
    /// The last write found no room.
    blocked: bool,
    /// Written since the last flush, which only some transports need.
    unflushed: bool,
    write_error: Option<(io::Error, Instant)>,
    stage: Stage,
    cause: Option<Cause>,

    // Incoming.
    reads: ReadBuf,
    received: Received,
    paused: bool,
    /// Reading waits until then, unless it is resumed.
    breathe_until: Option<Instant>,
    /// The peer makes us hold as much as it may.
    full: bool,

    sleep: Pin<Box<Sleep>>,
    /// What `sleep` is set to; `None`: not at all.
    alarm: Option<Instant>,
    close_by: Option<Instant>,
    last_traffic: Instant,
    trimmed: bool,
}

/// The steps of a close by us; `Link::cause` says why.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Up,
    /// Only protocol output is still written.
    Flush,
    /// Flushed; our side is being shut down.
    Shutdown,
    /// Waiting for the peer to close too.
    Farewell,
}

impl Link {
    fn new(stream: Stream, setup: Setup, mechanism: zmtp::Mechanism) -> Self {
        let now = Instant::now();
        let config = Config {
            mechanism,
            local: setup.local,
            limits: setup.options.limits.clone(),
            heartbeat: setup.options.heartbeat,
        };
        Self {
            stream,
            conn: Connection::new(config, now.into_std()),
            origin: setup.origin,
            proof: setup.proof,
            core: setup.core,
            asking: None,
            options: setup.options,
            keep: setup.kept.is_some(),
            pipe: setup.kept,
            up: false,
            monitor: setup.monitor,
            owner: setup.owner,
            small: Vec::new(),
            small_at: 0,
            sending: None,
            blocked: false,
            unflushed: false,
            write_error: None,
            stage: Stage::Up,
            cause: None,
            reads: ReadBuf::new(),
            received: Received::default(),
            paused: false,
            breathe_until: None,
            full: false,
            sleep: Box::pin(tokio::time::sleep_until(now)),
            alarm: None,
            close_by: None,
            last_traffic: now,
            trimmed: true,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        match self.turns(cx) {
            Ok(()) => Poll::Pending,
            Err(cause) => Poll::Ready(cause),
        }
    }

    /// Takes turns until nothing more can be done now, or it is the turn of others.
    fn turns(&mut self, cx: &mut Context<'_>) -> Result<(), Cause> {
        for _ in 0..TURNS {
            self.look(cx)?;
            self.poll_asking(cx)?;
            let more = self.poll_write(cx)?.is_ready();
            let read = self.poll_read(cx)?.is_ready();
            if more || read {
                continue;
            }
            if self.poll_alarm(cx).is_pending() {
                return Ok(());
            }
            self.tick()?;
        }
        // However busy it is.
        if self.poll_alarm(cx).is_ready() {
            self.tick()?;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Looks for signals from the pipe.
    fn look(&mut self, cx: &Context<'_>) -> Result<(), Cause> {
        let Some(pipe) = &self.pipe else { return Ok(()) };
        let (signal, resumed) = pipe.signals(cx.waker());
        match signal {
            Signal::None => {}
            Signal::Close(until) => {
                // Without anything to flush the handshake need not be finished.
                if !self.up && pipe.queued().0 == 0 {
                    return Err(Cause::Clean("closed during the handshake".into()));
                }
                if let Some(until) = until {
                    self.close_by = Some(self.close_by.map_or(until, |by| by.min(until)));
                }
            }
            Signal::Abort(reason) => return Err(Cause::Broken(reason.to_string())),
        }
        if resumed {
            self.breathe_until = None;
            if mem::take(&mut self.paused) {
                self.deliver()?;
            }
        }
        Ok(())
    }

    // ---- time ----

    fn tick(&mut self) -> Result<(), Cause> {
        let Some(alarm) = self.next_alarm() else { return Ok(()) };
        let now = Instant::now();
        if now < alarm {
            return Ok(());
        }
        if self.close_by.is_some_and(|by| by <= now) {
            let unflushed = || Cause::Broken("closed before everything was flushed (linger)".into());
            return Err(self.cause.take().unwrap_or_else(unflushed));
        }
        if let Some((error, since)) = &self.write_error
            && !self.paused
            && *since + self.options.limits.handshake <= now
        {
            return Err(broken("writing", error));
        }
        // That silence is ours. (If it is full only of what the peer does not take, it is the peer's.)
        if self.paused || self.full && self.pipe.as_ref().is_some_and(|pipe| pipe.is_waiting()) {
            self.conn.wrote(now.into_std());
        }
        self.conn.timeout(now.into_std())?;
        if !self.trimmed && self.last_traffic + IDLE <= now {
            self.trim();
        }
        if self.breathe_until.is_some_and(|until| until <= now) {
            self.breathe_until = None;
        }
        Ok(())
    }

    fn next_alarm(&self) -> Option<Instant> {
        let protocol = self.conn.deadline().map(Instant::from_std);
        let write_error = self.write_error.as_ref().filter(|_| !self.paused);
        let write_error = write_error.map(|(_, since)| *since + self.options.limits.handshake);
        let idle = (!self.trimmed).then(|| self.last_traffic + IDLE);
        [protocol, write_error, idle, self.close_by, self.breathe_until].into_iter().flatten().min()
    }

    /// Sets the alarm. An alarm that is too early is left as it is: moving it at every read would cost more.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(next) = self.next_alarm() else { return Poll::Pending };
        if self.alarm.is_none_or(|alarm| next < alarm) {
            self.sleep.as_mut().reset(next);
            self.alarm = Some(next);
        }
        ready!(self.sleep.as_mut().poll(cx));
        self.alarm = None;
        Poll::Ready(())
    }

    /// Gives back the memory that only a busy connection needs.
    fn trim(&mut self) {
        self.trimmed = true;
        self.reads.trim();
        if !self.paused {
            self.received = Received::default();
        }
        if self.small_at == self.small.len() {
            (self.small, self.small_at) = (Vec::new(), 0);
        }
        if let Some(pipe) = &self.pipe {
            pipe.trim();
        }
    }

    fn traffic(&mut self, now: Instant) {
        self.last_traffic = now;
        self.trimmed = false;
    }

    // ---- out ----

    /// Ready: there is more, or something changed; call again. Pending: blocked, or everything is out.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Cause> {
        if self.write_error.is_some() {
            return Ok(Poll::Pending);
        }
        // Not more at once, so that reading has its turn before the task's budget is spent.
        for _ in 0..4 {
            if !self.prepare()? {
                // TLS may have taken what the kernel has no room for yet.
                if mem::take(&mut self.unflushed) {
                    match Pin::new(&mut self.stream).poll_flush(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => return Ok(self.cannot_write(error)),
                        Poll::Pending => {
                            self.unflushed = true;
                            return Ok(Poll::Pending);
                        }
                    }
                }
                self.poll_leave(cx)?;
                return Ok(Poll::Pending);
            }
            match self.poll_write_some(cx) {
                Poll::Pending => {
                    self.blocked = true;
                    return Ok(Poll::Pending);
                }
                Poll::Ready(Ok(())) => {
                    if mem::take(&mut self.blocked) {
                        // The kernel had no room and has some again: the peer took something.
                        self.conn.wrote(Instant::now().into_std());
                    }
                }
                Poll::Ready(Err(error)) => return Ok(self.cannot_write(error)),
            }
        }
        Ok(Poll::Ready(()))
    }

    /// What the peer sent before may still be readable, also why it refuses us, so that reading goes on to its end.
    fn cannot_write(&mut self, error: io::Error) -> Poll<()> {
        self.write_error = Some((error, Instant::now()));
        Poll::Ready(())
    }

    /// Makes sure there is something in `small` or `sending`; `false`: nothing to write.
    fn prepare(&mut self) -> Result<bool, Cause> {
        loop {
            if self.small_at < self.small.len() {
                return Ok(true);
            }
            if self.sending.as_ref().is_some_and(|sending| !sending.is_done()) {
                return Ok(true);
            }
            let output = self.conn.output();
            if !output.is_empty() {
                self.small.clear();
                self.small_at = 0;
                self.small.extend_from_slice(output);
                output.clear();
                continue;
            }
            if self.stage == Stage::Flush {
                self.stage = Stage::Shutdown;
            }
            if self.stage != Stage::Up || !self.up {
                return Ok(false);
            }
            let Some(pipe) = &self.pipe else { return Ok(false) };
            let sent = self.sending.take();
            if let Some(sent) = &sent {
                metrics::counter!("ripstop_socket_messages_sent_total").increment(sent.messages() as u64);
            }
            let (next, writable) = pipe.next(sent, &mut self.small);
            self.small_at = if matches!(next, Next::Control) { 0 } else { self.small.len() };
            // Sealed in the order in which it is written: whatever came before is out, or in front of it.
            let sealer = self.conn.sealer();
            let drained = match next {
                Next::Control => {
                    if let Some(sealer) = sealer {
                        let plain = std::mem::take(&mut self.small);
                        sealer.put(&plain, &mut self.small)?;
                    }
                    false
                }
                Next::Chunk(mut sending) => {
                    let sealed = sealer.is_none_or(|sealer| sending.seal(sealer));
                    if !sealed {
                        return Err(Cause::Broken("a batch could not be sealed".into()));
                    }
                    self.sending = Some(sending);
                    false
                }
                Next::Parked => true,
                Next::Drained(reason) => {
                    self.stage = Stage::Shutdown;
                    self.cause = Some(Cause::Clean(reason.to_string()));
                    true
                }
            };
            if writable {
                self.core.writable(pipe);
            }
            if drained {
                return Ok(false);
            }
        }
    }

    fn poll_write_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = Pin::new(&mut self.stream);
        let written = if let Some(rest) = self.small.get(self.small_at..).filter(|rest| !rest.is_empty()) {
            let written = ready!(stream.poll_write(cx, rest))?;
            self.small_at += written;
            written
        } else if let Some(sending) = &mut self.sending {
            let written = match sending.single() {
                Some(rest) => ready!(stream.poll_write(cx, rest))?,
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES];
                    let filled = sending.slices(&mut slices);
                    ready!(stream.poll_write_vectored(cx, slices.get(..filled).unwrap_or_default()))?
                }
            };
            sending.advance(written);
            self.last_traffic_now();
            written
        } else {
            return Poll::Ready(Ok(()));
        };
        self.unflushed = true;
        Poll::Ready(if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) })
    }

    fn last_traffic_now(&mut self) {
        if self.trimmed {
            self.traffic(Instant::now());
        }
    }

    /// Everything is flushed: shut down our side, then wait for the peer's.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Result<(), Cause> {
        if self.stage == Stage::Shutdown {
            let Poll::Ready(outcome) = Pin::new(&mut self.stream).poll_shutdown(cx) else { return Ok(()) };
            if outcome.is_err() {
                return Err(self.gone("shutting down failed"));
            }
            self.stage = Stage::Farewell;
            self.close_within(FAREWELL);
        }
        Ok(())
    }

    fn close_within(&mut self, time: Duration) {
        let by = Instant::now() + time;
        self.close_by = Some(self.close_by.map_or(by, |before| before.min(by)));
    }

    /// What the end is put down to: our own closing, else `reason`.
    fn gone(&mut self, reason: &str) -> Cause {
        self.cause.take().unwrap_or_else(|| Cause::Broken(reason.to_owned()))
    }

    // ---- in ----

    /// Ready: something came or changed; call again.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Cause> {
        if self.paused || self.breathe_until.is_some() || self.asking.is_some() || self.is_full() {
            return Ok(Poll::Pending);
        }
        let room = self.reads.prepare(self.conn.wanted());
        // A future that lives for one poll: it keeps no state.
        let read = pin!(self.stream.read_buf(&mut self.reads.buf)).poll(cx);
        match read {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => {
                return Err(match &self.write_error {
                    Some((error, _)) => broken("writing", error),
                    None if self.up => self.gone("the peer closed the connection"),
                    None => self.gone("the peer closed the connection during the handshake"),
                });
            }
            Poll::Ready(Ok(n)) => {
                self.reads.filled(n, room);
                if let Some(pipe) = &self.pipe {
                    pipe.came(n);
                }
            }
            Poll::Ready(Err(error)) => {
                return Err(self.gone(&format!("reading failed: {}", explain(&error))));
            }
        }
        self.input(Instant::now())?;
        Ok(Poll::Ready(()))
    }

    /// Whether the peer makes us hold as much as it may. Looked at before each read: taking and writing end it, and
    /// both wake this task.
    fn is_full(&mut self) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        let full = !pipe.may_read(self.reads.buf.len());
        if full && !self.full {
            Limit::PeerMemory.count();
            let (endpoint, remote) = (self.origin.endpoint(), self.origin.remote());
            tracing::debug!(%endpoint, remote, limit = Limit::PeerMemory.reason(), "reading stopped");
            self.monitor.report(|| Event::Limited {
                endpoint: endpoint.clone(),
                remote: remote.to_owned(),
                limit: Limit::PeerMemory,
            });
        }
        self.full = full;
        full
    }

    fn input(&mut self, now: Instant) -> Result<(), Cause> {
        let before = self.received.messages.len();
        let outcome = self.conn.input(&mut self.reads.buf, now.into_std(), &mut self.received);
        let outcome = match (self.conn.state(), self.up) {
            (State::AwaitingAnswer, _) => self.admit(now),
            (State::Ready, false) if outcome.is_ok() => self.admit(now),
            _ => outcome.map_err(Cause::from),
        };
        let count = self.received.messages.len() - before;
        if count > 0 {
            self.traffic(now); // which heartbeats are not
            metrics::counter!("ripstop_socket_messages_received_total").increment(count as u64);
        }
        // What came whole before an error counts.
        let delivered = if self.up { self.deliver() } else { Ok(()) };
        outcome.and(delivered)
    }

    fn admit(&mut self, now: Instant) -> Result<(), Cause> {
        let Some(peer) = self.conn.peer() else { return Ok(()) };
        if let (Proof::None, Some(key)) = (&self.proof, peer.public_key) {
            self.proof = Proof::Curve(key);
        }
        match self.core.admit(peer, &self.origin, &self.proof) {
            Admit::Now(verdict) => self.verdict(verdict, now),
            Admit::Later(asking) => {
                self.asking = Some(asking);
                Ok(())
            }
        }
    }

    fn poll_asking(&mut self, cx: &mut Context<'_>) -> Result<(), Cause> {
        let Some(asking) = &mut self.asking else { return Ok(()) };
        let Poll::Ready(verdict) = asking.as_mut().poll(cx) else { return Ok(()) };
        self.asking = None;
        self.verdict(verdict, Instant::now())?;
        if self.up { self.deliver() } else { Ok(()) }
    }

    fn verdict(&mut self, verdict: Result<Admission, Refusal>, now: Instant) -> Result<(), Cause> {
        let Some(peer) = self.conn.peer().cloned() else { return Ok(()) };
        let admission = match verdict {
            Ok(admission) => admission,
            Err(refusal) => {
                if refusal.last {
                    self.conn.refuse(&refusal.reason);
                    self.stage = Stage::Flush;
                    self.cause = Some(Cause::Final(refusal.reason));
                    self.close_within(FAREWELL);
                    return Ok(());
                }
                return Err(Cause::Broken(refusal.reason));
            }
        };
        self.core = admission.core;
        let awaited = self.conn.state() == State::AwaitingAnswer;
        if awaited {
            self.conn.answer(admission.local)?;
        }
        let pipe = self.pipe.get_or_insert_with(|| Pipe::new(self.origin.clone(), &self.options)).clone();
        if !self.owner.ready(&pipe) {
            return Err(Cause::Broken("closing".into()));
        }
        pipe.attach(Arc::new(peer), self.origin.clone(), admission.about);
        self.up = true;
        self.core.joined(&pipe);
        let (endpoint, remote) = (self.origin.endpoint(), self.origin.remote());
        tracing::debug!(%endpoint, remote, "connected");
        self.monitor.report(|| {
            let (endpoint, remote) = (endpoint.clone(), remote.to_owned());
            match *self.origin {
                Origin::Dialled { .. } => Event::Connected { endpoint, remote },
                Origin::Accepted { .. } => Event::Accepted { endpoint, remote },
            }
        });
        if awaited && !self.reads.buf.is_empty() {
            // What the peer sent right behind its READY.
            self.conn.input(&mut self.reads.buf, now.into_std(), &mut self.received)?;
        }
        Ok(())
    }

    fn deliver(&mut self) -> Result<(), Cause> {
        if self.received.messages.is_empty() && self.received.commands.is_empty() {
            return Ok(());
        }
        let Some(pipe) = &self.pipe else { return Ok(()) };
        match self.core.deliver(pipe, &mut self.received) {
            Flow::Continue => {
                self.received.messages.clear();
                self.received.commands.clear();
                Ok(())
            }
            Flow::Breathe => {
                self.received.messages.clear();
                self.received.commands.clear();
                self.breathe_until = (!pipe.take_resumed()).then(|| Instant::now() + BREATH);
                Ok(())
            }
            Flow::Pause => {
                self.paused = true;
                // Also hears a resume that came in between.
                if pipe.take_resumed() {
                    self.paused = false;
                    return self.deliver();
                }
                Ok(())
            }
            Flow::Close(reason) => Err(Cause::Broken(reason)),
        }
    }

    // ---- end ----

    fn end(mut self, cause: Cause) -> End {
        let (reason, clean, last) = match cause {
            Cause::Clean(reason) => (reason, true, false),
            Cause::Final(reason) => (reason, false, true),
            Cause::Broken(reason) => (reason, false, false),
        };
        let mut end = End { reason, was_up: self.up, last, unknown: 0 };
        if !self.up {
            return end;
        }
        let Some(pipe) = &self.pipe else { return end };
        let mut sending = self.sending.take();
        let mut lost = 0;
        if self.keep
            && let Some(sealer) = self.conn.sealer()
            && let Some(batch) = sending.take_if(|batch| !batch.unseal(sealer))
        {
            lost = batch.messages(); // which cannot be: it was sealed with the same key
        }
        let (unknown, dropped) = pipe.detach(sending, self.keep);
        let unknown = unknown + lost;
        let retrying = !last && self.owner.goes_on();
        if unknown > 0 {
            metrics::counter!("ripstop_socket_messages_unknown_total").increment(unknown as u64);
        }
        if dropped > 0 {
            metrics::counter!("ripstop_socket_messages_dropped_total", "reason" => "disconnected")
                .increment(dropped as u64);
        }
        end.unknown = unknown;
        let why = Disconnect { reason: end.reason.clone(), clean, retrying, unknown, dropped };
        self.core.left(pipe, &why);
        let (endpoint, remote, reason) = (self.origin.endpoint(), self.origin.remote(), &end.reason);
        tracing::debug!(%endpoint, remote, reason, unknown, dropped, "disconnected");
        self.monitor.report(|| Event::Disconnected {
            endpoint: endpoint.clone(),
            remote: remote.to_owned(),
            reason: reason.clone(),
            unknown,
        });
        end
    }
}

fn broken(doing: &str, error: &io::Error) -> Cause {
    Cause::Broken(format!("{doing} failed: {}", explain(error)))
}
