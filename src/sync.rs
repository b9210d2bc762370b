//! Locks that shrug off poison, and a flag to wait for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

/// Locks `mutex`. A panic elsewhere while it was held does not matter here: no invariant of ours spans a panic.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For tests of the tests: whether a build with `--cfg ripstop_mutate` was told to do without this, in `RIPSTOP_MUTATE`. Always
/// `false` in any other build. See `.ci/run`, section `mutants`.
#[cfg(feature = "durable")]
#[inline]
pub(crate) fn is_mutated(what: &str) -> bool {
    cfg!(ripstop_mutate) && std::env::var("RIPSTOP_MUTATE").is_ok_and(|mutated| mutated == what)
}

/// Something that happens once, and whoever waits for it.
#[derive(Default, Debug)]
pub(crate) struct Flag {
    set: AtomicBool,
    waiting: Notify,
}

impl Flag {
    pub(crate) fn set(&self) {
        self.set.store(true, Ordering::Release);
        self.waiting.notify_waiters();
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Cancel safe.
    pub(crate) async fn wait(&self) {
        let waiting = self.waiting.notified(); // hears of every set from here on
        if !self.is_set() {
            waiting.await;
        }
    }
}

/// Like [`lock`], to read.
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Like [`lock`], to write.
pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
