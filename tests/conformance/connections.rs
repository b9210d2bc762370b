//! Endpoints that come and go.

use ripstop::Endpoint;
use ripstop::socket::*;

use crate::{
    Transport,
    common::{awaits, event, quick},
    on_every_transport,
};

/// A binder that goes away and comes back is found again, and a kept queue loses nothing that it still had.
async fn reconnect(transport: Transport) {
    let endpoint = transport.free();
    let push = Push::with_options(quick());
    let mut seen = push.monitor();
    push.connect(&endpoint).unwrap();
    for round in 0..3 {
        let pull = Pull::new();
        push.send(format!("early {round}")).await.unwrap();
        pull.bind(&endpoint).await.unwrap();
        assert_eq!(pull.recv().await.unwrap(), format!("early {round}").into());
        push.send(format!("late {round}")).await.unwrap();
        assert_eq!(pull.recv().await.unwrap(), format!("late {round}").into());
        pull.close().await;
        awaits!(seen, Event::Disconnected { .. });
        awaits!(seen, Event::Retrying { .. });
    }
}

/// 3,000 subscriptions hold again after the publisher was replaced.
async fn subscriptions_survive(transport: Transport) {
    let endpoint = transport.free();
    let subscriber = Sub::with_options(quick());
    for n in 0..3000 {
        subscriber.subscribe(format!("topic {n}."));
    }
    subscriber.connect(&endpoint).unwrap();
    for _ in 0..2 {
        let publisher = Pub::new();
        let mut seen = publisher.monitor();
        publisher.bind(&endpoint).await.unwrap();
        let mut subscribed = std::collections::HashSet::new();
        while publisher.subscriptions() < 3000 {
            if let Event::Subscribed { prefix, .. } = seen.next().await.unwrap() {
                subscribed.insert(prefix);
            }
        }
        for n in 0..3000 {
            publisher.send(format!("topic {n}.x")).await.unwrap();
            assert_eq!(subscriber.recv().await.unwrap(), format!("topic {n}.x").into());
        }
        publisher.close().await;
    }
}

async fn unbind_frees_the_address(transport: Transport) {
    let pull = Pull::new();
    let endpoint = pull.bind(transport.free()).await.unwrap();
    assert_eq!(pull.endpoints(), std::slice::from_ref(&endpoint));
    let push = Push::with_options(quick());
    push.connect(&endpoint).unwrap();
    push.send("1").await.unwrap();
    assert_eq!(pull.recv().await.unwrap(), "1".into());
    pull.unbind(&endpoint).await.unwrap();
    assert!(pull.endpoints().is_empty());
    assert_eq!(pull.unbind(&endpoint).await, Err(pull.unbind(&endpoint).await.unwrap_err()));
    // The connection that is up stays.
    push.send("2").await.unwrap();
    assert_eq!(pull.recv().await.unwrap(), "2".into());
    let other = Pull::new();
    assert_eq!(other.bind(&endpoint).await.unwrap(), endpoint);
    let again = Pull::new().bind(&endpoint).await;
    assert!(matches!(again, Err(BindError::Io { .. })), "{again:?}");
}

async fn disconnect_ends_one(transport: Transport) {
    let (one, two) = (Pull::new(), Pull::new());
    let first = one.bind(transport.free()).await.unwrap();
    let second = two.bind(transport.free()).await.unwrap();
    let push = Push::with_options(quick());
    let mut seen = push.monitor();
    push.connect(&first).unwrap();
    push.connect(&second).unwrap();
    for _ in 0..2 {
        awaits!(seen, Event::Connected { .. });
    }
    push.send("a").await.unwrap();
    push.send("b").await.unwrap();
    one.recv().await.unwrap();
    two.recv().await.unwrap();
    push.disconnect(&first).unwrap();
    assert!(push.disconnect(&first).is_err());
    for n in 0..10 {
        push.send(n.to_string()).await.unwrap();
    }
    for n in 0..10 {
        assert_eq!(two.recv().await.unwrap(), n.to_string().into());
    }
    let gone = event(&mut seen, |event| match event {
        Event::GaveUp { endpoint, .. } => Some(endpoint.clone()),
        _ => None,
    });
    assert_eq!(gone.await, first);
}

/// Closing does not wait for a handshake that a silent listener never finishes.
#[tokio::test]
async fn close_during_a_handshake() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("tcp://{}", listener.local_addr().unwrap());
    let (sub, push) = (Sub::new(), Push::new());
    sub.connect(&silent).unwrap();
    push.connect(&silent).unwrap();
    let _held = (listener.accept().await.unwrap(), listener.accept().await.unwrap());
    let closing = async { tokio::join!(sub.close(), push.close()) };
    tokio::time::timeout(std::time::Duration::from_secs(2), closing).await.unwrap();
}

/// One socket, several binds and connects, both kinds at once.
async fn many_endpoints(transport: Transport) {
    let pull = Pull::new();
    let bound = [pull.bind(transport.free()).await.unwrap(), pull.bind(transport.free()).await.unwrap()];
    let binder = Push::new();
    pull.connect(binder.bind(transport.free()).await.unwrap()).unwrap();
    let pushes: Vec<Push> = bound
        .iter()
        .map(|endpoint| {
            let push = Push::new();
            push.connect(endpoint).unwrap();
            push
        })
        .chain([binder])
        .collect();
    let mut got = Vec::new();
    for push in &pushes {
        push.send("x").await.unwrap();
    }
    while got.len() < 3 {
        pull.recv_many(&mut got, 10).await.unwrap();
    }
}

/// Types that can't talk: both sides say why.
async fn wrong_pairing(transport: Transport) {
    let publisher = Pub::new();
    let endpoint = publisher.bind(transport.free()).await.unwrap();
    let push = Push::with_options(quick());
    let (mut seen, mut seen_pub) = (push.monitor(), publisher.monitor());
    push.connect(endpoint).unwrap();
    awaits!(seen_pub, Event::HandshakeFailed { reason, .. } if reason.contains("PUSH"));
    awaits!(seen, Event::HandshakeFailed { .. });
    awaits!(seen, Event::Retrying { .. });
}

/// A PAIR has one peer; the next can come when it has gone.
async fn pair_is_exclusive(transport: Transport) {
    let pair = Pair::new();
    let mut seen = pair.monitor();
    let endpoint = pair.bind(transport.free()).await.unwrap();
    let (first, second) = (Pair::with_options(quick()), Pair::with_options(quick()));
    first.connect(&endpoint).unwrap();
    awaits!(seen, Event::Accepted { .. });
    second.connect(&endpoint).unwrap();
    awaits!(seen, Event::HandshakeFailed { reason, .. } if reason.contains("has its peer"));
    first.send("first").await.unwrap();
    assert_eq!(pair.recv().await.unwrap(), "first".into());
    first.close().await;
    awaits!(seen, Event::Accepted { .. });
    pair.send("second").await.unwrap();
    assert_eq!(second.recv().await.unwrap(), "second".into());
}

on_every_transport!(
    reconnect,
    subscriptions_survive,
    unbind_frees_the_address,
    disconnect_ends_one,
    many_endpoints,
    wrong_pairing,
    pair_is_exclusive,
);

async fn talks(bind: &str, dial: impl Fn(&Endpoint) -> String) {
    let pull = Pull::new();
    let endpoint = pull.bind(bind).await.unwrap();
    let push = Push::new();
    push.connect(dial(&endpoint)).unwrap();
    push.send("x").await.unwrap();
    assert_eq!(crate::soon(pull.recv()).await.unwrap(), "x".into());
    pull.close().await;
}

fn port(endpoint: &Endpoint) -> u16 {
    match endpoint {
        Endpoint::Tcp { port, .. } => *port,
        _ => panic!("{endpoint} is not TCP"),
    }
}

#[tokio::test]
async fn tcp_addresses() {
    talks("tcp://[::1]:0", Endpoint::to_string).await;
    talks("tcp://lo:0", Endpoint::to_string).await;
    talks("tcp://localhost:0", |bound| format!("tcp://localhost:{}", port(bound))).await;
    talks("tcp://*:0", |bound| format!("tcp://127.0.0.1:{}", port(bound))).await;
    talks("tcp://*:0", |bound| format!("tcp://[::1]:{}", port(bound))).await;
    assert!(matches!(Pull::new().bind("tcp://nosuchinterface0:0").await, Err(BindError::Io { .. })));
    assert!(matches!(Push::new().connect("tcp://*:1"), Err(ConnectError::NotDialable(_))));
    assert!(matches!(Push::new().connect("tcp://127.0.0.1:0"), Err(ConnectError::NotDialable(_))));
}

/// A socket file is there while somebody listens; one that a killed process left is replaced, a plain file is not.
#[tokio::test]
async fn ipc_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let endpoint = format!("ipc://{}", path.display());
    talks(&endpoint, Endpoint::to_string).await;
    drop(std::os::unix::net::UnixListener::bind(&path));
    assert!(path.exists());
    let pull = Pull::new();
    pull.bind(&endpoint).await.unwrap();
    assert!(Pull::new().bind(&endpoint).await.is_err(), "it is in use");
    pull.unbind(&endpoint).await.unwrap();
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(Pull::new().bind(&endpoint).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn no_runtime_is_an_error() {
    assert!(matches!(Push::new().connect("inproc://x"), Err(ConnectError::NoRuntime)));
}
