//! How often memory is asked for per message, once a connection is warm. One test, because the counter is the process's.

use std::time::Duration;

use ripstop::Node;
use ripstop::discovery::Memory;
use ripstop::fabric::SlowPolicy;
use ripstop::message::Message;
use ripstop::socket::{Dealer, Options, Pull, Push, Rep, Req, Router, Sub, WhenFull, XPub};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

type Done = std::result::Result<(), Box<dyn std::error::Error>>;

const WARM: usize = 20_000;
const COUNTED: usize = 20_000;
/// What is allocated now and then (a buffer, a timer, a table that grows), per message.
const NOTHING: f64 = 0.01;
const ANYWHERE: &str = "tcp://127.0.0.1:0";

/// Blocks of memory taken since the start, by the whole process.
fn blocks() -> u64 {
    dhat::HeapStats::get().total_blocks
}

/// Prints what `COUNTED` messages took, and that it is no more than it was.
fn judge(what: &str, before: u64, bound: f64) {
    let each = (blocks() - before) as f64 / COUNTED as f64;
    println!("{what:<40} {each:>8.4} blocks a message, {bound} at most");
    assert!(each <= bound, "{what}: {each} blocks a message, more than {bound}");
}

#[test]
fn a_small_message_on_a_warm_connection_takes_no_memory() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let all = async {
            one_way().await?;
            request_reply().await?;
            routed().await?;
            events().await?;
            typed().await
        };
        tokio::time::timeout(Duration::from_secs(120), all).await.expect("it hangs").unwrap();
    });
}

async fn one_way() -> Done {
    let (push, pull) = (Push::new(), Pull::new());
    push.connect(pull.bind(ANYWHERE).await?)?;
    let mut before = 0;
    for n in 0..WARM + COUNTED {
        if n == WARM {
            before = blocks();
        }
        push.send("sixteen bytes ok").await?;
        pull.recv().await?;
    }
    judge("PUSH to PULL, one by one", before, NOTHING);

    let mut batch = Vec::with_capacity(1024);
    for n in 0..(WARM + COUNTED) / 100 {
        if n == WARM / 100 {
            before = blocks();
        }
        for _ in 0..100 {
            push.send("sixteen bytes ok").await?;
        }
        let mut taken = 0;
        while taken < 100 {
            taken += pull.recv_many(&mut batch, 1024).await?;
            batch.clear();
        }
    }
    judge("PUSH to PULL, recv_many", before, NOTHING);
    Ok(())
}

async fn request_reply() -> Done {
    let (req, rep) = (Req::new(), Rep::new());
    req.connect(rep.bind(ANYWHERE).await?)?;
    let mut before = 0;
    for n in 0..WARM + COUNTED {
        if n == WARM {
            before = blocks();
        }
        req.send("ask").await?;
        rep.recv().await?;
        rep.send("answer").await?;
        req.recv().await?;
    }
    judge("REQ to REP and back", before, NOTHING);
    Ok(())
}

async fn routed() -> Done {
    let (dealer, router) = (Dealer::new(), Router::new());
    dealer.connect(router.bind(ANYWHERE).await?)?;
    let mut before = 0;
    for n in 0..WARM + COUNTED {
        if n == WARM {
            before = blocks();
        }
        dealer.send("ask").await?;
        let (from, ask) = router.recv_from().await?;
        router.send_to(&from, &ask).await?;
        dealer.recv().await?;
    }
    judge("DEALER to ROUTER and back, recv_from", before, NOTHING);
    for n in 0..WARM + COUNTED {
        if n == WARM {
            before = blocks();
        }
        dealer.send("ask").await?;
        let ask: Message = router.recv().await?;
        router.send(ask).await?;
        dealer.recv().await?;
    }
    // The routing id goes in front, into a buffer of its own.
    judge("DEALER to ROUTER and back, recv", before, 1.0 + NOTHING);
    Ok(())
}

async fn events() -> Done {
    let publisher = XPub::with_options(Options::new().when_full(WhenFull::Block).xpub_verbose(true));
    let endpoint = publisher.bind(ANYWHERE).await?;
    let subscribers = [Sub::new(), Sub::new()];
    for subscriber in &subscribers {
        subscriber.subscribe("tick");
        subscriber.connect(endpoint.clone())?;
    }
    for _ in &subscribers {
        publisher.recv().await?;
    }
    let mut before = 0;
    for n in 0..WARM + COUNTED {
        if n == WARM {
            before = blocks();
        }
        publisher.send("tick tock").await?;
        for subscriber in &subscribers {
            subscriber.recv().await?;
        }
    }
    judge("XPUB to two SUB", before, NOTHING);
    Ok(())
}

/// The typed API makes values of what it reads, so that it does take memory: no more than is known.
async fn typed() -> Done {
    let lan = Memory::new();
    let node = |service| Node::builder(service).local(false).mdns(false).source(lan.source()).start();
    let (here, there) = (node("here").await?, node("there").await?);
    let mut before = 0;

    let _serving = there.serve("there.next", |n: u64, _| async move { Ok(n + 1) }).await?;
    for n in 0..(WARM + COUNTED) as u64 {
        if n == WARM as u64 {
            before = blocks();
        }
        let next: u64 = here.call("there.next", &n).await?;
        assert_eq!(next, n + 1);
    }
    judge("call of a number, typed", before, CALL);

    let mut items = there.pull::<u64>("items").await?;
    for n in 0..(WARM + COUNTED) as u64 {
        if n == WARM as u64 {
            before = blocks();
        }
        here.push("items", &n).await?;
        items.recv().await.ok_or("no item")??;
    }
    judge("push of a number, typed", before, PUSH);

    let mut events = there.subscribe::<u64>("here.ticks").await?;
    let ticks = here.publisher::<u64>("here.ticks").when_full(SlowPolicy::Block).await?;
    ticks.ready(1).await?;
    for n in 0..(WARM + COUNTED) as u64 {
        if n == WARM as u64 {
            before = blocks();
        }
        ticks.publish(&n).await?;
        events.recv().await.ok_or("no event")??;
    }
    judge("publish of a number, typed", before, PUBLISH);
    Ok(())
}

const CALL: f64 = 19.1;
const PUSH: f64 = NOTHING;
const PUBLISH: f64 = NOTHING;
