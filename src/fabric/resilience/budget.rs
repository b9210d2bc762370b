//! What retries may cost: a share of the requests, and a few a second for services that are asked seldom.
//!
//! ```text
//! each first attempt ──▶ + 0.2 ─┐  at most 100 are saved up
//!                               ├──▶ a retry takes 1, or is not made
//! time ──▶ + 10 a second ───────┘  at most one second's worth is saved up
//! ```

use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

use tokio::time::Instant;

use super::bucket::Bucket;
use crate::sync::lock;

/// A whole retry, in hundredths.
const WHOLE: u32 = 100;
/// So many retries can be saved up from requests.
const SAVED: u32 = 100;

/// The budget of one target service.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Percent of the requests.
    percent: u32,
    per_second: f64,
    /// Saved up from requests, in hundredths of a retry.
    saved: AtomicU32,
    floor: Mutex<Bucket>,
}

impl Budget {
    pub(crate) fn new(percent: u32, per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self {
            percent,
            per_second,
            saved: AtomicU32::new(0),
            floor: Mutex::new(Bucket::full(per_second, now)),
        }
    }

    /// A request is made for the first time.
    pub(crate) fn deposit(&self) {
        let add = |saved: u32| (saved < SAVED * WHOLE).then(|| (saved + self.percent).min(SAVED * WHOLE));
        // Full, which it mostly is, it costs one load.
        let _ = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Whether a retry may be made; it is paid for then.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        let take = |saved: u32| saved.checked_sub(WHOLE);
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
            || lock(&self.floor).take(self.per_second, self.per_second, now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Every request fails, and asks for a retry after each.
    fn storm(requests: u32, a_second: u32) -> f64 {
        let start = Instant::now();
        let budget = Budget::new(20, 10, start);
        let mut retries = 0;
        for n in 0..requests {
            let now = start + Duration::from_secs(1) * n / a_second;
            budget.deposit();
            retries += (0..3).filter(|_| budget.withdraw(now)).count();
        }
        retries as f64 / f64::from(requests)
    }

    #[test]
    fn a_storm_is_a_fifth_and_ten_a_second() {
        let share = storm(100_000, 1000);
        assert!((0.2..0.2 + 0.011).contains(&share), "{share}");
        let share = storm(6_000, 100);
        assert!((0.3..0.3 + 0.01).contains(&share), "{share}");
    }

    #[test]
    fn a_service_that_is_asked_seldom_may_be_asked_again() {
        assert!(storm(100, 1) >= 3.0, "one request a second, and three retries for each");
    }

    #[test]
    fn what_is_saved_up_has_an_end() {
        let now = Instant::now();
        let budget = Budget::new(20, 10, now);
        (0..100_000).for_each(|_| budget.deposit());
        let retries = (0..1000).filter(|_| budget.withdraw(now)).count();
        assert_eq!(retries, SAVED as usize + 10);
    }

    #[test]
    fn none_is_none() {
        let now = Instant::now();
        let budget = Budget::new(0, 0, now);
        budget.deposit();
        assert!(!budget.withdraw(now + Duration::from_secs(60)));
    }
}
