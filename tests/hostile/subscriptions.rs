//! Subscriptions without number, publishers that die, and subscribers that do not read.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ripstop::Node;
use ripstop::fabric::{Context, Subscription};
use ripstop::socket::Sub;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::raw::{closed, command, shaken};
use crate::victim::{Host, METHOD, Victim, alone};
use crate::{Growth, MIB};

const SOON: Duration = Duration::from_secs(5);
const ROLE: &str = "subscriptions::a_publisher";
const LISTEN: &str = "RIPSTOP_TEST_LISTEN";

/// What [`Victim::role`] starts: a node that echoes, and publishes what it is told to.
#[tokio::test(flavor = "multi_thread")]
async fn a_publisher() {
    if !Victim::is_role(ROLE) {
        return;
    }
    let listen = std::env::var(LISTEN).unwrap_or("tcp://127.0.0.1:0".into());
    let node = Node::builder("hello").local(false).mdns(false).listen(&listen).start().await.unwrap();
    let _served = node.serve(METHOD, |ask: u64, _: Context| async move { Ok(ask) }).await.unwrap();
    println!("at {}", node.endpoints()[0]);
    let mut told = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = told.next_line().await {
        match line.split(' ').collect::<Vec<_>>()[..] {
            // As many events of a KiB on one subject, when it has as many subscribers.
            ["burst", subject, count, subscribers] => {
                let publisher = node.publisher::<String>(subject).await.unwrap();
                publisher.ready(subscribers.parse().unwrap()).await.unwrap();
                let event = "x".repeat(1024);
                for _ in 0..count.parse::<usize>().unwrap() {
                    publisher.publish(&event).await.unwrap();
                }
                std::mem::forget(publisher); // the numbers go on
            }
            // One event on each of as many subjects, when each has as many subscribers.
            ["each", count, subscribers] => {
                for n in 0..count.parse::<u64>().unwrap() {
                    let publisher = node.publisher::<u64>(&subject(n)).await.unwrap();
                    publisher.ready(subscribers.parse().unwrap()).await.unwrap();
                    publisher.publish(&n).await.unwrap();
                }
            }
            ref other => panic!("told to {other:?}"),
        }
    }
}

fn subject(n: u64) -> String {
    format!("hello.topic.{n:04}")
}

async fn subscriber(to: SocketAddr) -> Node {
    let endpoint = format!("tcp://{to}").parse().unwrap();
    let node = Node::builder("reader").local(false).mdns(false).peer("hello", endpoint, &["hello"]);
    node.start().await.unwrap()
}

/// A million subscriptions of a KiB, in as many connections as it takes: each may keep 4,096 of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_subscriptions() {
    const CONNECTIONS: usize = 245;
    const EACH: usize = 4096;
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    let growth = Growth::of(&host);
    host.attacked(|| async move {
        let mut wanted = Vec::new();
        let subscribe = |to: &mut Vec<u8>, n: usize| {
            let prefix = format!("{n:>width$}", width = 1024);
            to.extend(command("SUBSCRIBE", prefix.as_bytes()));
        };
        (0..EACH).for_each(|n| subscribe(&mut wanted, n));
        let modest_wants = wanted.len();
        subscribe(&mut wanted, EACH);
        for _ in 0..CONNECTIONS {
            let mut peer = shaken(to, 1, "SUB").await;
            peer.write_all(&wanted).await.unwrap();
            assert!(closed(&mut peer, SOON).await, "more than {EACH} subscriptions are kept");
        }
        let mut long = shaken(to, 1, "SUB").await;
        long.write_all(&command("SUBSCRIBE", &[b'x'; 1025])).await.unwrap();
        assert!(closed(&mut long, SOON).await);
        // One that keeps to it stays. Cancelled and asked for again, without an end, is not many.
        let mut modest = shaken(to, 0, "SUB").await;
        modest.write_all(&wanted[..modest_wants]).await.unwrap();
        let mut first = Vec::new();
        subscribe(&mut first, 0);
        let cancel = command("CANCEL", format!("{:>width$}", 0, width = 1024).as_bytes());
        let a = [command("SUBSCRIBE", b"hello.a"), command("CANCEL", b"hello.a")].concat();
        modest.write_all(&[cancel, a, first].concat().repeat(EACH)).await.unwrap();
        // It is still there if what comes behind that is noticed.
        modest.write_all(&command("SUBSCRIBE", b"hello.one-too-many")).await.unwrap();
        assert!(closed(&mut modest, SOON).await);
    })
    .await;
    host.victim.logged("limited limit=\"subscriptions\"", CONNECTIONS + 1);
    host.victim.logged("limited limit=\"subscription-length\"", 1);
    // Two connections' at a time, 4 MiB each, and what keeps them.
    growth.is_under(&host, 24 * MIB);
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}

/// A node and a plain SUB have 3,000 subscriptions each; the publisher is killed and comes back (with libzmq, 2,000 of
/// them are gone then): all are in force again.
#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_survive_a_killed_publisher() {
    const SUBJECTS: u64 = 3000;
    let _turn = alone().await;
    let mut publisher = Victim::role(ROLE, &[]);
    let to = publisher.address();
    let node = subscriber(to).await;
    let mut subscriptions = Vec::new();
    let plain = Sub::new();
    for n in 0..SUBJECTS {
        subscriptions.push(node.subscribe::<u64>(&subject(n)).await.unwrap());
        plain.subscribe(subject(n));
    }
    plain.connect(format!("tcp://{to}")).unwrap();
    for round in 0..3 {
        publisher.tell(&format!("each {SUBJECTS} 2\n"));
        let heard = async {
            for (n, subscription) in subscriptions.iter_mut().enumerate() {
                assert_eq!(subscription.recv().await.unwrap().unwrap().body, n as u64);
            }
            for n in 0..SUBJECTS {
                let message = plain.recv().await.unwrap();
                assert_eq!(message.frame(0).unwrap(), subject(n).as_bytes());
            }
        };
        tokio::time::timeout(crate::victim::PATIENCE, heard).await.expect("subscriptions were lost");
        if round < 2 {
            publisher.kill();
            publisher = Victim::role(ROLE, &[(LISTEN, &format!("tcp://{to}"))]);
        }
    }
    assert!(publisher.is_alive());
    crate::victim::good(to).await;
    // Nor does it take long to give them up.
    let began = Instant::now();
    drop(subscriptions);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

async fn hear(subscription: &mut Subscription<String>, count: usize) {
    for _ in 0..count {
        let event = subscription.recv().await.unwrap().unwrap();
        assert_eq!(event.missed, 0, "a subscriber that reads missed something");
    }
}

/// Two subscribers stop reading, a stranger for good and a node for a while. What waits for them is bounded; another
/// subscriber misses nothing; and the node is told how many events it missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_stops_reading() {
    /// Events of a KiB, less than a queue holds, so that who reads gets all; and how often.
    const BURST: usize = 4096;
    const BURSTS: usize = 24;
    static ROUND: AtomicUsize = AtomicUsize::new(0);
    let _turn = alone().await;
    let mut host = Host::of(Victim::role(ROLE, &[])).await;
    let to = host.address;
    let before = host.victim.memory();
    let (id, told) = (host.victim.id(), host.victim.stdin.clone());
    let (halfway, after, missed) = host
        .attacked(|| {
            let told = told.clone();
            async move {
                let subject = format!("hello.load.{}", ROUND.fetch_add(1, Ordering::Relaxed));
                let mut stranger = shaken(to, 0, "SUB").await;
                stranger.write_all(&command("SUBSCRIBE", subject.as_bytes())).await.unwrap();
                let (good, slow) = (subscriber(to).await, subscriber(to).await);
                let mut good = good.subscribe::<String>(&subject).await.unwrap();
                let mut slow = slow.subscribe::<String>(&subject).await.unwrap();
                let mut halfway = 0;
                for n in 0..BURSTS {
                    // A stranger that takes nothing and says nothing may be given up after 6 s.
                    let least = if n == 0 { 3 } else { 2 };
                    crate::victim::tell(&told, &format!("burst {subject} {BURST} {least}\n"));
                    let heard = tokio::time::timeout(crate::victim::PATIENCE, hear(&mut good, BURST));
                    heard.await.expect("a subscriber that reads did not get all");
                    if n == BURSTS / 2 {
                        halfway = crate::victim::memory(id, "VmRSS");
                    }
                }
                let after = crate::victim::memory(id, "VmRSS");
                let (mut heard, mut missed) = (0, 0);
                while heard + missed < (BURST * BURSTS) as u64 {
                    let event = tokio::time::timeout(crate::victim::PATIENCE, slow.recv()).await;
                    missed += event.expect("events are missing, untold").unwrap().unwrap().missed;
                    heard += 1;
                }
                assert_eq!(heard + missed, (BURST * BURSTS) as u64);
                drop(stranger);
                (halfway, after, missed)
            }
        })
        .await;
    println!("{before} KiB before, {halfway} KiB halfway, {after} KiB after 96 MiB; {missed} events missed");
    assert!(missed > 10_000, "{missed}: it did not stop reading");
    // A queue of 16 MiB for each.
    assert!(after < before + 2 * 20 * MIB, "{before} KiB before, {after} KiB after");
    assert!(after < halfway + 4 * MIB, "{halfway} KiB halfway, {after} KiB after");
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}
