//! What every socket type is made of: its peers, their queues, and the table row that says what to do with them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use crate::endpoint::{Endpoint, ParseEndpointError};
use crate::message::{Frames, Message};
use crate::socket::account::SUBSCRIPTION;
use crate::socket::batch::Encoded;
use crate::socket::core::{
    Admission, Admit, Core, DialOptions, Disconnect, Flow, LinkOptions, ListenOptions, Origin, Refusal,
};
use crate::socket::dial::{Dial, dial};
use crate::socket::error::{BindError, ConnectError, NoSuchEndpoint, RecvError, SendError};
use crate::socket::gate::Gate;
use crate::socket::inbound::{From, Inbound};
use crate::socket::limit::Limit;
use crate::socket::listen::{Listening, listen};
use crate::socket::mechanism::ConnectOptions;
use crate::socket::monitor::{Event, Monitor, Reporter};
use crate::socket::options::Options;
use crate::socket::pipe::{Pipe, Turn};
use crate::socket::policy::{self, Incoming, Outgoing, Policy};
use crate::socket::rep::Asking;
use crate::socket::subscriptions::{Change, Subscribers, Trie};
use crate::sync::{Flag, lock};
use crate::transport::tls::Proof;
use crate::zmtp::{self, Command, Received, SocketType, encode_subscription};

/// The most that can be sent as one message, whatever the options say.
const MAX_SEND: usize = 1 << 30;

/// One socket, shared by its handles and its connections.
pub(super) struct Shared {
    this: Weak<Self>,
    pub(super) socket_type: SocketType,
    policy: Policy,
    pub(super) options: Options,
    monitor: Reporter,
    gate: Arc<Gate>,
    pub(super) inbound: Inbound,
    pub(super) routes: Mutex<Routes>,
    /// The first pipe there ever was to send to in turn; and whether it is the only one now, so that a send can do
    /// without the lock on the routes.
    first: OnceLock<Arc<Pipe>>,
    only_first: AtomicBool,
    /// A batch has been filled since a sender last let the connections have their turn.
    pub(super) turn: Turn,
    /// Something about the routes or their room has changed for the better.
    pub(super) writable: Notify,
    ends: Mutex<Ends>,
    closed: Flag,
    /// REQ: where its request went.
    pub(super) asked: Asked,
    /// REP: whom it answers next.
    pub(super) asking: Asking,
}

/// Who can be sent to.
#[derive(Default)]
pub(super) struct Routes {
    /// In turn: kept queues from the time they are dialled, others while connected.
    pub(super) pipes: Vec<Arc<Pipe>>,
    next: usize,
    /// Connected, or kept.
    all: HashMap<u64, Arc<Pipe>>,
    /// ROUTER: who is meant by a routing id.
    pub(super) labels: HashMap<Bytes, Arc<Pipe>>,
    /// PUB: what peers want, and by slot who they are.
    pub(super) subscribers: Subscribers,
    slots: Vec<Option<Arc<Pipe>>>,
    matched: Vec<usize>,
    grant: Grant,
    encoded: Encoded,
    /// SUB: what we want, and how often it was asked for.
    wanted: Trie<usize>,
}

/// Of how many messages and bytes it is known that every subscriber has room for them: only publishing takes it, and the lock
/// on the routes is held for that. Else each queue had to be asked before each message.
#[derive(Default)]
struct Grant {
    messages: usize,
    bytes: usize,
    /// Somebody had none: so many messages are not worth asking all again.
    pause: usize,
}

/// The most that is granted: a peer's memory account may shrink meanwhile, by what it subscribes.
const GRANT: (usize, usize) = (256, 64 * 1024);

impl Grant {
    fn take(&mut self, size: usize, slots: &[Option<Arc<Pipe>>]) -> bool {
        if self.messages == 0 || self.bytes < size {
            if self.pause > 0 {
                self.pause -= 1;
                return false;
            }
            let rooms = slots.iter().flatten().map(|pipe| pipe.room());
            (self.messages, self.bytes) =
                rooms.fold(GRANT, |(m, b), (messages, bytes)| (m.min(messages), b.min(bytes)));
            if self.messages == 0 || self.bytes < size {
                *self = Self { pause: GRANT.0, ..Self::default() };
                return false;
            }
        }
        self.messages -= 1;
        self.bytes -= size;
        true
    }
}

#[derive(Default)]
struct Ends {
    dials: Vec<Dial>,
    listens: Vec<Listening>,
}

/// Where a REQ's request went.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) pipe: Mutex<Option<u64>>,
    pub(super) lost: AtomicBool,
    pub(super) next_id: AtomicU32,
}

impl Shared {
    pub(super) fn new(socket_type: SocketType, options: Options) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            socket_type,
            policy: policy::of(socket_type),
            monitor: Reporter::default(),
            gate: Gate::new(options.gate),
            inbound: Inbound::new(options.receive_hwm, options.receive_hwm_bytes),
            options,
            routes: Mutex::default(),
            first: OnceLock::new(),
            only_first: AtomicBool::new(false),
            turn: Turn::default(),
            writable: Notify::new(),
            ends: Mutex::default(),
            closed: Flag::default(),
            asking: Asking::default(),
            asked: Asked { next_id: AtomicU32::new(fastrand::u32(..)), ..Asked::default() },
        })
    }

    // ---- endpoints ----

    pub(super) async fn bind<E>(&self, endpoint: E) -> Result<Endpoint, BindError>
    where
        E: TryInto<Endpoint>,
        E::Error: Into<ParseEndpointError>,
    {
        let endpoint = endpoint.try_into().map_err(Into::into)?;
        let Some(this) = self.this.upgrade().filter(|_| !self.closed.is_set()) else {
            return Err(BindError::Closed);
        };
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BindError::NoRuntime);
        }
        let tls = self.options.acceptor.clone();
        if matches!(endpoint, Endpoint::Tls { .. }) && tls.is_none() {
            return Err(BindError::NoTls(endpoint));
        }
        let listening = listen(
            endpoint.clone(),
            // A socket with TLS may also listen without it, where it says so.
            ListenOptions {
                link: self.options.link.clone(),
                curve: self.options.accept.keys(),
                tls: tls.filter(|_| matches!(endpoint, Endpoint::Tls { .. })),
            },
            self.gate.clone(),
            this,
            self.monitor.clone(),
        )
        .await
        .map_err(|source| BindError::Io { endpoint, source })?;
        let endpoint = listening.endpoint().clone();
        let mut ends = lock(&self.ends);
        if self.closed.is_set() {
            listening.close();
            return Err(BindError::Closed);
        }
        ends.listens.push(listening);
        Ok(endpoint)
    }

    pub(super) fn connect<E>(&self, endpoint: E, options: ConnectOptions) -> Result<(), ConnectError>
    where
        E: TryInto<Endpoint>,
        E::Error: Into<ParseEndpointError>,
    {
        let endpoint = endpoint.try_into().map_err(Into::into)?;
        if matches!(endpoint.host_and_port(), Some(("*", _) | (_, 0))) {
            return Err(ConnectError::NotDialable(endpoint));
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ConnectError::NoRuntime);
        }
        let tls = self.options.connector.clone().filter(|_| matches!(endpoint, Endpoint::Tls { .. }));
        if matches!(endpoint, Endpoint::Tls { .. }) && tls.is_none() {
            return Err(ConnectError::NoTls(endpoint));
        }
        let Some(this) = self.this.upgrade() else { return Err(ConnectError::Closed) };
        let options = DialOptions {
            local: self.options.local(self.socket_type),
            link: LinkOptions { mechanism: options.mechanism, ..self.options.link.clone() },
            tls,
            keep_queue: self.policy.keep_queue && !self.options.immediate,
            reconnect: self.options.reconnect,
        };
        // Held over the dial: `close` sets the flag first and takes the dials then.
        let mut ends = lock(&self.ends);
        if self.closed.is_set() {
            return Err(ConnectError::Closed);
        }
        let dial = dial(endpoint, options, this, self.monitor.clone());
        if let Some(pipe) = dial.pipe() {
            let mut routes = lock(&self.routes);
            routes.all.insert(pipe.id(), pipe.clone());
            if !self.policy.exclusive || routes.pipes.is_empty() {
                // The connection may have been faster.
                if !routes.pipes.iter().any(|other| other.id() == pipe.id()) {
                    routes.pipes.push(pipe.clone());
                }
            }
            self.routes_changed(&routes);
        }
        ends.dials.push(dial);
        drop(ends);
        self.writable.notify_waiters();
        Ok(())
    }

    pub(super) fn disconnect<E>(&self, endpoint: E) -> Result<(), NoSuchEndpoint>
    where
        E: TryInto<Endpoint>,
        E::Error: Into<ParseEndpointError>,
    {
        let endpoint = parse(endpoint)?;
        let mut found = false;
        let mut ends = lock(&self.ends);
        for dial in ends.dials.extract_if(.., |dial| *dial.endpoint() == endpoint) {
            found = true;
            dial.close(self.options.linger);
            if let Some(pipe) = dial.pipe() {
                self.unroute(pipe);
            }
        }
        if found { Ok(()) } else { Err(NoSuchEndpoint(endpoint.to_string())) }
    }

    pub(super) async fn unbind<E>(&self, endpoint: E) -> Result<(), NoSuchEndpoint>
    where
        E: TryInto<Endpoint>,
        E::Error: Into<ParseEndpointError>,
    {
        let endpoint = parse(endpoint)?;
        let listens: Vec<Listening> = {
            let mut ends = lock(&self.ends);
            ends.listens.extract_if(.., |listening| *listening.endpoint() == endpoint).collect()
        };
        for listening in &listens {
            listening.close();
            listening.ended().await;
        }
        if listens.is_empty() { Err(NoSuchEndpoint(endpoint.to_string())) } else { Ok(()) }
    }

    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        lock(&self.ends).listens.iter().map(|listening| listening.endpoint().clone()).collect()
    }

    pub(super) fn monitor(&self) -> Monitor {
        self.monitor.monitor()
    }

    /// Begins the end; returns what [`close`](Self::close) has to wait for.
    fn shut(&self) -> (Ends, Vec<Arc<Pipe>>) {
        self.closed.set();
        let ends = std::mem::take(&mut *lock(&self.ends));
        let pipes: Vec<_> = lock(&self.routes).all.values().cloned().collect();
        ends.listens.iter().for_each(Listening::close);
        ends.dials.iter().for_each(|dial| dial.close(self.options.linger));
        pipes.iter().for_each(|pipe| pipe.close("the socket was closed", self.options.linger));
        self.writable.notify_waiters();
        self.inbound.wake_all();
        (ends, pipes)
    }

    pub(super) async fn close(&self) {
        let (ends, pipes) = self.shut();
        for listening in &ends.listens {
            listening.ended().await;
        }
        for pipe in &pipes {
            pipe.ended().await;
        }
        for dial in &ends.dials {
            dial.ended().await;
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_set()
    }

    // ---- sending ----

    /// Errors: too large, or closed.
    #[inline]
    pub(super) fn check<F: Frames + ?Sized>(&self, frames: &F) -> Result<(), SendError> {
        let size = match frames.frame_count() {
            1 => frames.frame_at(0).as_slice().len(),
            count => (0..count).map(|i| frames.frame_at(i).as_slice().len()).sum(),
        };
        let max = self.options.limits().max_message.min(MAX_SEND);
        if size > max {
            return Err(SendError::TooLarge { size, max });
        }
        if self.closed.is_set() {
            return Err(SendError::Closed);
        }
        Ok(())
    }

    /// Puts into the next pipe that has room; returns its id.
    #[inline]
    pub(super) fn try_next<F: Frames + ?Sized>(&self, frames: &F) -> Result<u64, SendError> {
        if self.only_first.load(Ordering::Acquire)
            && let Some(pipe) = self.first.get()
        {
            let put = pipe.try_put(frames);
            if put.is_queued() {
                self.turn.note(put);
                return Ok(pipe.id());
            }
        }
        self.try_each(frames)
    }

    fn try_each<F: Frames + ?Sized>(&self, frames: &F) -> Result<u64, SendError> {
        let mut routes = lock(&self.routes);
        let routes = &mut *routes;
        let count = routes.pipes.len();
        for _ in 0..count {
            let index = if routes.next < count { routes.next } else { 0 };
            routes.next = index + 1;
            if let Some(pipe) = routes.pipes.get(index) {
                let put = pipe.try_put(frames);
                if put.is_queued() {
                    self.turn.note(put);
                    return Ok(pipe.id());
                }
            }
        }
        Err(SendError::Full)
    }

    /// Tries until it works, is refused, or fails other than by [`SendError::Full`].
    pub(super) async fn until_sent<R>(
        &self,
        mut attempt: impl FnMut() -> Result<R, SendError>,
    ) -> Result<R, SendError> {
        match attempt() {
            Err(SendError::Full) => {}
            outcome => return outcome,
        }
        loop {
            let writable = self.writable.notified();
            if self.closed.is_set() {
                return Err(SendError::Closed);
            }
            match attempt() {
                Err(SendError::Full) => writable.await,
                outcome => return outcome,
            }
        }
    }

    // ---- receiving ----

    /// The next message that `take` makes something of; cancel safe.
    pub(super) async fn receive<R>(
        &self,
        mut take: impl FnMut(From<'_>) -> Option<R>,
    ) -> Result<R, RecvError> {
        self.inbound
            .wait(|taker| {
                while let Some(taken) = taker.pop(&mut take) {
                    if let Some(taken) = taken {
                        return Some(Ok(taken));
                    }
                }
                self.closed.is_set().then_some(Err(RecvError::Closed))
            })
            .await
    }

    /// A batch for one wake-up; cancel safe.
    pub(super) async fn receive_many(
        &self,
        into: &mut Vec<Message>,
        max: usize,
        map: impl Fn(From<'_>) -> Message,
    ) -> Result<usize, RecvError> {
        if max == 0 {
            return Ok(0);
        }
        self.inbound
            .wait(|taker| match taker.pop_many(max, |from| into.push(map(from))) {
                0 => self.closed.is_set().then_some(Err(RecvError::Closed)),
                count => Some(Ok(count)),
            })
            .await
    }

    // ---- subscribing ----

    /// Counts the prefix in, and tells every peer about it if it is new.
    pub(super) fn subscribe(&self, prefix: &[u8]) {
        let mut routes = lock(&self.routes);
        let count = routes.wanted.entry(prefix, || 0);
        *count += 1;
        if *count == 1 {
            routes.tell_all(true, prefix);
        }
    }

    /// Counts the prefix out, and tells every peer if nobody here wants it any more; `false`: nobody did before.
    pub(super) fn unsubscribe(&self, prefix: &[u8]) -> bool {
        let mut routes = lock(&self.routes);
        let Some(count) = routes.wanted.get_mut(prefix) else { return false };
        *count -= 1;
        if *count == 0 {
            routes.wanted.remove(prefix);
            routes.tell_all(false, prefix);
        }
        true
    }

    /// Whether this peer can come in.
    fn check_exclusive(&self, from: &Origin) -> Result<(), Refusal> {
        let routes = lock(&self.routes);
        match routes.pipes.first() {
            Some(pipe) if self.policy.exclusive => {
                let same = pipe.origin().dial().is_some_and(|dial| from.dial() == Some(dial));
                let busy = || Refusal { reason: "this PAIR socket has its peer".into(), last: false };
                if same { Ok(()) } else { Err(busy()) }
            }
            _ => Ok(()),
        }
    }

    /// No new message goes to `pipe`.
    fn unroute(&self, pipe: &Arc<Pipe>) {
        let mut routes = lock(&self.routes);
        routes.pipes.retain(|other| other.id() != pipe.id());
        self.routes_changed(&routes);
    }

    /// Call it when `pipes` has changed.
    fn routes_changed(&self, routes: &Routes) {
        let only_first = match &routes.pipes[..] {
            [only] => self.first.get_or_init(|| only.clone()).id() == only.id(),
            _ => false,
        };
        self.only_first.store(only_first, Ordering::Release);
    }

    /// A ROUTER's label for a new peer: what it asks for, unless that is taken or reserved.
    fn label(&self, routes: &Routes, pipe: &Pipe) -> Bytes {
        let wish = pipe.peer().map(|peer| peer.identity.clone()).unwrap_or_default();
        // Labels that begin with a zero byte are those that we make up.
        if !wish.is_empty() && !wish.starts_with(&[0]) && !routes.labels.contains_key(&wish) {
            return wish;
        }
        let mut label = [0; 5];
        label[1..].copy_from_slice(&(pipe.id() as u32).to_be_bytes());
        Bytes::copy_from_slice(&label)
    }

    /// Returns the reason to disconnect the peer for.
    fn limited(&self, pipe: &Pipe, limit: Limit) -> String {
        let origin = pipe.origin();
        self.gate.limited(limit, origin.remote(), std::time::Instant::now());
        self.monitor.report(|| Event::Limited {
            endpoint: origin.endpoint().clone(),
            remote: origin.remote().to_owned(),
            limit,
        });
        limit.to_string()
    }

    fn take_command(&self, pipe: &Arc<Pipe>, command: &Command) -> Result<bool, String> {
        let (kind, prefix) = match command {
            Command::Subscribe(prefix) => (1, prefix),
            Command::Cancel(prefix) => (0, prefix),
        };
        let counts = prefix.len() + SUBSCRIPTION;
        let mut routes = lock(&self.routes);
        let subscribers = &mut routes.subscribers;
        let change = match kind {
            1 => subscribers.subscribe(pipe.id(), prefix, self.options.caps, || pipe.keep(counts)),
            _ => Ok(subscribers.cancel(pipe.id(), prefix)),
        };
        drop(routes);
        let change = change.map_err(|limit| self.limited(pipe, limit))?;
        if kind == 0 && change != Change::Nothing {
            pipe.forget(counts);
        }
        if change != Change::Nothing {
            self.monitor.report(|| {
                let origin = pipe.origin();
                let (endpoint, remote) = (origin.endpoint().clone(), origin.remote().to_owned());
                let prefix = prefix.clone();
                match kind {
                    1 => Event::Subscribed { endpoint, remote, prefix },
                    _ => Event::Unsubscribed { endpoint, remote, prefix },
                }
            });
        }
        let shown = change == Change::Edge || self.options.verbose;
        if self.socket_type != SocketType::XPub || !shown {
            return Ok(true);
        }
        Ok(self.inbound.push(pipe, subscription_message(kind, prefix)))
    }
}

impl Core for Shared {
    fn admit(&self, _peer: &zmtp::Peer, from: &Origin, proof: &Proof) -> Admit {
        if from.dial().is_none() && !self.options.accept.allows(proof) {
            let reason = "this CURVE key is not allowed here".into();
            return Admit::Now(Err(Refusal { reason, last: true }));
        }
        // A dialled connection may be needed to flush what is queued.
        let open = !self.closed.is_set() || from.dial().is_some();
        let Some(this) = self.this.upgrade().filter(|_| open) else {
            return Admit::Now(Err(Refusal { reason: "the socket is closed".into(), last: false }));
        };
        let local = self.options.local(self.socket_type);
        Admit::Now(self.check_exclusive(from).map(|()| Admission { local, core: this, about: None }))
    }

    fn joined(&self, pipe: &Arc<Pipe>) {
        let mut label = Bytes::new();
        let mut routes = lock(&self.routes);
        routes.all.insert(pipe.id(), pipe.clone());
        match self.policy.outgoing {
            Outgoing::RoundRobin => {
                let known = routes.pipes.iter().any(|other| other.id() == pipe.id());
                if self.policy.exclusive && !known && !routes.pipes.is_empty() {
                    drop(routes);
                    return pipe.abort("this PAIR socket has its peer");
                }
                if !known {
                    routes.pipes.push(pipe.clone());
                    self.routes_changed(&routes);
                }
            }
            Outgoing::Matching => {
                let slot = routes.subscribers.joined(pipe.id());
                if routes.slots.len() <= slot {
                    routes.slots.resize(slot + 1, None);
                }
                if let Some(place) = routes.slots.get_mut(slot) {
                    *place = Some(pipe.clone());
                }
                routes.grant = Grant::default();
            }
            Outgoing::All => routes.pipes.push(pipe.clone()),
            Outgoing::Labelled => {
                label = self.label(&routes, pipe);
                routes.labels.insert(label.clone(), pipe.clone());
            }
            Outgoing::None | Outgoing::Asker => {}
        }
        if policy::subscribes(self.socket_type) {
            let mut all = BytesMut::new();
            let minor = minor(pipe);
            routes.wanted.for_each(|prefix, _| encode_subscription(minor, true, prefix, &mut all));
            pipe.put_control(&all);
        }
        drop(routes);
        if self.policy.incoming != Incoming::None {
            self.inbound.joined(pipe, label);
        }
        if self.closed.is_set() {
            // It came in while the socket was closing, which did not see it.
            pipe.close("the socket was closed", self.options.linger);
        }
        self.writable.notify_waiters();
    }

    fn deliver(&self, pipe: &Arc<Pipe>, received: &mut Received) -> Flow {
        if policy::publishes(self.socket_type) {
            let mut taken = 0;
            let mut more = true;
            for command in &received.commands {
                taken += 1;
                match self.take_command(pipe, command) {
                    Ok(true) => {}
                    Ok(false) => {
                        more = false;
                        break;
                    }
                    Err(reason) => return Flow::Close(reason),
                }
            }
            received.commands.drain(..taken);
            if !more {
                return Flow::Pause;
            }
        }
        match self.policy.incoming {
            Incoming::None => {
                if !received.messages.is_empty() {
                    metrics::counter!("ripstop_socket_messages_dropped_total", "reason" => "unexpected")
                        .increment(received.messages.len() as u64);
                }
                Flow::Continue
            }
            Incoming::Fair => self.inbound.deliver(pipe, &mut received.messages),
            Incoming::Filtered => {
                let routes = lock(&self.routes);
                received
                    .messages
                    .retain(|message| routes.wanted.matches(message.frame(0).unwrap_or_default()));
                drop(routes);
                self.inbound.deliver(pipe, &mut received.messages)
            }
        }
    }

    fn writable(&self, _pipe: &Arc<Pipe>) {
        self.writable.notify_waiters();
    }

    fn left(&self, pipe: &Arc<Pipe>, why: &Disconnect) {
        let kept = why.retrying && self.policy.keep_queue && !self.options.immediate;
        let mut unwanted = Vec::new();
        let mut routes = lock(&self.routes);
        if !kept {
            routes.all.remove(&pipe.id());
            routes.pipes.retain(|other| other.id() != pipe.id());
            self.routes_changed(&routes);
        }
        match self.policy.outgoing {
            Outgoing::Matching => {
                unwanted = routes.subscribers.left(pipe.id());
                for slot in &mut routes.slots {
                    slot.take_if(|other| other.id() == pipe.id());
                }
            }
            Outgoing::Labelled => {
                let mut freed = false;
                routes.labels.retain(|label, other| {
                    let stays = other.id() != pipe.id();
                    freed |= !stays && !label.starts_with(&[0]);
                    stays
                });
                if freed {
                    routes.relabel();
                }
            }
            _ => {}
        }
        drop(routes);
        for prefix in unwanted.iter().filter(|_| self.socket_type == SocketType::XPub) {
            self.inbound.push(pipe, subscription_message(0, prefix));
        }
        if !kept {
            self.inbound.left(pipe);
        }
        let asked = lock(&self.asked.pipe);
        // A request that is still queued goes out on the next connection. The reply may have come and not been taken yet,
        // so that whoever receives looks for it before it calls the peer lost.
        if *asked == Some(pipe.id()) && (!kept || pipe.queued().0 == 0) {
            self.asked.lost.store(true, Ordering::Release);
            drop(asked);
            self.inbound.wake_all();
        }
    }

    fn failed(&self, origin: &Origin, _error: &ConnectError, retry_in: Option<std::time::Duration>) {
        let Some(dial) = origin.dial().filter(|_| retry_in.is_none()) else { return };
        // Given up: its queue takes no more.
        let mut routes = lock(&self.routes);
        routes.pipes.retain(|pipe| pipe.origin().dial() != Some(dial));
        routes.all.retain(|_, pipe| pipe.origin().dial() != Some(dial));
        self.routes_changed(&routes);
        drop(routes);
        lock(&self.ends).dials.retain(|other| other.id() != dial);
    }
}

impl Routes {
    /// Puts into every pipe whose subscriptions match. With `all`, only if all of them have room: else
    /// [`SendError::Full`], and nothing is put.
    pub(super) fn publish<F: Frames + ?Sized>(
        &mut self,
        frames: &F,
        all: bool,
        mut put: impl FnMut(&Pipe, &Encoded),
    ) -> Result<usize, SendError> {
        let topic = match frames.frame_count() {
            0 => &[],
            _ => frames.frame_at(0).as_slice(),
        };
        self.matched.clear();
        let matched = &mut self.matched;
        self.subscribers.matching(topic, |slot| matched.push(slot));
        if self.matched.is_empty() {
            return Ok(0);
        }
        self.encoded.set(frames);
        let size = self.encoded.size();
        let granted = all && self.grant.take(size, &self.slots);
        let pipes = || self.matched.iter().filter_map(|slot| self.slots.get(*slot)?.as_ref());
        if all && !granted && !pipes().all(|pipe| pipe.has_room_for(size)) {
            return Err(SendError::Full);
        }
        pipes().for_each(|pipe| put(pipe, &self.encoded));
        Ok(self.matched.len())
    }

    /// Tells every publisher about a subscription.
    fn tell_all(&self, subscribe: bool, prefix: &[u8]) {
        let mut command = BytesMut::new();
        for pipe in self.all.values() {
            command.clear();
            encode_subscription(minor(pipe), subscribe, prefix, &mut command);
            pipe.put_control(&command);
        }
    }

    /// The holder of a routing id has left; a live peer that asked for the same one and got another (it had dialled
    /// again before the old connection was noticed to be dead) can be reached by it from now on.
    fn relabel(&mut self) {
        let mut found = Vec::new();
        for pipe in self.all.values() {
            if let Some(peer) = pipe.peer()
                && !peer.identity.is_empty()
                && !peer.identity.starts_with(&[0])
                && !self.labels.contains_key(&peer.identity)
            {
                found.push((peer.identity.clone(), pipe.clone()));
            }
        }
        self.labels.extend(found);
    }
}

fn minor(pipe: &Pipe) -> u8 {
    pipe.peer().map_or(0, |peer| peer.minor)
}

fn subscription_message(kind: u8, prefix: &[u8]) -> Message {
    let mut body = Vec::with_capacity(prefix.len() + 1);
    body.push(kind);
    body.extend_from_slice(prefix);
    body.into()
}

fn parse<E>(endpoint: E) -> Result<Endpoint, NoSuchEndpoint>
where
    E: TryInto<Endpoint>,
    E::Error: Into<ParseEndpointError>,
{
    endpoint.try_into().map_err(|error| NoSuchEndpoint(error.into().text().to_owned()))
}

/// What the handles of one socket share. The last one dropped closes the socket, with linger, in the background.
pub(super) struct Owned(pub(super) Arc<Shared>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.shut();
    }
}
