//! What nodes say of themselves, asked over the wire, and what is counted on both sides of a call.

use std::future::IntoFuture;
use std::time::Duration;

use ripstop::{HandlerError, Node, discovery::Memory, fabric::CallError, observe::CallStats};

use crate::common::{soon, start};

/// `till.sum` takes 20 ms; `till.fail` fails.
async fn till(lan: &Memory) -> Node {
    let node = start(lan, "till").await;
    node.serve("till.sum", |n: u64, _| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(n + 1)
    })
    .await
    .unwrap();
    node.serve("till.fail", |(): (), _| async move { Err::<(), _>(HandlerError::new("no")) }).await.unwrap();
    node
}

fn named<'a>(stats: &'a [CallStats], name: &str) -> &'a CallStats {
    stats.iter().find(|stats| stats.name == name).unwrap_or_else(|| panic!("no {name} in {stats:?}"))
}

#[tokio::test]
async fn both_sides_of_a_call_are_counted() {
    let lan = Memory::new();
    let (till, desk) = (till(&lan).await, start(&lan, "desk").await);
    for n in 0..10u64 {
        let _: u64 = soon(desk.call("till.sum", &n)).await.unwrap();
    }
    soon(desk.call::<_, ()>("till.fail", &())).await.unwrap_err();
    soon(desk.call::<_, ()>("till.none", &())).await.unwrap_err();

    // The serving side, asked by the calling one.
    let served = soon(desk.inspect(till.id()).stats()).await.unwrap();
    assert_eq!((served.service.as_str(), served.links.accepted), ("till", 1));
    let sum = named(&served.served, "till.sum");
    assert_eq!((sum.total, sum.failed(), sum.in_flight, sum.waiting), (10, 0, 0, 0));
    assert!(sum.p50().unwrap() > Duration::from_millis(18) && sum.p99() >= sum.p50(), "{sum:?}");
    assert!(sum.rate > 0.0);
    assert_eq!(named(&served.served, "till.fail").errors["RS0416"], 1);
    assert!(!served.served.iter().any(|stats| stats.name == "till.none"), "a name of the peer's choice");
    let caller = named(&served.callers, "desk");
    assert_eq!((caller.total, caller.failed()), (11, 1));

    // And the calling side, of itself.
    let called = desk.stats().await;
    assert_eq!(named(&called.called, "till.sum").total, 10);
    assert_eq!(named(&called.called, "till.none").errors["RS0412"], 1);
    let target = named(&called.targets, "till");
    assert_eq!((target.total, target.failed()), (12, 2));
    assert_eq!(called.links.dialled, 1);
}

#[tokio::test]
async fn what_is_under_way_and_what_waits() {
    let lan = Memory::new();
    let slow = start(&lan, "slow").await;
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let handler = gate.clone();
    slow.serve("slow.job", move |(): (), _| {
        let gate = handler.clone();
        async move {
            let _place = gate.acquire().await;
            Ok(())
        }
    })
    .concurrency(2)
    .await
    .unwrap();
    let desk = start(&lan, "desk").await;
    let calls: Vec<_> =
        (0..5).map(|_| tokio::spawn(desk.call::<_, ()>("slow.job", &()).into_future())).collect();
    soon(async {
        loop {
            let stats = desk.inspect(slow.id()).stats().await.unwrap();
            let job = named(&stats.served, "slow.job");
            if (job.in_flight, job.waiting) == (5, 3) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(named(&desk.stats().await.called, "slow.job").in_flight, 5);
    gate.add_permits(5);
    for call in calls {
        soon(call).await.unwrap().unwrap();
    }
    let stats = slow.stats().await;
    let job = named(&stats.served, "slow.job");
    assert_eq!((job.total, job.in_flight, job.waiting), (5, 0, 0));
}

#[tokio::test]
async fn a_node_says_who_it_is_how_it_is_and_what_is_in_force() {
    let lan = Memory::new();
    let idle = Node::builder("till")
        .local(false)
        .mdns(false)
        .source(lan.source())
        .version("1.4.0")
        .queue(64, 1 << 20);
    let idle = idle.start().await.unwrap();
    let desk = start(&lan, "desk").await;
    let till = desk.inspect(idle.id());
    let health = soon(till.health()).await.unwrap();
    assert!(!health.ready && health.reasons[0].contains("nothing yet"), "{health:?}");
    idle.serve("till.sum", |n: u64, _| async move { Ok(n) }).await.unwrap();
    assert_eq!(soon(till.health()).await.unwrap().reasons, [""; 0]);

    let info = soon(till.info()).await.unwrap();
    assert_eq!((info.service.as_str(), info.version.as_str()), ("till", "1.4.0"));
    assert_eq!((info.node, info.pid), (idle.id().to_string(), std::process::id()));
    assert_eq!(info.methods, ["till.sum"], "its own subjects are told nobody");

    let config = soon(till.config()).await.unwrap();
    assert_eq!((config["limits.queue_messages"].as_str(), config["service"].as_str()), ("64", "\"till\""));
    assert!(soon(till.ping()).await.unwrap() < Duration::from_secs(5));

    let nobody = desk.inspect(ripstop::discovery::NodeId::random());
    assert!(matches!(soon(nobody.stats()).await, Err(CallError::NoInstance { .. })));

    idle.drain().await;
    assert!(idle.health().reasons.contains(&"it is leaving".to_owned()));
}

/// With keys every member asks whether a node is there and well, and admins for the rest.
#[cfg(feature = "tls")]
#[tokio::test]
async fn only_admins_look_into_a_node_with_keys() {
    use ripstop::config::AllowRule;
    use ripstop::security::Ca;
    use std::time::SystemTime;

    let (lan, dir, now) = (Memory::new(), tempfile::tempdir().unwrap(), SystemTime::now());
    let mut ca = Ca::new("shop", now, 30).unwrap();
    let mut nodes = Vec::new();
    for service in ["till", "desk", "operator"] {
        let keys = dir.path().join(service);
        ca.issue(service, now - Duration::from_secs(3600), now + Duration::from_secs(3600))
            .unwrap()
            .write(&keys)
            .unwrap();
        let node = Node::builder(service).local(false).mdns(false).source(lan.source()).keys(keys);
        nodes
            .push(node.allow(AllowRule { admin: true, ..AllowRule::new("operator") }).start().await.unwrap());
    }
    let [till, desk, operator] = &nodes[..] else { unreachable!() };
    let (theirs, admins) = (desk.inspect(till.id()), operator.inspect(till.id()));
    assert!(soon(theirs.health()).await.is_ok() && soon(theirs.ping()).await.is_ok());
    for refused in [
        soon(theirs.stats()).await.map(drop),
        soon(theirs.info()).await.map(drop),
        soon(theirs.config()).await.map(drop),
    ] {
        assert!(matches!(refused, Err(CallError::Forbidden { .. })), "{refused:?}");
    }
    assert!(soon(admins.stats()).await.is_ok() && soon(admins.info()).await.is_ok());
    let config = soon(admins.config()).await.unwrap();
    assert!(!config.values().any(|value| value.contains("PRIVATE")), "{config:?}");
}

#[tokio::test]
async fn topics_and_queues_are_counted() {
    let lan = Memory::new();
    let (orders, mailer) = (start(&lan, "orders").await, start(&lan, "mailer").await);
    let created = orders.publisher::<u64>("orders.created").await.unwrap();
    created.publish(&0).await.unwrap(); // to nobody
    let mut events = mailer.subscribe::<u64>("orders.*").await.unwrap();
    soon(created.ready(1)).await.unwrap();
    for n in 1..=5 {
        created.publish(&n).await.unwrap();
    }
    soon(events.recv()).await.unwrap().unwrap();

    let _worker = mailer
        .work("emails", |n: u64, _| async move { if n < 4 { Ok(()) } else { Err(HandlerError::new("no")) } })
        .await
        .unwrap();
    let mut films = mailer.pull::<u64>("films").await.unwrap();
    for n in 0..6u64 {
        soon(orders.push("emails", &n)).await.unwrap();
        soon(orders.push("films", &n)).await.unwrap();
    }
    soon(films.recv()).await.unwrap().unwrap();

    let sent = orders.stats().await;
    let published = &sent.published[0];
    assert_eq!(
        (published.name.as_str(), published.total, published.dropped["no_subscriber"]),
        ("orders.created", 5, 1)
    );
    let pushed: Vec<_> = sent.pushed.iter().map(|queue| (queue.name.as_str(), queue.total)).collect();
    assert_eq!(pushed, [("emails", 6), ("films", 6)]);
    let had = soon(async {
        loop {
            let had = orders.inspect(mailer.id()).stats().await.unwrap();
            let waiting: u64 = had.pulled.iter().chain(&had.subscribed).map(|flow| flow.waiting).sum();
            if (waiting, had.worked[0].total, had.subscribed[0].total) == (5 + 4, 6, 5) {
                return had;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!((had.subscribed[0].name.as_str(), had.subscribed[0].waiting), ("orders.*", 4));
    let queues: Vec<_> =
        had.pulled.iter().map(|queue| (queue.name.as_str(), queue.total, queue.waiting)).collect();
    assert_eq!(queues, [("emails", 6, 0), ("films", 6, 5)]);
    assert_eq!((had.worked[0].name.as_str(), had.worked[0].failed()), ("emails", 2));
    tokio::time::sleep(Duration::from_millis(60)).await;
    let later = orders.inspect(mailer.id()).stats().await.unwrap();
    assert!(later.pulled[1].oldest_ms >= 60, "{:?}", later.pulled);
}
