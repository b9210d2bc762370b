//! Calls with an idempotency key.

use std::{
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ripstop::{
    Context, HandlerError, Node,
    discovery::Memory,
    fabric::{Call, CallError},
};
use tokio::sync::Semaphore;

use crate::common::{soon, start};

/// A method that counts how often it has acted, and says so.
async fn counting(node: &Node) -> Arc<AtomicU32> {
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    let charge = move |_: u64, _: Context| {
        let count = counted.clone();
        async move { Ok(count.fetch_add(1, Ordering::Relaxed)) }
    };
    node.serve("payments.charge", charge).await.unwrap();
    count
}

fn charge(node: &Node, cents: u64) -> Call<u32> {
    node.call("payments.charge", &cents)
}

#[tokio::test]
async fn it_acts_once_and_says_the_same() {
    let lan = Memory::new();
    let (payments, shop, other) =
        (start(&lan, "payments").await, start(&lan, "shop").await, start(&lan, "other").await);
    let count = counting(&payments).await;
    for _ in 0..3 {
        assert_eq!(soon(charge(&shop, 7).idempotency_key("order-1").into_future()).await.unwrap(), 0);
    }
    let error = soon(charge(&shop, 8).idempotency_key("order-1").into_future()).await.unwrap_err();
    assert!(matches!(error, CallError::KeyReused { .. }), "{error}");
    // Another key, no key, and another caller's.
    assert_eq!(soon(charge(&shop, 7).idempotency_key("order-2").into_future()).await.unwrap(), 1);
    assert_eq!(soon(charge(&shop, 7).into_future()).await.unwrap(), 2);
    assert_eq!(soon(charge(&other, 7).idempotency_key("order-1").into_future()).await.unwrap(), 3);
    assert_eq!(count.load(Ordering::Relaxed), 4);
    let error = soon(charge(&shop, 7).idempotency_key("x".repeat(256)).into_future()).await.unwrap_err();
    assert!(matches!(error, CallError::Key { length: 256, limit: 255 }), "{error}");
}

#[tokio::test]
async fn who_asks_meanwhile_waits_and_who_gives_up_stops_nothing() {
    let lan = Memory::new();
    let (payments, shop) = (start(&lan, "payments").await, start(&lan, "shop").await);
    let (count, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
    let (began, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let (counted, held) = (count.clone(), gate.clone());
    let slow = move |_: u64, ctx: Context| {
        let (count, gate, began) = (counted.clone(), held.clone(), began.clone());
        async move {
            began.send(ctx.idempotency_key().map(str::to_owned))?;
            gate.acquire().await?.forget();
            Ok(count.fetch_add(1, Ordering::Relaxed))
        }
    };
    payments.serve("payments.charge", slow).await.unwrap();
    let given_up = charge(&shop, 7).idempotency_key("k").timeout(Duration::from_secs(30)).into_future();
    tokio::select! {
        _ = given_up => panic!("the gate is closed"),
        key = begun.recv() => assert_eq!(key.unwrap().as_deref(), Some("k")),
    }
    let error = charge(&shop, 7).idempotency_key("k").timeout(Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, CallError::Deadline { .. }), "{error}");
    let both = [(); 2].map(|()| tokio::spawn(charge(&shop, 7).idempotency_key("k").into_future()));
    gate.add_permits(9);
    for asked in both {
        assert_eq!(soon(asked).await.unwrap().unwrap(), 0);
    }
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_failed_may_be_tried_again_unless_it_would_not_help() {
    let lan = Memory::new();
    let (payments, shop) = (start(&lan, "payments").await, start(&lan, "shop").await);
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    let failing = move |cents: u64, _: Context| {
        let times = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let error = HandlerError::new(format!("failed {times} times before"));
            Err::<u32, _>(if cents == 0 { error.permanent() } else { error })
        }
    };
    payments.serve("payments.charge", failing).await.unwrap();
    for (cents, key, said) in [(7, "a", 0), (7, "a", 1), (0, "b", 2), (0, "b", 2)] {
        let error = soon(charge(&shop, cents).idempotency_key(key).into_future()).await.unwrap_err();
        assert!(error.to_string().contains(&format!("failed {said} times")), "{error}");
    }
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn the_same_key_goes_to_the_same_instance() {
    let lan = Memory::new();
    let (one, two, shop) =
        (start(&lan, "payments").await, start(&lan, "payments").await, start(&lan, "shop").await);
    let counts = [counting(&one).await, counting(&two).await];
    let both_known = async {
        while shop.peers().await.iter().filter(|peer| peer.service == "payments").count() < 2 {
            tokio::task::yield_now().await;
        }
    };
    soon(both_known).await;
    for key in 0..32 {
        for _ in 0..2 {
            soon(charge(&shop, 7).idempotency_key(key.to_string()).into_future()).await.unwrap();
        }
    }
    let counts = counts.map(|count| count.load(Ordering::Relaxed));
    assert!(counts.iter().sum::<u32>() == 32 && counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[cfg(feature = "durable")]
#[tokio::test]
async fn a_restart_forgets_nothing() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let shop = start(&lan, "shop").await;
    for start in 0..2 {
        let builder = Node::builder("payments").local(false).mdns(false).source(lan.source());
        let payments = builder.data_dir(dir.path()).start().await.unwrap();
        let count = counting(&payments).await;
        assert_eq!(soon(charge(&shop, 7).idempotency_key("order-1").into_future()).await.unwrap(), 0);
        assert_eq!(count.load(Ordering::Relaxed), 1 - start);
        soon(payments.drain()).await;
    }
}
