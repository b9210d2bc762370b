//! Each payment is booked once, although it is delivered more than once: the effect and the record of it are one transaction.
//!
//! Two instances of `accounts` book into one database, and the first is torn away after its commit and before it could say so. The SQL
//! is PostgreSQL's as well as SQLite's. With a `data_dir` and no database of its own, a handler has `Context::transaction` instead.
//!
//! `cargo run --example effects`

use std::path::PathBuf;

use ripstop::{
    Context, HandlerError, Node,
    config::Config,
    discovery::Memory,
    fabric::{EffectId, Ledger},
    rusqlite::{Connection, Error as SqlError, params},
};
use tokio::{runtime::Runtime, sync::mpsc};

const PAYMENTS: i64 = 20;

/// A connection pool, in a larger program.
#[derive(Clone)]
struct Bank(PathBuf);

impl Ledger for Bank {
    type Transaction = Connection;
    type Error = SqlError;

    async fn begin(&self, effect: &EffectId) -> Result<Option<Connection>, SqlError> {
        let db = self.open()?;
        db.execute_batch("BEGIN IMMEDIATE")?;
        let new =
            db.execute("INSERT INTO done (id) VALUES ($1) ON CONFLICT (id) DO NOTHING", [effect.as_str()])?;
        Ok((new == 1).then_some(db)) // a connection that is dropped rolls back
    }
}

impl Bank {
    fn open(&self) -> Result<Connection, SqlError> {
        let db = Connection::open(&self.0)?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS done (id TEXT PRIMARY KEY);
             CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY, cents BIGINT NOT NULL)",
        )?;
        Ok(db)
    }

    fn balance(&self) -> Result<i64, SqlError> {
        self.open()?.query_row("SELECT cents FROM account WHERE name = $1", ["ada"], |row| row.get(0))
    }
}

/// Books a payment; `true`: it is new.
async fn book(bank: &Bank, ctx: &Context, cents: i64) -> Result<bool, HandlerError> {
    let Some(tx) = ctx.begin(bank).await? else { return Ok(false) };
    let add = "INSERT INTO account (name, cents) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET cents = account.cents + excluded.cents";
    tx.execute(add, params!["ada", cents])?;
    tx.execute_batch("COMMIT")?;
    Ok(true)
}

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() -> Result {
    let (dir, lan) = (tempfile::tempdir()?, Memory::new());
    let bank = Bank(dir.path().join("bank.db"));
    let (tell, mut told) = mpsc::unbounded_channel();
    let instance = |name: &'static str, hangs: bool| {
        let (bank, tell, lan) = (bank.clone(), tell.clone(), lan.clone());
        async move {
            let node = Node::builder("accounts").local(false).source(lan.source()).start().await?;
            let handler = move |cents: i64, ctx: Context| {
                let (bank, tell) = (bank.clone(), tell.clone());
                async move {
                    let new = book(&bank, &ctx, cents).await?;
                    tell.send((name, new))?;
                    if hangs { std::future::pending().await } else { Ok(()) }
                }
            };
            node.work("accounts.book", handler).concurrency(4).await?;
            Ok::<_, ripstop::Error>(node)
        }
    };

    // A runtime of its own stands for a process: it is torn away with all that runs on it.
    let first = Runtime::new()?;
    let node = first.block_on(instance("first", true))?;
    let main = Runtime::new()?;
    main.block_on(async {
        let mut config = Config { data_dir: Some(dir.path().join("shop")), ..Config::default() };
        config.durable.same_first = std::time::Duration::ZERO; // it will not come back
        let shop = Node::builder("shop").config(config).local(false).source(lan.source()).start().await?;
        let mut receipts = Vec::new();
        for _ in 0..PAYMENTS {
            receipts.push(shop.push("accounts.book", &700i64).durable().await?);
        }
        for _ in 0..4 {
            told.recv().await;
        }
        println!("the first has booked 4 and is torn away before it says so");
        first.shutdown_background();
        std::mem::forget(node); // what is torn away does not leave in good order

        let second = instance("second", false).await?;
        for receipt in receipts {
            receipt.processed().await?;
        }
        let mut again = 0;
        while let Ok((name, new)) = told.try_recv() {
            again += u32::from(name == "second" && !new);
        }
        println!("the second was given all {PAYMENTS}, and found {again} booked already");
        let cents = bank.balance()?;
        println!("{PAYMENTS} payments of 7 EUR: the account has {} EUR", cents / 100);
        assert_eq!(cents, PAYMENTS * 700);
        shop.drain().await;
        second.drain().await;
        Result::Ok(())
    })
}
