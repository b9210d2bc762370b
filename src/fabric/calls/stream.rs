//! Replies that come one after the other: `node.call_stream`, `node.serve_stream`.
//!
//! The caller says how many bytes it takes, and says so again as it takes them, so that a slow reader slows its own writer and
//! nothing else: the connection is never waited for.
//!
//! ```text
//!   caller                                   handler
//!   call, cr = 262144   ───────────────▶     replies.send(…)   waits while it has no credit
//!     ◀───────────────  item, item, item
//!   credit 65536        ───────────────▶
//!     ◀───────────────  item … end           Ok(())
//! ```

use std::{
    future::{Future, IntoFuture, poll_fn},
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, Sleep, sleep_until, timeout_at},
};

use super::{
    client::{Attempt, millis, typed_error},
    pending::{CancelOnDrop, Outcome, Waiter},
    server::current_deadline,
};
use crate::{
    Message,
    discovery::NodeId,
    envelope::{CreditBody, EncodeError, Header, Kind, check_subject, root},
    fabric::{
        Node,
        error::{CallError, HandlerError},
        link::{Connection, PeerLink},
        resilience::retry::Whom,
        shared::{Shared, deadline},
        wire::{self, Envelope, Outgoing, body},
    },
    message::Frame,
    security::Action,
    socket::pipe::{Held, Pipe, Put},
};

/// What a reader takes at once unless it says otherwise, in bytes.
const WINDOW: u32 = 256 << 10;
/// What an item counts beside its body.
const OVERHEAD: usize = 64;
/// A body up to this length is copied out of what was read with it, which would be held for as long.
const COPIED: usize = 4096;

/// What an item takes of a window: one that is larger than the window takes all of it.
fn cost(length: usize, window: u32) -> u32 {
    u32::try_from(length.saturating_add(OVERHEAD)).unwrap_or(u32::MAX).min(window)
}

/// What comes for a stream.
pub(super) enum Piece {
    /// A body, and that it is held.
    Item(Bytes, Held),
    End,
    /// An error, the loss of the connection, or the one reply of a method that gives only one.
    Last(Outcome),
}

/// The way from a connection to the reader of a stream. What waits there is bounded by the reader's credit.
pub(super) struct Feed {
    pieces: mpsc::UnboundedSender<Piece>,
    /// What the reader has granted and nobody has used, shared with the reader.
    credit: Arc<Semaphore>,
    window: u32,
}

impl Feed {
    /// `Err`: that is more than the reader takes; the peer does not keep to what was agreed.
    pub(super) fn item(&mut self, pipe: &Arc<Pipe>, body: Bytes) -> Result<(), String> {
        let cost = cost(body.len(), self.window);
        match self.credit.try_acquire_many(cost) {
            Ok(used) => used.forget(),
            Err(_) => return Err("it sends more of a stream than it was asked for".into()),
        }
        let body = if body.len() > COPIED { body } else { Bytes::copy_from_slice(&body) };
        let held = pipe.hold(body.len() + OVERHEAD);
        self.put(Piece::Item(body, held));
        Ok(())
    }

    /// A reader that has gone needs nothing more.
    pub(super) fn put(&self, piece: Piece) {
        let _ = self.pieces.send(piece);
    }
}

/// A call for a stream being prepared by [`Node::call_stream`]. Await it to make the call.
#[must_use = "a call does nothing until it is awaited"]
pub struct CallStream<R> {
    node: Node,
    subject: String,
    request: Result<Bytes, CallError>,
    timeout: Option<Duration>,
    instance: Option<NodeId>,
    window: u32,
    reply: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> CallStream<R> {
    pub(crate) fn new<Q: Serialize + ?Sized>(node: &Node, subject: &str, request: &Q) -> Self {
        Self {
            node: node.clone(),
            subject: subject.to_owned(),
            request: body(request).map_err(CallError::from),
            timeout: None,
            instance: None,
            window: WINDOW,
            reply: PhantomData,
        }
    }

    /// How long it may take in all, from now to its end. Default: as for calls, 10 s; a stream that is to go on for long says so here,
    /// and `Duration::MAX` is for ever. Inside a handler the time that its own caller left is the upper bound.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let mut prices = node.call_stream::<_, u64>("pricing.watch", "anvil").timeout(Duration::MAX).await?;
    /// # Ok(()) }
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Asks this instance and no other.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let own = node.id();
    /// let mut log = node.call_stream::<_, String>("log.tail", &()).instance(own).await?;
    /// # Ok(()) }
    /// ```
    pub fn instance(mut self, node: NodeId) -> Self {
        self.instance = Some(node);
        self
    }

    /// How many bytes of replies may be here, or on their way, that were not taken yet. A larger reply comes alone. Default: 256 KiB.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let mut rows = node.call_stream::<_, Vec<u64>>("stock.export", &()).window(4 << 20).await?;
    /// # Ok(()) }
    /// ```
    pub fn window(mut self, bytes: u32) -> Self {
        self.window = bytes.max(OVERHEAD as u32);
        self
    }

    async fn open(self) -> Result<Replies<R>, CallError> {
        let request = self.request?;
        check_subject(&self.subject)?;
        let shared = self.node.shared().clone();
        let (size, limit) = (request.len(), shared.options.max_message);
        if size > limit {
            return Err(CallError::TooLarge { subject: self.subject, size, limit });
        }
        let target = shared.targets.of(root(&self.subject), Instant::now);
        let given = self.timeout.unwrap_or(target.policy.its.deadline);
        let wanted = deadline(given);
        let by = current_deadline().map_or(wanted, |inherited| inherited.min(wanted));
        let late = |_| CallError::Deadline { subject: self.subject.clone(), after: given };
        let (link, guard, pieces, credit) = {
            let attempt = Attempt {
                shared: &shared,
                target: Some(&target),
                subject: &self.subject,
                request,
                deadline: by,
                instance: self.instance,
                key: None,
                idempotent: false,
            };
            timeout_at(by, begin(&attempt, self.window)).await.map_err(late)??
        };
        Ok(Replies {
            guard,
            pieces: Some(pieces),
            credit,
            window: self.window,
            taken: 0,
            late: Box::pin(sleep_until(by)),
            after: millis(given),
            size,
            link,
            node: self.node,
            reply: PhantomData,
        })
    }
}

impl<R: DeserializeOwned + 'static> IntoFuture for CallStream<R> {
    type Output = Result<Replies<R>, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

type Begun = (Arc<PeerLink>, CancelOnDrop<String>, mpsc::UnboundedReceiver<Piece>, Arc<Semaphore>);

/// Sends the request to the first instance that takes it.
async fn begin(attempt: &Attempt<'_>, window: u32) -> Result<Begun, CallError> {
    let mut tried = Vec::new();
    let mut last = None;
    loop {
        let candidates = match attempt.candidates(&mut tried, Whom::Others).await {
            Ok(candidates) => candidates,
            Err(error) => return Err(last.unwrap_or(error)),
        };
        match attempt.connect(candidates).await {
            Ok((link, connection)) => match send(attempt, &link, &connection, window).await {
                Ok((guard, pieces, credit)) => return Ok((link, guard, pieces, credit)),
                // Nothing was sent: another instance may have it.
                Err(error) => {
                    tried.push(link);
                    last = Some(error);
                }
            },
            Err((failed, error)) => {
                tried.extend(failed);
                last = Some(error);
            }
        }
    }
}

async fn send(
    attempt: &Attempt<'_>,
    link: &PeerLink,
    connection: &Connection,
    window: u32,
) -> Result<(CancelOnDrop<String>, mpsc::UnboundedReceiver<Piece>, Arc<Semaphore>), CallError> {
    let subject = attempt.subject;
    if let Err(reason) = attempt.shared.guard.may(&connection.pipe, Action::Serve, subject) {
        return Err(CallError::Forbidden { subject: subject.into(), reason });
    }
    let gone = |reason: &str| CallError::NoInstance {
        service: root(subject).into(),
        reason: Some(format!("{}: {reason}", link.name())),
    };
    let (sender, pieces) = mpsc::unbounded_channel();
    let credit = Arc::new(Semaphore::new(window as usize));
    let feed = Feed { pieces: sender, credit: credit.clone(), window };
    let ticket = connection.pending.wait(Waiter::Stream(feed)).map_err(|reason| gone(&reason))?;
    let guard = CancelOnDrop { ticket, subject: subject.to_owned(), pipe: connection.pipe.clone() };
    loop {
        let mut header = Header::new(Kind::Call, guard.ticket.id);
        let left = attempt.deadline.saturating_duration_since(Instant::now());
        header.fields.dl = Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1));
        header.fields.rare_mut().cr = Some(window);
        let request = Outgoing {
            envelope: Envelope::Delimiter,
            subject,
            header: &wire::header(&header),
            body: Frame::Shared(&attempt.request),
        };
        match connection.pipe.try_put(&request) {
            Put::Queued | Put::Batched => return Ok((guard, pieces, credit)),
            Put::Full => drop(connection.pipe.space().await),
            Put::Closed => return Err(gone("the connection has just ended")),
        }
    }
}

/// The replies to one call, one after the other. Dropped before its end, it cancels the handler.
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
/// let mut rows = node.call_stream::<_, String>("stock.export", "warehouse 7").await?;
/// while let Some(row) = rows.recv().await {
///     println!("{}", row?);
/// }
/// # Ok(()) }
/// ```
#[must_use = "a stream that is dropped cancels its handler"]
pub struct Replies<R> {
    guard: CancelOnDrop<String>,
    /// `None`: it has ended.
    pieces: Option<mpsc::UnboundedReceiver<Piece>>,
    credit: Arc<Semaphore>,
    window: u32,
    /// Taken, and not granted again yet.
    taken: u32,
    late: Pin<Box<Sleep>>,
    after: Duration,
    /// Of the request.
    size: usize,
    link: Arc<PeerLink>,
    node: Node,
    reply: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> Replies<R> {
    /// The next reply; `None` behind the last one. Cancel safe: a reply is never lost between two calls.
    ///
    /// # Errors
    /// [`CallError`]: as for a call. After [`CallError::Decode`] the next reply comes all the same; every other error is the last
    /// thing that comes, and the replies before it have come.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let first = node.call_stream::<_, u64>("clock.ticks", &()).await?.recv().await;
    /// # Ok(()) }
    /// ```
    pub async fn recv(&mut self) -> Option<Result<R, CallError>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<R, CallError>>> {
        let Some(pieces) = &mut self.pieces else { return Poll::Ready(None) };
        let piece = match pieces.poll_recv(cx) {
            Poll::Ready(piece) => piece.unwrap_or(Piece::Last(Outcome::Lost("the connection ended".into()))),
            Poll::Pending => {
                // All that has come was taken: what is held back now could be what the next reply waits for.
                self.grant();
                std::task::ready!(self.late.as_mut().poll(cx));
                self.pieces = None;
                // The serving side learns it now, not when this is dropped.
                self.guard.cancel();
                let subject = self.guard.subject.clone();
                return Poll::Ready(Some(Err(CallError::Deadline { subject, after: self.after })));
            }
        };
        let item = match piece {
            Piece::Item(body, held) => {
                drop(held);
                self.taken += cost(body.len(), self.window);
                if self.taken >= self.window / 4 {
                    self.grant();
                }
                Some(self.decoded(&body))
            }
            Piece::End => {
                self.pieces = None;
                None
            }
            Piece::Last(outcome) => {
                self.pieces = None;
                Some(self.last(outcome))
            }
        };
        Poll::Ready(item)
    }

    fn decoded(&self, body: &[u8]) -> Result<R, CallError> {
        let subject = || self.guard.subject.clone();
        wire::decoded(body, self.node.shared().options.body, "calls")
            .map_err(|reason| CallError::Decode { subject: subject(), reason })
    }

    fn last(&self, outcome: Outcome) -> Result<R, CallError> {
        let (subject, instance) = (&self.guard.subject, self.link.name());
        match outcome {
            // A method that answers once: its answer is all there is.
            Outcome::Reply(body) => self.decoded(&body),
            Outcome::Error(body) => {
                let left = self.late.deadline().saturating_duration_since(Instant::now());
                let sizes = (self.size, self.node.shared().options.max_message);
                Err(typed_error(subject, &body, instance, sizes, left))
            }
            Outcome::Lost(reason) => {
                Err(CallError::Lost { subject: subject.clone(), instance, reason: reason.to_string() })
            }
        }
    }

    /// As much may come as was taken.
    fn grant(&mut self) {
        let credit = std::mem::take(&mut self.taken);
        if credit == 0 {
            return;
        }
        self.credit.add_permits(credit as usize);
        let CancelOnDrop { ticket, subject, pipe } = &self.guard;
        wire::urgent(
            pipe,
            Envelope::Delimiter,
            subject,
            Header::new(Kind::Credit, ticket.id),
            &CreditBody(credit),
        );
    }

    /// The instance that answers.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// println!("{:?}", node.call_stream::<_, u64>("clock.ticks", &()).await?.instance());
    /// # Ok(()) }
    /// ```
    pub fn instance(&self) -> Option<NodeId> {
        self.link.node()
    }
}

impl<R: DeserializeOwned> futures_core::Stream for Replies<R> {
    type Item = Result<R, CallError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_recv(cx)
    }
}

/// Where the replies of one streaming request go, on the serving side.
pub(super) struct Out {
    pub(super) shared: Arc<Shared>,
    pub(super) pipe: Arc<Pipe>,
    /// The request's routing envelope.
    pub(super) route: Message,
    pub(super) id: u64,
    pub(super) subject: Arc<str>,
    pub(super) credit: Credit,
}

/// What the reader of a stream takes, on the serving side.
#[derive(Clone)]
pub(super) struct Credit {
    left: Arc<Semaphore>,
    window: u32,
}

impl Credit {
    pub(super) fn new(window: u32) -> Self {
        Self { left: Arc::new(Semaphore::new(window as usize)), window }
    }

    /// The reader takes so much more. Never more than its window: that much was all that it could have taken.
    pub(super) fn grant(&self, credit: u32) {
        let room = (self.window as usize).saturating_sub(self.left.available_permits());
        self.left.add_permits(room.min(credit as usize));
    }
}

/// Where a handler of [`Node::serve_stream`] puts its replies.
pub struct ReplySink<R> {
    out: Box<Out>,
    reply: PhantomData<fn(R)>,
}

impl<R: Serialize> ReplySink<R> {
    pub(super) fn new(out: Box<Out>) -> Self {
        Self { out, reply: PhantomData }
    }

    /// Sends one reply, as soon as the reader takes more. A reader that has gone cancels the handler, at this place or another.
    ///
    /// # Errors
    /// The reply cannot be written as MessagePack, or is larger than `limits.max_message`; the connection has ended.
    ///
    /// Cancel safe: a reply whose sending was given up is not sent.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.serve_stream("clock.ticks", |count: u64, _ctx, replies: ripstop::fabric::ReplySink<u64>| async move {
    ///     for tick in 0..count {
    ///         replies.send(&tick).await?;
    ///     }
    ///     Ok(())
    /// }).await?;
    /// # Ok(()) }
    /// ```
    pub async fn send(&self, reply: &R) -> Result<(), HandlerError> {
        let Out { shared, pipe, route, id, subject, credit } = &*self.out;
        let body: Bytes = body(reply).map_err(|error: EncodeError| HandlerError::from(error))?;
        let limit = shared.options.max_message;
        if body.len() > limit {
            let size = body.len();
            return Err(HandlerError::new(format!("a reply of {size} bytes is over the limit of {limit}")));
        }
        let gone = || HandlerError::new("the caller has gone");
        let used = credit.left.acquire_many(cost(body.len(), credit.window)).await.map_err(|_| gone())?;
        let mut header = Vec::with_capacity(16);
        Header::new(Kind::Item, *id).encode(&mut header);
        let item = Outgoing {
            envelope: Envelope::Echo(route, route.len()),
            subject,
            header: &header,
            body: Frame::Shared(&body),
        };
        loop {
            match pipe.try_put(&item) {
                Put::Queued | Put::Batched => {
                    used.forget();
                    return Ok(());
                }
                Put::Full => {
                    if !pipe.space().await {
                        return Err(gone());
                    }
                }
                Put::Closed => return Err(gone()),
            }
        }
    }
}

show!([R] CallStream<R>, "CallStream", this, { subject: this.subject, timeout: this.timeout, instance: this.instance });

show!([R] Replies<R>, "Replies", this, { subject: this.guard.subject, ended: this.pieces.is_none() });

show!([R] ReplySink<R>, "ReplySink", this, { subject: this.out.subject });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_never_more_than_it_was() {
        assert_eq!((cost(0, 1000), cost(100, 1000), cost(1 << 40, 1000)), (64, 164, 1000));
        let credit = Credit::new(1000);
        credit.left.try_acquire_many(300).unwrap().forget();
        credit.grant(200);
        assert_eq!(credit.left.available_permits(), 900);
        credit.grant(u32::MAX);
        assert_eq!(credit.left.available_permits(), 1000);
    }
}
