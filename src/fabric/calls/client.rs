//! The calling side: deadline, instance, one request out, one reply back.

use std::{
    future::{Future, IntoFuture, poll_fn},
    marker::PhantomData,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use crate::{
    discovery::NodeId,
    envelope::{self, ErrorBody, Header, HelloBody, Kind, check_subject, root},
    fabric::{
        Node, balance,
        calls::{
            pending::{CancelOnDrop, Outcome},
            server::current_deadline,
        },
        error::CallError,
        link::{Connection, Lane, PeerLink},
        shared::{Shared, deadline},
        wire::{self, Envelope, Outgoing, body, own},
    },
    message::Frame,
    security::Action,
    socket::pipe::Put,
};

/// Attempts that never reach a handler go to another instance, this many times in all.
const ATTEMPTS: usize = 4;
/// The longest idempotency key, in bytes.
pub(super) const MAX_KEY: usize = 255;
/// How many instances that are not connected one call has dialled side by side.
const DIALS: usize = 8;

/// A call being prepared by [`Node::call`]. Await it to make the call.
///
/// Dropping the future gives the call up: the serving side cancels the handler.
#[must_use = "a call does nothing until it is awaited"]
pub struct Call<R> {
    node: Node,
    subject: String,
    request: Result<Bytes, CallError>,
    timeout: Option<Duration>,
    instance: Option<NodeId>,
    key: Option<String>,
    reply: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> Call<R> {
    pub(crate) fn new<Q: Serialize + ?Sized>(node: &Node, subject: &str, request: &Q) -> Self {
        Self {
            node: node.clone(),
            subject: subject.to_owned(),
            request: body(request).map_err(CallError::from),
            timeout: None,
            instance: None,
            key: None,
            reply: PhantomData,
        }
    }

    /// How long the call may take in all, discovery and every attempt included. Default: `timeouts.call`, 10 s. Inside
    /// a handler the time that its own caller left is the upper bound.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let now: String = node.call("clock.now", &()).timeout(std::time::Duration::from_secs(1)).await?;
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
    /// for peer in node.peers().await {
    ///     if let Some(id) = peer.node {
    ///         let _: String = node.call("clock.now", &()).instance(id).await?;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn instance(mut self, node: NodeId) -> Self {
        self.instance = Some(node);
        self
    }

    /// Names what is asked for, so that it is done once: whoever calls the same method with the same key again, because it does
    /// not know what became of the first call, gets the reply of the first, which is not cancelled either. Asked with another
    /// request, it is refused. 255 bytes at most. Default: none.
    ///
    /// The reply is remembered by the instance that gave it, on its disk if it has a `data_dir`, for as long as `durable.dedup_for`
    /// and `durable.dedup` say there; errors are not, but for those that say that trying again would not help. The same key goes
    /// to the same instance for as long as that is there. Keys of other services, and of other methods, are others.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let receipt: u64 = node.call("payments.charge", &(4711, "7 EUR")).idempotency_key("order-17").await?;
    /// # Ok(()) }
    /// ```
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Makes the call and says as well which instance answered.
    ///
    /// # Errors
    /// As for awaiting the call itself.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let (now, by): (String, _) = node.call("clock.now", &()).with_instance().await?;
    /// # Ok(()) }
    /// ```
    pub async fn with_instance(self) -> Result<(R, Option<NodeId>), CallError> {
        let request = self.request?;
        check_subject(&self.subject)?;
        let shared = self.node.shared();
        let given = self.timeout.unwrap_or(shared.options.call_timeout);
        let wanted = deadline(given);
        let deadline = current_deadline().map_or(wanted, |inherited| inherited.min(wanted));
        let key = self.key.as_deref();
        if let Some(length) = key.map(str::len).filter(|length| *length > MAX_KEY) {
            return Err(CallError::Key { length, limit: MAX_KEY });
        }
        let instance = self.instance;
        let attempt = Attempt { shared, subject: &self.subject, request, deadline, instance, key };
        // Inside a handler there may have been less time than was asked for.
        let after = match deadline < wanted {
            true => millis(deadline.saturating_duration_since(Instant::now())),
            false => given,
        };
        let late = |_| CallError::Deadline { subject: self.subject.clone(), after };
        let span = tracing::debug_span!("call", node = %shared.id, service = %shared.service, subject = %self.subject);
        // Pinned here, or else it would have room in this future three times over.
        let run = pin!(attempt.run());
        let result = timeout_at(deadline, run).instrument(span).await.map_err(late).flatten();
        let outcome = if result.is_ok() { "ok" } else { "error" };
        metrics::counter!("ripstop_calls_total", "outcome" => outcome).increment(1);
        let (reply, link) = result?;
        let reply = wire::decoded(&reply, shared.options.body, "calls")
            .map_err(|reason| CallError::Decode { subject: self.subject.clone(), reason })?;
        Ok((reply, link.node()))
    }
}

impl<R: DeserializeOwned + 'static> IntoFuture for Call<R> {
    type Output = Result<R, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.with_instance().await?.0) })
    }
}

/// One call under way: the same request, until an instance has taken it.
struct Attempt<'a> {
    shared: &'a Arc<Shared>,
    subject: &'a str,
    request: Bytes,
    deadline: Instant,
    instance: Option<NodeId>,
    key: Option<&'a str>,
}

impl Attempt<'_> {
    async fn run(&self) -> Result<(Bytes, Arc<PeerLink>), CallError> {
        let limit = self.shared.options.max_message;
        if self.request.len() > limit {
            return Err(CallError::TooLarge {
                subject: self.subject.into(),
                size: self.request.len(),
                limit,
            });
        }
        let mut tried: Vec<Arc<PeerLink>> = Vec::new();
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let candidates = match self.candidates(&tried).await {
                Ok(candidates) => candidates,
                Err(error) => return Err(last.unwrap_or(error)),
            };
            let (link, connection) = match self.connect(candidates).await {
                Ok(connected) => connected,
                Err((failed, error)) => {
                    tried.extend(failed);
                    last = Some(error);
                    continue;
                }
            };
            tried.push(link.clone());
            match self.ask(&link, &connection).await {
                // No handler has seen it. (An instance that has just started may not serve all its methods yet.)
                Err(error) if error.is_retryable() || error.is_elsewhere() => {
                    last = Some(error);
                }
                Ok(reply) => return Ok((reply, link)),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| self.nobody()))
    }

    /// The instances that were not tried yet. The first call of all waits for discovery.
    async fn candidates(&self, tried: &[Arc<PeerLink>]) -> Result<Vec<Arc<PeerLink>>, CallError> {
        let service = root(self.subject);
        let give_up = deadline(self.shared.options.discovery_wait);
        let mut changed = self.shared.directory.changed();
        loop {
            if self.shared.is_closed() {
                return Err(CallError::Draining);
            }
            let mut candidates = self.shared.links_for(service);
            candidates.retain(|link| {
                let wanted = self.instance.is_none_or(|node| link.node() == Some(node));
                // What an advert says of its service is believed of nobody: the certificate has to say it too.
                let trusted = self.shared.service_may(link, Action::Serve, self.subject);
                trusted && wanted && !tried.iter().any(|tried| Arc::ptr_eq(tried, link))
            });
            // One that said goaway, only if there is no other: it refuses typed if it is too late.
            if candidates.iter().any(|link| !link.is_draining()) {
                candidates.retain(|link| !link.is_draining());
            }
            if !candidates.is_empty() {
                return Ok(candidates);
            }
            let changed = async { changed.changed().await.is_ok() };
            if !tried.is_empty() || !timeout_at(give_up, changed).await.unwrap_or(false) {
                return Err(self.nobody());
            }
        }
    }

    /// Picks among the instances that are connected. Those that are not are dialled beside, so that an advert that
    /// leads nowhere costs no call anything; only while nobody is connected does the call wait for the first to be.
    async fn connect(
        &self,
        mut candidates: Vec<Arc<PeerLink>>,
    ) -> Result<(Arc<PeerLink>, Arc<Connection>), (Vec<Arc<PeerLink>>, CallError)> {
        if let Some(key) = self.key {
            // The others only once this one cannot be reached: they would not know what it has done.
            let its = candidates.into_iter().max_by_key(|link| balance::weight(link.node(), key));
            candidates = its.into_iter().collect();
        }
        let up: Vec<_> =
            candidates.iter().filter(|link| link.current(Lane::Calls).is_some()).cloned().collect();
        if let Some(link) = balance::pick(&up, Instant::now)
            && let Some(connection) = link.current(Lane::Calls)
        {
            let down = candidates.iter().filter(|link| link.current(Lane::Calls).is_none());
            down.take(DIALS).for_each(|link| link.want(self.shared, Lane::Calls));
            return Ok((link.clone(), connection));
        }
        fastrand::shuffle(&mut candidates);
        candidates.truncate(DIALS);
        let mut dials: Vec<_> =
            candidates.iter().map(|link| Some(Box::pin(link.connected(self.shared, Lane::Calls)))).collect();
        let mut reason = None;
        let first = poll_fn(|cx| {
            for (index, dial) in dials.iter_mut().enumerate() {
                match dial.as_mut().map(|dial| dial.as_mut().poll(cx)) {
                    Some(Poll::Ready(Ok(connection))) => return Poll::Ready(Some((index, connection))),
                    Some(Poll::Ready(Err(why))) => {
                        reason = candidates.get(index).map(|link| format!("{}: {why}", link.name()));
                        *dial = None;
                    }
                    _ => {}
                }
            }
            if dials.iter().all(Option::is_none) { Poll::Ready(None) } else { Poll::Pending }
        })
        .await;
        drop(dials);
        if let Some((index, connection)) = first
            && let Some(link) = candidates.get(index)
        {
            return Ok((link.clone(), connection));
        }
        Err((candidates, CallError::NoInstance { service: root(self.subject).into(), reason }))
    }

    fn nobody(&self) -> CallError {
        let service = root(self.subject).to_owned();
        if self.instance.is_some() || self.shared.directory.ever_seen_root(&service) {
            return CallError::NoInstance { service, reason: None };
        }
        let nearest = self.shared.directory.nearest(&service);
        CallError::NoSuchService { service, nearest }
    }

    /// Sends the request on one connection and waits for its outcome.
    async fn ask(&self, link: &Arc<PeerLink>, connection: &Connection) -> Result<Bytes, CallError> {
        let lost = |reason: &str| CallError::Lost {
            subject: self.subject.into(),
            instance: link.name(),
            reason: reason.into(),
        };
        let _outstanding = balance::Load::begin(link);
        let started = Instant::now();
        // Not sent yet: another instance may be asked.
        let gone = |reason: Arc<str>| CallError::NoInstance {
            service: root(self.subject).into(),
            reason: Some(format!("{}: {reason}", link.name())),
        };
        if let Err(reason) = self.shared.guard.may(&connection.pipe, Action::Serve, self.subject) {
            return Err(CallError::Forbidden { subject: self.subject.into(), reason });
        }
        let (ticket, outcome) = connection.pending.register().map_err(gone)?;
        let pipe = connection.pipe.clone();
        let guard = CancelOnDrop { ticket, subject: self.subject, pipe };
        let mut now = started;
        loop {
            let mut header = Header::new(Kind::Call, guard.ticket.id);
            let left = self.deadline.saturating_duration_since(now);
            header.fields.dl = Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1));
            if let Some(key) = self.key {
                header.fields.rare_mut().ik = Some(key.into());
            }
            let request = Outgoing {
                envelope: Envelope::Delimiter,
                subject: self.subject,
                header: &wire::header(&header),
                body: Frame::Shared(&self.request),
            };
            match connection.pipe.try_put(&request) {
                Put::Queued | Put::Batched => break,
                Put::Full => {
                    connection.pipe.space().await;
                    now = Instant::now();
                }
                Put::Closed => return Err(gone("the connection has just ended".into())),
            }
        }
        let outcome = outcome.await.unwrap_or(Outcome::Lost("the connection ended".into()));
        let now = Instant::now();
        let took = now - started;
        match outcome {
            Outcome::Reply(body) => {
                link.load.succeeded(took, now);
                Ok(body)
            }
            Outcome::Error(body) => {
                let error = self.error(&body, link);
                match error {
                    CallError::Full { .. } | CallError::Deadline { .. } => link.load.failed(took, now),
                    _ => link.load.succeeded(took, now),
                }
                Err(error)
            }
            Outcome::Lost(reason) => {
                link.load.failed(took, now);
                Err(lost(&reason))
            }
        }
    }

    /// An error body as the typed error of this side.
    fn error(&self, body: &[u8], link: &PeerLink) -> CallError {
        let subject = self.subject.to_owned();
        let error: ErrorBody = match envelope::decode_body(body) {
            Ok(error) => error,
            Err(reason) => return CallError::Decode { subject, reason },
        };
        let left = self.deadline.saturating_duration_since(Instant::now());
        match error.code.as_str() {
            "RS0412" => CallError::NoSuchMethod { subject, instance: link.name() },
            "RS0413" => CallError::BadRequest { subject, reason: error.message },
            "RS0415" => CallError::Deadline { subject, after: millis(left) },
            "RS0417" => CallError::TooLarge {
                subject,
                size: self.request.len(),
                limit: self.shared.options.max_message,
            },
            "RS0418" => CallError::Full { subject, reason: error.message },
            "RS0611" => CallError::KeyReused { subject, reason: error.message },
            "RS0440" => CallError::Forbidden { subject, reason: error.message },
            "RS0406" => {
                CallError::NoInstance { service: root(self.subject).into(), reason: Some(error.message) }
            }
            code => {
                let code = (code != "RS0416").then(|| code.to_owned());
                CallError::Handler { subject, message: error.message, code, chain: error.chain }
            }
        }
    }
}

/// Whole milliseconds, for people.
fn millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Asks one instance whether it is there, and what it says of itself.
pub(crate) async fn ping(shared: &Arc<Shared>, link: &Arc<PeerLink>) -> Result<HelloBody, String> {
    let connection = link.connected(shared, Lane::Calls).await.map_err(|reason| reason.to_string())?;
    let request = body(&()).map_err(|error| error.to_string())?;
    let deadline = deadline(shared.options.call_timeout);
    let attempt = Attempt { shared, subject: own::PING, request, deadline, instance: None, key: None };
    let hello = attempt.ask(link, &connection).await.map_err(|error| error.to_string())?;
    envelope::decode_body(&hello).map_err(|error| error.to_string())
}

/// Asks one instance for one of the node's own subjects.
#[cfg(feature = "durable")]
pub(crate) async fn ask_own<Q: Serialize, R: DeserializeOwned>(
    shared: &Arc<Shared>,
    node: NodeId,
    subject: &str,
    request: &Q,
) -> Result<R, CallError> {
    let nobody = |reason| CallError::NoInstance { service: node.to_string(), reason };
    let instance = shared.directory.find(&crate::discovery::Key::Node(node)).ok_or_else(|| nobody(None))?;
    let request = body(request)?;
    let after = shared.options.call_timeout;
    let deadline = deadline(after);
    let late = |_| CallError::Deadline { subject: subject.to_owned(), after };
    let asked = async {
        let link = shared.link(&instance);
        let connected = link.connected(shared, Lane::Calls).await;
        let connection = connected.map_err(|reason| nobody(Some(reason.to_string())))?;
        Attempt { shared, subject, request, deadline, instance: None, key: None }
            .ask(&link, &connection)
            .await
    };
    let reply = timeout_at(deadline, asked).await.map_err(late).flatten()?;
    wire::decoded(&reply, shared.options.body, "calls")
        .map_err(|reason| CallError::Decode { subject: subject.to_owned(), reason })
}

show!([R] Call<R>, "Call", this, { subject: this.subject, timeout: this.timeout, instance: this.instance, key: this.key });
