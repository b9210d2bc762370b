//! Plain ZeroMQ sockets, which know nothing of us but the wire, at a node's one port.

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture};

use ripstop::{
    HandlerError, Message, Node,
    envelope::{ErrorBody, Header, HelloBody, Kind, MAX_ROUTE, NIL, Parts, decode_body, encode_body},
    socket::{Dealer, Event, Monitor, Options, Pair, Pub, Pull, Push, Rep, Req, Router, Sub, XPub, XSub},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::common::soon;

#[derive(Serialize, Deserialize)]
struct Ask {
    qty: u64,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Quote {
    cents: u64,
}

/// A node nobody can find, and its address.
async fn pricing() -> (Node, String) {
    let node = Node::builder("pricing").local(false).mdns(false).start().await.unwrap();
    node.serve("pricing.quote", |ask: Ask, _| async move { Ok(Quote { cents: 250 * ask.qty }) })
        .await
        .unwrap();
    node.serve("pricing.fail", |_: (), _| async {
        Err::<(), _>(HandlerError::new("sold out").with_code("E_STOCK"))
    })
    .await
    .unwrap();
    let url = node.endpoints()[0].to_string();
    (node, url)
}

fn body<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut encoded = Vec::new();
    encode_body(value, &mut encoded).unwrap();
    encoded
}

fn ask(qty: u64) -> Vec<u8> {
    body(&Ask { qty })
}

fn header(kind: Kind, id: u64) -> Vec<u8> {
    let mut encoded = Vec::new();
    Header::new(kind, id).encode(&mut encoded);
    encoded
}

/// An answer behind `skip` frames of envelope: exactly three frames, of kind 1 or 2.
struct Answer<T> {
    subject: String,
    id: u64,
    result: Result<T, ErrorBody>,
}

fn answer<T: DeserializeOwned>(message: &Message, skip: usize) -> Answer<T> {
    assert_eq!(message.len(), skip + 3, "{message:?}");
    let parts = Parts::read(message, skip).unwrap();
    let header = parts.header.unwrap();
    let result = match header.kind {
        Kind::Reply => Ok(decode_body(parts.body).unwrap()),
        Kind::Error => Err(decode_body(parts.body).unwrap()),
        kind => panic!("an answer of kind {kind}"),
    };
    Answer { subject: parts.subject.to_owned(), id: header.id, result }
}

fn dealer(url: &str) -> Dealer {
    let dealer = Dealer::new();
    dealer.connect(url).unwrap();
    dealer
}

async fn until(monitor: &mut Monitor, wanted: impl Fn(&Event) -> bool) -> Event {
    soon(async {
        loop {
            let event = monitor.next().await.expect("the socket has gone");
            if wanted(&event) {
                return event;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_req_calls_with_two_frames() {
    let (_node, url) = pricing().await;
    let req = Req::new();
    req.connect(url).unwrap();
    for qty in 0..100 {
        soon(req.send([&b"pricing.quote"[..], &ask(qty)])).await.unwrap();
        let answer = answer::<Quote>(&soon(req.recv()).await.unwrap(), 0);
        assert_eq!((answer.subject.as_str(), answer.id), ("pricing.quote", 0));
        assert_eq!(answer.result, Ok(Quote { cents: 250 * qty }));
    }
}

#[tokio::test]
async fn a_dealer_has_many_requests_in_flight() {
    let (_node, url) = pricing().await;
    let dealer = dealer(&url);
    // With the delimiter and without.
    for id in 0..1000u64 {
        let (header, body) = (header(Kind::Call, id), ask(id));
        let frames = [&b""[..], b"pricing.quote", &header, &body];
        soon(dealer.send(&frames[usize::from(id >= 500)..])).await.unwrap();
    }
    let mut answers = BTreeMap::new();
    for _ in 0..1000 {
        let message = soon(dealer.recv()).await.unwrap();
        let skip = usize::from(message.frame(0) == Some(b""));
        let answer = answer::<Quote>(&message, skip);
        assert_eq!(skip == 0, answer.id >= 500);
        assert_eq!(answer.result, Ok(Quote { cents: 250 * answer.id }));
        assert!(answers.insert(answer.id, ()).is_none(), "{} twice", answer.id);
    }
    // Each request got one answer: the next is for the next request.
    soon(dealer.send([&b"$node.ping"[..], &header(Kind::Call, 5000), NIL])).await.unwrap();
    assert_eq!(answer::<HelloBody>(&soon(dealer.recv()).await.unwrap(), 0).id, 5000);
}

#[tokio::test]
async fn routing_envelopes_are_echoed() {
    let (_node, url) = pricing().await;
    let dealer = dealer(&url);
    for hops in 0..=MAX_ROUTE {
        let mut frames: Vec<Vec<u8>> = (0..hops).map(|hop| vec![0, 0xff, hop as u8]).collect();
        frames.push(Vec::new());
        let envelope = frames.clone();
        frames.extend([b"pricing.quote".to_vec(), ask(1)]);
        soon(dealer.send(frames)).await.unwrap();
        let message = soon(dealer.recv()).await.unwrap();
        assert!(message.frames().take(hops + 1).eq(&envelope), "{message:?}");
        assert_eq!(answer(&message, hops + 1).result, Ok(Quote { cents: 250 }));
    }
}

#[tokio::test]
async fn errors_are_kind_2() {
    let (_node, url) = pricing().await;
    let dealer = dealer(&url);
    for (subject, body, code) in [
        ("pricing.nothing", ask(1), "RS0412"),
        ("pricing.quote", body("three"), "RS0413"),
        ("pricing.quote", vec![0xc1], "RS0413"),
        ("pricing.quote", vec![0x91; 100_000], "RS0413"),
        ("pricing.fail", NIL.to_vec(), "E_STOCK"),
    ] {
        soon(dealer.send([subject.as_bytes(), &header(Kind::Call, 7), &body])).await.unwrap();
        let answer = answer::<Quote>(&soon(dealer.recv()).await.unwrap(), 0);
        let error = answer.result.unwrap_err();
        assert_eq!(
            (answer.subject.as_str(), answer.id, error.code.as_str()),
            (subject, 7, code),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn ping_says_who_is_there() {
    let (node, url) = pricing().await;
    let req = Req::new();
    req.connect(url).unwrap();
    soon(req.send([&b"$node.ping"[..], NIL])).await.unwrap();
    let hello = answer::<HelloBody>(&soon(req.recv()).await.unwrap(), 0).result.unwrap();
    assert_eq!((hello.service.as_str(), hello.fabric.as_str()), ("pricing", node.fabric()));
    assert_eq!(hello.methods, ["pricing.fail", "pricing.quote"]);
}

#[tokio::test]
async fn a_topic_opened_again_goes_on_counting() {
    let (node, url) = pricing().await;
    let sub = Sub::new();
    sub.subscribe("pricing.");
    sub.connect(&url).unwrap();
    let other = node.publisher::<u64>("pricing.other").await.unwrap();
    soon(other.ready(1).into_future()).await.unwrap();
    for n in 1..=3 {
        let publisher = node.publisher::<u64>("pricing.changed").await.unwrap();
        publisher.publish(&n).await.unwrap();
        drop(publisher);
        let message = soon(sub.recv()).await.unwrap();
        let sequence = Parts::read(&message, 0).unwrap().header.unwrap().fields.sq;
        assert_eq!(sequence, Some(n));
    }
    // Another topic has numbers of its own.
    other.publish(&0).await.unwrap();
    let message = soon(sub.recv()).await.unwrap();
    assert_eq!(Parts::read(&message, 0).unwrap().header.unwrap().fields.sq, Some(1));
}

#[tokio::test]
async fn subscribers_get_what_begins_with_their_prefix() {
    let (node, url) = pricing().await;
    let (sub, xsub, all) = (Sub::new(), XSub::new(), Sub::new());
    sub.subscribe("pricing.chan");
    xsub.try_send("\x01pricing.changed").unwrap();
    all.subscribe("");
    sub.connect(&url).unwrap();
    xsub.connect(&url).unwrap();
    all.connect(&url).unwrap();
    let mut gone = all.monitor();
    let changed = node.publisher::<Quote>("pricing.changed").await.unwrap();
    let other = node.publisher::<Quote>("pricing.other").await.unwrap();
    soon(changed.ready(3).into_future()).await.unwrap();
    for cents in 0..1000 {
        other.publish(&Quote { cents }).await.unwrap();
        changed.publish(&Quote { cents }).await.unwrap();
    }
    let event = |message: &Message| {
        let parts = Parts::read(message, 0).unwrap();
        assert!(parts.header.is_none_or(|header| header.kind == Kind::Event));
        (parts.subject.to_owned(), decode_body::<Quote>(parts.body).unwrap().cents)
    };
    for cents in 0..1000 {
        assert_eq!(event(&soon(sub.recv()).await.unwrap()), ("pricing.changed".to_owned(), cents));
        assert_eq!(event(&soon(xsub.recv()).await.unwrap()), ("pricing.changed".to_owned(), cents));
        assert_eq!(event(&soon(all.recv()).await.unwrap()), ("pricing.other".to_owned(), cents));
        assert_eq!(event(&soon(all.recv()).await.unwrap()), ("pricing.changed".to_owned(), cents));
    }
    // The node's own subjects are not for who asked for everything, not even its farewell.
    soon(node.drain()).await;
    until(&mut gone, |event| matches!(event, Event::Disconnected { .. })).await;
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), all.recv()).await.is_err());
}

#[tokio::test]
async fn publishers_that_dial_in_feed_the_subscriptions() {
    let (node, url) = pricing().await;
    let mut events = node.subscribe::<u64>("orders.*").await.unwrap();
    let publisher = Pub::new();
    let mut monitor = publisher.monitor();
    publisher.connect(&url).unwrap();
    let subscribed = until(
        &mut monitor,
        |event| matches!(event, Event::Subscribed { prefix, .. } if "orders.created".as_bytes().starts_with(prefix)),
    );
    subscribed.await;
    publisher.send([&b"orders.created"[..], &body(&1u64)]).await.unwrap();
    publisher.send([&b"orders.created"[..], &header(Kind::Event, 0), &body(&2u64)]).await.unwrap();
    publisher.send("orders.malformed").await.unwrap(); // counted, and no harm done
    publisher.send([&b"orders.created"[..], &body(&3u64)]).await.unwrap();
    for n in 1..=3 {
        assert_eq!(soon(events.recv()).await.unwrap().unwrap().body, n);
    }

    let xpub = XPub::new();
    xpub.connect(&url).unwrap();
    while !soon(xpub.recv()).await.unwrap().frame(0).unwrap().starts_with(b"\x01orders.") {}
    xpub.send([&b"orders.cancelled"[..], &body(&4u64)]).await.unwrap();
    let event = soon(events.recv()).await.unwrap().unwrap();
    assert_eq!((&*event.subject, event.body), ("orders.cancelled", 4));
}

#[tokio::test]
async fn pushers_feed_the_queues() {
    let (node, url) = pricing().await;
    let mut emails = node.pull::<u64>("emails").await.unwrap();
    let push = Push::new();
    let mut monitor = push.monitor();
    push.connect(&url).unwrap();
    for n in 0..1000u64 {
        // What nobody pulls is dropped, and hinders nothing.
        push.send([&b"letters"[..], &body(&n)]).await.unwrap();
        push.send([&b"emails"[..], &body(&n)]).await.unwrap();
        push.send([&b"emails"[..], &header(Kind::Work, 0), &body(&n)]).await.unwrap();
    }
    for n in 0..2000 {
        let delivery = soon(emails.recv()).await.unwrap().unwrap();
        assert_eq!((delivery.body, delivery.from), (n / 2, None));
    }
    push.close().await;
    lasted(&mut monitor).await;
}

#[tokio::test]
async fn others_are_refused_for_good() {
    let (_node, url) = pricing().await;
    macro_rules! refused {
        ($($socket:ident),*) => {$(
            let socket = $socket::new();
            let mut monitor = socket.monitor();
            socket.connect(&url).unwrap();
            let event = until(&mut monitor, |event| matches!(event, Event::GaveUp { .. })).await;
            let Event::GaveUp { reason, .. } = event else { unreachable!() };
            assert!(reason.contains("a node takes DEALER"), "{reason}");
        )*};
    }
    refused!(Rep, Router, Pull, Pair);
}

#[tokio::test]
async fn malformed_messages_close_only_their_own_connection() {
    let (node, url) = pricing().await;
    let mut emails = node.pull::<u64>("emails").await.unwrap();
    let good = dealer(&url);
    let mut undisturbed = good.monitor();
    let call = || async {
        soon(good.send([&b"pricing.quote"[..], &ask(2)])).await.unwrap();
        assert_eq!(answer(&soon(good.recv()).await.unwrap(), 0).result, Ok(Quote { cents: 500 }));
    };
    call().await;

    let nine: Vec<&[u8]> = [&[b"hop"; 9].map(|hop| &hop[..])[..], &[b"", b"pricing.quote", b"\x01"]].concat();
    let calls: [&[&[u8]]; 9] = [
        &[b"pricing.quote"],
        &[b"pricing.quote", b""],
        &[b"", b"pricing.quote"],
        &[b"\xff\xfe", b"\x01"],
        &[b"two words", b"\x01"],
        &nine,
        &[b"pricing.quote", b"\xc1\xff", b"\x01"],
        &[b"pricing.quote", &header(Kind::Event, 1), b"\x01"],
        &[b"pricing.quote", b"\x94\x01\x00\x01\x80", b"\x01", b"\x01"],
    ];
    for frames in calls {
        let bad = Dealer::with_options(Options::new().reconnect(None));
        closes(bad.monitor(), || bad.connect(&url).unwrap(), bad.send(frames.to_vec())).await;
        call().await;
    }
    let works: [&[&[u8]]; 3] = [&[b"emails"], &[b"\xff", b"\x01"], &[b"emails", b"garbage", b"\x01"]];
    for frames in works {
        let bad = Push::with_options(Options::new().reconnect(None));
        closes(bad.monitor(), || bad.connect(&url).unwrap(), bad.send(frames.to_vec())).await;
        call().await;
    }
    // An item that is no number is its reader's error, not the connection's.
    let push = Push::new();
    push.connect(&url).unwrap();
    push.send([&b"emails"[..], &body("no number")]).await.unwrap();
    push.send([&b"emails"[..], &body(&1u64)]).await.unwrap();
    assert!(soon(emails.recv()).await.unwrap().is_err());
    assert_eq!(soon(emails.recv()).await.unwrap().unwrap().body, 1);

    call().await;
    good.close().await;
    lasted(&mut undisturbed).await;
}

/// The connection ended because we closed it, and not before.
async fn lasted(monitor: &mut Monitor) {
    let event = until(monitor, |event| matches!(event, Event::Disconnected { .. })).await;
    assert!(event.to_string().contains("disconnected by this side"), "{event}");
}

async fn closes(
    mut monitor: Monitor,
    connect: impl FnOnce(),
    send: impl Future<Output = Result<(), ripstop::socket::SendError>>,
) {
    connect();
    soon(send).await.unwrap();
    until(&mut monitor, |event| matches!(event, Event::Disconnected { .. })).await;
}
