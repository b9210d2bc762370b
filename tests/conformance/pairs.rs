//! Every pair of socket types, either side binding, before and after a reconnect.

use ripstop::{
    Message,
    socket::{ConnectOptions, Options},
};

use crate::{
    Transport,
    any::{Any, Type, open, until, up},
    on_every_transport, soon,
};

/// Who begins, and who answers if the pair talks both ways.
const PAIRS: [(Type, Type); 12] = [
    (Type::Req, Type::Rep),
    (Type::Req, Type::Router),
    (Type::Dealer, Type::Rep),
    (Type::Dealer, Type::Router),
    (Type::Dealer, Type::Dealer),
    (Type::Router, Type::Router),
    (Type::Pub, Type::Sub),
    (Type::Pub, Type::XSub),
    (Type::XPub, Type::Sub),
    (Type::XPub, Type::XSub),
    (Type::Push, Type::Pull),
    (Type::Pair, Type::Pair),
];

/// Enough to fill several reads and batches.
const MESSAGES: usize = 500;

on_every_transport!(every_pair, every_pair_after_a_reconnect);

async fn every_pair(transport: Transport) {
    pairs(transport, &|options| options, &ConnectOptions::new()).await;
}

/// `secure`: what a listener asks for; `dialling`: how to meet that.
pub(crate) async fn pairs(
    transport: Transport,
    secure: &dyn Fn(Options) -> Options,
    dialling: &ConnectOptions,
) {
    for (from, to) in PAIRS {
        for from_binds in [true, false] {
            let (a, b) = (open(from, secure(options("a"))), open(to, secure(options("b"))));
            join(&*a, &*b, from, from_binds, &transport.endpoint(), dialling).await;
            talk((from, &*a), (to, &*b)).await;
            soon(a.close()).await;
            soon(b.close()).await;
        }
    }
}

/// The binding side is unbound, which ends its connections, and bound again at the same place.
async fn every_pair_after_a_reconnect(transport: Transport) {
    pairs_after_a_reconnect(transport, &|options| options, &ConnectOptions::new()).await;
}

pub(crate) async fn pairs_after_a_reconnect(
    transport: Transport,
    secure: &dyn Fn(Options) -> Options,
    dialling: &ConnectOptions,
) {
    for (from, to) in PAIRS {
        let (a, b) = (open(from, secure(options("a"))), open(to, secure(options("b"))));
        let at = join(&*a, &*b, from, false, &transport.endpoint(), dialling).await;
        let (mut seen_a, mut seen_b) = (a.monitor(), b.monitor());
        soon(b.close()).await;
        let b = open(to, secure(options("b")));
        drop(seen_b);
        seen_b = b.monitor();
        prepare(&*b, to);
        soon(b.bind(&at)).await;
        until(&mut seen_b, up).await;
        until(&mut seen_a, up).await;
        subscribed(&*a, from).await;
        talk((from, &*a), (to, &*b)).await;
    }
}

fn options(identity: &str) -> Options {
    Options::new().identity(identity)
}

fn prepare(socket: &dyn Any, kind: Type) {
    if matches!(kind, Type::Sub | Type::XSub) {
        socket.subscribe("");
    }
}

/// Binds and connects, and waits until both sides are up and the subscriptions have arrived. Returns where.
async fn join(
    a: &dyn Any,
    b: &dyn Any,
    from: Type,
    a_binds: bool,
    endpoint: &str,
    dialling: &ConnectOptions,
) -> String {
    for socket in [a, b] {
        // Does nothing for those that do not subscribe.
        socket.subscribe("");
    }
    let (mut seen_a, mut seen_b) = (a.monitor(), b.monitor());
    let (server, client) = if a_binds { (a, b) } else { (b, a) };
    let at = soon(server.bind(endpoint)).await.to_string();
    client.connect(&at, dialling.clone());
    until(&mut seen_a, up).await;
    until(&mut seen_b, up).await;
    subscribed(a, from).await;
    at
}

/// A publisher sends only to those who have subscribed. XPUB hears of it (and of the end of an earlier subscription);
/// for PUB see `talk`.
async fn subscribed(publisher: &dyn Any, kind: Type) {
    if kind == Type::XPub {
        while soon(publisher.recv()).await.unwrap() != Message::from(&[1u8][..]) {}
    }
}

fn numbered(n: usize) -> [Vec<u8>; 3] {
    // Short, empty and long frames; every 50th message has one that is written without being copied.
    let long = if n.is_multiple_of(50) { 40_000 } else { n % 700 };
    [n.to_be_bytes().to_vec(), Vec::new(), vec![n as u8; long]]
}

async fn talk((from, a): (Type, &dyn Any), (to, b): (Type, &dyn Any)) {
    match from {
        Type::Req => lockstep(a, (to, b)).await,
        Type::Pub => {
            // PUB does not say who has subscribed: a message of its own is repeated until one came through.
            let ready = Message::from("ready");
            soon(async {
                let mut heard = b.recv();
                loop {
                    a.send(ready.clone()).await.unwrap();
                    tokio::select! {
                        message = &mut heard => break assert_eq!(message.unwrap(), ready),
                        () = tokio::time::sleep(std::time::Duration::from_millis(1)) => {}
                    }
                }
            })
            .await;
            stream((from, a), (to, b), Some(ready)).await;
        }
        _ => stream((from, a), (to, b), None).await,
    }
}

/// Request and answer in turn.
async fn lockstep(a: &dyn Any, (to, b): (Type, &dyn Any)) {
    for n in 0..MESSAGES / 5 {
        let ask = Message::from_frames(numbered(n));
        soon(a.send(ask.clone())).await.unwrap();
        let got = soon(b.recv()).await.unwrap();
        if to == Type::Router {
            // Identity, request id, delimiter: echoed by whoever answers.
            let body = got.clone().skip(got.len() - 3).unwrap();
            assert_eq!(body, ask);
        } else {
            assert_eq!(got, ask);
        }
        soon(b.send(got)).await.unwrap();
        assert_eq!(soon(a.recv()).await.unwrap(), ask);
    }
}

/// Frames in front of the numbered ones.
type Front = &'static [&'static [u8]];

/// Many in one direction, in order, then back if the pair can.
async fn stream((from, a): (Type, &dyn Any), (to, b): (Type, &dyn Any), skip: Option<Message>) {
    // What a sender puts in front, and what the receiver sees in front.
    let front: &[&[u8]] = match (from, to) {
        (Type::Router, _) => &[b"b"],
        (Type::Dealer, Type::Rep) => &[b""],
        _ => &[],
    };
    let seen: &[&[u8]] = match to {
        Type::Router => &[b"a"],
        _ => &[],
    };
    let with = |front: &[&[u8]], n: usize| {
        Message::from_frames(front.iter().map(|frame| frame.to_vec()).chain(numbered(n)))
    };
    let sending = async {
        for n in 0..MESSAGES {
            soon(a.send(with(front, n))).await.unwrap();
        }
    };
    let receiving = async {
        for n in 0..MESSAGES {
            let mut got = soon(b.recv()).await.unwrap();
            while Some(&got) == skip.as_ref() {
                got = soon(b.recv()).await.unwrap();
            }
            assert_eq!(got, with(seen, n), "{from:?} to {to:?}");
            if to == Type::Rep {
                soon(b.send(got)).await.unwrap();
            }
        }
    };
    tokio::join!(sending, receiving);
    let back: Option<(Front, Front)> = match (from, to) {
        (Type::Dealer, Type::Rep) => {
            for n in 0..MESSAGES {
                assert_eq!(soon(a.recv()).await.unwrap(), with(&[b""], n));
            }
            None
        }
        (Type::Dealer, Type::Router) => Some((&[b"a"], &[])),
        (Type::Router, Type::Router) => Some((&[b"a"], &[b"b"])),
        (Type::Dealer, Type::Dealer) | (Type::Pair, Type::Pair) => Some((&[], &[])),
        _ => None,
    };
    if let Some((front, seen)) = back {
        let sending = async {
            for n in 0..MESSAGES {
                soon(b.send(with(front, n))).await.unwrap();
            }
        };
        let receiving = async {
            for n in 0..MESSAGES {
                assert_eq!(soon(a.recv()).await.unwrap(), with(seen, n), "{to:?} back to {from:?}");
            }
        };
        tokio::join!(sending, receiving);
    }
}
