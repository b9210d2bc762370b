use std::{future::IntoFuture, path::Path, time::Duration};

use ripstop::{
    Node,
    config::Config,
    discovery::Memory,
    fabric::{KeptEvent, PublishError, Publisher, SubscribeError},
};

use crate::common::{soon, start};

async fn publisher(lan: &Memory, dir: &Path, config: &str) -> Node {
    let config = Config::parse(config).unwrap();
    let builder = Node::builder("orders").config(config).local(false).mdns(false).source(lan.source());
    builder.data_dir(dir).start().await.unwrap()
}

/// Publishes when a durable subscription is known.
async fn keep(orders: &Publisher<u32>, event: u32) -> KeptEvent {
    loop {
        match orders.keep(&event).await {
            Err(PublishError::NoDurableGroup { .. }) => tokio::task::yield_now().await,
            kept => return kept.unwrap(),
        }
    }
}

#[tokio::test]
async fn each_subscription_gets_each_event_and_its_instances_share_them() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let node = publisher(&lan, dir.path(), "").await;
    let orders = node.publisher::<u32>("orders.created").await.unwrap();
    assert!(matches!(orders.keep(&0).await, Err(PublishError::NoDurableGroup { .. })));
    let (billing, other, audit) =
        (start(&lan, "billing").await, start(&lan, "billing").await, start(&lan, "audit").await);
    let mut first = billing.subscribe::<u32>("orders.*").durable("billing").prefetch(1).await.unwrap();
    soon(keep(&orders, 1)).await;
    let mut all = audit.subscribe::<u32>("orders.>").durable("audit").await.unwrap();
    while soon(node.kept().subscriptions()).await.unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    // A plain subscriber gets them, too.
    let mut plain = audit.subscribe::<u32>("orders.created").await.unwrap();
    soon(orders.ready(1).into_future()).await.unwrap();
    let mut kept = Vec::new();
    for event in 2..=100 {
        let event = soon(orders.keep(&event)).await.unwrap();
        assert_eq!(event.subscriptions(), 2);
        kept.push(event);
    }
    let mut second = other.subscribe::<u32>("orders.*").durable("billing").prefetch(1).await.unwrap();
    for event in 2..=100 {
        let delivery = soon(all.recv()).await.unwrap().unwrap();
        assert_eq!((delivery.body, delivery.topic.as_deref()), (event, Some("orders.created")));
        delivery.ack();
        assert_eq!(soon(plain.recv()).await.unwrap().unwrap().body, event);
    }
    let mut seen = [0; 101];
    let mut by = [0, 0];
    for _ in 1..=100 {
        let (delivery, at) = tokio::select! {
            delivery = soon(first.recv()) => (delivery, 0),
            delivery = soon(second.recv()) => (delivery, 1),
        };
        let delivery = delivery.unwrap().unwrap();
        seen[delivery.body as usize] += 1;
        by[at] += 1;
        delivery.ack();
    }
    assert!(seen[1..].iter().all(|times| *times == 1), "{seen:?}");
    assert!(by[0] > 0 && by[1] > 0, "{by:?}");
    for event in kept {
        soon(event.processed()).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_published_while_nobody_of_it_is_there_waits() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    {
        let node = publisher(&lan, dir.path(), "").await;
        let orders = node.publisher::<u32>("orders.created").await.unwrap();
        let billing = start(&lan, "billing").await;
        let subscription = billing.subscribe::<u32>("orders.*").durable("billing").await.unwrap();
        let first = soon(keep(&orders, 1)).await;
        drop(subscription);
        soon(billing.drain()).await;
        drop(first);
        soon(orders.keep(&2)).await.unwrap();
        soon(node.drain()).await;
    }
    // Both have been away: the publisher knows the name all the same.
    let node = publisher(&lan, dir.path(), "").await;
    let orders = node.publisher::<u32>("orders.created").await.unwrap();
    assert_eq!(soon(orders.keep(&3)).await.unwrap().subscriptions(), 1);
    let known = node.kept().subscriptions().await.unwrap();
    assert_eq!((&*known[0].name, &*known[0].pattern), ("billing", "orders.*"));
    assert_eq!(node.kept().list(&known[0].queue, 0, 9).await.unwrap().len(), 3);
    let billing = start(&lan, "billing").await;
    let mut subscription = billing.subscribe::<u32>("orders.*").durable("billing").await.unwrap();
    for event in 1..=3 {
        let delivery = soon(subscription.recv()).await.unwrap().unwrap();
        assert_eq!(delivery.body, event);
        delivery.ack();
    }
}

#[tokio::test]
async fn a_subscription_can_be_named_removed_and_come_late() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let config = "[durable]\nretain = '1h'\n[[durable.groups]]\nname = 'billing'\npattern = 'orders.*'\n";
    let node = publisher(&lan, dir.path(), config).await;
    let orders = node.publisher::<u32>("orders.created").await.unwrap();
    assert_eq!(soon(orders.keep(&1)).await.unwrap().subscriptions(), 1);
    assert_eq!(soon(node.kept().unsubscribe("@billing/orders.+")).await.unwrap(), 1);
    assert_eq!(soon(orders.keep(&2)).await.unwrap().subscriptions(), 0);
    let late = start(&lan, "late").await;
    let mut subscription = late.subscribe::<u32>("orders.created").durable("late").await.unwrap();
    for event in 1..=2 {
        let delivery = soon(subscription.recv()).await.unwrap().unwrap();
        assert_eq!(delivery.body, event);
        delivery.ack();
    }
}

#[tokio::test]
async fn one_that_is_gone_for_too_long_is_removed_and_its_events_become_letters() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let group = "[[durable.groups]]\nname = 'billing'\npattern = 'orders.*'\n";
    {
        let node = publisher(&lan, dir.path(), group).await;
        let orders = node.publisher::<u32>("orders.created").await.unwrap();
        soon(orders.keep(&1)).await.unwrap();
        soon(node.drain()).await;
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    let node = publisher(&lan, dir.path(), "[durable]\ngroups_for = '1ms'").await;
    while soon(node.dead_letters().list(0, 9)).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let letters = node.dead_letters().list(0, 9).await.unwrap();
    assert_eq!(
        (letters[0].topic.as_deref(), &*letters[0].queue),
        (Some("orders.created"), "@billing/orders.+")
    );
    while !soon(node.kept().subscriptions()).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn names_and_patterns_are_checked() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let node = publisher(&lan, dir.path(), "").await;
    for (pattern, name) in [("orders.*", "a.b"), ("orders.*", ""), ("orders.+", "a")] {
        let error = node.subscribe::<u32>(pattern).durable(name).await.unwrap_err();
        assert!(matches!(error, SubscribeError::Name { .. }), "{error}");
    }
    let error = node.pull::<u32>("@billing/orders.+").await.unwrap_err();
    assert!(error.to_string().contains("belong to the node itself"), "{error}");
    let plain = start(&lan, "plain").await.publisher::<u32>("plain.topic").await.unwrap();
    assert!(matches!(plain.keep(&1).await, Err(PublishError::Keep(_))));
}

#[tokio::test]
async fn an_event_may_have_a_key_and_a_time() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let group = "[[durable.groups]]\nname = 'billing'\npattern = 'orders.*'\n";
    let node = publisher(&lan, dir.path(), group).await;
    let orders = node.publisher::<u32>("orders.created").await.unwrap();
    soon(orders.keep(&1).key("k").expires(Duration::from_secs(60))).await.unwrap();
    soon(orders.keep(&2).key("k").after(Duration::from_secs(3600))).await.unwrap();
    let kept = node.kept().list("@billing/orders.+", 0, 9).await.unwrap();
    assert!(kept.iter().all(|item| item.key.as_deref() == Some("k")));
    assert!(kept[0].expires.is_some() && kept[0].due == kept[0].pushed && kept[1].due > kept[1].pushed);
    let error = soon(orders.keep(&3).key(&"k".repeat(1025))).await.unwrap_err();
    assert!(error.to_string().contains("1025 bytes"), "{error}");
}
