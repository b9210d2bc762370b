//! What libzmq does beside passing messages: it comes back, pings, filters, and goes by names.

use std::time::{Duration, Instant};

use ripstop::Message;
use ripstop::socket::{Event, Monitor, Options};
use serde_json::json;

use crate::ours::{Ours, until};
use crate::peer::{Peer, count};

fn is_lost(event: &Event) -> bool {
    matches!(event, Event::Disconnected { .. })
}

/// Reads what has happened so far without waiting.
async fn seen(monitor: &mut Monitor, wanted: impl Fn(&Event) -> bool) -> bool {
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, monitor.next()).await {
        if wanted(&event) {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_peer_comes_back_to_its_place() {
    for (ours, theirs) in [("PUSH", "PULL"), ("PAIR", "PAIR"), ("DEALER", "DEALER")] {
        let Some(mut peer) = Peer::bound(theirs, "tcp://127.0.0.1:*", json!({})).await else { return };
        let ours = Ours::new(ours, Options::new());
        let mut monitor = ours.monitor();
        ours.connect(&peer.url);
        for round in 0..3 {
            peer.tell("receive", json!({"first": round * 1000, "count": 1000})).await;
            ours.send_all(round * 1000..(round + 1) * 1000, &[]).await;
            assert_eq!(peer.answer().await, "done");
            let url = peer.kill().await;
            until(&mut monitor, is_lost).await;
            // What is sent meanwhile waits.
            let next = (round + 1) * 1000;
            ours.send_all(next..next + 10, &[]).await;
            peer = Peer::bound(theirs, &url, json!({})).await.unwrap();
            peer.run("receive", json!({"first": next, "count": 10})).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_publisher_finds_its_subscribers_again() {
    for (ours, theirs) in [("SUB", "XPUB"), ("XSUB", "PUB")] {
        let Some(mut peer) = Peer::bound(theirs, "tcp://127.0.0.1:*", json!({})).await else { return };
        let ours = Ours::new(ours, Options::new());
        let mut monitor = ours.monitor();
        ours.subscribe("t").await;
        ours.subscribe("probe").await;
        ours.connect(&peer.url);
        for round in 0..3 {
            peer.tell("probe", json!({})).await;
            assert_eq!(ours.recv().await, "probe".into());
            peer.tell("send", json!({"first": round * 1000, "count": 1000})).await;
            ours.receive_all(round * 1000..(round + 1) * 1000, &[]).await;
            let url = peer.kill().await;
            until(&mut monitor, is_lost).await;
            peer = Peer::bound(theirs, &url, json!({})).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn we_come_back_to_our_place() {
    let ours = Ours::new("PULL", Options::new());
    let url = ours.bind("tcp://127.0.0.1:0").await.to_string();
    let Some(mut push) = Peer::connected("PUSH", &url, json!({})).await else { return };
    let mut ours = Some(ours);
    for round in 0..3 {
        let pull = ours.take().unwrap();
        push.tell("send", json!({"first": round * 100, "count": 100})).await;
        pull.receive_all(round * 100..(round + 1) * 100, &[]).await;
        assert_eq!(push.answer().await, "done");
        pull.close().await;
        push.run("await", json!({"event": "DISCONNECTED"})).await;
        let again = Ours::new("PULL", Options::new());
        again.bind(&url).await;
        ours = Some(again);
    }
    push.end().await;
}

/// Longer than any of the timeouts below.
const SILENCE: Duration = Duration::from_millis(2500);

#[tokio::test(flavor = "multi_thread")]
async fn their_heartbeats_are_answered() {
    // They hang up on whoever does not answer a ping in a second; in PING they ask us to do the same.
    let heartbeat =
        json!({"options": {"HEARTBEAT_IVL": 100, "HEARTBEAT_TIMEOUT": 1000, "HEARTBEAT_TTL": 1000}});
    let ours = Ours::new("DEALER", Options::new().heartbeat(None));
    let mut monitor = ours.monitor();
    let url = ours.bind("tcp://127.0.0.1:0").await.to_string();
    let Some(mut peer) = Peer::connected("DEALER", &url, heartbeat).await else { return };
    peer.tell("echo", count(10)).await;
    ours.ask_all(10, &[], 1).await;
    assert_eq!(peer.answer().await, "done");
    tokio::time::sleep(SILENCE).await;
    assert_eq!(peer.ask("seen", json!({"event": "DISCONNECTED"})).await, "no");
    assert!(!seen(&mut monitor, is_lost).await);

    // Stopped, they send none: their own TTL is over, and we hang up although we do not ping.
    peer.signal("STOP").await;
    let stopped = Instant::now();
    until(&mut monitor, is_lost).await;
    assert!(stopped.elapsed() < Duration::from_secs(4), "{:?}", stopped.elapsed());
    peer.signal("CONT").await;
    until(&mut monitor, |event| matches!(event, Event::Accepted { .. })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_heartbeats_are_answered() {
    let heartbeat = Some((Duration::from_millis(100), Duration::from_secs(1)));
    let Some(mut peer) = Peer::bound("DEALER", "tcp://127.0.0.1:*", json!({})).await else { return };
    let ours = Ours::new("DEALER", Options::new().heartbeat(heartbeat));
    let mut monitor = ours.monitor();
    ours.connect(&peer.url);
    tokio::time::sleep(SILENCE).await;
    assert!(!seen(&mut monitor, is_lost).await);
    assert_eq!(peer.ask("seen", json!({"event": "DISCONNECTED"})).await, "no");

    peer.signal("STOP").await;
    let stopped = Instant::now();
    until(&mut monitor, is_lost).await;
    assert!(stopped.elapsed() < Duration::from_secs(4), "{:?}", stopped.elapsed());
    peer.signal("CONT").await;
    until(&mut monitor, |event| matches!(event, Event::Connected { .. })).await;
    peer.tell("echo", count(10)).await;
    ours.ask_all(10, &[], 1).await;
    assert_eq!(peer.answer().await, "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_come_and_go_at_our_publisher() {
    let ours = Ours::new("XPUB", Options::new());
    let url = ours.bind("tcp://127.0.0.1:0").await.to_string();
    let Some(mut peer) = Peer::connected("SUB", &url, json!({"subscribe": ["before"]})).await else { return };
    assert_eq!(ours.recv().await, "\x01before".into());
    peer.run("subscribe", json!({"topic": "after"})).await;
    assert_eq!(ours.recv().await, "\x01after".into());
    for topic in ["none", "before 1", "after 1", "bef"] {
        ours.send(&topic.into()).await;
    }
    assert_eq!(peer.ask("get", json!({})).await, hex("before 1"));
    assert_eq!(peer.ask("get", json!({})).await, hex("after 1"));

    // libzmq tells the last of two cancellations only, and so do we.
    peer.run("subscribe", json!({"topic": "after"})).await;
    peer.run("unsubscribe", json!({"topic": "after"})).await;
    peer.run("unsubscribe", json!({"topic": "before"})).await;
    assert_eq!(ours.recv().await, "\x00before".into());
    ours.send(&"before 2".into()).await;
    ours.send(&"after 2".into()).await;
    assert_eq!(peer.ask("get", json!({})).await, hex("after 2"));
    // Who leaves cancels what is left.
    peer.end().await;
    assert_eq!(ours.recv().await, "\x00after".into());
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_come_and_go_at_their_publisher() {
    let Some(mut peer) = Peer::bound("XPUB", "tcp://127.0.0.1:*", json!({})).await else { return };
    let Ours::Sub(ours) = Ours::new("SUB", Options::new()) else { unreachable!() };
    ours.subscribe("before");
    ours.connect(peer.url.as_str()).unwrap();
    assert_eq!(peer.ask("get", json!({})).await, hex("\x01before"));
    ours.subscribe("after");
    assert_eq!(peer.ask("get", json!({})).await, hex("\x01after"));
    ours.subscribe("after");
    assert!(ours.unsubscribe("after"));
    assert!(ours.unsubscribe("before"));
    assert_eq!(peer.ask("get", json!({})).await, hex("\x00before"));
    for topic in ["before 2", "after 2"] {
        peer.run("put", json!({"frames": [hex(topic)]})).await;
    }
    assert_eq!(Ours::Sub(ours).recv().await, "after 2".into());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_up_from_their_subscriber() {
    let ours = Ours::new("XPUB", Options::new());
    let url = ours.bind("tcp://127.0.0.1:0").await.to_string();
    let Some(mut peer) = Peer::connected("XSUB", &url, json!({"subscribe": ["t"]})).await else { return };
    assert_eq!(ours.recv().await, "\x01t".into());
    peer.run("put", json!({"frames": [hex("hello")]})).await;
    assert_eq!(ours.recv().await, "hello".into());
}

#[tokio::test(flavor = "multi_thread")]
async fn our_router_knows_them_by_name() {
    let router = Ours::new("ROUTER", Options::new());
    let url = router.bind("tcp://127.0.0.1:0").await.to_string();
    let named = |name: &str| json!({"options": {"IDENTITY": name}});
    let Some(mut ada) = Peer::connected("DEALER", &url, named("ada")).await else { return };
    // Nothing was received from her yet.
    router.send(&Message::from_frames(["ada", "first"])).await;
    assert_eq!(ada.ask("get", json!({})).await, hex("first"));
    let mut grace = Peer::connected("REQ", &url, named("grace")).await.unwrap();
    grace.run("put", json!({"frames": [hex("ask")]})).await;
    assert_eq!(router.recv().await, Message::from_frames(["grace", "", "ask"]));
    router.send(&Message::from_frames(["grace", "", "answer"])).await;
    assert_eq!(grace.ask("get", json!({})).await, hex("answer"));

    // A probe (ZMQ_PROBE_ROUTER) is an empty message; the nameless get a name of five bytes from us.
    let probe = json!({"options": {"PROBE_ROUTER": 1}});
    let mut nameless = Peer::connected("DEALER", &url, probe).await.unwrap();
    let message = router.recv().await;
    let name = message.frame(0).unwrap();
    assert!(name.len() == 5 && name[0] == 0 && message.frame(1) == Some(b""), "{message:?}");
    router.send(&Message::from_frames([name, b"", b"hi"])).await;
    assert_eq!(nameless.ask("get", json!({})).await, format!("- {}", hex("hi")));
}

#[tokio::test(flavor = "multi_thread")]
async fn their_router_knows_us_by_name() {
    let mandatory = json!({"options": {"ROUTER_MANDATORY": 1}});
    let Some(mut router) = Peer::bound("ROUTER", "tcp://127.0.0.1:*", mandatory).await else { return };
    let (ada, grace) = (
        Ours::new("DEALER", Options::new().identity("ada")),
        Ours::new("REQ", Options::new().identity("grace").req_correlate(false)),
    );
    ada.connect(&router.url);
    router.run("put", json!({"frames": [hex("ada"), hex("first")]})).await;
    assert_eq!(ada.recv().await, "first".into());
    grace.connect(&router.url);
    grace.send(&"ask".into()).await;
    assert_eq!(router.ask("get", json!({})).await, format!("{} - {}", hex("grace"), hex("ask")));
    router.run("put", json!({"frames": [hex("grace"), "", hex("answer")]})).await;
    assert_eq!(grace.recv().await, "answer".into());
}

#[tokio::test(flavor = "multi_thread")]
async fn over_ipc() {
    let place = tempfile::tempdir().unwrap();
    let url = format!("ipc://{}", place.path().join("socket").display());
    let ours = Ours::new("DEALER", Options::new());
    ours.bind(&url).await;
    let Some(mut peer) = Peer::connected("REP", &url, json!({})).await else { return };
    peer.tell("echo", count(1500)).await;
    ours.ask_all(1500, &[""], 64).await;
    assert_eq!(peer.answer().await, "done");
    peer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_does_not_fit_is_told() {
    // libzmq just hangs up on what it cannot talk to, and so this is no final refusal on our side.
    let Some(peer) = Peer::bound("REP", "tcp://127.0.0.1:*", json!({})).await else { return };
    let ours = Ours::new("PUSH", Options::new());
    let mut monitor = ours.monitor();
    ours.connect(&peer.url);
    until(&mut monitor, |event| match event {
        Event::HandshakeFailed { reason, .. }
        | Event::GaveUp { reason, .. }
        | Event::Retrying { reason, .. } => {
            assert!(reason.contains("REP"), "{reason}");
            true
        }
        _ => false,
    })
    .await;
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
