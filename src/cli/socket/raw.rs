//! One socket of any type behind one face, and what its monitor has to say.

use std::{collections::HashSet, future::Future, time::Duration};

use ripstop::{
    Endpoint, Message,
    socket::{
        BindError, ConnectError, Dealer, Event, Monitor, Options, Pair, Pub, Pull, Push, RecvError, Rep, Req,
        Router, SendError, Sub, XPub, XSub,
    },
};
use tokio::sync::watch;

use crate::{
    args::{Kind, SocketArgs},
    exit::{Exit, Failure},
    output::remark,
};

/// How often a line for a router's peer that is not there is tried again.
const ROUTE_AGAIN: Duration = Duration::from_millis(10);

pub(super) struct Raw {
    socket: Any,
    state: watch::Receiver<State>,
}

enum Any {
    Req(Req),
    Rep(Rep),
    Dealer(Dealer),
    Router(Router),
    Pub(Pub),
    Sub(Sub),
    XPub(XPub),
    XSub(XSub),
    Push(Push),
    Pull(Pull),
    Pair(Pair),
}

/// What the monitor has told so far.
#[derive(Default)]
struct State {
    subscribers: HashSet<String>,
    /// Endpoints that will not be tried again, and why the last one.
    gave_up: usize,
    reason: String,
}

/// The same expression for the socket of whatever type.
macro_rules! each {
    ($any:expr, $socket:ident => $do:expr) => {
        match $any {
            Any::Req($socket) => $do,
            Any::Rep($socket) => $do,
            Any::Dealer($socket) => $do,
            Any::Router($socket) => $do,
            Any::Pub($socket) => $do,
            Any::Sub($socket) => $do,
            Any::XPub($socket) => $do,
            Any::XSub($socket) => $do,
            Any::Push($socket) => $do,
            Any::Pull($socket) => $do,
            Any::Pair($socket) => $do,
        }
    };
}

impl Raw {
    pub(super) fn open(args: &SocketArgs) -> Result<Self, Failure> {
        // What is read from standard input is written, however long that takes; Ctrl-C and --timeout end it.
        let mut options = Options::new().linger(None);
        if let Some(identity) = &args.identity {
            if !(1..=255).contains(&identity.len()) {
                return Err(Failure::usage("--identity takes 1 to 255 bytes"));
            }
            options = options.identity(identity);
        }
        if let Some(hwm) = args.hwm {
            options = options.send_hwm(hwm).receive_hwm(hwm);
            if hwm == 0 {
                options = options.send_hwm_bytes(0).receive_hwm_bytes(0);
            }
        }
        let socket = match args.kind {
            Kind::Req => Any::Req(Req::with_options(options)),
            Kind::Rep => Any::Rep(Rep::with_options(options)),
            Kind::Dealer => Any::Dealer(Dealer::with_options(options)),
            Kind::Router => Any::Router(Router::with_options(options)),
            Kind::Pub => Any::Pub(Pub::with_options(options)),
            Kind::Sub => Any::Sub(Sub::with_options(options)),
            Kind::Xpub => Any::XPub(XPub::with_options(options)),
            Kind::Xsub => Any::XSub(XSub::with_options(options)),
            Kind::Push => Any::Push(Push::with_options(options)),
            Kind::Pull => Any::Pull(Pull::with_options(options)),
            Kind::Pair => Any::Pair(Pair::with_options(options)),
        };
        let everything = [String::new()];
        let prefixes = if args.subscribe.is_empty() { &everything[..] } else { &args.subscribe };
        for prefix in prefixes {
            match &socket {
                Any::Sub(socket) => socket.subscribe(prefix),
                Any::XSub(socket) => socket.try_send(format!("\x01{prefix}")).map_err(refused)?,
                _ => {}
            }
        }
        let (sender, state) = watch::channel(State::default());
        tokio::spawn(follow(each!(&socket, socket => socket.monitor()), sender));
        Ok(Self { socket, state })
    }

    /// Listens, and gives the actual endpoint.
    pub(super) async fn bind(&self, url: &str) -> Result<Endpoint, Failure> {
        let bound = each!(&self.socket, socket => socket.bind(url).await);
        bound.map_err(|error| match error {
            BindError::Endpoint(_) => {
                Failure::coded(Exit::Usage, error.code(), format!("--bind {url}: {error}"))
            }
            _ => Failure::coded(Exit::Failed, error.code(), error),
        })
    }

    pub(super) fn connect(&self, url: &str) -> Result<(), Failure> {
        let connected = each!(&self.socket, socket => socket.connect(url));
        connected.map_err(|error| match error {
            ConnectError::Endpoint(_) | ConnectError::NotDialable(_) => {
                Failure::coded(Exit::Usage, error.code(), format!("--connect {url}: {error}"))
            }
            _ => Failure::coded(Exit::Failed, error.code(), error),
        })
    }

    /// Completes when every one of `dials` endpoints has refused us for good.
    pub(super) fn refused(&self, dials: usize) -> impl Future<Output = Failure> + use<> {
        let mut state = self.state.clone();
        async move {
            let refused = state.wait_for(|state| dials > 0 && state.gave_up >= dials).await;
            match refused.map(|state| Failure::failed(&state.reason)) {
                Ok(failure) => failure,
                // The socket is closed: it ends in another way.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Waits for this many subscribers.
    pub(super) async fn subscribers(&self, count: usize) {
        // An error means that the socket is closed, which the next send tells.
        let _ = self.state.clone().wait_for(|state| state.subscribers.len() >= count).await;
    }

    /// Sends, and waits while nobody can take it: for a router, while the peer that the first frame names is not there.
    pub(super) async fn send(&self, message: &Message) -> Result<(), Failure> {
        loop {
            match self.put(message).await {
                Err(SendError::Unroutable(_)) => tokio::time::sleep(ROUTE_AGAIN).await,
                done => return done.map_err(refused),
            }
        }
    }

    /// Sends an answer; who has gone by now gets none.
    pub(super) async fn send_back(&self, message: &Message) -> Result<(), Failure> {
        match self.put(message).await {
            Err(SendError::Unroutable(who)) => {
                remark(format!("warning: {who} has gone before its echo"));
                Ok(())
            }
            done => done.map_err(refused),
        }
    }

    async fn put(&self, message: &Message) -> Result<(), SendError> {
        match &self.socket {
            Any::Req(socket) => socket.send(message).await,
            Any::Rep(socket) => socket.send(message).await,
            Any::Dealer(socket) => socket.send(message).await,
            Any::Router(socket) => socket.send(message).await,
            Any::Pub(socket) => socket.send(message).await,
            Any::XPub(socket) => socket.send(message).await,
            Any::XSub(socket) => socket.send(message).await,
            Any::Push(socket) => socket.send(message).await,
            Any::Pair(socket) => socket.send(message).await,
            Any::Sub(_) | Any::Pull(_) => Err(SendError::State),
        }
    }

    /// Appends what has come, `max` messages at most; waits for at least one. Cancel safe.
    pub(super) async fn receive(&self, into: &mut Vec<Message>, max: usize) -> Result<(), Failure> {
        let received = match &self.socket {
            // One at a time: what is sent next goes with what was received last.
            Any::Req(socket) => socket.recv().await.map(|message| into.push(message)),
            Any::Rep(socket) => socket.recv().await.map(|message| into.push(message)),
            Any::Dealer(socket) => socket.recv_many(into, max).await.map(drop),
            Any::Router(socket) => socket.recv_many(into, max).await.map(drop),
            Any::Sub(socket) => socket.recv_many(into, max).await.map(drop),
            Any::XPub(socket) => socket.recv_many(into, max).await.map(drop),
            Any::XSub(socket) => socket.recv_many(into, max).await.map(drop),
            Any::Pull(socket) => socket.recv_many(into, max).await.map(drop),
            Any::Pair(socket) => socket.recv_many(into, max).await.map(drop),
            Any::Pub(_) | Any::Push(_) => Err(RecvError::Closed),
        };
        received.map_err(|error| Failure::coded(Exit::Failed, error.code(), error))
    }

    /// Writes what is queued, and closes.
    pub(super) async fn close(&self) {
        each!(&self.socket, socket => socket.close().await);
    }
}

fn refused(error: SendError) -> Failure {
    Failure::coded(Exit::Failed, error.code(), error)
}

/// Keeps the state, and tells what went wrong (once, while the same goes wrong again and again).
async fn follow(mut monitor: Monitor, state: watch::Sender<State>) {
    let mut said = String::new();
    while let Some(event) = monitor.next().await {
        match &event {
            Event::Subscribed { remote, endpoint, .. } => {
                state.send_modify(|state| {
                    state.subscribers.insert(format!("{endpoint} {remote}"));
                });
            }
            Event::GaveUp { .. } => state.send_modify(|state| {
                state.gave_up += 1;
                state.reason = event.to_string();
            }),
            Event::HandshakeFailed { .. } => {
                let text = format!("warning: {event}");
                if text != said {
                    remark(&text);
                    said = text;
                }
            }
            _ => tracing::info!("{event}"),
        }
    }
}

pub(super) fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Req => "req",
        Kind::Rep => "rep",
        Kind::Dealer => "dealer",
        Kind::Router => "router",
        Kind::Pub => "pub",
        Kind::Sub => "sub",
        Kind::Xpub => "xpub",
        Kind::Xsub => "xsub",
        Kind::Push => "push",
        Kind::Pull => "pull",
        Kind::Pair => "pair",
    }
}
