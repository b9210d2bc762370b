//! One instance's trouble stays its own: retries, their budget, ejection, bulkheads, over real sockets.

use std::{
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ripstop::{HandlerError, Node, discovery::Memory, fabric::CallError};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
};

use crate::common::{soon, start};

/// Stands between a node and those who dial it, to cut connections without the node's leave.
struct Wire {
    cuts: watch::Sender<u32>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Wire {
    /// A node that is reached through it.
    async fn to(lan: &Memory, service: &str) -> (Self, Node) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("tcp://{}", listener.local_addr().unwrap()).parse().unwrap();
        // A port that was free a moment ago: the node does not tell what it listens on but what it announces.
        let inner = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let builder = Node::builder(service).local(false).mdns(false).source(lan.source());
        let node = builder.listen(&format!("tcp://{inner}")).advertise(endpoint).start().await.unwrap();
        let cuts = watch::Sender::new(0);
        let heard = cuts.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut outer, _)) = listener.accept().await {
                let mut cut = heard.subscribe();
                tokio::spawn(async move {
                    let mut inner = TcpStream::connect(inner).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut outer, &mut inner) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        (Self { cuts, accepting }, node)
    }

    /// Ends every connection; new ones are let through.
    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Ends every connection for good.
    fn close(&self) {
        self.accepting.abort();
        self.cut();
    }
}

/// An instance of `shop` that counts its requests.
async fn shop<F, Fut>(lan: &Memory, handler: F) -> (Node, Arc<AtomicUsize>)
where
    F: Fn(u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<u64, HandlerError>> + Send + 'static,
{
    let node = start(lan, "shop").await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    node.serve("shop.ask", move |n: u64, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        handler(n)
    })
    .await
    .unwrap();
    (node, count)
}

async fn good(n: u64) -> Result<u64, HandlerError> {
    Ok(n)
}

async fn busy(_: u64) -> Result<u64, HandlerError> {
    Err(HandlerError::new("no free connection").retryable())
}

async fn ask(caller: &Node, n: u64) -> Result<u64, CallError> {
    soon(caller.call::<_, u64>("shop.ask", &n).into_future()).await
}

/// Calls until each has been asked once.
async fn warm(caller: &Node, counts: &[&Arc<AtomicUsize>]) {
    soon(async {
        while counts.iter().any(|count| count.load(Ordering::Relaxed) == 0) {
            let _ = ask(caller, 0).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_handler_says_is_safe_is_asked_of_another_instance() {
    let lan = Memory::new();
    let (_bad, refused) = shop(&lan, busy).await;
    let (_good, answered) = shop(&lan, good).await;
    let caller = start(&lan, "caller").await;
    // Not more than the budget gives at once.
    for n in 0..10 {
        assert_eq!(ask(&caller, n).await.unwrap(), n);
    }
    assert_eq!(answered.load(Ordering::Relaxed), 10);
    assert!(refused.load(Ordering::Relaxed) <= 10);
}

#[tokio::test]
async fn what_a_handler_does_not_call_safe_is_asked_once() {
    let lan = Memory::new();
    let fail = |_| async { Err(HandlerError::new("perhaps it was done")) };
    let ((_a, a), (_b, b)) = (shop(&lan, fail).await, shop(&lan, fail).await);
    let caller = start(&lan, "caller").await;
    let error = ask(&caller, 1).await.unwrap_err();
    assert!(matches!(error, CallError::Handler { retry: None, .. }) && !error.is_retryable(), "{error}");
    assert_eq!(a.load(Ordering::Relaxed) + b.load(Ordering::Relaxed), 1);
}

/// Every instance fails every call and asks for another: what is offered stays below 1.3 times the calls.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_storm_stays_within_its_budget() {
    const CALLS: usize = 4000;
    let lan = Memory::new();
    let ((_a, a), (_b, b)) = (shop(&lan, busy).await, shop(&lan, busy).await);
    let caller = start(&lan, "caller").await;
    let started = Instant::now();
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move {
                for n in 0..CALLS / 20 {
                    let error = ask(&caller, n as u64).await.unwrap_err();
                    assert!(matches!(error, CallError::Handler { .. }) && error.is_retryable(), "{error}");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let offered = (a.load(Ordering::Relaxed) + b.load(Ordering::Relaxed)) as f64;
    let allowed = CALLS as f64 * 1.2 + 10.0 * (1.0 + started.elapsed().as_secs_f64());
    assert!(offered > CALLS as f64 * 1.1, "{offered}: nothing was tried again");
    assert!(offered <= allowed, "{offered} where {allowed} are allowed");
    assert!(offered <= CALLS as f64 * 1.3, "{offered} for {CALLS} calls in {:?}", started.elapsed());
}

#[tokio::test]
async fn a_pushback_is_obeyed() {
    const PAUSE: Duration = Duration::from_millis(300);
    let lan = Memory::new();
    let asked = AtomicUsize::new(0);
    let (_shop, _) = shop(&lan, move |n| {
        let first = asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        async move { if first { Err(HandlerError::new("not yet").retry_after(PAUSE)) } else { Ok(n) } }
    })
    .await;
    let caller = start(&lan, "caller").await;
    let started = Instant::now();
    assert_eq!(ask(&caller, 7).await.unwrap(), 7);
    assert!(started.elapsed() >= PAUSE);
    // What could not be obeyed in time is not waited for: the caller gets the reason, and when to come back.
    let call = caller.call::<_, u64>("shop.ask", &7u64).timeout(PAUSE);
    let error = soon(call.into_future()).await.unwrap_err();
    assert!(matches!(error, CallError::Handler { .. }), "{error}");
    assert_eq!(error.retry_after(), Some(PAUSE));
}

#[tokio::test]
async fn an_idempotent_call_outlives_its_instance_and_others_are_in_doubt() {
    let lan = Memory::new();
    let caller = start(&lan, "caller").await;
    let (wire, vanishing) = Wire::to(&lan, "shop").await;
    let entered = Arc::new(Notify::new());
    for subject in ["shop.look", "shop.buy"] {
        let entered = entered.clone();
        let serve = vanishing.serve(subject, move |_: u64, _| {
            entered.notify_one();
            std::future::pending::<Result<u64, HandlerError>>()
        });
        if subject == "shop.look" {
            serve.idempotent().await.unwrap()
        } else {
            serve.await.unwrap()
        };
    }
    let call = |subject: &str| tokio::spawn(caller.call::<_, u64>(subject, &1u64).into_future());
    let (look, buy) = (call("shop.look"), call("shop.buy"));
    soon(entered.notified()).await;
    soon(entered.notified()).await;
    // The other one comes only now, so that it is the first that hangs.
    let other = start(&lan, "shop").await;
    other.serve("shop.look", |n: u64, _| async move { Ok(n) }).idempotent().await.unwrap();
    other.serve("shop.buy", |n: u64, _| async move { Ok(n) }).await.unwrap();
    wire.close();
    assert_eq!(soon(look).await.unwrap().unwrap(), 1);
    let error = soon(buy).await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }) && !error.is_retryable(), "{error}");
}

#[tokio::test]
async fn an_idempotent_call_does_not_wait_all_its_time_for_an_instance_that_hangs() {
    let lan = Memory::new();
    let (_hanging, hung) = shop(&lan, |_| std::future::pending()).await;
    let (_good, answered) = shop(&lan, good).await;
    let caller = start(&lan, "caller").await;
    let look = async |n: u64| {
        let call = caller.call::<_, u64>("shop.ask", &n).idempotent().timeout(Duration::from_secs(2));
        soon(call.into_future()).await
    };
    let mut n = 0;
    while hung.load(Ordering::Relaxed) == 0 || answered.load(Ordering::Relaxed) == 0 {
        assert_eq!(look(n).await.unwrap(), n);
        n += 1;
    }
    for n in 0..20 {
        assert_eq!(look(n).await.unwrap(), n);
    }
}

#[tokio::test]
async fn a_call_with_a_key_that_is_in_doubt_is_asked_of_the_same_instance_and_done_once() {
    let lan = Memory::new();
    let caller = start(&lan, "caller").await;
    let (wire, bank) = Wire::to(&lan, "bank").await;
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let done = Arc::new(AtomicUsize::new(0));
    let (enter, left, count) = (entered.clone(), leave.clone(), done.clone());
    bank.serve("bank.charge", move |n: u64, _| {
        let (enter, left, count) = (enter.clone(), left.clone(), count.clone());
        async move {
            enter.notify_one();
            left.notified().await;
            count.fetch_add(1, Ordering::Relaxed);
            Ok(n)
        }
    })
    .await
    .unwrap();
    let charge = caller.call::<_, u64>("bank.charge", &7u64).idempotency_key("order-1");
    let charge = tokio::spawn(charge.into_future());
    soon(entered.notified()).await;
    // Nobody else can say what was done.
    let other = start(&lan, "bank").await;
    let elsewhere = Arc::new(AtomicUsize::new(0));
    let count = elsewhere.clone();
    other
        .serve("bank.charge", move |n: u64, _| {
            count.fetch_add(1, Ordering::Relaxed);
            async move { Ok(n) }
        })
        .await
        .unwrap();
    wire.cut();
    leave.notify_one();
    assert_eq!(soon(charge).await.unwrap().unwrap(), 7);
    assert_eq!((done.load(Ordering::Relaxed), elsewhere.load(Ordering::Relaxed)), (1, 0));
}

#[tokio::test]
async fn instances_without_the_method_are_known_and_not_asked() {
    let lan = Memory::new();
    let (_good, answered) = shop(&lan, good).await;
    let other = start(&lan, "shop").await;
    other.serve("shop.else", |n: u64, _| async move { Ok(n) }).await.unwrap();
    let caller = start(&lan, "caller").await;
    warm(&caller, &[&answered]).await;
    // Far more than the retry budget would pay for.
    for n in 0..300 {
        assert_eq!(ask(&caller, n).await.unwrap(), n);
    }
}
