//! What one connection makes us hold, beside what is queued for it: one number with one bound.
//!
//! ```text
//!   queued for it (Outgoing::bytes, under the pipe's lock)
//! + waiting: received, and not taken yet           ┐
//! + kept: its subscriptions, the queues it pulls   ├ here, without a lock
//! + unfinished: the message that has begun         ┘
//! ≤ LinkOptions::memory
//! ```
//!
//! It is told once for a read or a batch, not once for a message.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What a received message counts beside its bytes: its place in a queue.
pub(crate) const OVERHEAD: usize = 64;
/// What a subscription counts beside its bytes: its places in two tables.
pub(crate) const SUBSCRIPTION: usize = 160;

/// How far `came` and `stored` look back, in bytes.
const LATELY: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Account {
    /// `usize::MAX`: no limit.
    limit: usize,
    waiting: AtomicUsize,
    kept: AtomicUsize,
    unfinished: AtomicUsize,
    /// Bytes that came lately, and how much of them was kept in a queue.
    came: AtomicUsize,
    stored: AtomicUsize,
    /// Nothing is read until there is room; whoever gives some wakes the connection's task.
    stopped: AtomicBool,
}

impl Account {
    /// A limit of 0 is none.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: if limit == 0 { usize::MAX } else { limit },
            waiting: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            came: AtomicUsize::new(0),
            stored: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// Everything but what is queued for the peer.
    #[inline]
    pub(super) fn held(&self) -> usize {
        let (waiting, kept) = (self.waiting.load(Ordering::Relaxed), self.kept.load(Ordering::Relaxed));
        waiting.saturating_add(kept).saturating_add(self.unfinished.load(Ordering::Relaxed))
    }

    /// Whether `queued` bytes may be queued for the peer, in all.
    #[inline]
    pub(super) fn allows(&self, queued: usize) -> bool {
        queued.saturating_add(self.held()) <= self.limit
    }

    /// How much more than `queued` bytes may be queued for the peer.
    pub(super) fn room(&self, queued: usize) -> usize {
        self.limit.saturating_sub(queued.saturating_add(self.held()))
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A read brought this much, whatever it was. Only the connection's task calls it.
    pub(super) fn came(&self, bytes: usize) {
        let came = self.came.load(Ordering::Relaxed) + bytes;
        if came < LATELY {
            return self.came.store(came, Ordering::Relaxed);
        }
        self.came.store(came / 2, Ordering::Relaxed);
        self.stored.store(self.stored.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
    }

    /// Whether hardly anything of what came lately was kept. A message that waits holds on to all of the read buffer
    /// that it came in, so those that wait have to be copied out of it.
    #[inline]
    pub(super) fn is_thin(&self) -> bool {
        let (came, stored) = (self.came.load(Ordering::Relaxed), self.stored.load(Ordering::Relaxed));
        came > LATELY / 16 && stored < came / 8
    }

    /// Received, and somebody has to take it.
    pub(super) fn wait(&self, bytes: usize) {
        self.stored.fetch_add(bytes, Ordering::Relaxed);
        self.waiting.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Taken; `true`: the connection's task waits to hear of it.
    pub(super) fn taken(&self, bytes: usize) -> bool {
        self.waiting.fetch_sub(bytes, Ordering::SeqCst);
        self.stopped.load(Ordering::SeqCst)
    }

    /// Kept until the peer says otherwise; `false`, and nothing is kept: over the limit.
    pub(super) fn keep(&self, bytes: usize, queued: usize) -> bool {
        let allowed = self.allows(queued.saturating_add(bytes));
        if allowed {
            self.kept.fetch_add(bytes, Ordering::SeqCst);
        }
        allowed
    }

    pub(super) fn forget(&self, bytes: usize) {
        self.kept.fetch_sub(bytes, Ordering::SeqCst);
    }

    /// All that was kept goes with the connection.
    pub(super) fn forget_all(&self) {
        self.kept.store(0, Ordering::SeqCst);
        self.unfinished.store(0, Ordering::SeqCst);
    }

    /// Whether to read on, with this much of a message in the buffer. `false`: [`taken`](Self::taken) says when
    /// to ask again. What stands only for the unfinished message never stops reading: else it never ended.
    #[inline]
    pub(super) fn may_read(&self, unfinished: usize, queued: usize) -> bool {
        self.unfinished.store(unfinished, Ordering::Relaxed);
        if self.allows(queued) || self.waiting() == 0 && queued == 0 {
            if self.stopped.load(Ordering::Relaxed) {
                self.stopped.store(false, Ordering::SeqCst);
            }
            return true;
        }
        self.stopped.store(true, Ordering::SeqCst);
        // Something may have been taken before the flag was seen.
        if self.waiting.load(Ordering::SeqCst) > 0 || queued > 0 {
            return self.allows(queued);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_counts_together() {
        let account = Account::new(100);
        assert!(account.allows(100) && !account.allows(101));
        account.wait(40);
        assert!(account.keep(30, 0) && !account.keep(31, 0));
        assert!(account.may_read(30, 0) && !account.may_read(31, 0));
        assert!(!account.allows(1));
        assert!(account.taken(40), "somebody has to wake the task");
        assert!(account.may_read(31, 0));
        account.forget(30);
        assert!(!account.taken(0));
        assert!(account.allows(60));
    }

    #[test]
    fn an_unfinished_message_alone_goes_on() {
        let account = Account::new(100);
        assert!(account.may_read(500, 0));
        assert!(!account.may_read(500, 1), "the peer takes nothing and sends");
    }

    #[test]
    fn little_that_is_kept_of_much_is_copied() {
        let account = Account::new(0);
        account.came(60_000);
        assert!(!account.is_thin(), "too little to tell");
        for _ in 0..100 {
            account.came(100_000);
            account.wait(100_000);
        }
        assert!(!account.is_thin());
        for _ in 0..40 {
            account.came(100_000);
            account.wait(100);
        }
        assert!(account.is_thin());
    }

    #[test]
    fn no_limit() {
        let account = Account::new(0);
        account.wait(usize::MAX / 2);
        assert!(account.may_read(usize::MAX / 2, 10) && account.keep(10, 0));
    }
}
