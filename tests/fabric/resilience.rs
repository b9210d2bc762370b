//! One instance's trouble stays its own: retries, their budget, ejection, bulkheads, over real sockets.

use std::{
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ripstop::{HandlerError, Node, config::Config, discovery::Memory, fabric::CallError};
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
    vanishing.serve("shop.hello", |n: u64, _| async move { Ok(n) }).await.unwrap();
    let call = |subject: &str| tokio::spawn(caller.call::<_, u64>(subject, &1u64).into_future());
    // What the instance says of itself comes before its first reply.
    soon(call("shop.hello")).await.unwrap().unwrap();
    let (look, buy) = (call("shop.look"), call("shop.buy"));
    soon(entered.notified()).await;
    soon(entered.notified()).await;
    // The other one comes only now, so that it is the first that hangs.
    let other = start(&lan, "shop").await;
    other.serve("shop.look", |n: u64, _| async move { Ok(n) }).idempotent().await.unwrap();
    other.serve("shop.buy", |n: u64, _| async move { Ok(n) }).await.unwrap();
    soon(async {
        let mut changed = caller.directory().changed();
        let serve = || caller.directory().by_root("shop").len();
        while serve() < 2 {
            changed.changed().await.unwrap();
        }
    })
    .await;
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

/// A node that keeps to this.
async fn with(lan: &Memory, service: &str, text: &str) -> Node {
    let config = Config::parse(text).unwrap();
    let builder = Node::builder(service).config(config).local(false).mdns(false);
    builder.source(lan.source()).start().await.unwrap()
}

async fn broken(_: u64) -> Result<u64, HandlerError> {
    Err(HandlerError::new("broken"))
}

/// Calls one after the other, and how many of them succeeded.
async fn successes(caller: &Node, calls: usize) -> usize {
    let mut well = 0;
    for n in 0..calls {
        well += usize::from(ask(caller, n as u64).await.is_ok());
    }
    well
}

#[tokio::test]
async fn an_instance_that_fails_at_once_is_left_out() {
    let lan = Memory::new();
    let (_broken, failed) = shop(&lan, broken).await;
    let ((_a, a), (_b, b)) = (shop(&lan, good).await, shop(&lan, good).await);
    let caller = with(&lan, "caller", "[resilience]\neject_min = '1m'").await;
    warm(&caller, &[&a, &b, &failed]).await;
    // It is expensive, so that it takes a while until it has failed five times: with all calls at once it does not.
    soon(async {
        while failed.load(Ordering::Relaxed) < 5 {
            let calls: Vec<_> = (0..64u64)
                .map(|n| tokio::spawn(caller.call::<_, u64>("shop.ask", &n).into_future()))
                .collect();
            for call in calls {
                let _ = call.await.unwrap();
            }
        }
    })
    .await;
    let before = failed.load(Ordering::Relaxed);
    assert_eq!(successes(&caller, 500).await, 500);
    assert_eq!(failed.load(Ordering::Relaxed), before, "it was asked although it is left out");
}

#[tokio::test]
async fn an_instance_that_fails_fast_gets_few_calls_even_while_it_is_in() {
    let lan = Memory::new();
    let (_broken, failed) = shop(&lan, broken).await;
    let (_good, answered) = shop(&lan, |n| async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(n)
    })
    .await;
    let caller = with(&lan, "caller", "[resilience]\neject = false\nslow_start = '0s'").await;
    warm(&caller, &[&answered, &failed]).await;
    let well = successes(&caller, 300).await;
    assert!(well >= 290, "{well} of 300: failing fast pays");
}

#[tokio::test]
async fn an_instance_that_hangs_is_left_out_and_the_others_do_not_notice() {
    let lan = Memory::new();
    let (_hanging, hung) = shop(&lan, |_| std::future::pending()).await;
    let (_good, answered) = shop(&lan, good).await;
    let caller = with(&lan, "caller", "[timeouts]\ncall = '200ms'\n[resilience]\neject_min = '1m'").await;
    soon(async {
        while hung.load(Ordering::Relaxed) < 5 || answered.load(Ordering::Relaxed) == 0 {
            let calls: Vec<_> = (0..16u64)
                .map(|n| tokio::spawn(caller.call::<_, u64>("shop.ask", &n).into_future()))
                .collect();
            for call in calls {
                let _ = call.await.unwrap();
            }
        }
    })
    .await;
    let before = hung.load(Ordering::Relaxed);
    let well = successes(&caller, 200).await;
    assert!(well >= 198, "{well} of 200");
    assert_eq!(hung.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn the_last_instance_is_never_left_out() {
    let lan = Memory::new();
    let (_broken, failed) = shop(&lan, broken).await;
    let caller = start(&lan, "caller").await;
    assert_eq!(successes(&caller, 50).await, 0);
    assert_eq!(failed.load(Ordering::Relaxed), 50);
}

#[tokio::test]
async fn when_all_fail_nobody_is_left_out() {
    let lan = Memory::new();
    let ((_a, a), (_b, b)) = (shop(&lan, broken).await, shop(&lan, broken).await);
    let caller = start(&lan, "caller").await;
    warm(&caller, &[&a, &b]).await;
    let before = [a.load(Ordering::Relaxed), b.load(Ordering::Relaxed)];
    assert_eq!(successes(&caller, 200).await, 0);
    let after = [a.load(Ordering::Relaxed) - before[0], b.load(Ordering::Relaxed) - before[1]];
    assert!(after.iter().all(|calls| *calls >= 20), "{after:?}");
}

#[tokio::test]
async fn an_instance_that_is_well_again_comes_back() {
    let lan = Memory::new();
    let sick = Arc::new(AtomicBool::new(true));
    let state = sick.clone();
    let (_sick, asked) = shop(&lan, move |n| {
        let sick = state.load(Ordering::Relaxed);
        async move { if sick { Err(HandlerError::new("broken")) } else { Ok(n) } }
    })
    .await;
    let (_good, answered) = shop(&lan, good).await;
    let text = "[resilience]\neject_after = 2\neject_min = '300ms'\neject_max = '300ms'\nslow_start = '0s'";
    let caller = with(&lan, "caller", text).await;
    warm(&caller, &[&asked, &answered]).await;
    soon(async {
        while asked.load(Ordering::Relaxed) < 2 {
            let _ = ask(&caller, 1).await;
        }
    })
    .await;
    // Out: only probes reach it, which fail.
    let (before, started) = (asked.load(Ordering::Relaxed), Instant::now());
    while started.elapsed() < Duration::from_secs(1) {
        let _ = ask(&caller, 1).await;
    }
    let probes = asked.load(Ordering::Relaxed) - before;
    assert!((1..=5).contains(&probes), "{probes} probes in a second");
    sick.store(false, Ordering::Relaxed);
    let before = asked.load(Ordering::Relaxed);
    soon(async {
        while asked.load(Ordering::Relaxed) < before + 50 {
            assert_eq!(ask(&caller, 1).await.ok(), Some(1));
        }
    })
    .await;
}

#[tokio::test]
async fn answers_that_are_meant_leave_nobody_out() {
    let lan = Memory::new();
    let (_strict, refused) =
        shop(&lan, |_| async { Err(HandlerError::new("sold out").with_code("E_STOCK")) }).await;
    let (_good, answered) = shop(&lan, good).await;
    let caller = with(&lan, "caller", "[resilience]\neject_min = '1m'\nslow_start = '0s'").await;
    warm(&caller, &[&answered, &refused]).await;
    // Ten times what would leave it out, were they failures.
    soon(async {
        while refused.load(Ordering::Relaxed) < 50 {
            let _ = ask(&caller, 1).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_service_holds_its_own_places_and_no_others() {
    let lan = Memory::new();
    let (_hanging, hung) = shop(&lan, |_| std::future::pending()).await;
    let other = start(&lan, "other").await;
    other.serve("other.ask", |n: u64, _| async move { Ok(n) }).await.unwrap();
    let text = "[[resilience.services]]\nname = 'shop'\nin_flight = 2\nwaiting = 1\ndeadline = '1s'";
    let caller = with(&lan, "caller", text).await;
    let stuck: Vec<_> =
        (0..3u64).map(|n| tokio::spawn(caller.call::<_, u64>("shop.ask", &n).into_future())).collect();
    soon(async {
        while hung.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut errors = Vec::new();
    let well = soon(async {
        // One more than there is room for is refused at once, and says whose it is.
        let error = loop {
            match caller.call::<_, u64>("shop.ask", &9u64).timeout(Duration::from_millis(50)).await {
                Err(error @ CallError::HeldBack { waiting: Some(_), .. }) => break error,
                _ => tokio::task::yield_now().await,
            }
        };
        errors.push(error);
        let mut well = 0;
        for n in 0..200u64 {
            well += usize::from(caller.call::<_, u64>("other.ask", &n).await.is_ok());
        }
        well
    })
    .await;
    assert_eq!(well, 200, "another service's trouble");
    for call in stuck {
        errors.push(soon(call).await.unwrap().unwrap_err());
    }
    let text = errors[0].to_string();
    assert_eq!(
        text,
        "2 calls to shop are under way, and 1 wait; see resilience.waiting and limits.in_flight"
    );
    assert!(errors[0].is_retryable());
    // Two had a place, and nobody answered. The third waited for one in vain, or had it for the moment that was left.
    let late = errors.iter().filter(|error| matches!(error, CallError::Deadline { .. })).count();
    let held = errors[1..].iter().filter(|error| matches!(error, CallError::HeldBack { waiting: None, .. }));
    assert!(late >= 2 && late + held.count() == 3, "{errors:?}");
    assert!(hung.load(Ordering::Relaxed) <= 3, "no more than its places reached it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_one_caller_is_shed_and_the_others_do_not_notice() {
    let lan = Memory::new();
    let node = with(&lan, "shop", "[resilience]\ncaller_rate = 100").await;
    node.serve("shop.ask", |n: u64, _| async move { Ok(n) }).await.unwrap();
    let (flood, quiet) = (start(&lan, "flood").await, start(&lan, "quiet").await);
    let flooding = tokio::spawn(async move {
        let mut shed = Vec::new();
        while shed.len() < 300 {
            let calls: Vec<_> = (0..50u64)
                .map(|n| {
                    let call = flood.call::<_, u64>("shop.ask", &n).timeout(Duration::from_millis(200));
                    tokio::spawn(call.into_future())
                })
                .collect();
            for call in calls {
                shed.extend(call.await.unwrap().err());
            }
        }
        shed
    });
    // Below its rate.
    let mut well = 0;
    for n in 0..60 {
        well += usize::from(ask(&quiet, n).await.is_ok());
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    assert_eq!(well, 60);
    let shed = soon(flooding).await.unwrap();
    let full = shed.iter().filter(|error| matches!(error, CallError::Full { .. })).collect::<Vec<_>>();
    assert!(full.len() * 10 >= shed.len() * 9, "{} of {}", full.len(), shed.len());
    assert!(full.iter().all(|error| error.retry_after().is_some() && error.is_retryable()));
}

#[tokio::test]
async fn a_fallback_is_asked_only_when_the_call_has_failed() {
    let lan = Memory::new();
    let caller = start(&lan, "caller").await;
    let (_good, _) = shop(&lan, |n| async move { if n == 0 { broken(n).await } else { Ok(n) } }).await;
    let call = |n: u64| {
        let call = caller.call::<_, u64>("shop.ask", &n);
        soon(call.or_else(|error| async move {
            if matches!(error, CallError::Handler { .. }) { Ok(42) } else { Err(error) }
        }))
    };
    assert_eq!(call(7).await.unwrap(), 7);
    assert_eq!(call(0).await.unwrap(), 42);
}

#[tokio::test]
async fn what_a_file_says_of_resilience_changes_while_the_node_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ripstop.toml");
    let write = |text: &str| {
        // As editors do.
        std::fs::write(dir.path().join("new"), text).unwrap();
        std::fs::rename(dir.path().join("new"), &file).unwrap();
    };
    write("[resilience]\nattempts = 1");
    let lan = Memory::new();
    let ((_a, a), (_b, b)) = (shop(&lan, busy).await, shop(&lan, busy).await);
    let loaded = Config::load(Some(&file)).unwrap();
    let builder = Node::builder("caller").loaded(loaded).local(false).mdns(false).source(lan.source());
    let caller = builder.start().await.unwrap();
    let asked = || a.load(Ordering::Relaxed) + b.load(Ordering::Relaxed);
    ask(&caller, 1).await.unwrap_err();
    assert_eq!(asked(), 1);
    // A mistake changes nothing.
    write("[resilience]\nattempts = 0");
    ask(&caller, 1).await.unwrap_err();
    assert_eq!(asked(), 2);
    write("[resilience]\nattempts = 2");
    soon(async {
        loop {
            let before = asked();
            ask(&caller, 1).await.unwrap_err();
            if asked() == before + 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
