//! Both stores do the same, and the one on disk finds it again.

#![allow(clippy::unwrap_used)] // the helpers are tests, too

use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;

use super::{store::Act, *};

const LIMITS: Limits = Limits { messages: 1000, bytes: 1 << 20, seen_for: 100, seen: 8 };

fn open(path: &Path) -> Sqlite {
    Sqlite::open(path, "outbox-1", LIMITS).unwrap()
}

fn put(queue: &str, body: &'static str, now: u64) -> Write {
    let (created, due) = (Millis(now), Millis(now));
    Write::Put(NewItem {
        queue: queue.into(),
        body: Bytes::from(body),
        labels: Labels { trace: Some(format!("trace-{now}").into()), ..Labels::default() },
        created,
        due,
        expires: None,
    })
}

fn dead(item: Id) -> Write {
    Write::Dead(NewLetter {
        item,
        reason: Reason::Attempts,
        died: Millis(9),
        attempts: 5,
        error: "no such address".into(),
        chain: vec!["smtp".into(), "550".into()],
        instance: Some("mailer/abababab".into()),
    })
}

/// Everything that can be seen of a store.
fn all(store: &mut dyn Store) -> (Usage, Vec<String>, Vec<Item>, Vec<Letter>) {
    let queues = store.queues().unwrap();
    let items = ["a", "b"].iter().flat_map(|queue| store.page(queue, 0, 1000).unwrap()).collect();
    (store.usage(), queues, items, store.letters(0, 1000).unwrap())
}

#[test]
fn kept_until_done() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let minted = open(&path).commit(&[put("a", "one", 1), put("b", "two", 2), put("a", "three", 3)]).unwrap();
    assert_eq!(minted, [Some(1), Some(2), Some(3)]);
    let mut again = Sqlite::open(&path, "another name", LIMITS).unwrap();
    assert_eq!(again.outbox(), "outbox-1");
    assert_eq!(again.usage(), Usage { messages: 3, bytes: 11, letters: 0 });
    let bodies: Vec<_> = again.page("a", 0, 9).unwrap().into_iter().map(|item| item.body).collect();
    assert_eq!(bodies, ["one", "three"]);
    assert_eq!(again.page("a", 1, 9).unwrap().len(), 1);
    let retry = Write::Retry { id: 1, due: Millis(50), attempts: 1, error: "busy".into() };
    again.commit(&[retry, Write::Done(3), Write::Done(77)]).unwrap();
    drop(again);
    let mut again = open(&path);
    let item = again.item(1).unwrap().unwrap();
    assert_eq!((item.attempts, item.due, item.error.as_deref()), (1, Millis(50), Some("busy")));
    assert_eq!(again.item(3).unwrap(), None);
    // An id is never used again.
    assert_eq!(again.commit(&[Write::Done(1), Write::Done(2), put("a", "four", 4)]).unwrap()[2], Some(4));
    assert_eq!(again.queues().unwrap(), ["a"]);
}

/// However many go into one statement: each id is the one of its item.
#[test]
fn many_that_are_kept_together_have_their_own_ids() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sqlite, mut memory) = (open(&dir.path().join("store.db")), Memory::new("outbox-1", LIMITS));
    for store in [&mut sqlite as &mut dyn Store, &mut memory] {
        let mut writes: Vec<_> = (0..150).map(|n| (n, put(["a", "b"][n % 2], "", 1))).collect();
        for (n, write) in &mut writes {
            let Write::Put(item) = write else { unreachable!() };
            item.body = Bytes::from(format!("item {n}"));
        }
        let mut writes: Vec<_> = writes.into_iter().map(|(_, write)| write).collect();
        writes.insert(75, Write::Cancel(3));
        let minted = store.commit(&writes).unwrap();
        assert_eq!((minted.len(), minted[75]), (151, Some(3)));
        for (id, write) in minted.into_iter().zip(&writes) {
            let (Some(id), Write::Put(item)) = (id, write) else { continue };
            let found = store.item(id).unwrap().map(|found| (found.queue, found.body));
            assert_eq!(found, (id != 3).then(|| (item.queue.clone(), item.body.clone())));
        }
        assert_eq!(store.usage().messages, 149);
        assert_eq!(store.commit(&[put("a", "next", 2)]).unwrap(), [Some(151)]);
    }
}

#[test]
fn a_letter_is_replayed_once_and_stays_until_that_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sqlite, mut memory) = (open(&dir.path().join("store.db")), Memory::new("outbox-1", LIMITS));
    for store in [&mut sqlite as &mut dyn Store, &mut memory] {
        store.commit(&[put("a", "mail", 1)]).unwrap();
        store.commit(&[dead(1)]).unwrap();
        let letter = store.letters(0, 9).unwrap().remove(0);
        assert_eq!((&letter.body[..], letter.about.chain.len()), (&b"mail"[..], 2));
        let replay = Write::Replay { letter: letter.id, now: Millis(20) };
        let minted = store.commit(&[replay.clone(), replay]).unwrap();
        assert_eq!(minted, [Some(2), None]);
        assert_eq!(store.usage(), Usage { messages: 1, bytes: 4, letters: 1 });
        // It fails again: one letter, the newer one.
        store.commit(&[dead(2)]).unwrap();
        let letters = store.letters(0, 9).unwrap();
        assert_eq!(letters.iter().map(|letter| letter.about.item).collect::<Vec<_>>(), [2]);
        let replay = Write::Replay { letter: letters[0].id, now: Millis(30) };
        store.commit(&[replay]).unwrap();
        store.commit(&[Write::Done(3)]).unwrap();
        assert_eq!(store.usage(), Usage::default());
    }
}

#[test]
fn what_was_seen_is_forgotten_bit_by_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sqlite, mut memory) = (open(&dir.path().join("store.db")), Memory::new("outbox-1", LIMITS));
    let key = |id| SeenKey { sender: "orders".into(), outbox: "1".into(), id };
    for store in [&mut sqlite as &mut dyn Store, &mut memory] {
        for id in 1..=20 {
            store.commit(&[Write::Seen { key: key(id), at: Millis(0) }]).unwrap();
        }
        assert_eq!(store.seen().unwrap(), (13..=20).map(key).collect::<Vec<_>>());
        store.commit(&[Write::Seen { key: key(21), at: Millis(101) }]).unwrap();
        assert_eq!(store.seen().unwrap(), (15..=21).map(key).collect::<Vec<_>>());
    }
}

#[test]
fn other_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    std::fs::write(&path, "not a database, but somebody's notes").unwrap();
    assert!(matches!(Sqlite::open(&path, "x", LIMITS), Err(StoreError::Open { .. })));
    let other = dir.path().join("other.db");
    rusqlite::Connection::open(&other).unwrap().execute_batch("PRAGMA user_version = 3").unwrap();
    let error = Sqlite::open(&other, "x", LIMITS).err().unwrap();
    assert!(error.to_string().contains("another program's file"), "{error}");
    drop(open(&dir.path().join("newer.db")));
    let newer = dir.path().join("newer.db");
    rusqlite::Connection::open(&newer).unwrap().execute_batch("PRAGMA user_version = 9").unwrap();
    assert!(Sqlite::open(&newer, "x", LIMITS).err().unwrap().to_string().contains("update ripstop"));
}

/// What a file of version 1 had, written as it was then.
#[test]
fn a_file_of_an_earlier_release_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    open(&path).commit(&[put("a", "one", 1)]).unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    let back = "ALTER TABLE item DROP COLUMN doubt; ALTER TABLE item DROP COLUMN holder; ALTER TABLE item DROP COLUMN lost;
                ALTER TABLE item DROP COLUMN trace; ALTER TABLE letter DROP COLUMN trace;
                PRAGMA user_version = 1";
    db.execute_batch(back).unwrap();
    drop(db);
    let mut store = open(&path);
    let doubt = Doubt { since: Millis(2), holder: "node-1".into() };
    store.commit(&[Write::Doubt { id: 1, doubt: doubt.clone(), lost: true }]).unwrap();
    let item = open(&path).item(1).unwrap().unwrap();
    assert_eq!((&item.body[..], item.doubt, item.lost), (&b"one"[..], Some(doubt), 1));
}

/// Wherever a byte is flipped, no body comes back as another one, and nothing is missing without a word.
#[test]
fn a_flipped_byte_is_never_silent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let bodies: Vec<String> = (0..200).map(|n| format!("{n:04}{}", "x".repeat(60))).collect();
    {
        let mut store = open(&path);
        let created = Millis(1);
        let item = |body: &String| NewItem {
            queue: "a".into(),
            body: Bytes::from(body.clone()),
            labels: Labels::default(),
            created,
            due: created,
            expires: None,
        };
        store.commit(&bodies.iter().map(|body| Write::Put(item(body))).collect::<Vec<_>>()).unwrap();
        store.db_for_tests().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    }
    let whole = std::fs::read(&path).unwrap();
    let damaged = dir.path().join("damaged.db");
    let mut noticed = 0;
    for at in (0..whole.len()).step_by(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&damaged, &bytes).unwrap();
        for beside in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{beside}", damaged.display()));
        }
        let Ok(mut store) = Sqlite::open(&damaged, "x", LIMITS) else {
            noticed += 1;
            continue;
        };
        match store.page("a", 0, 1000) {
            Ok(items) => {
                let found: Vec<_> =
                    items.iter().map(|item| std::str::from_utf8(&item.body).unwrap()).collect();
                assert!(found.iter().all(|body| bodies.iter().any(|known| known == body)), "byte {at}");
                if found.len() < bodies.len() {
                    noticed += 1;
                    assert!(
                        store.damaged_for_tests() + found.len() >= bodies.len()
                            || store.is_broken_for_tests(),
                        "byte {at}: {} of {} silently",
                        found.len(),
                        bodies.len()
                    );
                }
            }
            Err(_) => noticed += 1,
        }
    }
    assert!(noticed > 50, "{noticed}");
}

#[derive(Clone, Debug)]
enum Step {
    Write(Write),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let queue = prop_oneof![Just("a"), Just("b")];
    let id = 1..30u64;
    prop_oneof![
        6 => (queue, 0..100u64).prop_map(|(queue, now)| Step::Write(put(queue, "body", now))),
        3 => id.clone().prop_map(|id| Step::Write(Write::Done(id))),
        3 => (id.clone(), 0..9u32).prop_map(|(id, attempts)| Step::Write(Write::Retry {
            id, attempts, due: Millis(7), error: "again".into(),
        })),
        3 => (id.clone(), 0..9u64, any::<bool>()).prop_map(|(id, since, lost)| Step::Write(Write::Doubt {
            id, lost, doubt: Doubt { since: Millis(since), holder: format!("node-{since}") },
        })),
        2 => id.clone().prop_map(|id| Step::Write(Write::Sure(id))),
        3 => id.clone().prop_map(|id| Step::Write(dead(id))),
        2 => (1..9u64).prop_map(|letter| Step::Write(Write::Replay { letter, now: Millis(5) })),
        1 => (1..9u64).prop_map(|letter| Step::Write(Write::Purge(letter))),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn on_disk_as_in_memory(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let (mut sqlite, mut memory) = (open(&path), Memory::new("outbox-1", LIMITS));
        for step in steps {
            match step {
                Step::Write(write) => {
                    let writes = [write];
                    prop_assert_eq!(sqlite.commit(&writes).unwrap(), memory.commit(&writes).unwrap());
                }
                Step::Reopen => {
                    drop(sqlite);
                    sqlite = open(&path);
                }
            }
            prop_assert_eq!(all(&mut sqlite), all(&mut memory));
        }
    }
}

#[tokio::test]
async fn many_share_one_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let (journal, thread) = Journal::start(Box::new(move || Ok(Box::new(open(&path)) as _)), LIMITS).unwrap();
    let puts = (0..100).map(|_| {
        let journal = journal.clone();
        tokio::spawn(async move { journal.commit(vec![put("a", "x", 1), Write::Done(0)]).await })
    });
    let mut ids = Vec::new();
    for put in puts.collect::<Vec<_>>() {
        let minted = put.await.unwrap().unwrap();
        assert_eq!((minted.len(), minted[1]), (2, None));
        ids.extend(minted[0]);
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=100).collect::<Vec<_>>());
    assert_eq!(journal.look(|store| Ok(store.usage().messages)).await, Ok(100));
    drop(journal);
    tokio::task::spawn_blocking(move || thread.join()).await.unwrap().unwrap();
}

/// A store whose disk fails when it is told to.
struct Failing(Memory, std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Store for Failing {
    fn outbox(&self) -> &str {
        self.0.outbox()
    }
    fn usage(&self) -> Usage {
        self.0.usage()
    }
    fn commit(&mut self, writes: &[Write]) -> Result<Vec<Option<Id>>, StoreError> {
        match self.1.load(std::sync::atomic::Ordering::Relaxed) {
            true => Err(StoreError::Disk { reason: "No space left on device".into() }),
            false => self.0.commit(writes),
        }
    }
    fn act(&mut self, act: Act) -> Result<(), StoreError> {
        self.0.act(act)
    }
    fn queues(&mut self) -> Result<Vec<String>, StoreError> {
        self.0.queues()
    }
    fn page(&mut self, queue: &str, after: Id, limit: usize) -> Result<Vec<Item>, StoreError> {
        self.0.page(queue, after, limit)
    }
    fn item(&mut self, id: Id) -> Result<Option<Item>, StoreError> {
        self.0.item(id)
    }
    fn seen(&mut self) -> Result<Vec<SeenKey>, StoreError> {
        self.0.seen()
    }
    fn letters(&mut self, after: Id, limit: usize) -> Result<Vec<Letter>, StoreError> {
        self.0.letters(after, limit)
    }
    fn depths(&mut self) -> Result<Vec<Depth>, StoreError> {
        self.0.depths()
    }
    fn groups(&mut self) -> Result<Vec<Group>, StoreError> {
        self.0.groups()
    }
    fn reply(&mut self, key: &ReplyKey) -> Result<Option<Bytes>, StoreError> {
        self.0.reply(key)
    }
}

#[tokio::test]
async fn a_disk_that_fails_is_told_and_tried_again() {
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (told, mut opened) = (broken.clone(), 0);
    let open: Box<dyn FnMut() -> Result<Box<dyn Store>, StoreError> + Send> = Box::new(move || {
        opened += 1;
        Ok(Box::new(Failing(Memory::new(&format!("opened {opened}"), LIMITS), told.clone())))
    });
    let (journal, _thread) = Journal::start(open, LIMITS).unwrap();
    assert_eq!(journal.commit(vec![put("a", "x", 1)]).await, Ok(vec![Some(1)]));
    broken.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = journal.commit(vec![put("a", "x", 1)]).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("No space left"), "{error}");
    broken.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(journal.commit(vec![put("a", "x", 1)]).await, Ok(vec![Some(1)]));
    assert_eq!(journal.look(|store| Ok(store.outbox().to_owned())).await, Ok("opened 2".into()));
}

#[tokio::test]
async fn full_is_said_before_anything_is_written() {
    let limits = Limits { messages: 2, ..LIMITS };
    let open: Box<dyn FnMut() -> Result<Box<dyn Store>, StoreError> + Send> =
        Box::new(move || Ok(Box::new(Memory::new("x", limits))));
    let (journal, _thread) = Journal::start(open, limits).unwrap();
    journal.commit(vec![put("a", "x", 1), put("a", "x", 1)]).await.unwrap();
    let full = journal.commit(vec![put("a", "x", 1)]).await.unwrap_err();
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
    journal.commit(vec![Write::Done(1)]).await.unwrap();
    journal.commit(vec![put("a", "x", 1)]).await.unwrap();
}

#[test]
fn a_store_can_be_looked_after_from_outside() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&dir.path().join("store.db"));
    let item = |n: u64| NewItem {
        queue: "a".into(),
        body: vec![7; 4096].into(),
        labels: Labels::default(),
        created: Millis(n),
        due: Millis(n),
        expires: None,
    };
    let ids = store.commit(&(0..500).map(|n| Write::Put(item(n))).collect::<Vec<_>>()).unwrap();
    let file = super::StoreFile::open(dir.path()).unwrap();
    assert_eq!((file.stats().unwrap().items, file.stats().unwrap().bytes), (500, 500 * 4096));
    let check = file.check().unwrap();
    assert!(check.is_whole() && check.items == 500, "{check:?}");
    store.commit(&ids[1..].iter().map(|id| Write::Done(id.unwrap())).collect::<Vec<_>>()).unwrap();
    let damage = "UPDATE item SET body = zeroblob(9) WHERE id = (SELECT min(id) FROM item)";
    store.db_for_tests().execute_batch(damage).unwrap();
    drop(store);
    let check = file.check().unwrap();
    assert!(!check.is_whole() && check.problems[0].contains("is damaged"), "{check:?}");
    let (before, after) = file.compact().unwrap();
    assert!(after * 4 < before, "{before} {after}");
    assert_eq!(file.stats().unwrap().items, 1);
    let lock = std::fs::File::create(dir.path().join("node.lock")).unwrap();
    lock.lock().unwrap();
    assert!(file.compact().unwrap_err().to_string().contains("a node uses it"));
}
