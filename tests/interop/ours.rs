//! Our side: a socket of any type behind one face.

use ripstop::socket::{
    ConnectOptions, Dealer, Event, Monitor, Options, Pair, Pub, Pull, Push, Rep, Req, Router, SendError, Sub,
    XPub, XSub,
};
use ripstop::{Endpoint, Message};

use crate::peer::soon;

#[derive(Clone)]
pub(crate) enum Ours {
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

/// The same expression for the socket of whatever type.
macro_rules! each {
    ($any:expr, $socket:ident => $do:expr) => {
        match $any {
            Ours::Req($socket) => $do,
            Ours::Rep($socket) => $do,
            Ours::Dealer($socket) => $do,
            Ours::Router($socket) => $do,
            Ours::Pub($socket) => $do,
            Ours::Sub($socket) => $do,
            Ours::XPub($socket) => $do,
            Ours::XSub($socket) => $do,
            Ours::Push($socket) => $do,
            Ours::Pull($socket) => $do,
            Ours::Pair($socket) => $do,
        }
    };
}

impl Ours {
    pub(crate) fn new(kind: &str, options: Options) -> Self {
        match kind {
            "REQ" => Self::Req(Req::with_options(options)),
            "REP" => Self::Rep(Rep::with_options(options)),
            "DEALER" => Self::Dealer(Dealer::with_options(options)),
            "ROUTER" => Self::Router(Router::with_options(options)),
            "PUB" => Self::Pub(Pub::with_options(options.send_hwm(0).send_hwm_bytes(0))),
            "SUB" => Self::Sub(Sub::with_options(options)),
            "XPUB" => Self::XPub(XPub::with_options(options.send_hwm(0).send_hwm_bytes(0))),
            "XSUB" => Self::XSub(XSub::with_options(options)),
            "PUSH" => Self::Push(Push::with_options(options)),
            "PULL" => Self::Pull(Pull::with_options(options)),
            "PAIR" => Self::Pair(Pair::with_options(options)),
            other => panic!("{other}"),
        }
    }

    pub(crate) async fn bind(&self, url: &str) -> Endpoint {
        each!(self, socket => socket.bind(url).await).unwrap()
    }

    pub(crate) fn connect(&self, url: &str) {
        each!(self, socket => socket.connect(url)).unwrap();
    }

    pub(crate) fn connect_with(&self, url: &str, options: ConnectOptions) {
        each!(self, socket => socket.connect_with(url, options)).unwrap();
    }

    pub(crate) fn monitor(&self) -> Monitor {
        each!(self, socket => socket.monitor())
    }

    pub(crate) async fn close(&self) {
        soon("close", async { each!(self, socket => socket.close().await) }).await;
    }

    pub(crate) async fn subscribe(&self, prefix: &str) {
        match self {
            Self::Sub(socket) => socket.subscribe(prefix),
            Self::XSub(socket) => socket.send(format!("\x01{prefix}")).await.unwrap(),
            _ => panic!("not a subscriber"),
        }
    }

    /// Sends; a router waits for a peer that has not come yet.
    pub(crate) async fn send(&self, message: &Message) {
        soon("our send", async {
            let mut monitor = self.monitor();
            loop {
                match self.try_to_send(message).await {
                    Err(SendError::Unroutable(_)) => drop(monitor.next().await),
                    sent => return sent.unwrap(),
                }
            }
        })
        .await;
    }

    async fn try_to_send(&self, message: &Message) -> Result<(), SendError> {
        match self {
            Self::Req(socket) => socket.send(message).await,
            Self::Rep(socket) => socket.send(message).await,
            Self::Dealer(socket) => socket.send(message).await,
            Self::Router(socket) => socket.send(message).await,
            Self::Pub(socket) => socket.send(message).await,
            Self::XPub(socket) => socket.send(message).await,
            Self::XSub(socket) => socket.send(message).await,
            Self::Push(socket) => socket.send(message).await,
            Self::Pair(socket) => socket.send(message).await,
            Self::Sub(_) | Self::Pull(_) => panic!("cannot send"),
        }
    }

    pub(crate) async fn recv(&self) -> Message {
        let received = async {
            match self {
                Self::Req(socket) => socket.recv().await,
                Self::Rep(socket) => socket.recv().await,
                Self::Dealer(socket) => socket.recv().await,
                Self::Router(socket) => socket.recv().await,
                Self::Sub(socket) => socket.recv().await,
                Self::XPub(socket) => socket.recv().await,
                Self::XSub(socket) => socket.recv().await,
                Self::Pull(socket) => socket.recv().await,
                Self::Pair(socket) => socket.recv().await,
                Self::Pub(_) | Self::Push(_) => panic!("cannot receive"),
            }
        };
        soon("our receive", received).await.unwrap()
    }

    pub(crate) async fn send_all(&self, numbers: std::ops::Range<usize>, prefix: &[&str]) {
        for n in numbers {
            self.send(&message(n, prefix)).await;
        }
    }

    pub(crate) async fn receive_all(&self, numbers: std::ops::Range<usize>, prefix: &[&str]) {
        for n in numbers {
            let mut received = self.recv().await;
            while received.frame(0) == Some(b"probe") {
                received = self.recv().await;
            }
            assert!(received == message(n, prefix), "{n}: {:.200}", format!("{received:?}"));
        }
    }

    /// Sends requests, `window` at most under way, and expects each to come back.
    pub(crate) async fn ask_all(&self, count: usize, prefix: &[&str], window: usize) {
        for n in 0..count {
            self.send(&message(n, prefix)).await;
            if n + 1 >= window {
                self.receive_all(n + 1 - window..n + 2 - window, prefix).await;
            }
        }
        self.receive_all((count + 1).saturating_sub(window)..count, prefix).await;
    }

    pub(crate) async fn echo(&self, count: usize) {
        for _ in 0..count {
            self.send(&self.recv().await).await;
        }
    }
}

/// The same as in `peer.py`: one frame or several, some empty, some large.
pub(crate) fn message(n: usize, prefix: &[&str]) -> Message {
    let mut frames: Vec<Vec<u8>> = prefix.iter().map(|frame| frame.as_bytes().to_vec()).collect();
    let filler = (n % 256) as u8;
    frames.push(format!("t{n}").into_bytes());
    if n.is_multiple_of(3) {
        frames.extend([Vec::new(), vec![filler; n % 300]]);
    }
    if n % 1000 == 999 {
        frames.push(vec![filler; 1 << 20]);
    }
    Message::from_frames(frames)
}

/// Waits for an event.
pub(crate) async fn until(monitor: &mut Monitor, wanted: impl Fn(&Event) -> bool) {
    let found = async {
        while let Some(event) = monitor.next().await {
            if wanted(&event) {
                return;
            }
        }
        panic!("the socket has gone");
    };
    soon("the event", found).await;
}
