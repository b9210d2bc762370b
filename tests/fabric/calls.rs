use std::future::IntoFuture;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ripstop::{Fault, HandlerError, Node, discovery::Memory, fabric::CallError};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::common::{PATIENCE, soon, start};

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Ask {
    qty: u64,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Quote {
    cents: u64,
}

async fn pricing(lan: &Memory) -> Node {
    let node = start(lan, "pricing").await;
    node.serve("pricing.quote", |ask: Ask, _| async move { Ok(Quote { cents: 250 * ask.qty }) })
        .await
        .unwrap();
    node
}

#[tokio::test]
async fn a_typed_call_between_two_nodes() {
    let lan = Memory::new();
    let _pricing = pricing(&lan).await;
    let orders = start(&lan, "orders").await;
    let quote: Quote = soon(orders.call("pricing.quote", &Ask { qty: 3 }).into_future()).await.unwrap();
    assert_eq!(quote, Quote { cents: 750 });
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_in_flight_over_one_connection() {
    let lan = Memory::new();
    let _pricing = pricing(&lan).await;
    let orders = start(&lan, "orders").await;
    let calls: Vec<_> = (0..2000u64)
        .map(|qty| {
            let call = orders.call::<_, Quote>("pricing.quote", &Ask { qty });
            tokio::spawn(async move { (qty, call.await) })
        })
        .collect();
    for call in calls {
        let (qty, quote) = soon(call).await.unwrap();
        assert_eq!(quote.unwrap().cents, qty * 250);
    }
}

#[tokio::test]
async fn a_node_calls_itself() {
    let lan = Memory::new();
    let pricing = pricing(&lan).await;
    let quote: Quote = soon(pricing.call("pricing.quote", &Ask { qty: 1 }).into_future()).await.unwrap();
    assert_eq!(quote.cents, 250);
}

#[tokio::test]
async fn the_first_call_waits_for_discovery() {
    let lan = Memory::new();
    let orders = start(&lan, "orders").await;
    let call = orders.call::<_, Quote>("pricing.quote", &Ask { qty: 2 });
    let waiting = tokio::spawn(call.into_future());
    let _pricing = pricing(&lan).await;
    assert_eq!(soon(waiting).await.unwrap().unwrap().cents, 500);
}

#[tokio::test]
async fn nobody_of_that_name() {
    let lan = Memory::new();
    let _pricing = pricing(&lan).await;
    let orders = start(&lan, "orders").await;
    let _: Quote = soon(orders.call("pricing.quote", &Ask { qty: 3 }).into_future()).await.unwrap();
    let error =
        soon(orders.call::<_, Quote>("pricign.quote", &Ask { qty: 3 }).into_future()).await.unwrap_err();
    assert!(
        matches!(&error, CallError::NoSuchService { nearest: Some(nearest), .. } if nearest == "pricing"),
        "{error}"
    );
    assert_eq!(error.fault(), Fault::Network);
    assert_eq!(error.to_string(), "no such service: pricign; did you mean pricing?");
}

#[tokio::test]
async fn errors_are_typed() {
    let lan = Memory::new();
    let node = pricing(&lan).await;
    node.serve("pricing.fail", |_: u64, _| async {
        let parsed: u64 = "x".parse()?;
        Ok(parsed)
    })
    .await
    .unwrap();
    node.serve("pricing.coded", |_: u64, _| async {
        Err::<u64, _>(HandlerError::new("sold out").with_code("E_STOCK"))
    })
    .await
    .unwrap();
    node.serve("pricing.panic", |_: u64, _| async {
        if true {
            panic!("boom");
        }
        Ok(1u64)
    })
    .await
    .unwrap();
    let orders = start(&lan, "orders").await;
    let call = |subject: &'static str| soon(orders.call::<_, u64>(subject, &1u64).into_future());

    let error = call("pricing.nothing").await.unwrap_err();
    assert!(matches!(error, CallError::NoSuchMethod { .. }), "{error}");
    let error = call("pricing.fail").await.unwrap_err();
    assert!(
        matches!(&error, CallError::Handler { message, .. } if message.contains("invalid digit")),
        "{error}"
    );
    let error = call("pricing.coded").await.unwrap_err();
    assert!(matches!(&error, CallError::Handler { code: Some(code), .. } if code == "E_STOCK"), "{error}");
    let error = call("pricing.panic").await.unwrap_err();
    assert!(matches!(&error, CallError::Handler { message, .. } if message.contains("boom")), "{error}");
    let error = call("pricing.quote").await.unwrap_err();
    assert!(matches!(error, CallError::BadRequest { .. }), "{error}");
    let error =
        soon(orders.call::<_, Vec<u8>>("pricing.quote", &Ask { qty: 1 }).into_future()).await.unwrap_err();
    assert!(matches!(error, CallError::Decode { .. }), "{error}");
    let big = "x".repeat(17 << 20);
    let error = soon(orders.call::<_, u64>("pricing.fail", &big).into_future()).await.unwrap_err();
    assert!(matches!(error, CallError::TooLarge { .. }), "{error}");
    // The node lives.
    let quote: Quote = soon(orders.call("pricing.quote", &Ask { qty: 1 }).into_future()).await.unwrap();
    assert_eq!(quote.cents, 250);
}

#[tokio::test]
async fn a_deadline_passes_and_the_handler_is_cancelled() {
    struct OnDrop(Arc<Notify>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let lan = Memory::new();
    let node = start(&lan, "slow").await;
    let dropped = Arc::new(Notify::new());
    let signal = dropped.clone();
    node.serve("slow.forever", move |_: u64, _| {
        let guard = OnDrop(signal.clone());
        async move {
            let _guard = guard;
            std::future::pending::<()>().await;
            Ok(0u64)
        }
    })
    .await
    .unwrap();
    let caller = start(&lan, "caller").await;
    let call = caller.call::<_, u64>("slow.forever", &1u64).timeout(Duration::from_millis(300));
    let error = soon(call.into_future()).await.unwrap_err();
    assert!(matches!(error, CallError::Deadline { .. }), "{error}");
    soon(dropped.notified()).await;

    // A caller that gives up cancels too, long before its deadline.
    let call = tokio::spawn(
        caller.call::<_, u64>("slow.forever", &1u64).timeout(Duration::from_secs(60)).into_future(),
    );
    tokio::time::sleep(Duration::from_millis(100)).await;
    call.abort();
    soon(dropped.notified()).await;
}

#[tokio::test]
async fn deadlines_shrink_along_a_chain() {
    let lan = Memory::new();
    let back = start(&lan, "back").await;
    back.serve("back.left", |(): (), ctx| async move {
        Ok(ctx.remaining().map_or(0, |left| left.as_millis() as u64))
    })
    .await
    .unwrap();
    let front = start(&lan, "front").await;
    front
        .serve("front.ask", |(): (), ctx| async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            // Asks for a minute, but its own caller left less.
            let call = ctx.node().call::<_, u64>("back.left", &()).timeout(Duration::from_secs(60));
            Ok(call.await?)
        })
        .await
        .unwrap();
    let caller = start(&lan, "caller").await;
    let call = caller.call::<_, u64>("front.ask", &()).timeout(Duration::from_secs(2));
    let left = soon(call.into_future()).await.unwrap();
    assert!(left > 500 && left <= 1800, "{left} ms left");
}

#[tokio::test]
async fn several_instances_share_the_calls_and_one_may_vanish() {
    let lan = Memory::new();
    let counts: [Arc<AtomicUsize>; 2] = Default::default();
    let mut instances = Vec::new();
    for count in &counts {
        let node = start(&lan, "pricing").await;
        let count = count.clone();
        node.serve("pricing.quote", move |ask: Ask, _| {
            count.fetch_add(1, Ordering::Relaxed);
            async move { Ok(Quote { cents: ask.qty }) }
        })
        .await
        .unwrap();
        instances.push(node);
    }
    let orders = start(&lan, "orders").await;
    let orders = &orders;
    let ask = async |qty| {
        let quote: Quote = soon(orders.call("pricing.quote", &Ask { qty }).into_future()).await.unwrap();
        assert_eq!(quote.cents, qty);
    };
    let started = Instant::now();
    let mut qty = 0;
    while counts.iter().any(|count| count.load(Ordering::Relaxed) < 40) {
        assert!(started.elapsed() < PATIENCE, "{counts:?} of {qty}");
        ask(qty).await;
        qty += 1;
    }
    instances.remove(0).drain().await;
    for qty in 0..100 {
        ask(qty).await;
    }
}

#[tokio::test]
async fn serving_twice_is_refused_and_stopping_frees_the_subject() {
    let lan = Memory::new();
    let node = start(&lan, "a").await;
    let served = node.serve("a.b", |n: u64, _| async move { Ok(n) }).await.unwrap();
    assert!(node.serve("a.b", |n: u64, _| async move { Ok(n) }).await.is_err());
    assert!(node.serve("a..b", |n: u64, _| async move { Ok(n) }).await.is_err());
    served.stop().await;
    node.serve("a.b", |n: u64, _| async move { Ok(n) }).await.unwrap();
}

#[tokio::test]
async fn no_instance_is_told_fast_once_all_are_gone() {
    let lan = Memory::new();
    let node = pricing(&lan).await;
    let orders = start(&lan, "orders").await;
    let _: Quote = soon(orders.call("pricing.quote", &Ask { qty: 3 }).into_future()).await.unwrap();
    node.drain().await;
    let started = Instant::now();
    let error =
        soon(orders.call::<_, Quote>("pricing.quote", &Ask { qty: 3 }).into_future()).await.unwrap_err();
    assert!(matches!(error, CallError::NoInstance { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_instance_that_serves_nothing_yet_gets_no_calls() {
    let lan = Memory::new();
    let _serving = pricing(&lan).await;
    let half = start(&lan, "pricing").await;
    half.serve("pricing.other", |n: u64, _| async move { Ok(n) }).await.unwrap();
    let _nothing = start(&lan, "pricing").await;
    let orders = start(&lan, "orders").await;
    for qty in 0..100 {
        let quote: Quote = soon(orders.call("pricing.quote", &Ask { qty }).into_future()).await.unwrap();
        assert_eq!(quote.cents, qty * 250);
    }
}

#[tokio::test]
async fn a_request_larger_than_the_rest_of_the_queue_waits_its_turn() {
    let lan = Memory::new();
    let size = start(&lan, "size").await;
    size.serve("size.of", |text: String, _| async move { Ok(text.len()) }).await.unwrap();
    let builder = Node::builder("caller").local(false).mdns(false).source(lan.source());
    let caller = builder.queue(64, 1 << 20).start().await.unwrap();
    let ask = |length: usize| caller.call::<String, usize>("size.of", &"x".repeat(length)).into_future();
    assert_eq!(soon(ask(1)).await.unwrap(), 1);
    // Both in one task: nothing is written between them.
    let (small, large) = soon(async { tokio::join!(ask(10), ask(1 << 20)) }).await;
    assert_eq!((small.unwrap(), large.unwrap()), (10, 1 << 20));
}

#[tokio::test]
async fn a_call_given_up_before_it_is_written_is_cancelled_all_the_same() {
    let lan = Memory::new();
    let slow = start(&lan, "slow").await;
    let finished = Arc::new(AtomicUsize::new(0));
    let count = finished.clone();
    slow.serve("slow.job", move |millis: u64, _| {
        let count = count.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    })
    .await
    .unwrap();
    let caller = start(&lan, "caller").await;
    let call = |millis: u64| caller.call::<u64, ()>("slow.job", &millis).into_future();
    soon(call(0)).await.unwrap();
    // Polled once: the request is queued, and on this one thread nothing has written it yet.
    let mut given_up = call(200);
    let once = std::future::poll_fn(|cx| std::task::Poll::Ready(given_up.as_mut().poll(cx).is_pending()));
    assert!(once.await);
    drop(given_up);
    tokio::time::sleep(Duration::from_millis(400)).await;
    soon(call(0)).await.unwrap();
    assert_eq!(finished.load(Ordering::SeqCst), 2);
}
