//! Every limit that a peer can hit has a counter of its own, and an event that names it.

use std::collections::BTreeSet;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use ripstop::config::Config;
use ripstop::fabric::Context;
use ripstop::socket::{Event, Limit, Monitor, Options, Pub, Pull};
use ripstop::{Endpoint, Node};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::raw::{call, closed, command, dial, frame, greeting, header, hello, read_message, ready, shaken};
use crate::victim::{PATIENCE, alone};

const SOON: Duration = Duration::from_secs(5);

/// Counted so far: names and reasons.
fn counted(snapshotter: &Snapshotter) -> BTreeSet<(String, String)> {
    let mut counted = BTreeSet::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        if !matches!(value, DebugValue::Counter(0)) {
            let name = key.key().name().to_owned();
            counted.extend(key.key().labels().map(|label| (name.clone(), label.value().to_owned())));
        }
    }
    counted
}

async fn says(monitor: &mut Monitor, wanted: Limit) {
    let found = async {
        loop {
            match monitor.next().await.expect("the socket is gone") {
                Event::Limited { limit, .. } if limit == wanted => return,
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("nobody said: {wanted}"));
}

fn address(endpoint: &Endpoint) -> std::net::SocketAddr {
    let Endpoint::Tcp { host, port } = endpoint else { panic!("{endpoint} is not TCP") };
    format!("{host}:{port}").parse().unwrap()
}

async fn pull(options: Options) -> (Pull, Monitor, std::net::SocketAddr) {
    let pull = Pull::with_options(options);
    let monitor = pull.monitor();
    let at = address(&pull.bind("tcp://127.0.0.1:0").await.unwrap());
    (pull, monitor, at)
}

async fn publisher(options: Options) -> (Pub, Monitor, std::net::SocketAddr) {
    let publisher = Pub::with_options(options);
    let monitor = publisher.monitor();
    let at = address(&publisher.bind("tcp://127.0.0.1:0").await.unwrap());
    (publisher, monitor, at)
}

async fn subscribe(to: std::net::SocketAddr, prefixes: &[&[u8]]) -> TcpStream {
    let mut peer = shaken(to, 0, "SUB").await;
    for prefix in prefixes {
        peer.write_all(&command("SUBSCRIBE", prefix)).await.unwrap();
    }
    peer
}

/// (File descriptors need a process of their own: see `connections::no_descriptors_left`.)
#[tokio::test(flavor = "multi_thread")]
async fn every_limit_is_counted_and_said() {
    let _turn = alone().await;
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().unwrap();

    // Connections.
    let (_socket, mut monitor, to) = pull(Options::new().max_connections(2, 0)).await;
    let _two = [dial(to, 0).await, dial(to, 1).await];
    assert!(closed(&mut dial(to, 2).await, SOON).await);
    says(&mut monitor, Limit::Connections).await;

    let (_socket, mut monitor, to) = pull(Options::new().max_connections(0, 2)).await;
    let _two = [dial(to, 0).await, dial(to, 0).await];
    assert!(closed(&mut dial(to, 0).await, SOON).await);
    says(&mut monitor, Limit::ConnectionsPerAddress).await;

    let (_socket, mut monitor, to) = pull(Options::new().max_handshakes(2, 0)).await;
    let mut three = [dial(to, 0).await, dial(to, 1).await, dial(to, 2).await];
    assert!(closed(&mut three[0], SOON).await, "the oldest gives way");
    says(&mut monitor, Limit::Handshakes).await;

    let (_socket, mut monitor, to) = pull(Options::new().max_handshakes(0, 2)).await;
    let mut others = [dial(to, 1).await, dial(to, 0).await, dial(to, 0).await, dial(to, 0).await];
    assert!(closed(&mut others[1], SOON).await, "the oldest of the same address gives way");
    says(&mut monitor, Limit::HandshakesPerAddress).await;

    let (_socket, mut monitor, to) = pull(Options::new().handshake_rate(2)).await;
    let mut many = Vec::new();
    for _ in 0..10 {
        many.push(dial(to, 0).await);
    }
    says(&mut monitor, Limit::HandshakeRate).await;

    // Subscriptions.
    let (_socket, mut monitor, to) = publisher(Options::new().max_subscriptions(2)).await;
    assert!(closed(&mut subscribe(to, &[b"a", b"b", b"a", b"c"]).await, SOON).await);
    says(&mut monitor, Limit::Subscriptions).await;

    let (_socket, mut monitor, to) = publisher(Options::new().max_subscription_length(3)).await;
    assert!(closed(&mut subscribe(to, &[b"abc", b"abcd"]).await, SOON).await);
    says(&mut monitor, Limit::SubscriptionLength).await;

    let (_socket, mut monitor, to) = publisher(Options::new().max_subscription_bytes(5)).await;
    assert!(closed(&mut subscribe(to, &[b"abc", b"ab", b"a"]).await, SOON).await);
    says(&mut monitor, Limit::SubscriptionBytes).await;

    // One peer's account: it sends, and nobody takes it.
    let (socket, mut monitor, to) = pull(Options::new().peer_memory(1 << 20)).await;
    let mut peer = shaken(to, 0, "PUSH").await;
    let message = frame(0, &[7; 64 << 10]);
    let flood = tokio::spawn(async move {
        for _ in 0..200 {
            peer.write_all(&message).await.unwrap();
        }
        peer
    });
    says(&mut monitor, Limit::PeerMemory).await;
    assert!(!flood.is_finished(), "12 MiB were taken where 1 MiB is allowed");
    for _ in 0..200 {
        let received = tokio::time::timeout(PATIENCE, socket.recv()).await.expect("it does not go on");
        assert_eq!(received.unwrap().size(), 64 << 10);
    }
    flood.await.unwrap();

    // What the protocol itself does not allow.
    let options = Options::new()
        .max_message(4096)
        .max_frames(4)
        .handshake_timeout(Duration::from_millis(500))
        .max_handshake_frame(200);
    let (_socket, _, to) = pull(options).await;
    let greeted = |rest: &[u8]| [&greeting("NULL")[..], rest].concat();
    let up = |rest: &[u8]| [&hello("PUSH")[..], rest].concat();
    let crimes = [
        ("not-zmtp", b"GET / HTTP/1.1".to_vec()),
        ("unsupported-version", vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 1]),
        ("unknown-mechanism", greeting("ROT13")),
        ("handshake-timeout", greeting("NULL")),
        ("bad-flags", greeted(&[0xf0])),
        ("early-message", greeted(&frame(0, b"hi"))),
        ("command-too-large", greeted(&header(4, 201))),
        ("bad-command", greeted(&command("READY", b"x"))),
        ("unknown-socket-type", greeted(&ready("STREAM", &[]))),
        ("incompatible-peer", greeted(&ready("SUB", &[]))),
        ("frame-too-large", up(&header(0, 4097))),
        ("message-too-large", up(&[frame(1, &[0; 4000]), header(0, 97)].concat())),
        ("too-many-frames", up(&[1, 0].repeat(4))),
        ("refused", up(&command("ERROR", b"\x02no"))),
    ];
    for (reason, bytes) in &crimes {
        let mut peer = dial(to, 0).await;
        peer.write_all(bytes).await.unwrap();
        assert!(closed(&mut peer, SOON).await, "{reason}");
    }

    // What a body may not be.
    let config = Config::parse("[limits]\ndepth = 3\nelements = 100").unwrap();
    let node = Node::builder("hello").config(config).local(false).mdns(false).listen("tcp://127.0.0.1:0");
    let node = node.start().await.unwrap();
    let _served = node.serve("hello.echo", |ask: Vec<u8>, _: Context| async move { Ok(ask) }).await.unwrap();
    let mut peer = shaken(address(&node.endpoints()[0]), 0, "DEALER").await;
    let bodies = [
        ("malformed", vec![0xc1]),
        ("claims-too-much", vec![0xdd, 0xff, 0xff, 0xff, 0xff]),
        ("too-deep", vec![0x91, 0x91, 0x91, 0x91, 0]),
        ("too-many", [&[0xdc, 0, 100][..], &[0; 100]].concat()),
        ("mismatch", vec![0x80]),
    ];
    for (reason, body) in &bodies {
        peer.write_all(&call("hello.echo", body)).await.unwrap();
        let refused = read_message(&mut peer).await.unwrap();
        assert!(refused[2].windows(6).any(|code| code == b"RS0413"), "{reason}: {refused:?}");
    }

    let counted = counted(&snapshotter);
    let has = |name: &str, reason: &str| counted.contains(&(name.to_owned(), reason.to_owned()));
    for limit in Limit::ALL.into_iter().filter(|limit| *limit != Limit::Descriptors) {
        assert!(has("ripstop_socket_limited_total", limit.reason()), "{limit} is not counted: {counted:?}");
    }
    for (reason, _) in &crimes {
        assert!(has("ripstop_socket_protocol_errors_total", reason), "{reason} is not counted: {counted:?}");
    }
    for (reason, _) in &bodies {
        assert!(has("ripstop_bodies_refused_total", reason), "{reason} is not counted: {counted:?}");
    }
    // And all of them are documented.
    let docs =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap();
    let counters = docs.split("\n## Counters of limits\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let limits = Limit::ALL.into_iter().map(Limit::reason);
    let errors = crimes.iter().map(|(reason, _)| *reason).chain(bodies.iter().map(|(reason, _)| *reason));
    for reason in limits.chain(errors) {
        assert!(counters.contains(&format!("`{reason}`")), "{reason} is not documented");
    }
}
