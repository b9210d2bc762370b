//! A network in memory, for tests and for programs that keep a whole fabric in one process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::{Advert, BoxFuture, Change, Changes, DiscoveryError, Key, Source};
use crate::sync::lock;

/// Changes that a reader may fall behind before its channel is closed.
const CHANNEL: usize = 1024;

/// A network in memory: what one of its sources announces, all others see. Clones are the same network.
///
/// ```
/// use ripstop::discovery::Memory;
/// let lan = Memory::new();
/// let (_here, _there) = (lan.source(), lan.source());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Memory {
    lan: Arc<Mutex<Lan>>,
}

#[derive(Debug, Default)]
struct Lan {
    next: u64,
    adverts: BTreeMap<u64, Advert>,
    watchers: Vec<mpsc::Sender<Change>>,
}

impl Memory {
    /// A network without anybody.
    ///
    /// ```
    /// let _lan = ripstop::discovery::Memory::new();
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// A source for one more node.
    ///
    /// ```
    /// # use ripstop::discovery::{Memory, Source};
    /// assert_eq!(Memory::new().source().name(), "memory");
    /// ```
    pub fn source(&self) -> MemorySource {
        let mut lan = lock(&self.lan);
        lan.next += 1;
        MemorySource { lan: self.lan.clone(), id: lan.next }
    }

    /// Closes every watcher's channel, as a source does that fell behind. Directories open theirs again.
    ///
    /// ```
    /// ripstop::discovery::Memory::new().disturb();
    /// ```
    pub fn disturb(&self) {
        lock(&self.lan).watchers.clear();
    }
}

/// One node's place in a [`Memory`] network. Dropping it withdraws its advert.
///
/// ```
/// # use ripstop::discovery::{Memory, MemorySource};
/// let source: MemorySource = Memory::new().source();
/// ```
#[derive(Debug)]
pub struct MemorySource {
    lan: Arc<Mutex<Lan>>,
    id: u64,
}

impl Lan {
    fn tell(&mut self, change: &Change) {
        // A full channel is closed: its reader opens another and is told everything.
        self.watchers.retain(|watcher| watcher.try_send(change.clone()).is_ok());
    }

    fn withdraw(&mut self, id: u64) {
        if let Some(key) = self.adverts.remove(&id).and_then(|advert| advert.key()) {
            self.tell(&Change::Down(key));
        }
    }
}

impl Source for MemorySource {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn announce(&self, advert: Advert) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        let mut lan = lock(&self.lan);
        let before: Option<Key> = lan.adverts.insert(self.id, advert.clone()).and_then(|advert| advert.key());
        if before.is_some() && before != advert.key() {
            before.into_iter().for_each(|key| lan.tell(&Change::Down(key)));
        }
        lan.tell(&Change::Up(advert));
        Box::pin(async { Ok(()) })
    }

    fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        lock(&self.lan).withdraw(self.id);
        Box::pin(async { Ok(()) })
    }

    fn watch(&self) -> BoxFuture<'_, Result<Changes, DiscoveryError>> {
        let mut lan = lock(&self.lan);
        let (sender, changes) = mpsc::channel(CHANNEL + lan.adverts.len());
        for advert in lan.adverts.values() {
            // There is room for all of them.
            let _ = sender.try_send(Change::Up(advert.clone()));
        }
        lan.watchers.push(sender);
        Box::pin(async { Ok(changes) })
    }
}

impl Drop for MemorySource {
    fn drop(&mut self) {
        lock(&self.lan).withdraw(self.id);
    }
}
