//! How much of this node one slow service can hold: so many calls in flight to it, and so many that wait for a place.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

/// The places of one target service. Whoever came first gets the next one.
#[derive(Debug)]
pub(crate) struct Bulkhead {
    places: Semaphore,
    waiting: AtomicUsize,
    line: usize,
}

/// There is no place, and none to wait for one; or none came free in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoPlace {
    /// Whether the time was up, and not the line full.
    pub(crate) late: bool,
}

/// A place in the line, given up when dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Bulkhead {
    pub(crate) fn new(places: usize, line: usize) -> Self {
        let places = Semaphore::new(places.min(Semaphore::MAX_PERMITS));
        Self { places, waiting: AtomicUsize::new(0), line }
    }

    /// A place, given back when it is dropped. Cancel safe.
    pub(crate) async fn enter(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, NoPlace> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        let ahead = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if ahead >= self.line {
            return Err(NoPlace { late: false });
        }
        // The semaphore is never closed.
        match timeout_at(deadline, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(NoPlace { late: true }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn places_then_a_line_then_no_more() {
        let bulkhead = Arc::new(Bulkhead::new(1, 1));
        let deadline = Instant::now() + Duration::from_secs(10);
        let place = bulkhead.enter(deadline).await.unwrap();
        let (second, theirs) = (bulkhead.clone(), bulkhead.clone());
        let waiting = tokio::spawn(async move { second.enter(deadline).await.map(drop) });
        tokio::task::yield_now().await;
        assert_eq!(bulkhead.enter(deadline).await.unwrap_err(), NoPlace { late: false });
        drop(place);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert!(theirs.enter(deadline).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_leaves_the_line() {
        let bulkhead = Bulkhead::new(1, 1);
        let soon = Instant::now() + Duration::from_millis(50);
        let _place = bulkhead.enter(soon).await.unwrap();
        assert_eq!(bulkhead.enter(soon).await.unwrap_err(), NoPlace { late: true });
        assert_eq!(bulkhead.waiting.load(Ordering::Relaxed), 0);
    }
}
