//! The calling side: deadline, instance, one request out, one reply back.

use std::{
    future::{Future, IntoFuture, poll_fn},
    marker::PhantomData,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, sleep, timeout_at},
};
use tracing::Instrument;

use crate::{
    discovery::{Instance, Key, NodeId},
    envelope::{self, ErrorBody, Header, HelloBody, Kind, Verdict, check_subject, root},
    fabric::{
        Node, balance,
        calls::{
            outcome::Outstanding,
            pending::{CancelOnDrop, Outcome},
            server::current_deadline,
        },
        error::CallError,
        link::{Connection, Lane, PeerLink},
        resilience::{
            policy::Target,
            retry::{self, Failure, Safe, Whom},
        },
        shared::{Shared, deadline},
        wire::{self, Envelope, Outgoing, body, own},
    },
    message::Frame,
    security::Action,
    socket::pipe::Put,
};

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
    idempotent: bool,
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
            idempotent: false,
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
    /// A call with a key whose instance vanishes is asked again by itself, but only of that instance: the others do not know what
    /// was done.
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

    /// Says that it does no harm if the method is done twice, so that the call is repeated on another instance when one vanishes
    /// or takes too long, within the retry budget. Default: what the serving side says of the method, see
    /// [`Serve::idempotent`](crate::fabric::Serve::idempotent).
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let now: String = node.call("clock.now", &()).idempotent().await?;
    /// # Ok(()) }
    /// ```
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
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
        let target = shared.targets.of(root(&self.subject), Instant::now);
        let given = self.timeout.unwrap_or(target.policy.its.deadline);
        let wanted = deadline(given);
        let deadline = current_deadline().map_or(wanted, |inherited| inherited.min(wanted));
        let key = self.key.as_deref();
        if let Some(length) = key.map(str::len).filter(|length| *length > MAX_KEY) {
            return Err(CallError::Key { length, limit: MAX_KEY });
        }
        let (instance, idempotent) = (self.instance, self.idempotent);
        let (subject, service) = (self.subject.as_str(), Some(&*target));
        let attempt =
            Attempt { shared, target: service, subject, request, deadline, instance, key, idempotent };
        // Inside a handler there may have been less time than was asked for.
        let after = match deadline < wanted {
            true => millis(deadline.saturating_duration_since(Instant::now())),
            false => given,
        };
        let late = |_| CallError::Deadline { subject: self.subject.clone(), after };
        let span = tracing::debug_span!("call", node = %shared.id, service = %shared.service, subject = %self.subject);
        // Pinned here, or else it would have room in this future three times over.
        let run = pin!(attempt.run(&target));
        let counting = shared.counted.called(&self.subject).begin();
        let result = timeout_at(deadline, run).instrument(span).await.map_err(late).flatten();
        let result = result.and_then(|(reply, link)| {
            let reply = wire::decoded(&reply, shared.options.body, "calls")
                .map_err(|reason| CallError::Decode { subject: self.subject.clone(), reason })?;
            Ok((reply, link.node()))
        });
        counting.ended(result.as_ref().map(drop).map_err(CallError::code));
        result
    }
}

impl<R: DeserializeOwned + 'static> IntoFuture for Call<R> {
    type Output = Result<R, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.with_instance().await?.0) })
    }
}

/// One call under way: the same request, until an instance has answered it.
pub(super) struct Attempt<'a> {
    pub(super) shared: &'a Arc<Shared>,
    /// What holds for the service; `None` for the node's own subjects.
    pub(super) target: Option<&'a Target>,
    pub(super) subject: &'a str,
    pub(super) request: Bytes,
    pub(super) deadline: Instant,
    pub(super) instance: Option<NodeId>,
    pub(super) key: Option<&'a str>,
    /// The caller says so; the serving side may, too.
    pub(super) idempotent: bool,
}

impl<'a> Attempt<'a> {
    /// For one instance that is asked once.
    fn own(shared: &'a Arc<Shared>, subject: &'a str, request: Bytes, deadline: Instant) -> Self {
        let (target, instance, key) = (None, None, None);
        Self { shared, target, subject, request, deadline, instance, key, idempotent: false }
    }

    async fn run(&self, target: &Target) -> Result<(Bytes, Arc<PeerLink>), CallError> {
        let limit = self.shared.options.max_message;
        if self.request.len() > limit {
            return Err(CallError::TooLarge {
                subject: self.subject.into(),
                size: self.request.len(),
                limit,
            });
        }
        // A node that asks its own service would wait for places that are held for the same request.
        let _place = match root(self.subject) == self.shared.service {
            true => None,
            false => Some(self.place(target).await?),
        };
        target.budget.deposit();
        let mut tried: Vec<Arc<PeerLink>> = Vec::new();
        let mut last = None;
        let mut whom = Whom::Others;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let candidates = match self.candidates(&mut tried, whom).await {
                Ok(candidates) => candidates,
                Err(error) => return Err(last.unwrap_or(error)),
            };
            let others = candidates.len() > 1;
            let (failed, error, paid) = match self.connect(candidates).await {
                Ok((link, connection)) => {
                    let more = others && attempt < target.policy.its.attempts;
                    match self.ask_in_time(target, &link, &connection, more).await {
                        Ok(reply) => return Ok((reply, link)),
                        Err((error, paid)) => (vec![link], error, paid),
                    }
                }
                Err((failed, error)) => (failed, error, false),
            };
            let safe = failed.last().map_or(Safe::No, |link| self.safe(link));
            let failure = Failure::of(&error);
            let now = Instant::now();
            let left = self.deadline.saturating_duration_since(now);
            let policy = &target.policy;
            let next = retry::next(
                failure,
                safe,
                attempt,
                policy.its.attempts,
                policy.backoff,
                left,
                fastrand::f64(),
            );
            // Once a handler may have acted, nothing that comes later may say that none has.
            let doubt = matches!(last, Some(CallError::Lost { .. } | CallError::Deadline { .. }));
            let error = if doubt && error.is_retryable() { last.take().unwrap_or(error) } else { error };
            let Some(next) = next else { return Err(error) };
            if next.paid && !paid && !target.budget.withdraw(now) {
                metrics::counter!("ripstop_retries_refused_total").increment(1);
                return Err(error);
            }
            metrics::counter!("ripstop_retries_total").increment(1);
            tracing::debug!(%error, attempt, pause = ?next.pause, "the call is tried again");
            last = Some(error);
            // In doubt once, it is for ever.
            whom = if whom == Whom::Same { whom } else { next.whom };
            if whom != Whom::Same {
                tried.extend(failed);
            } else if next.whom == Whom::Same {
                tried = failed;
            }
            if !next.pause.is_zero() {
                sleep(next.pause).await;
            }
        }
    }

    /// A place among the calls in flight to this service.
    async fn place<'t>(&self, target: &'t Target) -> Result<SemaphorePermit<'t>, CallError> {
        target.bulkhead.enter(self.deadline).await.map_err(|none| {
            metrics::counter!("ripstop_calls_held_back_total").increment(1);
            let policy = &target.policy;
            CallError::HeldBack {
                service: root(self.subject).into(),
                in_flight: policy.its.in_flight,
                waiting: (!none.late).then_some(policy.its.waiting),
            }
        })
    }

    /// What makes it safe to repeat what this instance may have acted on.
    fn safe(&self, link: &PeerLink) -> Safe {
        if self.idempotent || link.is_idempotent(self.subject) {
            Safe::Anywhere
        } else if self.key.is_some() {
            Safe::There
        } else {
            Safe::No
        }
    }

    /// Asks one instance. Where another may be asked instead, it is given up after its share of the time; the error then
    /// says whether that is paid for. Without a budget it is waited for after all.
    async fn ask_in_time(
        &self,
        target: &Target,
        link: &Arc<PeerLink>,
        connection: &Connection,
        more: bool,
    ) -> Result<Bytes, (CallError, bool)> {
        if !more || self.safe(link) != Safe::Anywhere {
            return self.ask(link, connection, self.deadline).await.map_err(|error| (error, false));
        }
        let now = Instant::now();
        let share = target.share(self.deadline.saturating_duration_since(now));
        let late = now + share;
        let mut asked = pin!(self.ask(link, connection, late));
        if let Ok(result) = timeout_at(late, asked.as_mut()).await {
            return result.map_err(|error| (error, false));
        }
        if target.budget.withdraw(Instant::now()) {
            return Err((CallError::Deadline { subject: self.subject.into(), after: millis(share) }, true));
        }
        metrics::counter!("ripstop_retries_refused_total").increment(1);
        asked.await.map_err(|error| (error, false))
    }

    /// The instances that may be asked next. The first call of all waits for discovery.
    pub(super) async fn candidates(
        &self,
        tried: &mut Vec<Arc<PeerLink>>,
        whom: Whom,
    ) -> Result<Vec<Arc<PeerLink>>, CallError> {
        let service = root(self.subject);
        let first = tried.is_empty();
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
                trusted && wanted
            });
            let is_tried = |link: &Arc<PeerLink>| tried.iter().any(|tried| Arc::ptr_eq(tried, link));
            match whom {
                Whom::Same => candidates.retain(is_tried),
                Whom::OthersFirst if candidates.iter().all(is_tried) => {
                    tried.clear();
                }
                Whom::Others | Whom::OthersFirst => candidates.retain(|link| !is_tried(link)),
            }
            self.leave_out(&mut candidates);
            // Whoever is known not to have the method, only if nobody else is left to ask.
            if candidates.len() > 1 && candidates.iter().any(|link| link.may_serve(self.subject)) {
                candidates.retain(|link| link.may_serve(self.subject));
            }
            // One that said goaway, only if there is no other: it refuses typed if it is too late.
            if candidates.iter().any(|link| !link.is_draining()) {
                candidates.retain(|link| !link.is_draining());
            }
            if !candidates.is_empty() {
                return Ok(candidates);
            }
            let changed = async { changed.changed().await.is_ok() };
            if !first || !timeout_at(give_up, changed).await.unwrap_or(false) {
                return Err(self.nobody());
            }
        }
    }

    /// Picks among the instances that are connected. Those that are not are dialled beside, so that an advert that
    /// leads nowhere costs no call anything; only while nobody is connected does the call wait for the first to be.
    pub(super) async fn connect(
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
        let ramp = self.target.map_or(Duration::ZERO, |target| target.policy.slow_start);
        if let Some(link) = balance::pick(&up, ramp, Instant::now)
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
    async fn ask(
        &self,
        link: &Arc<PeerLink>,
        connection: &Connection,
        late: Instant,
    ) -> Result<Bytes, CallError> {
        let lost = |reason: &str| CallError::Lost {
            subject: self.subject.into(),
            instance: link.name(),
            reason: reason.into(),
        };
        let mut outstanding = Outstanding::begin(self, link, late);
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
        outstanding.late = None;
        match outcome {
            Outcome::Reply(body) => {
                self.did_well(link, took, now);
                Ok(body)
            }
            Outcome::Error(body) => {
                let error = self.error(&body, link);
                match &error {
                    CallError::Deadline { .. } => self.did_ill(link, took, now),
                    // What a handler gives a code, or says would fail again, is an answer.
                    CallError::Handler { retry, code, .. } => match (retry, code) {
                        (Some(Verdict::Never), _) | (None, Some(_)) => self.did_well(link, took, now),
                        _ => self.did_ill(link, took, now),
                    },
                    // Too much to do, or leaving: the others should have the calls, but it is not broken.
                    CallError::Full { .. } | CallError::NoInstance { .. } => link.load.failed(took, now),
                    // It says nothing about how the instance does its work.
                    _ => {}
                }
                Err(error)
            }
            Outcome::Lost(reason) => {
                // Whoever said that it leaves did nothing wrong by leaving; and one end of a connection is one failure.
                let pending = &connection.pending;
                let excused =
                    pending.draining.load(Ordering::Relaxed) || pending.lost.swap(true, Ordering::Relaxed);
                match excused {
                    true => link.load.failed(took, now),
                    false => self.did_ill(link, took, now),
                }
                Err(lost(&reason))
            }
        }
    }

    /// An error body as the typed error of this side.
    fn error(&self, body: &[u8], link: &PeerLink) -> CallError {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let sizes = (self.request.len(), self.shared.options.max_message);
        typed_error(self.subject, body, link.name(), sizes, left)
    }
}

/// An error body as the typed error of this side. `sizes`: of the request, and the most there may be.
pub(super) fn typed_error(
    subject: &str,
    body: &[u8],
    instance: String,
    sizes: (usize, usize),
    left: Duration,
) -> CallError {
    let subject = subject.to_owned();
    let error: ErrorBody = match envelope::decode_body(body) {
        Ok(error) => error,
        Err(reason) => return CallError::Decode { subject, reason },
    };
    let retry_after = error.retry_after_ms.map(Duration::from_millis);
    match error.code.as_str() {
        "RS0412" => CallError::NoSuchMethod { subject, instance },
        "RS0413" => CallError::BadRequest { subject, reason: error.message },
        "RS0415" => CallError::Deadline { subject, after: millis(left) },
        "RS0417" => CallError::TooLarge { subject, size: sizes.0, limit: sizes.1 },
        "RS0418" => CallError::Full { subject, reason: error.message, retry_after },
        "RS0611" => CallError::KeyReused { subject, reason: error.message },
        "RS0440" => CallError::Forbidden { subject, reason: error.message },
        "RS0406" => CallError::NoInstance { service: root(&subject).into(), reason: Some(error.message) },
        code => {
            let code = (code != "RS0416").then(|| code.to_owned());
            let ErrorBody { message, chain, retry, .. } = error;
            CallError::Handler { subject, message, code, chain, retry, retry_after }
        }
    }
}

/// Whole milliseconds, for people.
pub(super) fn millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Asks one instance whether it is there, and what it says of itself.
pub(crate) async fn ping(shared: &Arc<Shared>, link: &Arc<PeerLink>) -> Result<HelloBody, String> {
    let connection = link.connected(shared, Lane::Calls).await.map_err(|reason| reason.to_string())?;
    let request = body(&()).map_err(|error| error.to_string())?;
    let deadline = deadline(shared.options.call_timeout);
    let attempt = Attempt::own(shared, own::PING, request, deadline);
    let hello = attempt.ask(link, &connection, deadline).await.map_err(|error| error.to_string())?;
    envelope::decode_body(&hello).map_err(|error| error.to_string())
}

/// The instance with this id; waits for discovery, as a call does.
pub(super) async fn instance(shared: &Shared, node: NodeId) -> Result<Arc<Instance>, CallError> {
    let give_up = deadline(shared.options.discovery_wait);
    let mut changed = shared.directory.changed();
    loop {
        if let Some(instance) = shared.directory.find(&Key::Node(node)) {
            return Ok(instance);
        }
        let changed = async { changed.changed().await.is_ok() };
        if !timeout_at(give_up, changed).await.unwrap_or(false) {
            return Err(CallError::NoInstance { service: node.to_string(), reason: None });
        }
    }
}

/// Asks one instance whether it is there; says how long that took, once connected.
pub(crate) async fn ping_instance(shared: &Arc<Shared>, node: NodeId) -> Result<Duration, CallError> {
    let gone = |reason| CallError::NoInstance { service: node.to_string(), reason: Some(reason) };
    let after = shared.options.call_timeout;
    let late = |_| CallError::Deadline { subject: own::PING.to_owned(), after };
    let pinged = async {
        let link = shared.link(&instance(shared, node).await?);
        link.connected(shared, Lane::Calls).await.map_err(|reason| gone(reason.to_string()))?;
        let started = Instant::now();
        ping(shared, &link).await.map(|_| started.elapsed()).map_err(gone)
    };
    timeout_at(deadline(after), pinged).await.map_err(late)?
}

/// Asks one instance for one of the node's own subjects.
pub(crate) async fn ask_own<Q: Serialize, R: DeserializeOwned>(
    shared: &Arc<Shared>,
    node: NodeId,
    subject: &str,
    request: &Q,
) -> Result<R, CallError> {
    let request = body(request)?;
    let after = shared.options.call_timeout;
    let deadline = deadline(after);
    let late = |_| CallError::Deadline { subject: subject.to_owned(), after };
    let asked = async {
        let link = shared.link(&instance(shared, node).await?);
        let connected = link.connected(shared, Lane::Calls).await;
        let connection = connected.map_err(|reason| CallError::NoInstance {
            service: node.to_string(),
            reason: Some(reason.to_string()),
        })?;
        Attempt::own(shared, subject, request, deadline).ask(&link, &connection, deadline).await
    };
    let reply = timeout_at(deadline, asked).await.map_err(late).flatten()?;
    wire::decoded(&reply, shared.options.body, "calls")
        .map_err(|reason| CallError::Decode { subject: subject.to_owned(), reason })
}

show!([R] Call<R>, "Call", this, { subject: this.subject, timeout: this.timeout, instance: this.instance, key: this.key });
