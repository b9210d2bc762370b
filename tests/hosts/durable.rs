//! Durable work between hosts: the network is cut, both ways and one way, and workers are restarted one after the other, while
//! a sender goes on. Every item is in the ledger; see `common/ledger.rs`.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use ripstop::Node;

use crate::{
    HOST, Host,
    ledger::{Balance, log, note, numbers},
    net::net,
};

/// A role finds its files here, and keeps what it has to in a directory of its host's name there.
const DIR: &str = "RIPSTOP_TEST_DIR";
/// Heartbeats notice silence in 6 s; the rest is a busy machine.
const NOTICED: Duration = Duration::from_secs(20);
/// Dials again, hands out what waits, and writes down that it is done.
const HEALED: Duration = Duration::from_secs(60);

async fn start(role: &str) -> Option<(Node, PathBuf)> {
    let (own, dir) = (std::env::var(HOST).ok()?, PathBuf::from(std::env::var_os(DIR)?));
    let builder = Node::builder(role).listen(&format!("{own}:0")).insecure(true).local(false);
    let node = builder.data_dir(dir.join(own)).start().await.unwrap();
    println!("\nme {}", node.id());
    Some((node, dir))
}

/// What runs on a host: it pushes, and notes what is kept and what was processed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender() {
    let Some((node, dir)) = start("sender").await else { return };
    tokio::spawn(watch(node.clone()));
    let (mut asked, mut kept) = (log(&dir, "asked"), log(&dir, "kept"));
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    for number in 0.. {
        if dir.join("enough").exists() {
            break;
        }
        pace.tick().await;
        note(&mut asked, number).unwrap();
        let receipt = node.push("items", &number).durable().await.unwrap();
        note(&mut kept, number).unwrap();
        let mut processed = log(&dir, "processed");
        tokio::spawn(async move {
            receipt.processed().await.unwrap();
            note(&mut processed, number).unwrap();
        });
    }
    std::future::pending().await
}

/// Says whether somebody has an item now. Discovery does not know that: mDNS may go on where nothing else does.
async fn watch(node: Node) {
    let (mut pace, mut before) = (tokio::time::interval(Duration::from_millis(50)), None);
    loop {
        pace.tick().await;
        let queues = node.kept().queues().await.unwrap();
        // Between two items nobody has one, either.
        let now = queues.first().filter(|queue| queue.items > 50).map(|queue| queue.under_way > 0);
        if now.is_some() && now != before {
            println!("{}", if now == Some(true) { "together" } else { "alone" });
        }
        before = now;
    }
}

/// What runs on the others: it notes what it has done, and says the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker() {
    let Some((node, dir)) = start("worker").await else { return };
    let begun = AtomicBool::new(false);
    let worker = node.work("items", move |number: u64, _| {
        if !begun.swap(true, Ordering::Relaxed) {
            println!("did {number}");
        }
        let dir = dir.clone();
        async move {
            // So that it always has some.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(note(&mut log(&dir, "done"), number)?)
        }
    });
    worker.await.unwrap();
    node.run().await.unwrap();
}

fn host(net: &crate::net::Net, n: usize, what: &str, dir: &Path) -> Host {
    Host::start(net, n, &format!("durable::{what}"), &[(DIR, dir.to_str().unwrap())])
}

/// Waits until that many numbers are in a log.
fn until(dir: &Path, name: &str, more_than: usize) {
    let by = Instant::now() + HEALED;
    while numbers(dir, name).len() <= more_than {
        assert!(Instant::now() < by, "no more than {more_than} {name}: {:?}", Balance::of(dir));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Has the sender stop, waits until it has heard of every item that it was processed, and gives what came of it.
fn settle(dir: &Path) -> Balance {
    std::fs::write(dir.join("enough"), "").unwrap();
    let by = Instant::now() + HEALED;
    // What is asked for last is kept a moment later.
    while numbers(dir, "asked").keys().ne(numbers(dir, "processed").keys()) {
        assert!(Instant::now() < by, "not everything is done: {:?}", Balance::of(dir));
        std::thread::sleep(Duration::from_millis(20));
    }
    let balance = Balance::of(dir);
    assert!(balance.lost.is_empty() && balance.invented.is_empty(), "{balance:?}");
    balance
}

/// One worker, so that whoever gets an item again is the one who knows that it was done.
#[test]
fn nothing_is_lost_or_done_twice_when_the_network_is_cut_both_ways_or_one_way() {
    let Some(net) = net(2) else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut sender = host(&net, 1, "a_sender", dir);
    let _worker = host(&net, 2, "a_worker", dir);
    let cuts: [(&str, &dyn Fn(bool)); 3] = [
        ("both ways", &|cut| net.cable(2, !cut)),
        ("acks are lost", &|cut| net.deaf(1, 2, cut)),
        ("items are lost", &|cut| net.deaf(2, 1, cut)),
    ];
    for (what, cut) in cuts {
        // What was said of the cut before is forgotten.
        while numbers(dir, "kept").len() > numbers(dir, "processed").len() + 20 {
            std::thread::sleep(Duration::from_millis(20));
        }
        sender.process.listen(Duration::from_millis(200));
        cut(true);
        let (_, noticed) = sender.process.hear("alone", NOTICED);
        let (kept, done) = (numbers(dir, "kept"), numbers(dir, "done"));
        let processed = numbers(dir, "processed");
        let in_doubt = done.keys().filter(|number| !processed.contains_key(number)).count();
        // It was cut.
        assert!(kept.len() > done.len() + 100, "{} kept, {} done", kept.len(), done.len());
        assert!(what != "acks are lost" || in_doubt > 0, "no ack was lost");
        cut(false);
        let healed = Instant::now();
        until(dir, "processed", kept.len());
        println!(
            "{what}: noticed in {noticed:?}, {} waited then, {in_doubt} of them done; all processed {:?} after it healed",
            kept.len() - processed.len(),
            healed.elapsed(),
        );
    }
    let balance = settle(dir);
    println!(
        "{} kept, {} done, 0 lost, 0 invented, {} done twice",
        balance.kept,
        balance.done,
        balance.again.len()
    );
    assert!(balance.again.is_empty(), "{balance:?}");
}

/// Two workers: what the one has that cannot be heard is done by the other one, too, and by nobody a third time.
#[test]
fn another_goes_on_while_one_cannot_be_heard() {
    let Some(net) = net(3) else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let _sender = host(&net, 1, "a_sender", dir);
    let mut workers = [host(&net, 2, "a_worker", dir), host(&net, 3, "a_worker", dir)];
    workers.iter_mut().for_each(|worker| _ = worker.process.hear("did", NOTICED));
    net.deaf(1, 2, true);
    let in_doubt = || -> Vec<u64> {
        let (done, processed) = (numbers(dir, "done"), numbers(dir, "processed"));
        done.into_keys().filter(|number| !processed.contains_key(number)).collect()
    };
    // While the other one goes on: these acks are lost.
    let by = Instant::now() + HEALED;
    let doubtful = loop {
        let doubtful = in_doubt();
        until(dir, "processed", numbers(dir, "processed").len() + 200);
        let still = in_doubt();
        let doubtful: Vec<_> = doubtful.into_iter().filter(|number| still.contains(number)).collect();
        if !doubtful.is_empty() {
            break doubtful;
        }
        assert!(Instant::now() < by, "no ack is lost");
    };
    // Before it is healed.
    while in_doubt().iter().any(|number| doubtful.contains(number)) {
        assert!(Instant::now() < by, "what is in doubt waits: {:?}", Balance::of(dir));
        std::thread::sleep(Duration::from_millis(20));
    }
    net.deaf(1, 2, false);
    let balance = settle(dir);
    println!("{} kept, {} in doubt, {} done twice", balance.kept, doubtful.len(), balance.again.len());
    assert!(!balance.again.is_empty() && balance.again.iter().all(|(_, times)| *times == 2), "{balance:?}");
}

#[test]
fn a_rolling_restart_loses_nothing_and_does_nothing_twice() {
    let Some(net) = net(4) else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let _sender = host(&net, 1, "a_sender", dir);
    let mut workers: Vec<_> = (2..=4).map(|n| host(&net, n, "a_worker", dir)).collect();
    workers.iter_mut().for_each(|worker| _ = worker.process.hear("did", NOTICED));
    for _ in 0..2 {
        for (n, worker) in workers.iter_mut().enumerate() {
            assert!(worker.process.terminate(NOTICED), "it failed");
            *worker = host(&net, n + 2, "a_worker", dir);
            worker.process.hear("did", NOTICED);
            until(dir, "processed", numbers(dir, "processed").len() + 100);
        }
    }
    let balance = settle(dir);
    println!("6 restarts: {balance:?}");
    assert!(balance.again.is_empty(), "{balance:?}");
}
