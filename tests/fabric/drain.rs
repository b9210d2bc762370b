use std::{future::IntoFuture, time::Duration};

use ripstop::discovery::Memory;

use crate::common::{soon, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_call() {
    let lan = Memory::new();
    let serve = async |lan: &Memory| {
        let node = start(lan, "pricing").await;
        node.serve("pricing.quote", |n: u64, _| async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok(n)
        })
        .await
        .unwrap();
        node
    };
    let mut instances = [serve(&lan).await, serve(&lan).await, serve(&lan).await];
    let orders = start(&lan, "orders").await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (orders, stop) = (orders.clone(), stop.clone());
            tokio::spawn(async move {
                let mut calls = 0u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let reply: u64 = orders.call("pricing.quote", &calls).await.unwrap();
                    assert_eq!(reply, calls);
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    for instance in &mut instances {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let new = serve(&lan).await;
        let old = std::mem::replace(instance, new);
        soon(old.drain()).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for caller in callers {
        assert!(soon(caller).await.unwrap() > 10);
    }
}

#[tokio::test]
async fn what_was_pushed_before_a_drain_arrives() {
    let lan = Memory::new();
    let (sender, mailer) = (start(&lan, "shop").await, start(&lan, "mailer").await);
    let mut pull = mailer.pull::<u64>("emails").prefetch(10_000).await.unwrap();
    for n in 0..5_000u64 {
        soon(sender.push("emails", &n).into_future()).await.unwrap();
    }
    soon(sender.drain()).await;
    for n in 0..5_000u64 {
        assert_eq!(soon(pull.recv()).await.unwrap().unwrap().body, n);
    }
}

#[tokio::test]
async fn streams_end_and_the_last_handle_drains() {
    let lan = Memory::new();
    let node = start(&lan, "a").await;
    let mut events = node.subscribe::<u64>("b.>").await.unwrap();
    let mut items = node.pull::<u64>("c").await.unwrap();
    soon(node.drain()).await;
    assert!(soon(events.recv()).await.is_none());
    assert!(soon(items.recv()).await.is_none());
    assert!(node.serve("a.x", |n: u64, _| async move { Ok(n) }).await.is_err());

    let watcher = start(&lan, "w").await;
    let mut changed = watcher.directory().changed();
    let short = start(&lan, "short").await;
    short.serve("short.x", |n: u64, _| async move { Ok(n) }).await.unwrap();
    soon(async {
        while watcher.directory().by_root("short").is_empty() {
            changed.changed().await.unwrap();
        }
    })
    .await;
    drop(short);
    soon(async {
        while !watcher.directory().by_root("short").is_empty() {
            changed.changed().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_drain_that_nobody_waits_for_goes_on() {
    let lan = Memory::new();
    let (clock, caller) = (start(&lan, "clock").await, start(&lan, "caller").await);
    clock
        .serve("clock.slow", |n: u64, _| async move {
            tokio::time::sleep(Duration::from_millis(400)).await;
            Ok(n)
        })
        .await
        .unwrap();
    let call = tokio::spawn(async move { caller.call::<u64, u64>("clock.slow", &7).await });
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), clock.drain()).await.is_err());
    soon(clock.drain()).await;
    assert_eq!(soon(call).await.unwrap().unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_to_a_draining_puller_arrives() {
    const ITEMS: usize = 150;
    let lan = Memory::new();
    let (sender, mailer) = (start(&lan, "shop").await, start(&lan, "mailer").await);
    let mut pull = mailer.pull::<Vec<u64>>("films").await.unwrap();
    let film = vec![u64::MAX; 10_000];
    soon(sender.push("films", &film).into_future()).await.unwrap();
    soon(pull.recv()).await.unwrap().unwrap();
    for _ in 0..ITEMS {
        soon(sender.push("films", &film).into_future()).await.unwrap();
    }
    let draining = tokio::spawn(async move { mailer.drain().await });
    let mut came = 0;
    while let Some(item) = soon(pull.recv()).await {
        item.unwrap();
        came += 1;
    }
    assert_eq!(came, ITEMS);
    soon(draining).await.unwrap();
}

#[tokio::test]
async fn a_peer_watch_ends_with_the_node() {
    let lan = Memory::new();
    let node = start(&lan, "a").await;
    let mut watch = node.watch_peers();
    soon(node.drain()).await;
    assert!(soon(watch.recv()).await.is_none());
}

#[tokio::test]
async fn a_foreign_publisher_is_hung_up_on_by_a_drain() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let lan = Memory::new();
    let node = start(&lan, "a").await;
    let ripstop::Endpoint::Tcp { host, port } = node.endpoints()[0].clone() else { panic!("tcp") };
    let mut publisher = tokio::net::TcpStream::connect((host.as_str(), port)).await.unwrap();
    let mut hello = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0];
    hello.extend_from_slice(b"NULL");
    hello.resize(64, 0);
    hello.extend_from_slice(b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB");
    publisher.write_all(&hello).await.unwrap();
    let mut first = [0; 65];
    soon(publisher.read_exact(&mut first)).await.unwrap();
    soon(node.drain()).await;
    let mut rest = Vec::new();
    // Whatever is left of its READY, and the end.
    let _ = soon(publisher.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_start_that_fails_gives_its_ports_back() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let builder = ripstop::Node::builder("a").local(false).mdns(false);
    let builder =
        builder.listen(&format!("tcp://{address}")).listen(&format!("tcp://{}", taken.local_addr().unwrap()));
    assert!(builder.start().await.is_err());
    soon(async {
        while std::net::TcpListener::bind(address).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_push_survives_a_drain_right_after_it() {
    for _ in 0..60 {
        let lan = Memory::new();
        let (sender, mailer) = (start(&lan, "shop").await, start(&lan, "mailer").await);
        let mut pull = mailer.pull::<u64>("emails").await.unwrap();
        soon(sender.push("emails", &7u64).into_future()).await.unwrap();
        soon(sender.drain()).await;
        assert_eq!(soon(pull.recv()).await.unwrap().unwrap().body, 7);
    }
}
