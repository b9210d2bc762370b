use std::future::IntoFuture;

use ripstop::{
    discovery::Memory,
    fabric::{DropReason, Fate, PublishError, SlowPolicy},
};

use crate::common::{soon, start};

#[tokio::test]
async fn events_reach_every_subscriber_in_order() {
    let lan = Memory::new();
    let orders = start(&lan, "orders").await;
    let publisher = orders.publisher::<u64>("orders.created").await.unwrap();
    assert_eq!(publisher.publish(&0).await.unwrap(), Fate::Dropped(DropReason::NoSubscriber));

    let (ledger, audit) = (start(&lan, "ledger").await, start(&lan, "audit").await);
    let mut exact = ledger.subscribe::<u64>("orders.created").await.unwrap();
    let mut all = audit.subscribe::<u64>("orders.>").await.unwrap();
    let mut other = audit.subscribe::<u64>("orders.*.late").await.unwrap();
    soon(publisher.ready(2).into_future()).await.unwrap();
    for n in 1..=5000u64 {
        assert_eq!(publisher.publish(&n).await.unwrap(), Fate::Queued);
    }
    for n in 1..=5000u64 {
        for subscription in [&mut exact, &mut all] {
            let event = soon(subscription.recv()).await.unwrap().unwrap();
            assert_eq!((event.body, &*event.subject, event.missed), (n, "orders.created", 0));
        }
    }
    let late = orders.publisher::<u64>("orders.created.late").await.unwrap();
    late.publish(&7).await.unwrap();
    assert_eq!(soon(other.recv()).await.unwrap().unwrap().body, 7);
    assert_eq!(soon(all.recv()).await.unwrap().unwrap().subject.as_ref(), "orders.created.late");
}

#[tokio::test]
async fn ready_says_how_many_are_missing() {
    let lan = Memory::new();
    let node = start(&lan, "orders").await;
    let publisher = node.publisher::<u64>("orders.created").await.unwrap();
    let wait = publisher.ready(1).timeout(std::time::Duration::from_millis(50));
    let error = soon(wait.into_future()).await.unwrap_err();
    assert!(matches!(error, PublishError::NotReady { present: 0, wanted: 1, .. }), "{error}");
}

#[tokio::test]
async fn a_subscriber_to_everything_and_a_node_that_hears_itself() {
    let lan = Memory::new();
    let node = start(&lan, "orders").await;
    let mut own = node.subscribe::<String>(">").await.unwrap();
    let publisher = node.publisher::<String>("orders.created").await.unwrap();
    soon(publisher.ready(1).into_future()).await.unwrap();
    publisher.publish(&"x".to_owned()).await.unwrap();
    assert_eq!(soon(own.recv()).await.unwrap().unwrap().body, "x");
}

#[tokio::test]
async fn an_unreadable_event_leaves_the_next_ones_alone() {
    let lan = Memory::new();
    let orders = start(&lan, "orders").await;
    let ledger = start(&lan, "ledger").await;
    let mut numbers = ledger.subscribe::<u64>("orders.*").await.unwrap();
    let texts = orders.publisher::<String>("orders.text").await.unwrap();
    let good = orders.publisher::<u64>("orders.number").await.unwrap();
    soon(good.ready(1).into_future()).await.unwrap();
    texts.publish(&"no number".to_owned()).await.unwrap();
    good.publish(&5).await.unwrap();
    let error = soon(numbers.recv()).await.unwrap().unwrap_err();
    assert_eq!(error.subject(), "orders.text");
    assert_eq!(soon(numbers.recv()).await.unwrap().unwrap().body, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_misses_the_oldest_and_is_told_how_many() {
    const EVENTS: u64 = 30_000;
    let lan = Memory::new();
    let small = |service: &str| {
        ripstop::Node::builder(service)
            .local(false)
            .mdns(false)
            .source(lan.source())
            .queue(100, 1 << 20)
            .start()
    };
    let (orders, ledger) = (small("orders").await.unwrap(), small("ledger").await.unwrap());
    let mut events = ledger.subscribe::<String>("orders.blob").await.unwrap();
    let publisher = orders.publisher::<String>("orders.blob").await.unwrap();
    soon(publisher.ready(1).into_future()).await.unwrap();
    let blob = "x".repeat(4096);
    // What was lost before the first event seen is unknown, so one is seen before the flood.
    publisher.publish(&blob).await.unwrap();
    soon(events.recv()).await.unwrap().unwrap();
    for _ in 1..EVENTS {
        publisher.publish(&blob).await.unwrap();
    }
    let (mut seen, mut missed) = (1, 0);
    while seen + missed < EVENTS {
        let event = soon(events.recv()).await.unwrap().unwrap();
        seen += 1;
        missed += event.missed;
    }
    assert!(missed > 0, "the fault did not happen");
    assert_eq!(seen + missed, EVENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_blocks_loses_nothing() {
    let lan = Memory::new();
    let small = |service: &str| {
        ripstop::Node::builder(service)
            .local(false)
            .mdns(false)
            .source(lan.source())
            .queue(10, 1 << 20)
            .start()
    };
    let (orders, ledger) = (small("orders").await.unwrap(), small("ledger").await.unwrap());
    let mut events = ledger.subscribe::<(u64, String)>("orders.blob").await.unwrap();
    let publisher =
        orders.publisher::<(u64, String)>("orders.blob").when_full(SlowPolicy::Block).await.unwrap();
    soon(publisher.ready(1).into_future()).await.unwrap();
    let publish = tokio::spawn(async move {
        for n in 0..5_000 {
            publisher.publish(&(n, "x".repeat(4096))).await.unwrap();
        }
        publisher
    });
    for n in 0..5_000 {
        assert_eq!(soon(events.recv()).await.unwrap().unwrap().body.0, n);
    }
    soon(publish).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_at_four_addresses_is_heard_once() {
    for _ in 0..5 {
        let lan = Memory::new();
        let builder = ripstop::Node::builder("orders").local(false).mdns(false).source(lan.source());
        let builder = (0..4).fold(builder, |builder, _| builder.listen("tcp://127.0.0.1:0"));
        let orders = builder.start().await.unwrap();
        let publisher = orders.publisher::<u64>("orders.created").await.unwrap();
        let ledger = start(&lan, "ledger").await;
        // It publishes all the while that the connections come up and all but one go.
        let publishing = tokio::spawn(async move {
            for n in 1u64.. {
                publisher.publish(&n).await.unwrap();
                if n.is_multiple_of(10) {
                    tokio::task::yield_now().await;
                }
            }
        });
        let mut events = ledger.subscribe::<u64>("orders.created").await.unwrap();
        let mut last = 0;
        for _ in 0..500 {
            let n = soon(events.recv()).await.unwrap().unwrap().body;
            assert!(n > last, "{n} after {last}");
            last = n;
        }
        publishing.abort();
    }
}

#[tokio::test]
async fn what_was_not_subscribed_was_not_missed() {
    let lan = Memory::new();
    let (orders, ledger, audit) =
        (start(&lan, "orders").await, start(&lan, "ledger").await, start(&lan, "audit").await);
    let publisher = orders.publisher::<u64>("orders.created").await.unwrap();
    let mut always = audit.subscribe::<u64>("orders.>").await.unwrap();
    let mut first = ledger.subscribe::<u64>("orders.created").await.unwrap();
    soon(publisher.ready(2).into_future()).await.unwrap();
    publisher.publish(&1).await.unwrap();
    soon(first.recv()).await.unwrap().unwrap();
    drop(first);
    soon(async {
        while publisher.subscribers() > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .await;
    for n in 2..10u64 {
        publisher.publish(&n).await.unwrap();
    }
    let mut again = ledger.subscribe::<u64>("orders.*").await.unwrap();
    soon(publisher.ready(2).into_future()).await.unwrap();
    publisher.publish(&10).await.unwrap();
    let event = soon(again.recv()).await.unwrap().unwrap();
    assert_eq!((event.body, event.missed), (10, 0));
    for n in 1..=10u64 {
        let event = soon(always.recv()).await.unwrap().unwrap();
        assert_eq!((event.body, event.missed), (n, 0));
    }
}
