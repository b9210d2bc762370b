//! The same under CURVE; what is on the wire; and what happens when a connection breaks in the middle.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ripstop::Endpoint;
use ripstop::socket::*;
use ripstop::zmtp::curve::KeyPair;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use crate::{
    Transport,
    common::{awaits, quick},
    on_every_transport, pairs, soon,
};

on_every_transport!(every_pair, every_pair_after_a_reconnect);

async fn every_pair(transport: Transport) {
    let (server, dialling) = keys();
    let secure = |options: Options| options.curve_server(server.secret().clone());
    pairs::pairs(transport, &secure, &dialling).await;
}

async fn every_pair_after_a_reconnect(transport: Transport) {
    let (server, dialling) = keys();
    let secure = |options: Options| options.curve_server(server.secret().clone());
    pairs::pairs_after_a_reconnect(transport, &secure, &dialling).await;
}

/// A server's keys, and what a client of it dials with.
fn keys() -> (KeyPair, ConnectOptions) {
    let (server, client) = (curve_keys().unwrap(), curve_keys().unwrap());
    let dialling = ConnectOptions::new().curve(server.public(), client);
    (server, dialling)
}

/// Between a client and a server: hears everything, and can meddle with it.
struct Wire {
    endpoint: String,
    heard: Arc<Mutex<Vec<u8>>>,
    /// What went to the server, one connection after the other.
    up: Arc<Mutex<Vec<u8>>>,
    meddling: watch::Sender<Meddling>,
    /// Sends the server again what came last from the client.
    again: Arc<Notify>,
}

#[derive(Clone, Copy)]
struct Meddling {
    /// Connections end when so many bytes in all have gone to the server.
    cut_at: usize,
    /// Which byte of each connection to change, on the way to the server and back.
    flip_up: usize,
    flip_down: usize,
}

const NO_MEDDLING: Meddling = Meddling { cut_at: usize::MAX, flip_up: usize::MAX, flip_down: usize::MAX };

impl Wire {
    async fn to(server: &Endpoint) -> Self {
        let Endpoint::Tcp { host, port } = server.clone() else { panic!("{server} is not TCP") };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
        let (heard, up) = <(Arc<Mutex<Vec<u8>>>, Arc<Mutex<Vec<u8>>>)>::default();
        let (meddling, meddles) = watch::channel(NO_MEDDLING);
        let again = Arc::new(Notify::new());
        let carrier = Carrier { heard: heard.clone(), up: up.clone(), meddles, again: again.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect((&host[..], port)).await else { continue };
                tokio::spawn(carrier.clone().carry(client, server));
            }
        });
        Self { endpoint, heard, up, meddling, again }
    }

    fn heard(&self, what: &[u8]) -> bool {
        self.heard.lock().unwrap().windows(what.len()).any(|window| window == what)
    }
}

#[derive(Clone)]
struct Carrier {
    heard: Arc<Mutex<Vec<u8>>>,
    up: Arc<Mutex<Vec<u8>>>,
    meddles: watch::Receiver<Meddling>,
    again: Arc<Notify>,
}

impl Carrier {
    async fn carry(self, mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
        let (mut up, mut down) = (vec![0; 4096], vec![0; 4096]);
        let (mut sent, mut answered) = (0, 0);
        let mut last = Vec::new();
        loop {
            tokio::select! {
                n = client.read(&mut up) => {
                    let meddling = *self.meddles.borrow();
                    let n = n?.min(meddling.cut_at.saturating_sub(sent));
                    if n == 0 {
                        // The client learns of it last, so that what came on its next connection is handed out later.
                        server.shutdown().await?;
                        while server.read(&mut down).await? > 0 {}
                        return Ok(());
                    }
                    flip(&mut up[..n], meddling.flip_up.wrapping_sub(sent));
                    last = up[..n].to_vec();
                    self.heard.lock().unwrap().extend_from_slice(&last);
                    self.up.lock().unwrap().extend_from_slice(&last);
                    server.write_all(&last).await?;
                    sent += n;
                }
                n = server.read(&mut down) => {
                    let n = n?;
                    if n == 0 {
                        return Ok(());
                    }
                    flip(&mut down[..n], self.meddles.borrow().flip_down.wrapping_sub(answered));
                    self.heard.lock().unwrap().extend_from_slice(&down[..n]);
                    client.write_all(&down[..n]).await?;
                    answered += n;
                }
                () = self.again.notified() => server.write_all(&last).await?,
            }
        }
    }
}

fn flip(bytes: &mut [u8], at: usize) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1;
    }
}

const MARKER: &[u8] = b"a marker that can be read";

/// Request, answer, subscription, identity and socket types: everything is there with NULL, nothing with CURVE.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_read_on_the_wire() {
    for secure in [false, true] {
        let (server, dialling) = keys();
        let (options, dialling) = match secure {
            true => (Options::new().curve_server(server.secret().clone()), dialling),
            false => (Options::new(), ConnectOptions::new()),
        };
        let rep = Rep::with_options(options.clone());
        let wire = Wire::to(&rep.bind("tcp://127.0.0.1:0").await.unwrap()).await;
        let req = Req::with_options(Options::new().identity("an identity"));
        req.connect_with(&wire.endpoint[..], dialling.clone()).unwrap();
        req.send(["ask".as_bytes(), MARKER]).await.unwrap();
        assert_eq!(soon(rep.recv()).await.unwrap().frame(1), Some(MARKER));
        rep.send([MARKER, &[7; 40_000], b"answer"]).await.unwrap();
        assert_eq!(soon(req.recv()).await.unwrap().len(), 3);

        let publisher = Pub::with_options(options);
        let mut seen = publisher.monitor();
        let events = Wire::to(&publisher.bind("tcp://127.0.0.1:0").await.unwrap()).await;
        let subscriber = Sub::new();
        subscriber.subscribe("a subscription");
        subscriber.connect_with(&events.endpoint[..], dialling).unwrap();
        soon(async { awaits!(seen, Event::Subscribed { .. }) }).await;
        publisher.send(["a subscription, and more".as_bytes(), MARKER]).await.unwrap();
        soon(subscriber.recv()).await.unwrap();

        for what in [MARKER, b"ask", b"answer", b"an identity", b"Socket-Type", &[7; 100]] {
            assert_eq!(wire.heard(what), !secure, "{:?}", what.escape_ascii().to_string());
        }
        for what in [MARKER, b"a subscription", b"SUBSCRIBE"] {
            assert_eq!(events.heard(what), !secure, "{:?}", what.escape_ascii().to_string());
        }
        assert_eq!(wire.heard(b"MESSAGE"), secure);
    }
}

/// A connection that breaks in the middle of a batch: the queue goes on with the next one, whose seals are its own. As
/// without CURVE, what was handed to the system may be lost, but nothing comes twice, changed or in another order.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_queue_goes_on_after_a_break() {
    let (server, dialling) = keys();
    let pull = Pull::with_options(Options::new().curve_server(server.secret().clone()));
    let mut came_in = pull.monitor();
    let wire = Wire::to(&pull.bind("tcp://127.0.0.1:0").await.unwrap()).await;
    let push = Push::with_options(quick());
    let mut seen = push.monitor();
    wire.meddling.send_replace(Meddling { cut_at: 700_000, ..NO_MEDDLING });
    push.connect_with(&wire.endpoint[..], dialling).unwrap();
    const MANY: u32 = 12_000;
    let sending = async {
        for n in 0..MANY {
            // Every 50th is large, so that breaks fall into frames of both kinds.
            let len = if n % 50 == 0 { 30_000 } else { 900 };
            push.send([&n.to_be_bytes()[..], &vec![n as u8; len]]).await.unwrap();
        }
        awaits!(seen, Event::Disconnected { unknown, .. } if *unknown > 0);
        wire.meddling.send_replace(NO_MEDDLING);
        // Nothing more is cut, so this one comes.
        awaits!(seen, Event::Connected { .. });
        push.send("last").await.unwrap();
    };
    let receiving = async {
        let (mut next, mut count) = (0, 0);
        loop {
            let message = pull.recv().await.unwrap();
            if message.frame(0) == Some(b"last") {
                return (count, next);
            }
            let n = u32::from_be_bytes(message.frame(0).unwrap().try_into().unwrap());
            assert!(n >= next, "{n} after {next}");
            let body = message.frame(1).unwrap();
            assert!(body.iter().all(|byte| *byte == n as u8));
            assert_eq!(body.len(), if n % 50 == 0 { 30_000 } else { 900 });
            (next, count) = (n + 1, count + 1);
        }
    };
    let ((), (count, next)) = soon(async { tokio::join!(sending, receiving) }).await;
    awaits!(came_in, Event::Accepted { .. });
    awaits!(came_in, Event::Accepted { .. });
    // What the system had taken is lost with the connection, up to a few MB; the rest went on.
    assert!((400..MANY).contains(&count) && next == MANY, "{count}, up to {next} of {MANY}");
}

/// Encoded once for both kinds of subscriber; a publisher that dials some of them has both.
#[tokio::test(flavor = "multi_thread")]
async fn plain_and_secure_subscribers_of_one_publisher() {
    let (server, dialling) = keys();
    let (own, dialling_own) = keys();
    let publisher =
        Pub::with_options(Options::new().curve_server(own.secret().clone()).when_full(WhenFull::Block));
    let mut seen = publisher.monitor();
    let plain = Sub::new();
    let secure = Sub::with_options(Options::new().curve_server(server.secret().clone()));
    let dialled = Sub::new();
    for subscriber in [&plain, &secure, &dialled] {
        subscriber.subscribe("t");
    }
    publisher.connect(plain.bind("tcp://127.0.0.1:0").await.unwrap()).unwrap();
    publisher.connect_with(secure.bind("tcp://127.0.0.1:0").await.unwrap(), dialling).unwrap();
    dialled.connect_with(publisher.bind("tcp://127.0.0.1:0").await.unwrap(), dialling_own).unwrap();
    soon(async {
        for _ in 0..3 {
            awaits!(seen, Event::Subscribed { .. });
        }
        for n in 0..2000usize {
            let message = [format!("t{n}").into_bytes(), vec![1; n % 400], vec![2; (n % 7) * 5000]];
            publisher.send(&message[..]).await.unwrap();
            for subscriber in [&plain, &secure, &dialled] {
                assert!(subscriber.recv().await.unwrap() == ripstop::Message::from_frames(&message));
            }
        }
    })
    .await;
}

/// Who has not the key of the server gets nothing that was queued for it, however long it answers.
#[tokio::test]
async fn nothing_leaves_for_the_wrong_server() {
    let (server, dialling) = keys();
    let (forger, _) = keys();
    let push = Push::with_options(quick());
    let mut seen = push.monitor();
    let pull = Pull::with_options(Options::new().curve_server(forger.secret().clone()));
    let endpoint = pull.bind("tcp://127.0.0.1:0").await.unwrap();
    let wire = Wire::to(&endpoint).await;
    push.connect_with(&wire.endpoint[..], dialling).unwrap();
    push.send(MARKER).await.unwrap();
    for _ in 0..3 {
        soon(async { awaits!(seen, Event::HandshakeFailed { .. }) }).await;
    }
    assert!(!wire.heard(MARKER) && !wire.heard(b"INITIATE") && wire.heard(b"HELLO"));
    // The right one at the same place gets it.
    pull.close().await;
    let pull = Pull::with_options(Options::new().curve_server(server.secret().clone()));
    pull.bind(&endpoint).await.unwrap();
    assert_eq!(soon(pull.recv()).await.unwrap(), MARKER.into());
}

/// An oldest message that is dropped, and heartbeats that outlast a silence, work as they do without.
#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_oldest_and_heartbeats() {
    let (server, dialling) = keys();
    let options = Options::new().curve_server(server.secret().clone());
    let beat = (Duration::from_millis(20), Duration::from_millis(500));
    let publisher =
        Pub::with_options(options.when_full(WhenFull::DropOldest).send_hwm(10).heartbeat(Some(beat)));
    let mut seen = publisher.monitor();
    let subscriber = Sub::with_options(Options::new().receive_hwm(1).heartbeat(Some(beat)));
    subscriber.subscribe("");
    let wire = Wire::to(&publisher.bind("tcp://127.0.0.1:0").await.unwrap()).await;
    subscriber.connect_with(&wire.endpoint[..], dialling).unwrap();
    soon(async {
        awaits!(seen, Event::Subscribed { .. });
        let large = vec![0; 100_000];
        for n in 0..500u32 {
            publisher.send([&n.to_be_bytes()[..], &large]).await.unwrap();
        }
        let mut last = None;
        let mut count = 0;
        while last != Some(499) {
            let message = subscriber.recv().await.unwrap();
            let n = u32::from_be_bytes(message.frame(0).unwrap().try_into().unwrap());
            assert!(last.is_none_or(|last| last < n));
            last = Some(n);
            count += 1;
        }
        assert!(count < 500, "none was dropped");
        // 50 heartbeats later it is the same connection.
        let before = wire.heard.lock().unwrap().len();
        while wire.heard.lock().unwrap().len() < before + 50 * 40 {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        publisher.send([&500u32.to_be_bytes()[..], b"still there"]).await.unwrap();
        assert_eq!(subscriber.recv().await.unwrap().frame(1), Some(&b"still there"[..]));
    })
    .await;
}

/// Whom the server does not know gets in nowhere and is told so for good; nor does who does not encrypt, or does so where
/// it is not wanted.
#[tokio::test]
async fn strangers_are_refused() {
    let (server, client) = (curve_keys().unwrap(), curve_keys().unwrap());
    let to = |keys| ConnectOptions::new().curve(server.public(), keys);
    let options = Options::new().curve_server(server.secret().clone()).curve_clients([client.public()]);
    let (pull, plain) = (Pull::with_options(options), Pull::new());
    let (mut seen, mut plain_seen) = (pull.monitor(), plain.monitor());
    let endpoint = pull.bind("tcp://127.0.0.1:0").await.unwrap();
    let plain_endpoint = plain.bind("tcp://127.0.0.1:0").await.unwrap();

    let stranger = Push::with_options(quick());
    let mut told = stranger.monitor();
    stranger.connect_with(&endpoint, to(curve_keys().unwrap())).unwrap();
    stranger.send("strange").await.unwrap();
    soon(async { awaits!(told, Event::GaveUp { reason, .. } if reason.contains("not allowed")) }).await;
    soon(async { awaits!(seen, Event::HandshakeFailed { reason, .. } if reason.contains("not allowed")) })
        .await;

    let unencrypted = Push::with_options(quick());
    unencrypted.connect(&endpoint).unwrap();
    unencrypted.send("plain").await.unwrap();
    soon(async { awaits!(seen, Event::HandshakeFailed { reason, .. } if reason.contains("NULL")) }).await;
    let unwanted = Push::with_options(quick());
    unwanted.connect_with(&plain_endpoint, to(client.clone())).unwrap();
    unwanted.send("sealed").await.unwrap();
    soon(async { awaits!(plain_seen, Event::HandshakeFailed { reason, .. } if reason.contains("CURVE")) })
        .await;

    for (pull, endpoint, options) in
        [(&pull, &endpoint, to(client)), (&plain, &plain_endpoint, ConnectOptions::new())]
    {
        let good = Push::with_options(quick());
        good.connect_with(endpoint, options).unwrap();
        good.send("good").await.unwrap();
        assert_eq!(soon(pull.recv()).await.unwrap(), "good".into(), "and nothing before it");
    }
}

/// What was recorded comes to nothing, neither a whole connection nor a message of a living one.
#[tokio::test]
async fn what_is_replayed_is_refused() {
    let (server, dialling) = keys();
    let pull = Pull::with_options(Options::new().curve_server(server.secret().clone()));
    let mut seen = pull.monitor();
    let endpoint = pull.bind("tcp://127.0.0.1:0").await.unwrap();
    let wire = Wire::to(&endpoint).await;
    let push = Push::with_options(quick());
    let mut told = push.monitor();
    push.connect_with(&wire.endpoint[..], dialling).unwrap();
    push.send("once").await.unwrap();
    assert_eq!(soon(pull.recv()).await.unwrap(), "once".into());

    let Endpoint::Tcp { host, port } = endpoint else { panic!("not TCP") };
    let recorded = wire.up.lock().unwrap().clone();
    assert!(recorded.windows(9).any(|window| window == b"\x08INITIATE"));
    let mut replay = TcpStream::connect((&host[..], port)).await.unwrap();
    replay.write_all(&recorded).await.unwrap();
    soon(async { awaits!(seen, Event::HandshakeFailed { reason, .. } if reason.contains("INITIATE")) }).await;

    wire.again.notify_one();
    soon(async { awaits!(seen, Event::Disconnected { reason, .. } if reason.contains("repeated")) }).await;
    soon(async { awaits!(told, Event::Disconnected { .. }) }).await;
    push.send("then").await.unwrap();
    assert_eq!(soon(pull.recv()).await.unwrap(), "then".into());
}

/// A byte that was changed on the way, at every so many places of handshake and message, in either direction: either it
/// meant nothing (a few of the greeting), or that was the end of the connection. Nothing changed is ever delivered.
#[tokio::test]
async fn what_is_changed_is_refused() {
    let (server, dialling) = keys();
    let pull = Pull::with_options(
        Options::new().curve_server(server.secret().clone()).handshake_timeout(Duration::from_millis(300)),
    );
    let mut seen = pull.monitor();
    let wire = Wire::to(&pull.bind("tcp://127.0.0.1:0").await.unwrap()).await;
    let (mut up, mut down) = (0, 0);
    let mut meddlings = vec![NO_MEDDLING];
    let mut refused = 0;
    while let Some(meddling) = meddlings.pop() {
        wire.meddling.send_replace(meddling);
        let push = Push::with_options(quick().reconnect(None).handshake_timeout(Duration::from_millis(300)));
        push.connect_with(&wire.endpoint[..], dialling.clone()).unwrap();
        push.send("x".repeat(60)).await.unwrap();
        soon(push.close()).await;
        soon(async { awaits!(seen, Event::HandshakeFailed { .. } | Event::Disconnected { .. }) }).await;
        // It is there, or it never will be.
        let received = tokio::time::timeout(Duration::ZERO, pull.recv()).await;
        if up == 0 {
            up = wire.up.lock().unwrap().len();
            down = wire.heard.lock().unwrap().len() - up;
            meddlings.extend((0..up).step_by(13).map(|flip_up| Meddling { flip_up, ..NO_MEDDLING }));
            meddlings.extend((0..down).step_by(13).map(|flip_down| Meddling { flip_down, ..NO_MEDDLING }));
        }
        let at = meddling.flip_up.min(meddling.flip_down);
        match received {
            Ok(message) => {
                assert_eq!(message.unwrap(), "x".repeat(60).into());
                assert!(at < 64 || at == usize::MAX, "byte {at} was changed, and taken");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused >= (up + down - 2 * 64) / 13 - 2, "{refused} refused of {up} and {down}");
    wire.meddling.send_replace(NO_MEDDLING);
    let good = Push::with_options(quick());
    good.connect_with(&wire.endpoint[..], dialling).unwrap();
    good.send("good").await.unwrap();
    assert_eq!(soon(pull.recv()).await.unwrap(), "good".into());
}

/// TLS for this socket with a throw-away certificate.
#[cfg(feature = "tls")]
fn with_tls(options: Options) -> Options {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["ripstop.invalid".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap().der().clone();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let server = rustls::ServerConfig::builder().with_no_client_auth();
    let server = server.with_single_cert(vec![certificate], key).unwrap();
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    options.tls(server.into(), client.into())
}

/// One port: the first byte tells TLS from ZMTP, which then has to be CURVE. Nobody comes in without either.
#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_and_curve_on_one_port() {
    let (server, client) = (curve_keys().unwrap(), curve_keys().unwrap());
    let to = |keys| ConnectOptions::new().curve(server.public(), keys);
    let options = with_tls(quick());
    let both = options.clone().curve_server(server.secret().clone()).curve_clients([client.public()]);
    let (pull, only_tls) = (Pull::with_options(both), Pull::with_options(options.clone()));
    let (mut seen, mut only_seen) = (pull.monitor(), only_tls.monitor());
    let endpoint = pull.bind("tls+tcp://127.0.0.1:0").await.unwrap();
    let without = |endpoint: &Endpoint| endpoint.to_string().replace("tls+tcp", "tcp");

    let (over_tls, over_curve) = (Push::with_options(options.clone()), Push::with_options(quick()));
    over_tls.connect(&endpoint).unwrap();
    over_curve.connect_with(&without(&endpoint)[..], to(client.clone())).unwrap();
    for push in [&over_tls, &over_curve] {
        push.send([b"a".as_slice(), &[1; 50_000]]).await.unwrap();
        assert_eq!(soon(pull.recv()).await.unwrap().len(), 2);
    }

    let (plain, stranger, misled) =
        (Push::with_options(quick()), Push::with_options(quick()), Push::with_options(quick()));
    plain.connect(&without(&endpoint)[..]).unwrap();
    plain.send("plain").await.unwrap();
    soon(async { awaits!(seen, Event::HandshakeFailed { reason, .. } if reason.contains("NULL")) }).await;
    stranger.connect_with(&without(&endpoint)[..], to(curve_keys().unwrap())).unwrap();
    stranger.send("strange").await.unwrap();
    soon(async { awaits!(seen, Event::HandshakeFailed { reason, .. } if reason.contains("not allowed")) })
        .await;

    // Without a key for it, CURVE is turned away as well.
    let only = only_tls.bind("tls+tcp://127.0.0.1:0").await.unwrap();
    misled.connect_with(&without(&only)[..], to(client)).unwrap();
    misled.send("misled").await.unwrap();
    soon(async { awaits!(only_seen, Event::HandshakeFailed { reason, .. } if reason.contains("encrypt")) })
        .await;

    for push in [&over_tls, &over_curve] {
        push.send("last").await.unwrap();
        assert_eq!(soon(pull.recv()).await.unwrap(), "last".into());
    }
}
