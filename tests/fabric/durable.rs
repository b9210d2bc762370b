use std::{
    future::IntoFuture,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ripstop::{
    HandlerError, Node,
    discovery::Memory,
    fabric::{Death, Fate, PushError, StartError},
};
use tokio::sync::mpsc;

use crate::common::{soon, start};

async fn with_disk(lan: &Memory, service: &str, dir: &Path) -> Node {
    let builder = Node::builder(service).local(false).mdns(false).source(lan.source());
    builder.data_dir(dir).start().await.unwrap()
}

#[tokio::test]
async fn it_takes_a_place_on_disk() {
    let node = start(&Memory::new(), "shop").await;
    let error = soon(node.push("emails", "x").durable().into_future()).await.unwrap_err();
    assert!(matches!(error, PushError::NoStore), "{error}");
    assert_eq!(error.fault(), ripstop::Fault::Config);
}

#[tokio::test]
async fn it_waits_for_a_worker_and_for_the_handler() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let shop = with_disk(&lan, "shop", dir.path()).await;
    let receipts = [
        soon(shop.push("emails", "one").durable().into_future()).await.unwrap(),
        soon(shop.push("emails", "two").durable().into_future()).await.unwrap(),
    ];
    assert_eq!([receipts[0].id(), receipts[1].id()], [1, 2]);
    let mailer = start(&lan, "mailer").await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let worker = mailer.work("emails", move |email: String, _| {
        let tell = tell.clone();
        async move {
            tell.send(email)?;
            Ok(())
        }
    });
    worker.await.unwrap();
    for receipt in receipts {
        assert_eq!(soon(receipt.processed()).await.unwrap(), Fate::Processed);
    }
    assert_eq!((told.recv().await.unwrap(), told.recv().await.unwrap()), ("one".into(), "two".into()));
}

#[tokio::test]
async fn it_outlives_its_sender() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let shop = with_disk(&lan, "shop", dir.path()).await;
    for n in 0..500u32 {
        drop(soon(shop.push("emails", &n).durable().into_future()).await.unwrap());
    }
    soon(shop.drain()).await;
    drop(shop);
    let mailer = start(&lan, "mailer").await;
    let mut pull = mailer.pull::<u32>("emails").await.unwrap();
    let again = with_disk(&lan, "shop", dir.path()).await;
    for n in 0..500 {
        let delivery = soon(pull.recv()).await.unwrap().unwrap();
        assert_eq!((delivery.body, delivery.attempt, delivery.is_durable()), (n, 1, true));
        delivery.ack();
    }
    // Behind all that was owed, and so nothing of it is left.
    let last = soon(again.push("emails", &500u32).durable().into_future()).await.unwrap();
    let delivery = soon(pull.recv()).await.unwrap().unwrap();
    assert_eq!(delivery.body, 500);
    delivery.ack();
    soon(last.processed()).await.unwrap();
}

#[tokio::test]
async fn a_handler_that_fails_is_asked_again() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let (shop, mailer) = (with_disk(&lan, "shop", dir.path()).await, start(&lan, "mailer").await);
    let tried = Arc::new(AtomicU32::new(0));
    let count = tried.clone();
    let worker = mailer.work("emails", move |_: String, _| {
        let attempt = count.fetch_add(1, Ordering::Relaxed);
        async move {
            match attempt {
                0 => Err(HandlerError::new("busy")),
                1 => panic!("a bug"),
                _ => Ok(()),
            }
        }
    });
    worker.await.unwrap();
    let receipt = soon(shop.push("emails", "x").durable().into_future()).await.unwrap();
    assert_eq!(soon(receipt.processed()).await.unwrap(), Fate::Processed);
    assert_eq!(tried.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn what_fails_each_time_becomes_a_dead_letter() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let (shop, mailer) = (with_disk(&lan, "shop", dir.path()).await, start(&lan, "mailer").await);
    let mut pull = mailer.pull::<String>("emails").await.unwrap();
    let receipt = soon(shop.push("emails", "x").durable().into_future()).await.unwrap();
    for attempt in 1..=5 {
        let delivery = soon(pull.recv()).await.unwrap().unwrap();
        assert_eq!(delivery.attempt, attempt);
        delivery.nack("the server is down", Some(Duration::from_millis(1)));
    }
    let error = soon(receipt.processed()).await.unwrap_err();
    assert!(matches!(&error, PushError::Dead { reason, .. } if reason == "the server is down"), "{error}");
    let letters = shop.dead_letters().list(0, 10).await.unwrap();
    assert_eq!((letters.len(), letters[0].attempts, letters[0].death), (1, 5, Death::Attempts));
    assert_eq!(letters[0].body::<String>().unwrap(), "x");
    // It is tried again, once, and stays until that has succeeded.
    assert!(shop.dead_letters().replay(letters[0].id).await.unwrap());
    assert!(!shop.dead_letters().replay(letters[0].id).await.unwrap());
    let again = soon(pull.recv()).await.unwrap().unwrap();
    assert_eq!((again.attempt, again.body.as_str()), (1, "x"));
    assert!(shop.dead_letters().list(0, 10).await.unwrap()[0].replayed);
    again.ack();
    // One that is refused for good does not come again, and neither does one that cannot be read.
    let refused = soon(shop.push("emails", "y").durable().into_future()).await.unwrap();
    soon(pull.recv()).await.unwrap().unwrap().dead_letter("no such address");
    assert!(soon(refused.processed()).await.is_err());
    let unread = soon(shop.push("emails", &7u8).durable().into_future()).await.unwrap();
    assert!(soon(pull.recv()).await.unwrap().is_err());
    let error = soon(unread.processed()).await.unwrap_err();
    assert!(error.to_string().contains("integer"), "{error}");
    let letters = shop.dead_letters().list(0, 10).await.unwrap();
    assert!(letters.iter().all(|letter| letter.death == Death::Refused) && letters.len() == 2, "{letters:?}");
    shop.dead_letters().purge(letters[0].id).await.unwrap();
    assert_eq!(shop.dead_letters().list(0, 10).await.unwrap(), letters[1..]);
}

#[tokio::test]
async fn what_is_given_back_goes_to_another() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let shop = with_disk(&lan, "shop", dir.path()).await;
    let first = start(&lan, "mailer").await;
    let mut pull = first.pull::<u32>("emails").await.unwrap();
    for n in 0..3u32 {
        drop(soon(shop.push("emails", &n).durable().into_future()).await.unwrap());
    }
    // One is being worked on, the others have come and nobody has looked at them.
    let held = soon(pull.recv()).await.unwrap().unwrap();
    let second = start(&lan, "mailer").await;
    let mut other = second.pull::<u32>("emails").await.unwrap();
    drop(pull);
    let mut got = vec![];
    for _ in 0..2 {
        let delivery = soon(other.recv()).await.unwrap().unwrap();
        assert_eq!(delivery.attempt, 1, "nobody has tried it");
        got.push(delivery.body);
        delivery.ack();
    }
    got.sort_unstable();
    assert_eq!(got, [1, 2]);
    drop(held);
    let delivery = soon(other.recv()).await.unwrap().unwrap();
    assert_eq!(delivery.body, 0);
    delivery.ack();
}

#[tokio::test]
async fn not_before_its_time_and_not_after_it() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let shop = with_disk(&lan, "shop", dir.path()).await;
    let later = shop.push("emails", "later").durable().after(Duration::from_millis(400));
    let later = soon(later.into_future()).await.unwrap();
    let gone = shop.push("emails", "gone").durable().expires(Duration::ZERO);
    let gone = soon(gone.into_future()).await.unwrap();
    let now = soon(shop.push("emails", "now").durable().into_future()).await.unwrap();
    let error = soon(gone.processed()).await.unwrap_err();
    assert!(error.to_string().contains("in its time"), "{error}");
    let mailer = start(&lan, "mailer").await;
    let mut pull = mailer.pull::<String>("emails").await.unwrap();
    for expected in ["now", "later"] {
        let delivery = soon(pull.recv()).await.unwrap().unwrap();
        assert_eq!(delivery.body, expected);
        delivery.ack();
    }
    soon(now.processed()).await.unwrap();
    soon(later.processed()).await.unwrap();
}

#[tokio::test]
async fn another_programs_file_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("store.db"), "somebody's notes, and quite long ones at that").unwrap();
    let error =
        Node::builder("shop").local(false).mdns(false).data_dir(dir.path()).start().await.err().unwrap();
    assert!(matches!(error, StartError::DataDir { .. }), "{error}");
    assert!(std::fs::read_to_string(dir.path().join("store.db")).unwrap().starts_with("somebody's"));
}

/// The ack of an item is lost with its sender, who delivers it again.
#[tokio::test]
async fn what_was_done_is_not_done_again() {
    let (lan, dir, kept) = (Memory::new(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let done = Arc::new(AtomicU32::new(0));
    let store = dir.path().join("store.db");
    let mut before = Vec::new();
    for round in 0..3 {
        let shop = with_disk(&lan, "shop", dir.path()).await;
        let receipt = match round {
            0 => {
                let receipt = soon(shop.push("emails", "x").durable().into_future()).await.unwrap();
                // As it is before the item is done: from here on both rounds after this one begin.
                let copy = dir.path().join("copy.db");
                rusqlite::Connection::open(&store)
                    .unwrap()
                    .execute("VACUUM INTO ?", [copy.to_str().unwrap()])
                    .unwrap();
                before = std::fs::read(&copy).unwrap();
                Some(receipt)
            }
            _ => None,
        };
        let mailer = with_disk(&lan, "mailer", kept.path()).await;
        let count = done.clone();
        let worker = mailer.work("emails", move |_: String, _| {
            count.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        });
        worker.await.unwrap();
        if let Some(receipt) = receipt {
            soon(receipt.processed()).await.unwrap();
        }
        // Behind the item in the same queue: when it was processed the item has been looked at, too.
        soon(soon(shop.push("emails", "y").durable().into_future()).await.unwrap().processed())
            .await
            .unwrap();
        soon(mailer.drain()).await;
        soon(shop.drain()).await;
        drop((shop, mailer));
        for name in ["store.db-wal", "store.db-shm", "store.db"] {
            let _ = std::fs::remove_file(dir.path().join(name));
        }
        std::fs::write(&store, &before).unwrap();
    }
    // "x" once, and "y" once: in the copy its id is that of the first one each time.
    assert_eq!(done.load(Ordering::Relaxed), 2);
}
