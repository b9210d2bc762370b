//! How long things took, counted in buckets that need no lock.
//!
//! ```text
//!   microseconds   0 1 2 … 15 | 16 17 … 31 | 32 34 … 62 | 64 68 … | …      16 buckets for each doubling
//! ```
//!
//! So a bucket is at most a sixteenth as wide as what is in it is long: a quantile is right within some three percent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets for each doubling, as a power of two.
const FINE: u32 = 4;
/// Doublings beyond the first sixteen microseconds; what takes longer than about 67 s is in the last bucket.
const DOUBLINGS: u32 = 22;
/// Buckets in all.
const BUCKETS: usize = ((DOUBLINGS + 1) << FINE) as usize;

/// Counts by duration; shared by all who count.
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

fn bucket(micros: u64) -> usize {
    if micros < 1 << FINE {
        return micros as usize;
    }
    let doubling = micros.ilog2() - FINE;
    let within = (micros >> doubling) as usize & ((1 << FINE) - 1);
    ((((doubling + 1) as usize) << FINE) + within).min(BUCKETS - 1)
}

/// The middle of a bucket, in microseconds.
fn middle(bucket: usize) -> u64 {
    let (row, within) = (bucket >> FINE, (bucket & ((1 << FINE) - 1)) as u64);
    match row {
        0 => within,
        _ => {
            let doubling = (row - 1) as u32;
            (((1 << FINE) + within) << doubling) + ((1u64 << doubling) >> 1)
        }
    }
}

impl Histogram {
    pub(crate) fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.buckets.get(bucket(micros)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is counted so far.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.count_into(&mut counts);
        counts
    }

    /// The same, in memory that is there.
    pub(crate) fn count_into(&self, into: &mut Counts) {
        into.0.clear();
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        into.0.extend((0u16..).zip(counts).filter(|(_, count)| *count > 0));
    }
}

/// Counts by bucket, those that are not zero, in order.
#[derive(Clone, Default, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Counts(pub(crate) Vec<(u16, u64)>);

impl Counts {
    /// What came since `before` was taken of the same histogram.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut before = before.0.iter().peekable();
        let counts = self.0.iter().filter_map(|(bucket, count)| {
            while before.next_if(|(other, _)| other < bucket).is_some() {}
            let was = before.next_if(|(other, _)| other == bucket).map_or(0, |(_, count)| *count);
            Some((*bucket, count.saturating_sub(was))).filter(|(_, count)| *count > 0)
        });
        Self(counts.collect())
    }

    /// Both together, as of several instances.
    pub(crate) fn add(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            match self.0.binary_search_by_key(bucket, |(bucket, _)| *bucket) {
                Ok(at) => self.0[at].1 = self.0[at].1.saturating_add(*count),
                Err(at) => self.0.insert(at, (*bucket, *count)),
            }
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The duration that this part of all stayed within; `None` when there is nothing.
    pub(crate) fn quantile(&self, part: f64) -> Option<Duration> {
        let rank = ((self.total() as f64 * part).ceil() as u64).max(1);
        let mut seen = 0u64;
        let found = self.0.iter().find(|(_, count)| {
            seen = seen.saturating_add(*count);
            seen >= rank
        });
        found.map(|(bucket, _)| Duration::from_micros(middle(usize::from(*bucket).min(BUCKETS - 1))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other() {
        let mut last = 0;
        for micros in 0..200_000 {
            let this = bucket(micros);
            assert!(this == last || this == last + 1, "{micros}: {last} {this}");
            last = this;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_what_was_recorded() {
        let histogram = Histogram::default();
        assert_eq!(histogram.counts().quantile(0.5), None);
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        let counts = histogram.counts();
        let close = |part, ms: f64| {
            let got = counts.quantile(part).unwrap().as_secs_f64() * 1e3;
            assert!((got / ms - 1.0).abs() < 0.04, "{part}: {got} ms");
        };
        close(0.5, 500.0);
        close(0.99, 990.0);
        assert_eq!(counts.total(), 1000);
    }

    #[test]
    fn what_came_since_and_both_together() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_micros(3));
        let before = histogram.counts();
        histogram.record(Duration::from_micros(3));
        histogram.record(Duration::from_secs(1));
        let mut since = histogram.counts().since(&before);
        assert_eq!(since.total(), 2);
        since.add(&before);
        assert_eq!(since, histogram.counts());
    }

    proptest! {
        #[test]
        fn a_value_is_near_the_middle_of_its_bucket(micros in 0u64..60_000_000) {
            let middle = middle(bucket(micros));
            prop_assert!(middle.abs_diff(micros) * 16 <= micros, "{micros} in the bucket of {middle}");
        }

        /// A peer's numbers are a claim: nothing overflows, whatever they are.
        #[test]
        fn any_counts_can_be_looked_at(counts: Vec<(u16, u64)>, others: Vec<(u16, u64)>) {
            let (mut counts, others) = (Counts(counts), Counts(others));
            counts.add(&others);
            let _ = (counts.since(&others), counts.quantile(0.99), counts.total());
        }
    }
}
