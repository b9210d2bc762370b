//! Power of two choices: of two instances picked at random the one that looks cheaper gets the call.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::fabric::link::PeerLink;

/// A failure counts as an answer this slow, so that an instance that fails fast looks expensive, not cheap.
const FAILURE: Duration = Duration::from_secs(1);
/// Latencies below this count as equal: such differences are noise, and the calls outstanding decide.
const EQUAL: Duration = Duration::from_millis(1);
/// What is known of an instance that is not asked loses half its weight in this time, so that it is asked again.
const HALF_LIFE: Duration = Duration::from_millis(500);
/// Weight of the newest latency in the average: 1 / 2^this.
const SMOOTHING: u32 = 3;

/// What an instance costs: calls outstanding, and the moving average of its latency.
#[derive(Debug)]
pub(crate) struct Load {
    outstanding: AtomicU32,
    /// Microseconds; 0 until the first reply.
    latency: AtomicU32,
    /// When `latency` was last renewed, in microseconds after `born`.
    renewed: AtomicU64,
    born: Instant,
}

impl Load {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            outstanding: AtomicU32::new(0),
            latency: AtomicU32::new(0),
            renewed: AtomicU64::new(0),
            born: now,
        }
    }

    /// Counts a call as outstanding until the guard is dropped; one that is then `late` without an outcome has failed.
    pub(crate) fn begin(link: &Arc<PeerLink>, late: Instant) -> Outstanding {
        link.load.outstanding.fetch_add(1, Ordering::Relaxed);
        Outstanding { link: link.clone(), late: Some(late) }
    }

    /// A reply came after `latency`.
    pub(crate) fn succeeded(&self, latency: Duration, now: Instant) {
        let sample = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        let old = self.latency_at(now);
        let new = if old == 0 { sample } else { old - (old >> SMOOTHING) + (sample >> SMOOTHING) };
        // Two concurrent updates may lose one sample, which an average forgives.
        self.latency.store(new, Ordering::Relaxed);
        self.renewed.store(self.micros(now), Ordering::Relaxed);
    }

    /// The call was lost, refused or timed out.
    pub(crate) fn failed(&self, latency: Duration, now: Instant) {
        self.succeeded(latency.max(FAILURE), now);
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_micros()).unwrap_or(u64::MAX)
    }

    /// The average as it has faded by now.
    fn latency_at(&self, now: Instant) -> u32 {
        let idle = self.micros(now).saturating_sub(self.renewed.load(Ordering::Relaxed));
        let half_lives = idle / (HALF_LIFE.as_micros() as u64);
        self.latency
            .load(Ordering::Relaxed)
            .checked_shr(u32::try_from(half_lives).unwrap_or(u32::MAX))
            .unwrap_or(0)
    }

    /// Expected cost of one more call.
    fn cost(&self, now: Instant) -> u64 {
        let outstanding = u64::from(self.outstanding.load(Ordering::Relaxed)) + 1;
        outstanding * u64::from(self.latency_at(now)).max(EQUAL.as_micros() as u64)
    }
}

/// Keeps a call counted as outstanding.
pub(crate) struct Outstanding {
    link: Arc<PeerLink>,
    late: Option<Instant>,
}

impl Outstanding {
    /// There is an outcome, which is told apart.
    pub(crate) fn has_ended(&mut self) {
        self.late = None;
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.link.load.outstanding.fetch_sub(1, Ordering::Relaxed);
        // Its caller waits no longer: because the time was up, or for reasons of its own.
        if let Some(late) = self.late {
            let now = Instant::now();
            if now >= late {
                self.link.load.failed(FAILURE, now);
            }
        }
    }
}

/// The cheaper of two candidates picked at random; `None` when there are none. Only a choice needs the time.
pub(crate) fn pick(candidates: &[Arc<PeerLink>], now: impl FnOnce() -> Instant) -> Option<&Arc<PeerLink>> {
    if let [_, _, ..] = candidates {
        let now = now();
        let index = choose(candidates.len(), |i| candidates[i].load.cost(now), |n| fastrand::usize(..n))?;
        return candidates.get(index);
    }
    candidates.first()
}

/// Highest random weight (rendezvous hashing): whoever has the highest gets what has this key, and one that comes or goes moves
/// only the keys that it gets or had.
pub(crate) fn weight(instance: impl Hash, key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (instance, key).hash(&mut hasher);
    hasher.finish()
}

/// The rule itself, with cost and chance passed in.
fn choose(count: usize, cost: impl Fn(usize) -> u64, chance: impl Fn(usize) -> usize) -> Option<usize> {
    match count {
        0 => None,
        1 => Some(0),
        _ => {
            let first = chance(count);
            // The second differs from the first.
            let second = (first + 1 + chance(count - 1)) % count;
            Some(if cost(second) < cost(first) { second } else { first })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheaper_of_two_different_ones() {
        assert_eq!(choose(0, |_| 0, |_| 0), None);
        assert_eq!(choose(1, |_| 9, |_| 0), Some(0));
        for chance in 0..3 {
            let costs = [5, 1, 9];
            let picked = choose(3, |i| costs[i], |n| chance % n);
            assert_ne!(picked, Some(2), "never the dearest of the pair when the other is cheaper");
        }
    }

    #[test]
    fn a_failure_looks_slow_and_is_forgiven() {
        let now = Instant::now();
        let (good, bad) = (Load::new(now), Load::new(now));
        good.succeeded(Duration::from_millis(2), now);
        bad.failed(Duration::from_micros(50), now);
        assert!(good.cost(now) * 100 < bad.cost(now));
        let later = now + Duration::from_secs(10);
        assert_eq!(good.cost(later), bad.cost(later));
    }

    #[test]
    fn noise_does_not_decide_but_outstanding_calls_do() {
        let now = Instant::now();
        let (fast, slow) = (Load::new(now), Load::new(now));
        fast.succeeded(Duration::from_micros(50), now);
        slow.succeeded(Duration::from_micros(900), now);
        assert_eq!(fast.cost(now), slow.cost(now));
        fast.outstanding.store(1, Ordering::Relaxed);
        assert!(slow.cost(now) < fast.cost(now));
    }

    #[test]
    fn the_average_follows() {
        let now = Instant::now();
        let load = Load::new(now);
        load.succeeded(Duration::from_millis(100), now);
        for _ in 0..60 {
            load.succeeded(Duration::from_millis(2), now);
        }
        assert!(load.cost(now) < 4_000, "{}", load.cost(now));
    }
}
