//! The store's thread: whatever waits for the disk becomes one transaction, and all of it is answered after one fsync.
//!
//! Nobody waits for others to come: a transaction begins as soon as the one before is on disk, with all that has been asked
//! for meanwhile. So a lone sender pays for one fsync, and a hundred pay for one together.

use std::{
    mem,
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::sync::{mpsc, oneshot};

use super::{Id, Limits, Store, StoreError, Usage, Write};

/// Requests that may wait; one more waits to be taken in.
const WAITING: usize = 4096;
/// Changes in one transaction.
const TOGETHER: usize = 4096;

/// The way to a store for everyone who may not block. Cheap to clone; with the last one the thread ends, when all that was
/// asked for is done.
#[derive(Clone)]
pub(crate) struct Journal {
    requests: mpsc::Sender<Request>,
    outbox: Arc<str>,
}

type Look = Box<dyn FnOnce(&mut dyn Store) + Send>;
type Committed = oneshot::Sender<Result<Vec<Option<Id>>, StoreError>>;

enum Request {
    Commit {
        writes: Vec<Write>,
        done: Committed,
    },
    Look(Look),
    /// All that was asked for before is done, and the file is let go.
    Close(oneshot::Sender<()>),
}

/// Opens the store, and again after it failed.
pub(crate) type Open = Box<dyn FnMut() -> Result<Box<dyn Store>, StoreError> + Send>;

impl Journal {
    /// Opens the store here, so that whatever is wrong with it is known at once, and gives it a thread.
    ///
    /// # Errors
    /// Those of `open`; and [`StoreError::Disk`] when there can be no thread.
    pub(crate) fn start(mut open: Open, limits: Limits) -> Result<(Self, JoinHandle<()>), StoreError> {
        let store = open()?;
        tell(&store.usage());
        let outbox = store.outbox().into();
        let (requests, asked) = mpsc::channel(WAITING);
        let keeper = Keeper { store: Some(store), open, limits };
        let thread = thread::Builder::new().name("ripstop-store".into()).spawn(move || keeper.run(asked));
        let thread = thread.map_err(|error| StoreError::Disk { reason: error.to_string() })?;
        Ok((Self { requests, outbox }, thread))
    }

    /// What names this store for ever.
    pub(crate) fn outbox(&self) -> &Arc<str> {
        &self.outbox
    }

    /// Has changes made, all or none; they are on disk when this returns. Gives for each the id that it minted, if it
    /// did. Not undone when it is cancelled.
    pub(crate) async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Option<Id>>, StoreError> {
        let (done, answer) = oneshot::channel();
        let asked = self.requests.send(Request::Commit { writes, done }).await;
        asked.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Lets the store go, behind all changes that were asked for before; whatever is asked for later is [`StoreError::Closed`].
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.requests.send(Request::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// Reads, behind all changes that were asked for before.
    pub(crate) async fn look<R, F>(&self, look: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&mut dyn Store) -> Result<R, StoreError> + Send + 'static,
    {
        let (done, answer) = oneshot::channel();
        let look: Look = Box::new(move |store| drop(done.send(look(store))));
        self.requests.send(Request::Look(look)).await.map_err(|_| StoreError::Closed)?;
        // Dropped unread: the store could not be opened again.
        answer
            .await
            .unwrap_or_else(|_| Err(StoreError::Disk { reason: "the store is closed for now".into() }))
    }
}

struct Keeper {
    /// `None`: it failed, and is opened again with the next request.
    store: Option<Box<dyn Store>>,
    open: Open,
    limits: Limits,
}

impl Keeper {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut batch: Vec<(Vec<Write>, Committed)> = Vec::new();
        while let Some(first) = requests.blocking_recv() {
            let (mut next, mut together) = (Some(first), 0);
            while let Some(request) = next {
                match request {
                    Request::Commit { writes, done } => {
                        together += writes.len();
                        batch.push((writes, done));
                    }
                    Request::Look(look) => {
                        self.commit(mem::take(&mut batch));
                        together = 0;
                        if let Ok(store) = self.opened() {
                            look(&mut **store);
                        }
                    }
                    Request::Close(done) => {
                        self.commit(mem::take(&mut batch));
                        drop((self, requests));
                        let _ = done.send(());
                        return;
                    }
                }
                next = if together < TOGETHER { requests.try_recv().ok() } else { None };
            }
            self.commit(mem::take(&mut batch));
        }
    }

    fn opened(&mut self) -> Result<&mut Box<dyn Store>, StoreError> {
        if self.store.is_none() {
            self.store = Some((self.open)()?);
            tracing::info!("the store was opened again");
        }
        self.store.as_mut().ok_or(StoreError::Closed)
    }

    fn commit(&mut self, batch: Vec<(Vec<Write>, Committed)>) {
        if batch.is_empty() {
            return;
        }
        let limits = self.limits;
        let store = match self.opened() {
            Ok(store) => store,
            Err(error) => return fail(batch.into_iter().map(|(_, done)| done), &error),
        };
        let mut usage = store.usage();
        let (mut writes, mut waiting) = (Vec::new(), Vec::with_capacity(batch.len()));
        for (asked, done) in batch {
            match room(&asked, &mut usage, &limits) {
                Ok(()) => {
                    waiting.push((asked.len(), done));
                    writes.extend(asked);
                }
                Err(full) => drop(done.send(Err(full))),
            }
        }
        match store.commit(&writes) {
            Ok(ids) => {
                tell(&store.usage());
                let mut ids = ids.into_iter();
                for (asked, done) in waiting {
                    let _ = done.send(Ok(ids.by_ref().take(asked).collect()));
                }
            }
            Err(error) => {
                metrics::counter!("ripstop_store_errors_total", "reason" => "commit").increment(1);
                tracing::error!(%error, "nothing is accepted until the store works again");
                // What is on disk now only the disk knows.
                self.store = None;
                fail(waiting.into_iter().map(|(_, done)| done), &error);
            }
        }
    }
}

/// How much there is, for whoever watches; once for all that was written together.
fn tell(usage: &Usage) {
    metrics::gauge!("ripstop_outbox_items").set(usage.messages as f64);
    metrics::gauge!("ripstop_outbox_bytes").set(usage.bytes as f64);
    metrics::gauge!("ripstop_dead_letters").set(usage.letters as f64);
}

fn fail(waiting: impl Iterator<Item = Committed>, error: &StoreError) {
    waiting.for_each(|done| drop(done.send(Err(error.clone()))));
}

/// Whether what is to be kept fits beside what is.
fn room(writes: &[Write], usage: &mut Usage, limits: &Limits) -> Result<(), StoreError> {
    let mut after = *usage;
    for write in writes {
        if let Write::Put(item) = write {
            after.messages += 1;
            after.bytes += item.body.len() as u64;
        }
    }
    if after == *usage {
        return Ok(());
    }
    if after.messages > limits.messages {
        return Err(StoreError::Full { what: "too many messages", limit: "durable.messages" });
    }
    if after.bytes > limits.bytes {
        return Err(StoreError::Full { what: "too many bytes", limit: "durable.bytes" });
    }
    *usage = after;
    Ok(())
}
