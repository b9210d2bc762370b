//! How often one caller may ask this node, so that a flood from one does not keep out the others. Time is passed in.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use tokio::time::Instant;

use super::bucket::Bucket;
use crate::sync::lock;

/// With more callers than this, those that were quiet for a second are forgotten; if there is none, new ones share a bucket.
const CALLERS: usize = 4096;
/// Not more often than this.
const SWEEP: Duration = Duration::from_secs(1);
/// The bucket of all for whom there is none.
const REST: &str = "";

/// A bucket for each caller.
#[derive(Debug)]
pub(crate) struct Rates {
    /// Requests a second, and at once; 0: any number.
    rate: AtomicU32,
    callers: DashMap<Arc<str>, Bucket>,
    /// When those who were quiet were last forgotten: a look at all of them is not made for each request.
    swept: Mutex<Option<Instant>>,
}

impl Rates {
    pub(crate) fn new(rate: u32) -> Self {
        Self { rate: AtomicU32::new(rate), callers: DashMap::new(), swept: Mutex::default() }
    }

    /// This holds from now on.
    pub(crate) fn set(&self, rate: u32) {
        self.rate.store(rate, Ordering::Relaxed);
        self.callers.clear();
    }

    /// Whether there is a rate at all: else nobody needs to be told apart.
    pub(crate) fn are_limited(&self) -> bool {
        self.rate.load(Ordering::Relaxed) != 0
    }

    /// Counts a request. `Err`: it is one too many, and one would be right after this time.
    pub(crate) fn take(&self, caller: Arc<str>, now: Instant) -> Result<(), Duration> {
        let rate = f64::from(self.rate.load(Ordering::Relaxed));
        if rate == 0.0 {
            return Ok(());
        }
        if let Some(mut bucket) = self.callers.get_mut(&caller) {
            return bucket.take(rate, rate, now);
        }
        if self.callers.len() >= CALLERS {
            self.sweep(rate, now);
        }
        let caller = if self.callers.len() >= CALLERS { REST.into() } else { caller };
        self.callers.entry(caller).or_insert_with(|| Bucket::full(rate, now)).take(rate, rate, now)
    }

    fn sweep(&self, rate: f64, now: Instant) {
        let mut swept = lock(&self.swept);
        if swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP) {
            *swept = Some(now);
            self.callers.retain(|_, bucket| !bucket.is_full(rate, rate, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_does_not_take_from_another() {
        let now = Instant::now();
        let rates = Rates::new(10);
        let taken = |caller: &str, now| (0..100).filter(|_| rates.take(caller.into(), now).is_ok()).count();
        assert_eq!((taken("flood", now), taken("quiet", now)), (10, 10));
        assert_eq!(rates.take("flood".into(), now), Err(Duration::from_millis(100)));
        assert_eq!(taken("flood", now + Duration::from_millis(500)), 5);
        rates.set(0);
        assert!(!rates.are_limited());
        assert_eq!(taken("flood", now), 100);
    }

    #[test]
    fn callers_that_make_up_names_get_no_more() {
        let now = Instant::now();
        let rates = Rates::new(2);
        let taken = (0..100_000).filter(|n| rates.take(n.to_string().into(), now).is_ok()).count();
        assert_eq!(taken, CALLERS + 2);
        assert!(rates.callers.len() <= CALLERS + 1);
        // A second later the first ones are forgotten.
        assert!(rates.take("new".into(), now + Duration::from_secs(1)).is_ok());
        assert!(rates.callers.len() < 10);
    }
}
