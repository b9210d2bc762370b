//! PUB and XPUB: slow subscribers, subscriptions.

use std::time::Duration;

use ripstop::socket::*;

use crate::{
    Transport,
    common::{awaits, quick},
    on_every_transport,
};

/// A subscriber that takes nothing, beside a good one; returns publisher, slow and good.
async fn slow_and_good(transport: Transport, when_full: WhenFull) -> (Pub, Sub, Sub) {
    let publisher = Pub::with_options(Options::new().when_full(when_full).send_hwm(10));
    let mut seen = publisher.monitor();
    let endpoint = publisher.bind(transport.free()).await.unwrap();
    let slow = Sub::with_options(Options::new().receive_hwm(1));
    let good = Sub::new();
    for subscriber in [&slow, &good] {
        subscriber.subscribe("");
        subscriber.connect(&endpoint).unwrap();
        awaits!(seen, Event::Subscribed { .. });
    }
    (publisher, slow, good)
}

fn numbered(n: u32) -> [Vec<u8>; 2] {
    [n.to_be_bytes().to_vec(), vec![0; 100_000]]
}

async fn number(subscriber: &Sub) -> u32 {
    let message = subscriber.recv().await.unwrap();
    u32::from_be_bytes(message.frame(0).unwrap().try_into().unwrap())
}

/// The new are dropped for the slow one; the good one gets all.
async fn drops_new(transport: Transport) {
    let (publisher, slow, good) = slow_and_good(transport, WhenFull::Drop).await;
    for n in 0..500 {
        publisher.send(numbered(n)).await.unwrap();
        assert_eq!(number(&good).await, n);
    }
    publisher.close().await;
    let (mut got, mut last) = (1, 0);
    assert_eq!(number(&slow).await, 0);
    while let Ok(Ok(message)) = tokio::time::timeout(Duration::from_millis(300), slow.recv()).await {
        let n = u32::from_be_bytes(message.frame(0).unwrap().try_into().unwrap());
        assert!(n > last);
        (got, last) = (got + 1, n);
    }
    // Not which: the kernel's buffers may find room for one near the end, too.
    assert!(got < 400, "{got}, the last of them {last}");
}

/// The oldest are dropped: the last always arrives.
async fn drops_oldest(transport: Transport) {
    let (publisher, slow, good) = slow_and_good(transport, WhenFull::DropOldest).await;
    for n in 0..500 {
        publisher.send(numbered(n)).await.unwrap();
        assert_eq!(number(&good).await, n);
    }
    let (mut got, mut last) = (1, number(&slow).await);
    assert_eq!(last, 0);
    while last < 499 {
        let next = number(&slow).await;
        assert!(next > last);
        (got, last) = (got + 1, next);
    }
    assert!(got < 500, "{got}");
}

/// Nobody misses anything: the publisher waits.
async fn blocks(transport: Transport) {
    let (publisher, slow, good) = slow_and_good(transport, WhenFull::Block).await;
    let sending = tokio::spawn(async move {
        for n in 0..300 {
            publisher.send(numbered(n)).await.unwrap();
        }
        publisher
    });
    let good = tokio::spawn(async move {
        for n in 0..300 {
            assert_eq!(number(&good).await, n);
        }
    });
    for n in 0..300 {
        assert_eq!(number(&slow).await, n);
    }
    good.await.unwrap();
    sending.await.unwrap();
}

/// First and last of each prefix, unless verbose; a subscriber that leaves has cancelled.
async fn xpub_hands_out(transport: Transport) {
    for verbose in [false, true] {
        let publisher = XPub::with_options(Options::new().xpub_verbose(verbose));
        let mut seen = publisher.monitor();
        let endpoint = publisher.bind(transport.free()).await.unwrap();
        let (one, two) = (Sub::with_options(quick()), Sub::with_options(quick()));
        one.subscribe("a");
        one.connect(&endpoint).unwrap();
        assert_eq!(publisher.recv().await.unwrap(), "\x01a".into());
        awaits!(seen, Event::Subscribed { .. });
        two.subscribe("a");
        two.connect(&endpoint).unwrap();
        awaits!(seen, Event::Subscribed { .. });
        if verbose {
            assert_eq!(publisher.recv().await.unwrap(), "\x01a".into());
        }
        two.subscribe("b");
        assert_eq!(publisher.recv().await.unwrap(), "\x01b".into());
        one.close().await;
        awaits!(seen, Event::Disconnected { .. });
        two.unsubscribe("b");
        two.close().await;
        let mut rest = vec![publisher.recv().await.unwrap(), publisher.recv().await.unwrap()];
        rest.sort_by_key(|message| message.frame_bytes(0));
        assert_eq!(rest, ["\x00a".into(), "\x00b".into()]);
        assert_eq!(publisher.subscriptions(), 0);
    }
}

/// More subscriptions than allowed end the connection, with the reason.
async fn too_many_subscriptions(transport: Transport) {
    let publisher = Pub::with_options(Options::new().max_subscriptions(100));
    let mut seen = publisher.monitor();
    let endpoint = publisher.bind(transport.free()).await.unwrap();
    let (greedy, good) = (Sub::with_options(quick()), Sub::with_options(quick()));
    for n in 0..101 {
        greedy.subscribe(n.to_string());
    }
    greedy.connect(&endpoint).unwrap();
    awaits!(seen, Event::Limited { limit: Limit::Subscriptions, .. });
    awaits!(seen, Event::Disconnected { reason, .. } if reason.contains("too many subscriptions"));
    greedy.close().await;
    good.subscribe("x");
    good.connect(&endpoint).unwrap();
    awaits!(seen, Event::Subscribed { prefix, .. } if prefix == "x");
    publisher.send("x").await.unwrap();
    assert_eq!(good.recv().await.unwrap(), "x".into());
}

on_every_transport!(drops_new, drops_oldest, blocks, xpub_hands_out, too_many_subscriptions);
