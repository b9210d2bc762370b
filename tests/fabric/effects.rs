//! Effects that are had once: a handler's own changes, and the record that they were made, in one transaction.

use std::{
    future::{IntoFuture, pending},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ripstop::{
    Context, HandlerError, Node,
    discovery::Memory,
    fabric::{EffectId, Fate, Ledger},
    rusqlite::{self, Connection, OpenFlags},
};
use tokio::sync::mpsc;

use crate::common::{soon, start, with_disk};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS mailer_sent (mail TEXT NOT NULL)";
const INSERT: &str = "INSERT INTO mailer_sent VALUES (?)";

/// What the file in this data directory says was sent.
fn sent(dir: &Path) -> Vec<String> {
    rows(&dir.join("store.db"), "SELECT mail FROM mailer_sent ORDER BY rowid")
}

fn rows(file: &Path, select: &str) -> Vec<String> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut select = db.prepare(select).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

async fn send(ctx: &Context, mail: String) -> Result<(), HandlerError> {
    ctx.transaction(move |db| {
        db.execute_batch(TABLE)?;
        db.execute(INSERT, [mail])?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_committed_is_done_whatever_the_handler_says_then() {
    let (lan, dirs) = (Memory::new(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    let (shop, mailer) =
        (with_disk(&lan, "shop", dirs[0].path()).await, with_disk(&lan, "mailer", dirs[1].path()).await);
    let tried = Arc::new(AtomicU32::new(0));
    let count = tried.clone();
    let worker = mailer.work("emails", move |mail: String, ctx| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            send(&ctx, mail).await?;
            let again = send(&ctx, "twice".into()).await;
            assert!(again.unwrap_err().message().contains("one transaction for each delivery"));
            Err(HandlerError::new("after it was done"))
        }
    });
    worker.await.unwrap();
    let receipt = soon(shop.push("emails", "one").durable().into_future()).await.unwrap();
    assert_eq!(soon(receipt.processed()).await.unwrap(), Fate::Processed);
    assert_eq!((sent(dirs[1].path()), tried.load(Ordering::Relaxed)), (vec!["one".to_owned()], 1));
}

#[tokio::test]
async fn what_fails_or_panics_leaves_nothing_behind() {
    let (lan, dirs) = (Memory::new(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    let (shop, mailer) =
        (with_disk(&lan, "shop", dirs[0].path()).await, with_disk(&lan, "mailer", dirs[1].path()).await);
    let (tell, mut told) = mpsc::unbounded_channel();
    let worker = mailer.work("emails", move |mail: String, ctx| {
        let tell = tell.clone();
        async move {
            let attempt = ctx.attempt();
            tell.send((attempt, ctx.effect_id().unwrap(), ctx.fence()))?;
            let effect = move |db: &Connection| {
                db.execute_batch(TABLE)?;
                db.execute(INSERT, [&mail])?;
                match attempt {
                    1 => Err(HandlerError::new("no paper")),
                    2 => panic!("a bug"),
                    _ => Ok(()),
                }
            };
            ctx.transaction(effect)
                .await
                .map_err(|error| error.retry_after(std::time::Duration::from_millis(1)))
        }
    });
    worker.await.unwrap();
    let receipt = soon(shop.push("emails", "one").durable().into_future()).await.unwrap();
    assert_eq!(soon(receipt.processed()).await.unwrap(), Fate::Processed);
    assert_eq!(sent(dirs[1].path()), ["one"]);
    let told: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
    assert_eq!(told.iter().map(|(attempt, ..)| *attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(told.iter().all(|(_, id, _)| *id == told[0].1), "{told:?}");
    assert!(told.is_sorted_by(|(.., a), (.., b)| a < b), "{told:?}");
}

/// A node whose drain ends the handlers that do not end.
async fn impatient(lan: &Memory, service: &str, dir: Option<&Path>) -> Node {
    let mut config = ripstop::config::Config::default();
    config.timeouts.drain = std::time::Duration::from_millis(50);
    config.data_dir = dir.map(PathBuf::from);
    let builder = Node::builder(service).config(config).local(false).mdns(false).source(lan.source());
    builder.start().await.unwrap()
}

#[tokio::test]
async fn an_instance_that_dies_between_the_commit_and_the_ack_does_not_do_it_again() {
    let (lan, dirs) = (Memory::new(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    let shop = with_disk(&lan, "shop", dirs[0].path()).await;
    let mailer = impatient(&lan, "mailer", Some(dirs[1].path())).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let worker = mailer.work("emails", move |mail: String, ctx| {
        let tell = tell.clone();
        async move {
            send(&ctx, mail).await?;
            tell.send(())?;
            pending().await
        }
    });
    worker.await.unwrap();
    let receipt = soon(shop.push("emails", "one").durable().into_future()).await.unwrap();
    soon(told.recv()).await.unwrap();
    soon(mailer.drain()).await;
    drop(mailer);
    let mailer = with_disk(&lan, "mailer", dirs[1].path()).await;
    mailer.work("emails", |_: String, ctx| async move { send(&ctx, "again".into()).await }).await.unwrap();
    assert_eq!(soon(receipt.processed()).await.unwrap(), Fate::Processed);
    assert_eq!(sent(dirs[1].path()), ["one"]);
}

/// A database that instances share.
#[derive(Clone)]
struct Books(PathBuf);

struct Transaction(Connection);

impl Transaction {
    fn commit(self) -> rusqlite::Result<()> {
        self.0.execute_batch("COMMIT")
    }
}

impl Ledger for Books {
    type Transaction = Transaction;
    type Error = rusqlite::Error;

    async fn begin(&self, effect: &EffectId) -> rusqlite::Result<Option<Transaction>> {
        let db = Connection::open(&self.0)?;
        db.busy_timeout(crate::common::PATIENCE)?;
        db.execute_batch("BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS done (id TEXT PRIMARY KEY); CREATE TABLE IF NOT EXISTS sent (mail TEXT)")?;
        let new = db.execute("INSERT INTO done VALUES (?) ON CONFLICT DO NOTHING", [effect.as_str()])?;
        Ok((new == 1).then_some(Transaction(db)))
    }
}

#[tokio::test]
async fn instances_that_share_a_ledger_do_it_once_between_them() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let books = Books(dir.path().join("books.db"));
    let mut config = ripstop::config::Config { data_dir: Some(dir.path().into()), ..Default::default() };
    config.durable.same_first = std::time::Duration::ZERO;
    let shop = Node::builder("shop").config(config).local(false).mdns(false).source(lan.source());
    let shop = shop.start().await.unwrap();
    let first = impatient(&lan, "mailer", None).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let work = |hangs: bool| {
        let (books, tell) = (books.clone(), tell.clone());
        move |mail: String, ctx: Context| {
            let (books, tell) = (books.clone(), tell.clone());
            async move {
                let new = match ctx.begin(&books).await? {
                    Some(tx) => {
                        tx.0.execute("INSERT INTO sent VALUES (?)", [mail])?;
                        tx.commit()?;
                        true
                    }
                    None => false,
                };
                tell.send((hangs, new))?;
                if hangs { pending().await } else { Ok(()) }
            }
        }
    };
    first.work("emails", work(true)).await.unwrap();
    let receipt = soon(shop.push("emails", "one").durable().into_future()).await.unwrap();
    assert_eq!(soon(told.recv()).await.unwrap(), (true, true));
    let second = start(&lan, "mailer").await;
    second.work("emails", work(false)).await.unwrap();
    soon(first.drain()).await;
    assert_eq!(soon(told.recv()).await.unwrap(), (false, false), "the second finds it done");
    assert_eq!(soon(receipt.processed()).await.unwrap(), Fate::Processed);
    assert_eq!(rows(&books.0, "SELECT mail FROM sent"), ["one"]);
}

#[tokio::test]
async fn a_call_with_a_key_is_recorded_with_its_effect() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let (shop, mailer) = (start(&lan, "shop").await, impatient(&lan, "mailer", Some(dir.path())).await);
    let (tell, mut told) = mpsc::unbounded_channel();
    let serve = move |mail: String, ctx: Context| {
        let tell = tell.clone();
        async move {
            let effect = move |db: &Connection| {
                db.execute_batch(TABLE)?;
                db.execute(INSERT, [mail])?;
                Ok(db.last_insert_rowid())
            };
            let number = ctx.transaction(effect).await?;
            tell.send(number)?;
            pending::<Result<i64, HandlerError>>().await
        }
    };
    mailer.serve("mailer.send", serve).await.unwrap();
    let call = |node: &Node| node.call::<str, i64>("mailer.send", "one").idempotency_key("order-1");
    let asked = tokio::spawn(call(&shop).into_future());
    assert_eq!(soon(told.recv()).await.unwrap(), 1);
    soon(mailer.drain()).await;
    drop(mailer);
    asked.await.unwrap().unwrap_err();
    let mailer = with_disk(&lan, "mailer", dir.path()).await;
    mailer.serve("mailer.send", |_: String, _| async { Ok(-1i64) }).await.unwrap();
    assert_eq!(
        soon(call(&shop).into_future()).await.unwrap(),
        1,
        "what was recorded, not what the handler says now"
    );
    assert_eq!(sent(dir.path()), ["one"]);
}

#[tokio::test]
async fn what_has_no_name_or_no_disk_is_told_so() {
    let (lan, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let (shop, mailer) = (with_disk(&lan, "shop", dir.path()).await, start(&lan, "mailer").await);
    mailer
        .serve("mailer.send", |mail: String, ctx: Context| async move { send(&ctx, mail).await })
        .await
        .unwrap();
    let call = || shop.call::<str, ()>("mailer.send", "x");
    let error = soon(call().into_future()).await.unwrap_err().to_string();
    assert!(error.contains("push it durably, or call it with an idempotency key"), "{error}");
    let error = soon(call().idempotency_key("k").into_future()).await.unwrap_err().to_string();
    assert!(error.contains("set data_dir"), "{error}");
}

#[tokio::test]
async fn whoever_ends_the_transaction_that_it_was_given_is_told_so() {
    let (lan, dirs) = (Memory::new(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    let (shop, mailer) =
        (with_disk(&lan, "shop", dirs[0].path()).await, with_disk(&lan, "mailer", dirs[1].path()).await);
    let serve =
        |_: String, ctx: Context| async move { ctx.transaction(|db| Ok(db.execute_batch("COMMIT")?)).await };
    mailer.serve("mailer.send", serve).await.unwrap();
    let error =
        soon(shop.call::<str, ()>("mailer.send", "x").idempotency_key("k").into_future()).await.unwrap_err();
    assert!(error.to_string().contains("has ended the transaction"), "{error}");
}
