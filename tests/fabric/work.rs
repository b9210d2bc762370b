use std::{
    collections::BTreeSet,
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ripstop::{
    HandlerError, Message, Node,
    config::Config,
    discovery::Memory,
    envelope::{CreditBody, ErrorBody, Header, Kind, encode_body},
    fabric::{Fate, NodeBuilder, PushError},
    socket::{Dealer, Event},
};
use tokio::sync::mpsc;

use crate::common::{soon, start};

#[tokio::test(flavor = "multi_thread")]
async fn each_item_goes_to_one_of_the_pullers() {
    const ITEMS: u64 = 20_000;
    let lan = Memory::new();
    let (sender, one, two) =
        (start(&lan, "shop").await, start(&lan, "mailer").await, start(&lan, "mailer").await);
    let (tell, mut told) = mpsc::unbounded_channel();
    for (index, node) in [&one, &two].into_iter().enumerate() {
        let mut pull = node.pull::<u64>("emails").await.unwrap();
        let tell = tell.clone();
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = pull.recv().await {
                assert_eq!(delivery.from.as_deref(), Some("shop"));
                tell.send((index, delivery.body)).unwrap();
            }
        });
    }
    for n in 0..ITEMS {
        assert_eq!(soon(sender.push("emails", &n).into_future()).await.unwrap(), Fate::Queued);
    }
    let (mut seen, mut by) = (BTreeSet::new(), [0usize; 2]);
    for _ in 0..ITEMS {
        let (index, n) = soon(told.recv()).await.unwrap();
        assert!(seen.insert(n), "{n} came twice");
        by[index] += 1;
    }
    assert!(by.iter().all(|count| *count > 1000), "{by:?}");
}

#[tokio::test]
async fn nobody_pulls_and_then_somebody_does() {
    let lan = Memory::new();
    let sender = start(&lan, "shop").await;
    let push = sender.push("emails", "x").timeout(Duration::from_millis(200));
    let error = soon(push.into_future()).await.unwrap_err();
    assert!(matches!(error, PushError::NoPuller { .. }), "{error}");

    let waiting = tokio::spawn(async move { sender.push("emails", "y").await });
    let mailer = start(&lan, "mailer").await;
    let mut pull = mailer.pull::<String>("emails").await.unwrap();
    assert_eq!(soon(waiting).await.unwrap().unwrap(), Fate::Queued);
    assert_eq!(soon(pull.recv()).await.unwrap().unwrap().body, "y");
}

#[tokio::test]
async fn a_puller_that_takes_nothing_gets_no_more_than_its_prefetch() {
    let lan = Memory::new();
    let (sender, mailer) = (start(&lan, "shop").await, start(&lan, "mailer").await);
    let mut pull = mailer.pull::<u64>("emails").prefetch(10).await.unwrap();
    for n in 0..10u64 {
        soon(sender.push("emails", &n).into_future()).await.unwrap();
    }
    let push = sender.push("emails", &10u64).timeout(Duration::from_millis(100));
    let error = soon(push.into_future()).await.unwrap_err();
    assert!(matches!(error, PushError::Full { .. }), "{error}");
    for n in 0..10u64 {
        assert_eq!(soon(pull.recv()).await.unwrap().unwrap().body, n);
    }
    // Taking them granted credit again.
    soon(sender.push("emails", &10u64).into_future()).await.unwrap();
    assert_eq!(soon(pull.recv()).await.unwrap().unwrap().body, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_survives_failing_handlers() {
    let lan = Memory::new();
    let (sender, mailer) = (start(&lan, "shop").await, start(&lan, "mailer").await);
    let (tell, mut told) = mpsc::unbounded_channel();
    let busy = Arc::new(AtomicUsize::new(0));
    mailer
        .work("emails", move |n: u64, _| {
            let (tell, busy) = (tell.clone(), busy.clone());
            async move {
                assert!(busy.fetch_add(1, Ordering::SeqCst) < 4, "over the concurrency");
                tokio::task::yield_now().await;
                busy.fetch_sub(1, Ordering::SeqCst);
                tell.send(n)?;
                match n % 3 {
                    0 => Err(HandlerError::new("no")),
                    1 => panic!("on purpose"),
                    _ => Ok(()),
                }
            }
        })
        .concurrency(4)
        .await
        .unwrap();
    for n in 0..300u64 {
        soon(sender.push("emails", &n).into_future()).await.unwrap();
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 300 {
        seen.insert(soon(told.recv()).await.unwrap());
    }
}

#[tokio::test]
async fn a_withdrawn_pull_is_not_pushed_to() {
    let lan = Memory::new();
    let (sender, one, two) =
        (start(&lan, "shop").await, start(&lan, "mailer").await, start(&lan, "mailer").await);
    let gone = one.pull::<u64>("emails").await.unwrap();
    let mut stays = two.pull::<u64>("emails").await.unwrap();
    let mut other = one.pull::<u64>("letters").await.unwrap();
    soon(sender.push("letters", &0u64).into_future()).await.unwrap();
    soon(other.recv()).await.unwrap().unwrap();
    drop(gone);
    // The word of it travels ahead of this answer on the same connection.
    soon(sender.push("letters", &1u64).into_future()).await.unwrap();
    soon(other.recv()).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    for n in 0..50u64 {
        soon(sender.push("emails", &n).into_future()).await.unwrap();
        assert_eq!(soon(stays.recv()).await.unwrap().unwrap().body, n);
    }
}

#[tokio::test]
async fn a_push_goes_on_when_a_full_connection_has_room_again() {
    let lan = Memory::new();
    let builder = ripstop::Node::builder("shop").local(false).mdns(false).source(lan.source());
    let sender = builder.queue(4, 1 << 20).start().await.unwrap();
    let mailer = start(&lan, "mailer").await;
    // No credit is missing, and nothing is taken, so that none is granted either.
    let _pull = mailer.pull::<u64>("emails").prefetch(10_000).await.unwrap();
    for n in 0..200u64 {
        let push = sender.push("emails", &n).timeout(Duration::from_secs(3));
        assert_eq!(soon(push.into_future()).await.unwrap(), Fate::Queued);
    }
}

#[tokio::test]
async fn pulls_that_went_leave_no_credit_behind() {
    let lan = Memory::new();
    let (sender, mailer) = (start(&lan, "shop").await, start(&lan, "mailer").await);
    let _stays = mailer.pull::<u64>("emails").prefetch(10).await.unwrap();
    for _ in 0..5 {
        drop(mailer.pull::<u64>("emails").prefetch(10).await.unwrap());
    }
    for n in 0..10u64 {
        soon(sender.push("emails", &n).into_future()).await.unwrap();
    }
    let push = sender.push("emails", &10u64).timeout(Duration::from_millis(100));
    let error = soon(push.into_future()).await.unwrap_err();
    assert!(matches!(error, PushError::Full { .. }), "{error}");
}

#[tokio::test]
async fn the_longest_timeout_is_no_panic() {
    let lan = Memory::new();
    let (sender, mailer) = (start(&lan, "shop").await, start(&lan, "mailer").await);
    let pushing = tokio::spawn({
        let sender = sender.clone();
        async move { sender.push("emails", &1u64).timeout(Duration::MAX).await }
    });
    tokio::task::yield_now().await;
    let mut pull = mailer.pull::<u64>("emails").await.unwrap();
    assert_eq!(soon(pushing).await.unwrap().unwrap(), Fate::Queued);
    assert_eq!(soon(pull.recv()).await.unwrap().unwrap().body, 1);
    let publisher = sender.publisher::<u64>("shop.open").await.unwrap();
    let _subscription = mailer.subscribe::<u64>("shop.open").await.unwrap();
    soon(publisher.ready(1).timeout(Duration::MAX).into_future()).await.unwrap();
}

/// A puller that says what we want it to.
async fn puller(sender: NodeBuilder, queues: &[&str]) -> (Node, Dealer) {
    let puller = Dealer::new();
    let endpoint = puller.bind("tcp://127.0.0.1:0").await.unwrap();
    let sender = sender.local(false).mdns(false).peer("mailer", endpoint, queues).start().await.unwrap();
    (sender, puller)
}

async fn say(puller: &Dealer, kind: Kind, queue: &str, body: &impl serde::Serialize) {
    let (mut header, mut encoded) = (Vec::new(), Vec::new());
    Header::new(kind, 0).encode(&mut header);
    encode_body(body, &mut encoded).unwrap();
    puller.send(Message::from_frames([queue.as_bytes(), &header, &encoded])).await.unwrap();
}

#[tokio::test]
async fn a_puller_names_no_more_queues_than_fit_into_its_account() {
    let mut config = Config::default();
    (config.limits.max_message, config.limits.peer_memory) = (64 << 10, 64 << 10);
    let (sender, puller) = puller(Node::builder("shop").config(config), &["emails"]).await;
    let mut monitor = puller.monitor();
    let push = tokio::spawn({
        let sender = sender.clone();
        async move { sender.push("emails", &1u64).await }
    });
    say(&puller, Kind::Credit, "emails", &CreditBody(5)).await;
    assert_eq!(soon(push).await.unwrap().unwrap(), Fate::Queued);
    // The same one again and again is no more.
    for _ in 0..1000 {
        say(&puller, Kind::Credit, "emails", &CreditBody(1)).await;
    }
    for n in 0..100 {
        say(&puller, Kind::Credit, &format!("emails.{n}"), &CreditBody(1)).await;
    }
    assert_eq!(soon(sender.push("emails.99", &1u64).into_future()).await.unwrap(), Fate::Queued);
    for n in 0..200 {
        say(&puller, Kind::Credit, &format!("emails.{n}"), &CreditBody(1)).await;
    }
    let ended = async { while !matches!(monitor.next().await, Some(Event::Disconnected { .. })) {} };
    soon(ended).await;
}

#[tokio::test]
async fn why_a_puller_says_no_is_cut() {
    let (sender, puller) = puller(Node::builder("shop"), &["emails"]).await;
    let push = tokio::spawn({
        let sender = sender.clone();
        async move { sender.push("emails", &1u64).await }
    });
    let error = ErrorBody::new("RS0440", "no!".repeat(100_000));
    say(&puller, Kind::Error, "emails", &error).await;
    match soon(push).await.unwrap().unwrap_err() {
        PushError::Forbidden { reason, .. } => assert_eq!(reason.len(), 255),
        error => panic!("{error}"),
    }
}
