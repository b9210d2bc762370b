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
    config::Config,
    discovery::Memory,
    fabric::{Death, Fate, PushError, StartError},
};
use tokio::sync::mpsc;

use crate::common::{soon, start, with_disk};

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
    assert!(shop.dead_letters().replay(letters[0].id).await.unwrap().is_some());
    assert!(shop.dead_letters().replay(letters[0].id).await.unwrap().is_none());
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

#[tokio::test]
async fn items_of_one_key_go_one_after_the_other_and_a_failing_key_stops_only_itself() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let shop = with_disk(&lan, "shop", dir.path()).await;
    let mut receipts = Vec::new();
    for n in 0..60u32 {
        let key = ["poisoned", "a", "b"][n as usize % 3];
        receipts.push(soon(shop.push("accounts", &n).durable().key(key).into_future()).await.unwrap());
    }
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut workers = Vec::new();
    for name in ["one", "two"] {
        let node = start(&lan, name).await;
        let mut pull = node.pull::<u32>("accounts").await.unwrap();
        let tell = tell.clone();
        workers.push(node);
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = pull.recv().await {
                let key = delivery.key.clone().unwrap();
                match &*key {
                    "poisoned" => delivery.nack("no such account", Some(Duration::from_millis(1))),
                    _ => delivery.ack(),
                }
                tell.send((key, delivery.body, delivery.attempt, delivery.fence, name)).unwrap();
            }
        });
    }
    let (mut seen, mut fences) = (std::collections::HashMap::new(), std::collections::HashMap::new());
    // Forty that work, and the first of the poisoned key five times: only then the next.
    for _ in 0..40 + 20 * 5 {
        let (key, body, attempt, fence, at) = soon(told.recv()).await.unwrap();
        let last = fences.insert(key.clone(), fence);
        assert!(last < Some(fence), "{key}: {last:?} and then {fence}");
        seen.entry(key).or_insert_with(Vec::new).push((body, attempt, at));
    }
    for (key, start) in [("a", 1), ("b", 2)] {
        let seen = &seen[key];
        assert!(seen.iter().map(|(body, ..)| *body).eq((start..60).step_by(3)), "{key}: {seen:?}");
        assert!(seen.iter().all(|(_, _, at)| *at == seen[0].2), "{key} has moved: {seen:?}");
    }
    let poisoned = (0..60).step_by(3).flat_map(|body| (1..=5).map(move |attempt| (body, attempt)));
    assert!(seen["poisoned"].iter().map(|(body, attempt, _)| (*body, *attempt)).eq(poisoned));
    for (n, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(soon(receipt.processed()).await.is_ok(), n % 3 != 0);
    }
    assert_eq!(shop.dead_letters().list(0, 100).await.unwrap().len(), 20);
}

#[tokio::test]
async fn a_key_moves_when_its_instance_goes() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let shop = with_disk(&lan, "shop", dir.path()).await;
    let (one, two) = (start(&lan, "one").await, start(&lan, "two").await);
    let (mut a, mut b) =
        (one.pull::<u32>("accounts").await.unwrap(), two.pull::<u32>("accounts").await.unwrap());
    let first = soon(shop.push("accounts", &1u32).durable().key("k").into_future()).await.unwrap();
    let second = soon(shop.push("accounts", &2u32).durable().key("k").into_future()).await.unwrap();
    let (delivery, mut other, owner, its) = tokio::select! {
        delivery = a.recv() => (delivery, b, one, a),
        delivery = b.recv() => (delivery, a, two, b),
    };
    let delivery = delivery.unwrap().unwrap();
    assert_eq!(delivery.body, 1);
    delivery.ack();
    soon(first.processed()).await.unwrap();
    // What it has and has not taken is given back; a drain would wait for it to be taken.
    drop(its);
    soon(owner.drain()).await;
    let delivery = soon(other.recv()).await.unwrap().unwrap();
    assert_eq!(delivery.body, 2);
    delivery.ack();
    soon(second.processed()).await.unwrap();
}

#[tokio::test]
async fn it_can_be_looked_at_taken_away_and_hurried() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let shop = with_disk(&lan, "shop", dir.path()).await;
    let hour = Duration::from_secs(3600);
    let later = soon(shop.push("emails", "later").durable().after(hour).into_future()).await.unwrap();
    let at = std::time::SystemTime::now() + hour;
    let never = soon(shop.push("emails", "never").durable().at(at).into_future()).await.unwrap();
    let kept = shop.kept();
    let queues = kept.queues().await.unwrap();
    assert_eq!((queues.len(), queues[0].items, queues[0].under_way), (1, 2, 0));
    let items = kept.list("emails", 0, 10).await.unwrap();
    assert_eq!(
        items.iter().map(|item| item.body::<String>().unwrap()).collect::<Vec<_>>(),
        ["later", "never"]
    );
    assert!(items[1].due >= at - Duration::from_millis(1) && items[1].due > items[1].pushed);
    assert!(kept.cancel(never.id()).await.unwrap() && !kept.cancel(never.id()).await.unwrap());
    assert!(
        matches!(soon(never.processed()).await, Err(PushError::Dead { reason, .. }) if reason.contains("cancelled"))
    );
    let mut pull = start(&lan, "mailer").await.pull::<String>("emails").await.unwrap();
    assert!(kept.flush(later.id()).await.unwrap());
    let delivery = soon(pull.recv()).await.unwrap().unwrap();
    assert_eq!(delivery.body, "later");
    assert!(delivery.first_seen.unwrap() <= std::time::SystemTime::now() && delivery.topic.is_none());
    delivery.extend();
    delivery.ack();
    let id = later.id();
    soon(later.processed()).await.unwrap();
    assert_eq!(kept.get(id).await.unwrap(), None);
    assert!(!kept.flush(id).await.unwrap());
}

#[tokio::test]
async fn a_worker_that_says_nothing_loses_its_lease() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let shop = sender(&lan, dir.path(), "lease = '1s'\nsame_first = '0s'").await;
    let mut stuck = start(&lan, "stuck").await.pull::<u32>("films").prefetch(1).await.unwrap();
    let receipt = soon(shop.push("films", &1u32).durable().into_future()).await.unwrap();
    let held = soon(stuck.recv()).await.unwrap().unwrap();
    let mut pull = start(&lan, "other").await.pull::<u32>("films").prefetch(1).await.unwrap();
    let delivery = soon(pull.recv()).await.unwrap().unwrap();
    assert!(delivery.fence > held.fence);
    // Too late: it is somebody else's now.
    held.nack("at last", None);
    delivery.ack();
    soon(receipt.processed()).await.unwrap();
    assert_eq!(shop.dead_letters().list(0, 10).await.unwrap(), []);
}

#[tokio::test]
async fn another_node_can_look() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let shop = with_disk(&lan, "shop", dir.path()).await;
    let (worker, operator) = (start(&lan, "worker").await, start(&lan, "operator").await);
    worker
        .work("emails", |_: String, _| async { Err(HandlerError::new("no such address").permanent()) })
        .await
        .unwrap();
    let hour = Duration::from_secs(3600);
    let later = soon(shop.push("later", "x").durable().after(hour).into_future()).await.unwrap();
    let refused = soon(shop.push("emails", "y").durable().into_future()).await.unwrap();
    soon(refused.processed()).await.unwrap_err();
    while !operator.directory().all().iter().any(|known| known.advert.node == Some(shop.id())) {
        tokio::task::yield_now().await;
    }
    let (kept, letters) = (operator.kept().at(shop.id()), operator.dead_letters().at(shop.id()));
    assert_eq!(soon(kept.queues()).await.unwrap(), shop.kept().queues().await.unwrap());
    assert_eq!(soon(kept.list("later", 0, 9)).await.unwrap()[0].body::<String>().unwrap(), "x");
    assert_eq!(soon(letters.list(0, 9)).await.unwrap(), shop.dead_letters().list(0, 9).await.unwrap());
    let letter = &soon(letters.list(0, 9)).await.unwrap()[0];
    assert_eq!((letter.death, &*letter.error, letter.attempts), (Death::Refused, "no such address", 1));
    assert!(soon(kept.cancel(later.id())).await.unwrap() && !soon(kept.cancel(later.id())).await.unwrap());
    assert!(soon(kept.get(later.id())).await.unwrap().is_none());
    assert!(soon(letters.purge(letter.id)).await.unwrap() && !soon(letters.purge(letter.id)).await.unwrap());
    // One without a store, and one that is not there.
    let error = soon(operator.kept().at(worker.id()).queues()).await.unwrap_err();
    assert!(matches!(error, PushError::NoStore), "{error}");
    let error = soon(operator.kept().at("7".repeat(32).parse().unwrap()).queues()).await.unwrap_err();
    assert!(matches!(error, PushError::Elsewhere { .. }), "{error}");
    // It is nobody's method: nothing about it is told.
    assert!(operator.peers().await.iter().all(|peer| peer.roots.iter().all(|root| !root.starts_with('$'))));
}

/// A sender that has this to say of durable work.
async fn sender(lan: &Memory, dir: &Path, durable: &str) -> Node {
    let config = Config::parse(&format!("[durable]\n{durable}")).unwrap();
    let builder = Node::builder("shop").config(config).local(false).mdns(false).source(lan.source());
    builder.data_dir(dir).start().await.unwrap()
}

#[tokio::test]
async fn a_pinned_item_goes_back_to_whoever_had_it_and_to_nobody_else_until_it_is_released() {
    let (lan, dirs) = (Memory::new(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    let shop = sender(&lan, dirs[0].path(), "pinned = ['payments.*']\nsame_first = '0s'").await;
    let first = with_disk(&lan, "bank", dirs[1].path()).await;
    let mut pull = first.pull::<u32>("payments.book").await.unwrap();
    let receipts = [
        soon(shop.push("payments.book", &1u32).durable().into_future()).await.unwrap(),
        soon(shop.push("payments.book", &2u32).durable().into_future()).await.unwrap(),
    ];
    let held = [soon(pull.recv()).await.unwrap().unwrap(), soon(pull.recv()).await.unwrap().unwrap()];
    // They are never given back, and their instance goes: nothing says whether they were done.
    held.into_iter().for_each(std::mem::forget);
    let id = first.id().to_string();
    drop(pull);
    soon(first.drain()).await;
    drop(first);
    let second = start(&lan, "bank").await;
    let mut other = second.pull::<u32>("payments.book").await.unwrap();
    let third = soon(shop.push("payments.book", &3u32).durable().into_future()).await.unwrap();
    let delivery = soon(other.recv()).await.unwrap().unwrap();
    assert_eq!(delivery.body, 3, "what nobody has had goes to whoever is there");
    delivery.ack();
    soon(third.processed()).await.unwrap();
    let kept = shop.kept().list("payments.book", 0, 9).await.unwrap();
    assert!(
        kept.iter().all(|item| item.holder.as_deref() == Some(&id) && item.in_doubt.is_some()),
        "{kept:?}"
    );
    assert_eq!(kept.iter().map(|item| item.lost).collect::<Vec<_>>(), [1, 1]);
    // Somebody knows that the first will not come back for this one.
    assert!(shop.kept().release(receipts[0].id()).await.unwrap());
    let delivery = soon(other.recv()).await.unwrap().unwrap();
    assert_eq!(delivery.body, 1);
    delivery.ack();
    // And for the other it does.
    let again = with_disk(&lan, "bank", dirs[1].path()).await;
    let mut pull = again.pull::<u32>("payments.book").await.unwrap();
    let delivery = soon(pull.recv()).await.unwrap().unwrap();
    assert_eq!(delivery.body, 2);
    delivery.ack();
    for receipt in receipts {
        assert_eq!(soon(receipt.processed()).await.unwrap(), Fate::Processed);
    }
}

#[tokio::test]
async fn what_says_nothing_itself_lives_as_long_as_is_configured() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let shop = sender(&lan, dir.path(), "expires = '20ms'").await;
    let short = soon(shop.push("emails", "x").durable().into_future()).await.unwrap();
    let hour = Duration::from_secs(3600);
    let long = soon(shop.push("emails", "y").durable().expires(hour).into_future()).await.unwrap();
    let kept = shop.kept().list("emails", 0, 9).await.unwrap();
    let lives = |item: &ripstop::fabric::KeptItem| item.expires.unwrap().duration_since(item.pushed).unwrap();
    assert_eq!(kept.iter().map(lives).collect::<Vec<_>>(), [Duration::from_millis(20), hour]);
    let error = soon(short.processed()).await.unwrap_err();
    assert!(matches!(error, PushError::Dead { .. }), "{error}");
    assert_eq!(shop.dead_letters().list(0, 9).await.unwrap()[0].death, Death::Expired);
    drop(long);
}

/// Pulls one item, and is lost together with it.
async fn take_and_go(lan: &Memory, service: &str, queue: &str) {
    let node = start(lan, service).await;
    let mut pull = node.pull::<u32>(queue).prefetch(1).await.unwrap();
    std::mem::forget(soon(pull.recv()).await.unwrap().unwrap());
    drop(pull);
    soon(node.drain()).await;
}

#[tokio::test]
async fn what_kills_each_of_its_workers_becomes_a_dead_letter() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let shop = sender(&lan, dir.path(), "losses = 3\nsame_first = '0s'").await;
    let receipt = soon(shop.push("films", &1u32).durable().into_future()).await.unwrap();
    for _ in 0..3 {
        take_and_go(&lan, "worker", "films").await;
    }
    let error = soon(receipt.processed()).await.unwrap_err();
    assert!(matches!(&error, PushError::Dead { reason, .. } if reason.contains("3 times")), "{error}");
    let letters = shop.dead_letters().list(0, 9).await.unwrap();
    assert_eq!((letters.len(), letters[0].death, letters[0].attempts), (1, Death::Lost, 0));
}

#[tokio::test]
async fn what_nobody_would_remember_is_not_done_again() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let shop = sender(&lan, dir.path(), "dedup_for = '50ms'\nsame_first = '0s'").await;
    let receipt = soon(shop.push("films", &1u32).durable().into_future()).await.unwrap();
    take_and_go(&lan, "worker", "films").await;
    let since = loop {
        let kept = shop.kept().get(receipt.id()).await.unwrap().unwrap();
        if let Some(since) = kept.in_doubt {
            break since;
        }
        tokio::task::yield_now().await;
    };
    // The window is over: time is what is waited for.
    while since.elapsed().unwrap() < Duration::from_millis(51) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut pull = start(&lan, "worker").await.pull::<u32>("films").await.unwrap();
    let error = soon(receipt.processed()).await.unwrap_err();
    assert!(
        matches!(&error, PushError::Dead { reason, .. } if reason.contains("may have been done")),
        "{error}"
    );
    assert_eq!(shop.dead_letters().list(0, 9).await.unwrap()[0].death, Death::Doubt);
    let next = soon(shop.push("films", &2u32).durable().into_future()).await.unwrap();
    let delivery = soon(pull.recv()).await.unwrap().unwrap();
    assert_eq!(delivery.body, 2, "the first is not handed out again");
    delivery.ack();
    soon(next.processed()).await.unwrap();
}

#[tokio::test]
async fn what_comes_out_of_a_piece_of_work_has_its_trace_id_and_so_has_a_letter() {
    let (lan, dirs) = (Memory::new(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    let (shop, mailer) =
        (with_disk(&lan, "shop", dirs[0].path()).await, with_disk(&lan, "mailer", dirs[1].path()).await);
    let (tell, mut told) = mpsc::unbounded_channel();
    let worker = mailer.work("emails", move |mail: String, ctx: ripstop::Context| {
        let tell = tell.clone();
        async move {
            tell.send(ctx.trace_id().unwrap().to_owned())?;
            ctx.node().push("archive", &mail).durable().await?;
            Err(HandlerError::new("no such address").permanent())
        }
    });
    worker.await.unwrap();
    let receipt = soon(shop.push("emails", "x").durable().into_future()).await.unwrap();
    soon(receipt.processed()).await.unwrap_err();
    let id = told.recv().await.unwrap();
    assert_eq!(id.len(), 32);
    let letter = shop.dead_letters().list(0, 9).await.unwrap().remove(0);
    let archived = mailer.kept().list("archive", 0, 9).await.unwrap().remove(0);
    assert_eq!([letter.trace_id, archived.trace_id], [Some(id.clone()), Some(id.clone())]);
    // Tried again it is the same request, and another push is another.
    shop.dead_letters().replay(letter.id).await.unwrap().unwrap();
    assert_eq!(soon(told.recv()).await.unwrap(), id);
    let other = soon(shop.push("later", "x").durable().into_future()).await.unwrap();
    assert_ne!(shop.kept().get(other.id()).await.unwrap().unwrap().trace_id, Some(id));
}

#[tokio::test]
async fn what_expires_behind_something_that_waits_does_not_wait_with_it() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let shop = with_disk(&lan, "shop", dir.path()).await;
    let first = soon(shop.push("emails", "x").durable().into_future()).await.unwrap();
    let short = Duration::from_millis(20);
    let second = soon(shop.push("emails", "y").durable().expires(short).into_future()).await.unwrap();
    let error = soon(second.processed()).await.unwrap_err();
    assert!(matches!(error, PushError::Dead { .. }), "{error}");
    assert!(shop.kept().get(first.id()).await.unwrap().is_some());
}
