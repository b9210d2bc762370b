//! The serving side: requests in, handlers run, one answer each out.

use std::{
    any::Any,
    collections::HashMap,
    future::{Future, IntoFuture, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use dashmap::{DashMap, Entry};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError},
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tracing::Instrument;

use crate::{
    Code, Message,
    envelope::{self, CreditBody, ErrorBody, Header, HelloBody, Kind, Verdict, check_subject},
    fabric::{
        Node,
        calls::{
            client::MAX_KEY,
            once::{self, Asked, Asking, Once},
            stream::{Credit, Out, ReplySink},
        },
        context::{Context, DEADLINE, PeerName},
        effect::Recorded,
        error::{HandlerError, ServeError},
        observe::Counting,
        peers::unix_ms,
        shared::Shared,
        wire::{self, Envelope, Outgoing, own},
    },
    message::Frame,
    observe::series::Series,
    security::Action,
    socket::{
        account::OVERHEAD,
        core::{Admit, Core, Disconnect, Flow, Origin, Refusal},
        pipe::{Held, Pipe, Put},
    },
    transport::tls::Proof,
    zmtp::{Peer, Received},
};

/// How many requests may wait for a free place beside those being handled; one more is refused as full.
const WAITING: usize = 4096;
/// Who was refused for that should not come back sooner, in milliseconds.
const FULL_FOR: u64 = 50;
/// What an answer counts beside its bytes while it waits for room: its task.
const WAITING_ANSWER: usize = 4096;

/// A method that has no room.
const FULL: Code = Code::new(418);
/// A handler that failed, whatever code of its own it gave.
const FAILED: Code = Code::new(416);

/// An answer before it is written: the encoded body of kind 1, or the error of kind 2.
pub(super) type Answer = Result<Bytes, ErrorBody>;
type Handling = Pin<Box<dyn Future<Output = Answer> + Send>>;

enum Handler {
    Once(Box<dyn Fn(Message, usize, Context) -> Handling + Send + Sync>),
    /// Its answers go out by themselves; what it ends with says that it has ended.
    Stream(Box<dyn Fn(Message, usize, Context, Box<Out>) -> Handling + Send + Sync>),
}

/// A request under way, for whoever asked for it and may cancel it.
struct Running {
    abort: AbortHandle,
    /// Of a stream.
    credit: Option<Credit>,
}

/// One served subject.
struct Method {
    handler: Handler,
    /// The bulkhead: this many handlers at once.
    places: Arc<Semaphore>,
    /// Places and waiting requests together.
    admitted: Arc<Semaphore>,
    idempotent: bool,
    /// How many places there are.
    concurrency: usize,
    /// `None`: one of the node's own, which are not counted.
    series: Option<Arc<Series>>,
    waiting: metrics::Gauge,
}

impl Method {
    fn new(
        handler: Handler,
        concurrency: usize,
        idempotent: bool,
        series: Option<Arc<Series>>,
        gauge: metrics::Gauge,
    ) -> Self {
        Self {
            handler,
            idempotent,
            concurrency,
            waiting: gauge,
            series,
            places: Arc::new(Semaphore::new(concurrency)),
            admitted: Arc::new(Semaphore::new(concurrency + WAITING)),
        }
    }

    /// Requests that wait for a place.
    fn waiting(&self) -> u64 {
        (self.concurrency + WAITING)
            .saturating_sub(self.admitted.available_permits())
            .saturating_sub(self.concurrency.saturating_sub(self.places.available_permits())) as u64
    }

    fn admit(&self) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        self.admitted.clone().try_acquire_owned()
    }
}

/// All that this node serves, and the requests under way.
pub(crate) struct Methods {
    shared: Weak<Shared>,
    methods: DashMap<String, Arc<Method>>,
    /// Requests of our own nodes by connection and number, so that they can be cancelled.
    running: DashMap<u64, HashMap<u64, Running>>,
    /// Every request under way holds one permit; drain takes them all.
    pub(crate) busy: Busy,
    /// Requests that are done once, however often they come.
    once: Once,
}

/// Counts what must end before a drain is complete.
#[derive(Clone, Default)]
pub(crate) struct Busy(Arc<Count>);

#[derive(Default)]
struct Count {
    working: AtomicUsize,
    idle: Notify,
}

impl Busy {
    pub(crate) fn begin(&self) -> Working {
        self.0.working.fetch_add(1, Ordering::Relaxed);
        Working(self.0.clone())
    }

    pub(crate) async fn idle(&self) {
        let mut idle = pin!(self.0.idle.notified());
        loop {
            // Registered before the look, so that an end in between is not missed.
            idle.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            idle.as_mut().await;
            idle.set(self.0.idle.notified());
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.0.working.load(Ordering::Acquire)
    }
}

/// Something under way.
pub(crate) struct Working(Arc<Count>);

impl Drop for Working {
    fn drop(&mut self) {
        if self.0.working.fetch_sub(1, Ordering::Release) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// The deadline of the request that this task handles, if it handles one.
pub(crate) fn current_deadline() -> Option<Instant> {
    DEADLINE.try_with(|deadline| *deadline).ok().flatten()
}

/// Polls a user's future so that its panic becomes a value: the node lives.
pub(crate) async fn caught<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
        Err(panic) => Poll::Ready(Err(panic_text(&*panic))),
    })
    .await
}

fn full() -> ErrorBody {
    ErrorBody {
        retry: Some(Verdict::Later),
        retry_after_ms: Some(FULL_FOR),
        ..error_body(418, format!("{WAITING} requests are waiting"))
    }
}

/// An address without its port.
fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text").to_owned()
}

pub(super) fn error_body(code: u16, message: impl Into<String>) -> ErrorBody {
    ErrorBody { code: Code::new(code).to_string(), message: message.into(), ..ErrorBody::default() }
}

pub(crate) fn handler_error(error: &HandlerError) -> ErrorBody {
    ErrorBody {
        code: error.code().map_or_else(|| Code::new(416).to_string(), str::to_owned),
        message: error.message().to_owned(),
        chain: error.chain().to_vec(),
        retry: error.verdict(),
        retry_after_ms: error.pause().map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)),
    }
}

impl Methods {
    pub(crate) fn new(shared: Weak<Shared>) -> Self {
        Self {
            shared,
            methods: DashMap::new(),
            running: DashMap::new(),
            busy: Busy::default(),
            once: Once::default(),
        }
    }

    /// What is served, sorted.
    pub(crate) fn subjects(&self) -> Vec<String> {
        let all = self.methods.iter().map(|entry| entry.key().clone());
        let mut subjects: Vec<_> = all.filter(|subject| !envelope::is_reserved(subject)).collect();
        subjects.sort();
        subjects
    }

    /// Those of them that may be done twice, sorted.
    pub(crate) fn idempotent(&self) -> Vec<String> {
        let all = self.methods.iter().filter(|entry| entry.value().idempotent);
        let mut subjects: Vec<_> = all.map(|entry| entry.key().clone()).collect();
        subjects.sort();
        subjects
    }

    /// Brings the gauges up to date.
    pub(crate) fn sample(&self) {
        self.methods.iter().for_each(|entry| entry.waiting.set(entry.waiting() as f64));
    }

    /// Requests that wait for a place, by method.
    pub(crate) fn waiting(&self) -> Vec<(String, u64)> {
        let counted = self.methods.iter().filter(|entry| entry.series.is_some());
        counted.map(|entry| (entry.key().clone(), entry.waiting())).collect()
    }

    fn request(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        pipe: &Arc<Pipe>,
        mut message: Message,
    ) -> Result<(), String> {
        if pipe.is_thin() {
            message = message.to_owned_buffer();
        }
        let (envelope, parsed) = wire::parse_delimited(&message)?;
        let body = envelope + 1 + usize::from(parsed.header.is_some());
        let id = parsed.header.as_ref().map_or(0, |header| header.id);
        let lane = pipe.peer().is_some_and(|peer| peer.property(wire::property::LANE).is_some());
        match parsed.header.as_ref().map_or(Kind::Call, |header| header.kind) {
            Kind::Call => {}
            Kind::Cancel => {
                if let Some(running) =
                    self.running.get_mut(&pipe.id()).and_then(|mut calls| calls.remove(&id))
                {
                    running.abort.abort();
                    metrics::counter!("ripstop_calls_cancelled_total").increment(1);
                }
                return Ok(());
            }
            Kind::Credit => {
                let CreditBody(credit) =
                    envelope::decode_body(parsed.body).map_err(|error| error.to_string())?;
                let calls = self.running.get(&pipe.id());
                // One that has ended meanwhile needs none.
                if let Some(of) = calls.as_ref().and_then(|calls| calls.get(&id)?.credit.as_ref()) {
                    of.grant(credit);
                }
                return Ok(());
            }
            Kind::Goaway => {
                shared.goaway_confirmed(pipe.id());
                return Ok(());
            }
            kind => return Err(format!("a message of kind {kind:?} on the lane calls")),
        }
        let deadline = parsed.header.as_ref().and_then(|header| header.fields.dl);
        let now = Instant::now();
        let deadline = now.checked_add(deadline.map_or(shared.options.call_timeout, Duration::from_millis));
        let subject: Arc<str> = parsed.subject.into();
        let mut reply = Reply {
            pipe: pipe.clone(),
            message: message.clone(),
            envelope,
            id,
            subject: subject.clone(),
            ends: Kind::Reply,
        };
        if let Err(reason) = shared.guard.may(pipe, Action::Call, &subject) {
            reply.now(&Err(error_body(440, reason)));
            return Ok(());
        }
        if &*subject == own::PING {
            let hello =
                wire::body(&HelloBody { clock: Some(unix_ms(SystemTime::now())), ..shared.hello_body() });
            reply.now(&hello.map_err(|error| error_body(416, error.to_string())));
            return Ok(());
        }
        if shared.rates.are_limited() {
            // Without a name it is the address that is one caller.
            let caller = PeerName::service_of(pipe).unwrap_or_else(|| host(pipe.origin().remote()).into());
            if let Err(wait) = shared.rates.take(caller, Instant::now()) {
                metrics::counter!("ripstop_calls_refused_total", "reason" => "rate").increment(1);
                let millis = wait.as_millis().saturating_add(1);
                reply.now(&Err(ErrorBody {
                    retry: Some(Verdict::Later),
                    retry_after_ms: Some(u64::try_from(millis).unwrap_or(u64::MAX)),
                    ..error_body(418, "this caller asks more often than it may")
                }));
                return Ok(());
            }
        }
        let Some(method) = self.methods.get(&*subject).map(|entry| entry.value().clone()) else {
            reply.now(&Err(error_body(412, format!("{} has no method {subject}", shared.service))));
            return Ok(());
        };
        if shared.is_closed() {
            reply.now(&Err(error_body(406, "this instance is shutting down")));
            return Ok(());
        }
        let Ok(admitted) = method.admit() else {
            metrics::counter!("ripstop_calls_refused_total", "reason" => "full").increment(1);
            if let Some(series) = &method.series {
                series.failed(FULL);
            }
            reply.now(&Err(full()));
            return Ok(());
        };
        // Until it is answered, decoded or not, it counts as received and not taken.
        let held = pipe.hold(message.size() + OVERHEAD);
        let peer = PeerName::of(pipe);
        let (key, window) = parsed
            .header
            .and_then(|header| header.fields.rare)
            .map_or((None, None), |rare| (rare.ik, rare.cr));
        if key.as_ref().is_some_and(|key| key.len() > MAX_KEY) {
            reply.now(&Err(error_body(413, format!("an idempotency key has {MAX_KEY} bytes at most"))));
            return Ok(());
        }
        let out = match (&method.handler, window) {
            (Handler::Stream(_), Some(window)) if key.is_none() && lane => {
                let route = Message::from_frames(message.frames().take(envelope));
                let (shared, pipe, subject) = (shared.clone(), pipe.clone(), subject.clone());
                Some(Box::new(Out { shared, pipe, route, id, subject, credit: Credit::new(window) }))
            }
            (Handler::Stream(_), _) => {
                let why = "it answers with a stream: ask for it as one (call_stream), and without an idempotency key";
                reply.now(&Err(error_body(413, why)));
                return Ok(());
            }
            (Handler::Once(_), _) => None,
        };
        reply.ends = if out.is_some() { Kind::End } else { Kind::Reply };
        let credit = out.as_ref().map(|out| out.credit.clone());
        let asked = key.clone().map(|key| {
            let caller = peer.service.clone().unwrap_or_default();
            let sum = once::sum(message.frame(body).unwrap_or_default());
            let asked = Asked { caller, subject: subject.clone(), key };
            (Asking { asked, sum, recorded: Recorded::default() }, pipe.hold(message.size() + OVERHEAD))
        });
        let effect = asked.as_ref().map(|(asking, _)| asking.effect());
        let counting = method.series.as_ref().map(|series| {
            let caller = shared.counted.caller(peer.service.as_deref());
            Counting::new([series.begin(), caller.begin()], now)
        });
        let once = self.once.clone();
        let context = Context::new(shared, subject, deadline, peer).with_key(key, effect);
        let (methods, working) = (Arc::downgrade(self), self.busy.begin());
        let connection = pipe.id();
        let span = tracing::debug_span!(
            "serve", node = %shared.id, service = %shared.service, subject = %context.subject(), peer = context.address(),
        );
        let cancellable = lane.then_some(id);
        let task = async move {
            let _working = working;
            let answer = match asked {
                Some((asked, held)) => {
                    let node = context.shared().clone();
                    let busy = node.methods.busy.begin();
                    let work = async move {
                        // Others may wait for the answer, and whoever asked may ask again: it is not cancelled with its caller,
                        // and has a place of its own.
                        let (_held, Ok(_admitted)) = ((busy, held), method.admit()) else {
                            return Err(full());
                        };
                        DEADLINE
                            .scope(deadline, Box::pin(run(&method, message, body, context, None, None)))
                            .await
                    };
                    once.answer(&node, asked, deadline, work).await
                }
                // Pinned, here and there, or else each future that it is handed through would have room for it twice.
                None => {
                    DEADLINE.scope(deadline, pin!(run(&method, message, body, context, deadline, out))).await
                }
            };
            if let Some(counting) = counting {
                counting
                    .ended(answer.as_ref().map(drop).map_err(|error| error.code.parse().unwrap_or(FAILED)));
            }
            // An answer that waits for a caller who does not read takes nobody's place.
            drop(admitted);
            reply.send(&answer, deadline, held).await;
            if let (Some(id), Some(methods)) = (cancellable, methods.upgrade()) {
                methods.finished(connection, id);
            }
        }
        .instrument(span);
        match cancellable {
            // The entry is locked while the task is started, so that a fast handler cannot finish before it is noted.
            Some(id) => {
                let mut calls = self.running.entry(connection).or_default();
                calls.insert(id, Running { abort: shared.spawn(task), credit });
            }
            None => drop(shared.spawn(task)),
        }
        Ok(())
    }

    fn finished(&self, connection: u64, id: u64) {
        if let Some(mut calls) = self.running.get_mut(&connection) {
            calls.remove(&id);
        }
    }
}

/// Runs one handler within its deadline and its bulkhead.
async fn run(
    method: &Method,
    message: Message,
    body: usize,
    context: Context,
    deadline: Option<Instant>,
    out: Option<Box<Out>>,
) -> Answer {
    let work = async {
        // The semaphore is never closed.
        let _place = method.places.acquire().await;
        let handling = match (&method.handler, out) {
            (Handler::Once(handler), _) => handler(message, body, context),
            (Handler::Stream(handler), Some(out)) => handler(message, body, context, out),
            (Handler::Stream(_), None) => return Err(error_body(413, "it answers with a stream")),
        };
        match caught(handling).await {
            Ok(answer) => answer,
            Err(panic) => {
                metrics::counter!("ripstop_handler_panics_total").increment(1);
                tracing::error!(%panic, "a handler panicked");
                Err(error_body(416, format!("the handler panicked: {panic}")))
            }
        }
    };
    match deadline {
        // A caller that has already given up gets no work done for it.
        Some(deadline) if deadline <= Instant::now() => {
            Err(error_body(415, "the deadline had passed on arrival"))
        }
        Some(deadline) => timeout_at(deadline, pin!(work))
            .await
            .unwrap_or_else(|_| Err(error_body(415, "the deadline passed"))),
        None => pin!(work).await,
    }
}

/// Where the answer to one request goes.
struct Reply {
    pipe: Arc<Pipe>,
    message: Message,
    envelope: usize,
    id: u64,
    subject: Arc<str>,
    /// What says that it went well: the reply, or the end of a stream.
    ends: Kind,
}

impl Reply {
    fn put(&self, answer: &Answer) -> Put {
        let error;
        let (kind, body) = match answer {
            Ok(encoded) => (self.ends, encoded),
            Err(body) => {
                error = wire::body(body).unwrap_or_else(|error| {
                    tracing::error!(%error, "an error could not be written");
                    Bytes::from_static(envelope::NIL)
                });
                (Kind::Error, &error)
            }
        };
        let mut header = Vec::with_capacity(16);
        Header::new(kind, self.id).encode(&mut header);
        self.pipe.try_put(&Outgoing {
            envelope: Envelope::Echo(&self.message, self.envelope),
            subject: &self.subject,
            header: &header,
            body: Frame::Shared(body),
        })
    }

    /// For what the connection's own task answers, which must not wait.
    fn now(&self, answer: &Answer) {
        if matches!(self.put(answer), Put::Full) {
            metrics::counter!("ripstop_replies_dropped_total", "reason" => "full").increment(1);
        }
    }

    /// Waits for room, but not longer than the caller does. `held` stands for the request, and then for the answer.
    async fn send(&mut self, answer: &Answer, deadline: Option<Instant>, mut held: Held) {
        let mut waits = false;
        while matches!(self.put(answer), Put::Full) {
            if !waits {
                waits = true;
                // Of the request only the way back is needed.
                self.message = Message::from_frames(self.message.frames().take(self.envelope));
                let body = answer.as_ref().map_or(0, Bytes::len);
                held = self.pipe.hold(self.message.size() + body + WAITING_ANSWER);
            }
            let space = self.pipe.space();
            let in_time = match deadline {
                Some(deadline) => timeout_at(deadline, space).await.is_ok(),
                None => {
                    space.await;
                    true
                }
            };
            if !in_time {
                metrics::counter!("ripstop_replies_dropped_total", "reason" => "deadline").increment(1);
                break;
            }
        }
        drop(held);
    }
}

/// The [`Core`] behind accepted connections of the lane `calls`.
pub(crate) struct CallsCore(pub(crate) Arc<Methods>);

impl Core for CallsCore {
    fn admit(&self, _: &Peer, _: &Origin, _: &Proof) -> Admit {
        // Connections come from the hub, already admitted.
        Admit::Now(Err(Refusal { reason: "not a listener".into(), last: false }))
    }

    fn joined(&self, pipe: &Arc<Pipe>) {
        if let Some(shared) = self.0.shared.upgrade() {
            shared.accepted(pipe);
        }
    }

    fn deliver(&self, pipe: &Arc<Pipe>, received: &mut Received) -> Flow {
        let Some(shared) = self.0.shared.upgrade() else { return Flow::Close("the node is gone".into()) };
        received.commands.clear();
        for message in received.messages.drain(..) {
            if let Err(reason) = self.0.request(&shared, pipe, message) {
                metrics::counter!("ripstop_messages_malformed_total", "lane" => "calls").increment(1);
                return Flow::Close(reason);
            }
        }
        Flow::Continue
    }

    fn left(&self, pipe: &Arc<Pipe>, _: &Disconnect) {
        // The callers have gone: nobody would read the answers.
        if let Some((_, calls)) = self.0.running.remove(&pipe.id()) {
            calls.into_values().for_each(|running| running.abort.abort());
        }
        if let Some(shared) = self.0.shared.upgrade() {
            shared.accepted_left(pipe);
        }
    }
}

/// A handler of bytes around one of values.
fn erased<Q, R, F, Fut>(handler: F, limits: envelope::Limits) -> Handler
where
    Q: DeserializeOwned + Send + 'static,
    R: Serialize,
    F: Fn(Q, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
{
    let handler = Arc::new(handler);
    Handler::Once(Box::new(move |message, body, context| {
        let handler = handler.clone();
        Box::pin(async move {
            let request = wire::decoded(message.frame(body).unwrap_or_default(), limits, "calls")
                .map_err(|error| error_body(413, error.to_string()))?;
            // What was decoded needs the read buffer no longer.
            drop(message);
            let reply = handler(request, context).await.map_err(|error| handler_error(&error))?;
            wire::body(&reply)
                .map_err(|error| error_body(416, format!("the reply could not be written: {error}")))
        })
    }))
}

/// The same for one that answers with a stream.
fn erased_stream<Q, R, F, Fut>(handler: F, limits: envelope::Limits) -> Handler
where
    Q: DeserializeOwned + Send + 'static,
    R: Serialize,
    F: Fn(Q, Context, ReplySink<R>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let handler = Arc::new(handler);
    Handler::Stream(Box::new(move |message, body, context, out| {
        let handler = handler.clone();
        Box::pin(async move {
            let request = wire::decoded(message.frame(body).unwrap_or_default(), limits, "calls")
                .map_err(|error| error_body(413, error.to_string()))?;
            drop(message);
            let done = handler(request, context, ReplySink::new(out)).await;
            done.map(|()| Bytes::from_static(envelope::NIL)).map_err(|error| handler_error(&error))
        })
    }))
}

/// Offers one of the node's own subjects, which are told nobody; who may use them, permissions say.
pub(crate) fn offer_own<Q, R, F, Fut>(shared: &Shared, subject: &str, concurrency: usize, handler: F)
where
    Q: DeserializeOwned + Send + 'static,
    R: Serialize,
    F: Fn(Q, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
{
    let method =
        Method::new(erased(handler, shared.options.body), concurrency, false, None, metrics::Gauge::noop());
    shared.methods.methods.insert(subject.to_owned(), Arc::new(method));
}

/// A method being prepared by [`Node::serve`]. Await it to offer the method.
#[must_use = "nothing is served until this is awaited"]
pub struct Serve {
    node: Node,
    subject: String,
    handler: Handler,
    concurrency: usize,
    idempotent: bool,
}

impl Serve {
    pub(crate) fn new<Q, R, F, Fut>(node: &Node, subject: &str, handler: F) -> Self
    where
        Q: DeserializeOwned + Send + 'static,
        R: Serialize,
        F: Fn(Q, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
    {
        let limits = node.shared().options.body;
        Self {
            node: node.clone(),
            subject: subject.to_owned(),
            handler: erased(handler, limits),
            concurrency: node.shared().options.in_flight,
            idempotent: false,
        }
    }

    pub(crate) fn stream<Q, R, F, Fut>(node: &Node, subject: &str, handler: F) -> Self
    where
        Q: DeserializeOwned + Send + 'static,
        R: Serialize,
        F: Fn(Q, Context, ReplySink<R>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let limits = node.shared().options.body;
        Self {
            node: node.clone(),
            subject: subject.to_owned(),
            handler: erased_stream(handler, limits),
            concurrency: node.shared().options.in_flight,
            idempotent: false,
        }
    }

    /// How many requests are handled at once; others wait, 4,096 at most. Default: `limits.in_flight`, 256.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.serve("pdf.render", |html: String, _| async move { Ok(html.len()) }).concurrency(2).await?;
    /// # Ok(()) }
    /// ```
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.clamp(1, Semaphore::MAX_PERMITS - WAITING);
        self
    }
}

impl Serve {
    /// Says that it does no harm if the method is done twice, as when it only looks something up. Callers then repeat a call on
    /// another instance when one vanishes or takes too long. Default: no.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.serve("pricing.quote", |qty: u64, _| async move { Ok(250 * qty) }).idempotent().await?;
    /// # Ok(()) }
    /// ```
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }
}

impl IntoFuture for Serve {
    type Output = Result<Served, ServeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            check_subject(&self.subject)?;
            let shared = self.node.shared();
            if shared.is_draining() {
                return Err(ServeError::Draining);
            }
            if let Err(reason) = shared.may_itself(Action::Serve, &self.subject) {
                return Err(ServeError::Forbidden { subject: self.subject, reason });
            }
            let (series, gauge) = shared.counted.served_and_waiting(&self.subject);
            let series = Some(series);
            let method =
                Arc::new(Method::new(self.handler, self.concurrency, self.idempotent, series, gauge));
            match shared.methods.methods.entry(self.subject.clone()) {
                Entry::Occupied(_) => return Err(ServeError::Taken { subject: self.subject }),
                Entry::Vacant(vacant) => drop(vacant.insert(method)),
            }
            shared.roots_changed().await;
            Ok(Served { node: self.node, subject: self.subject })
        })
    }
}

/// A method on offer. Dropping this changes nothing; [`Served::stop`] withdraws the method.
pub struct Served {
    node: Node,
    subject: String,
}

impl Served {
    /// The method's subject.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let served = node.serve("clock.now", |_: (), _| async { Ok(0u64) }).await?;
    /// assert_eq!(served.subject(), "clock.now");
    /// # Ok(()) }
    /// ```
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Offers the method no longer; requests under way are finished.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// node.serve("clock.now", |_: (), _| async { Ok(0u64) }).await?.stop().await;
    /// # Ok(()) }
    /// ```
    pub async fn stop(self) {
        let shared = self.node.shared();
        shared.methods.methods.remove(&self.subject);
        shared.roots_changed().await;
    }
}

show!([] Serve, "Serve", this, { subject: this.subject, concurrency: this.concurrency });

show!([] Served, "Served", this, { subject: this.subject });
