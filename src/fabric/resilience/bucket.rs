//! A token bucket: so many a second, and so many at once. Time is passed in.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket that is full at first.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn full(burst: f64, now: Instant) -> Self {
        Self { tokens: burst, filled: now }
    }

    /// Takes a token. `Err`: none is left, and the next one is there after this.
    pub(crate) fn take(&mut self, rate: f64, burst: f64, now: Instant) -> Result<(), Duration> {
        self.fill(rate, burst, now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // A rate of 0 never gives one: a day is as good as never.
        let wait = ((1.0 - self.tokens) / rate).clamp(0.0, 86_400.0);
        Err(Duration::from_secs_f64(wait))
    }

    /// Whether nothing was taken for so long that the bucket is as new.
    pub(crate) fn is_full(&mut self, rate: f64, burst: f64, now: Instant) -> bool {
        self.fill(rate, burst, now);
        self.tokens >= burst
    }

    fn fill(&mut self, rate: f64, burst: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(burst);
        self.filled = self.filled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_a_burst_and_then_the_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::full(3.0, now);
        assert_eq!((0..9).filter(|_| bucket.take(10.0, 3.0, now).is_ok()).count(), 3);
        assert_eq!(bucket.take(10.0, 3.0, now), Err(Duration::from_millis(100)));
        let given = (1..=1000).filter(|ms| bucket.take(10.0, 3.0, now + Duration::from_millis(*ms)).is_ok());
        assert_eq!(given.count(), 10);
        assert!(!bucket.is_full(10.0, 3.0, now + Duration::from_secs(1)));
        assert!(bucket.is_full(10.0, 3.0, now + Duration::from_secs(2)));
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let now = Instant::now() + Duration::from_secs(60);
        let mut bucket = Bucket::full(1.0, now);
        assert!(bucket.take(1.0, 1.0, now).is_ok());
        assert!(bucket.take(1.0, 1.0, now - Duration::from_secs(60)).is_err());
        assert!(bucket.take(1.0, 1.0, now).is_err());
    }

    #[test]
    fn no_rate_gives_what_there_is() {
        let now = Instant::now();
        let mut bucket = Bucket::full(1.0, now);
        assert!(bucket.take(0.0, 1.0, now).is_ok());
        assert!(bucket.take(0.0, 1.0, now + Duration::from_secs(3600)).is_err());
    }
}
