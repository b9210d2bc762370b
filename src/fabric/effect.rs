//! What is done once: its name, and how a handler commits its effect and the record of it together.
//!
//! An item is delivered at least once, and a call with a key may be repeated. The record of what was done is what makes it once, and
//! it is only as good as it is near: between an effect and its record a process can die. So they go into one transaction:
//!
//! ```text
//!   ctx.transaction(|db| …)     this node's own store      the handler's SQL and the record: one commit
//!   ctx.begin(&ledger)          any other database         a Ledger records ctx.effect_id() in the transaction that it begins
//! ```

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Names for ever what is to be done once: one item of durable work, or one call with an idempotency key. The same for each delivery and
/// each repetition, at whichever instance; different from every other.
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
/// node.work("emails", |_: String, ctx: ripstop::Context| async move {
///     println!("{:?}", ctx.effect_id().map(|id| id.to_string()));
///     Ok(())
/// }).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct EffectId(Box<str>);

impl EffectId {
    /// Its text, of printable characters; what a ledger uses as a primary key.
    ///
    /// ```no_run
    /// # fn f(ctx: ripstop::Context) {
    /// let key = ctx.effect_id().map(|id| id.as_str().to_owned());
    /// # }
    /// ```
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EffectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A database of the handler's own, in which an effect and the record of it are one transaction.
///
/// Instances that share the database share the record: what one of them has done, none does again, whichever of them gets it next. It
/// takes one table, whose primary key is the [`EffectId`]: begin a transaction, insert the id, and give the transaction back if that
/// inserted a row. Who comes second at the same time waits in the insert until the first has committed or rolled back, in any
/// database worth the name.
///
/// ```no_run
/// use ripstop::fabric::{EffectId, Ledger};
/// # struct Pool; struct Tx; #[derive(Debug)] struct SqlError;
/// # impl std::fmt::Display for SqlError { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("sql") } }
/// # impl std::error::Error for SqlError {}
/// # impl Pool { async fn begin(&self) -> Result<Tx, SqlError> { Ok(Tx) } }
/// # impl Tx {
/// #     async fn execute(&mut self, _: &str, _: &[&str]) -> Result<u64, SqlError> { Ok(1) }
/// #     async fn commit(self) -> Result<(), SqlError> { Ok(()) }
/// # }
///
/// impl Ledger for Pool {
///     type Transaction = Tx;
///     type Error = SqlError;
///
///     async fn begin(&self, effect: &EffectId) -> Result<Option<Tx>, SqlError> {
///         let mut tx = Pool::begin(self).await?;
///         let new = tx.execute("INSERT INTO done (id) VALUES ($1) ON CONFLICT DO NOTHING", &[effect.as_str()]).await?;
///         Ok((new == 1).then_some(tx))
///     }
/// }
///
/// # async fn f(node: ripstop::Node, pool: &'static Pool) -> ripstop::Result<()> {
/// node.work("payments.book", move |cents: u64, ctx: ripstop::Context| async move {
///     let Some(mut tx) = ctx.begin(pool).await? else { return Ok(()) }; // it was done before
///     tx.execute("UPDATE account SET cents = cents + $1", &[&cents.to_string()]).await?;
///     Ok(tx.commit().await?)
/// }).await?;
/// # Ok(()) }
/// ```
pub trait Ledger {
    /// A transaction of the database. Dropped without a commit, it has to roll back.
    type Transaction;
    /// What the database says when it fails.
    type Error: std::error::Error;

    /// Begins a transaction with the record of this effect in it; `None`: the effect is recorded already, and was had.
    ///
    /// # Errors
    /// Those of the database.
    fn begin(
        &self,
        effect: &EffectId,
    ) -> impl Future<Output = Result<Option<Self::Transaction>, Self::Error>> + Send;
}

/// What a handler is to do once, and whether that is on record.
#[derive(Clone)]
pub(crate) struct Effect {
    what: Arc<What>,
    #[cfg_attr(not(feature = "durable"), allow(dead_code))]
    recorded: Recorded,
}

/// Set when the effect was committed together with its record: whatever the handler says then, it is done.
#[derive(Clone, Default)]
pub(crate) struct Recorded(Arc<AtomicBool>);

impl Recorded {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    #[cfg(feature = "durable")]
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

pub(crate) enum What {
    /// An item of durable work: who owes it, and the outbox and the number that it gave it.
    Item { sender: Arc<str>, outbox: Arc<str>, id: u64 },
    /// A call with a key. `head` is what stands in front of a reply that is kept.
    Call {
        caller: Arc<str>,
        subject: Arc<str>,
        key: Box<str>,
        #[cfg_attr(not(feature = "durable"), allow(dead_code))]
        head: [u8; 5],
    },
}

impl Effect {
    pub(crate) fn new(what: What, recorded: Recorded) -> Self {
        Self { what: Arc::new(what), recorded }
    }

    pub(crate) fn id(&self) -> EffectId {
        // Subjects and outboxes have neither slashes nor quotes; whatever else has is quoted.
        EffectId(
            match &*self.what {
                What::Item { sender, outbox, id } => format!("item/{outbox}/{id}/{sender:?}"),
                What::Call { caller, subject, key, .. } => format!("call/{subject}/{key:?}/{caller:?}"),
            }
            .into(),
        )
    }
}

#[cfg(feature = "durable")]
mod own_store {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use bytes::Bytes;
    use serde::Serialize;
    use tokio::sync::oneshot;

    use super::{Effect, What};
    use crate::{
        durable::{Act, ReplyKey, SeenKey, Write},
        fabric::{
            calls::server::panic_text,
            error::HandlerError,
            shared::Shared,
            wire,
            work::outbox::{Outbox, now},
        },
    };

    impl Effect {
        fn record(&self, reply: &Bytes) -> Write {
            match &*self.what {
                What::Item { sender, outbox, id } => {
                    let key = SeenKey { sender: sender.to_string(), outbox: outbox.to_string(), id: *id };
                    Write::Seen { key, at: now() }
                }
                What::Call { caller, subject, key, head } => {
                    let (caller, subject) = (caller.to_string(), subject.to_string());
                    let key = ReplyKey { caller, subject, key: key.to_string() };
                    Write::Reply { key, body: [&head[..], reply].concat().into(), at: now() }
                }
            }
        }

        /// Has `effect` done and recorded in one transaction of this node's store.
        pub(crate) async fn transaction<R, F>(self, shared: &Shared, effect: F) -> Result<R, HandlerError>
        where
            R: Serialize + Send + 'static,
            F: FnOnce(&rusqlite::Connection) -> Result<R, HandlerError> + Send + 'static,
        {
            if self.recorded.is_set() {
                return Err(
                    HandlerError::new("one transaction for each delivery: this one has had it").permanent()
                );
            }
            let outbox = Outbox::of(shared)?;
            let (tell, told) = oneshot::channel();
            let this = self.clone();
            let act: Act = Box::new(move |db| {
                let done = catch_unwind(AssertUnwindSafe(|| effect(db)));
                let done = done.unwrap_or_else(|panic| {
                    Err(HandlerError::new(format!("the transaction panicked: {}", panic_text(&*panic))))
                });
                let recorded = done.and_then(|done| Ok((this.record(&wire::body(&done)?), done)));
                let (record, done) = match recorded {
                    Ok((record, done)) => (Some(record), Ok(done)),
                    Err(error) => (None, Err(error)),
                };
                let _ = tell.send(done);
                record
            });
            // Not given up half way: whether it is done has to be known, and another task may be what is cancelled.
            let committed = outbox.journal().look(move |store| store.act(act)).await;
            let done = told.await.map_err(|_| HandlerError::new("the store is closed for now"));
            committed?;
            let done = done??;
            self.recorded.set();
            Ok(done)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ() {
        let call = |subject: &str, key: &str, caller: &str| {
            let (caller, subject, key) = (caller.into(), subject.into(), key.into());
            Effect::new(What::Call { caller, subject, key, head: [0; 5] }, Recorded::default()).id()
        };
        let item = |sender: &str, id| {
            let what = What::Item { sender: sender.into(), outbox: "ab".into(), id };
            Effect::new(what, Recorded::default()).id()
        };
        assert_eq!(item("shop", 7).as_str(), "item/ab/7/\"shop\"");
        assert_eq!(call("pay", "7", "shop"), call("pay", "7", "shop"));
        let all = [
            item("shop", 7),
            item("shop", 8),
            item("mail", 7),
            call("pay", "7", "shop"),
            call("pay", "7\"/\"", "shop"),
            call("pay", "7", "\"/\"shop"),
            call("pay.now", "7", "shop"),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
