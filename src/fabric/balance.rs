//! Power of two choices: of two instances picked at random the one that looks cheaper gets the call. A new one gets its share
//! little by little.
//!
//! ```text
//! cost = (calls outstanding + 1) x latency      latency: a peak counts at once and decays, and so does a failure, as 1 s
//! ```

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
pub(crate) const FAILURE: Duration = Duration::from_secs(1);
/// Latencies below this count as equal: such differences are noise, and the calls outstanding decide.
const EQUAL: Duration = Duration::from_millis(1);
/// What is known of an instance loses half its weight in this time, asked or not, so that it is asked again.
const HALF_LIFE: Duration = Duration::from_millis(500);
/// An instance's share when it is new, and all of it, in thousandths.
const FIRST: u64 = 100;
const WHOLE: u64 = 1000;

/// What an instance costs: calls outstanding, and the decaying peak of its latency.
#[derive(Debug)]
pub(crate) struct Load {
    outstanding: AtomicU32,
    /// Microseconds; 0 until the first reply.
    latency: AtomicU32,
    /// When `latency` was last renewed, in microseconds after `born`.
    renewed: AtomicU64,
    /// Since when it is given calls, in microseconds after `born`.
    since: AtomicU64,
    born: Instant,
}

impl Load {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            outstanding: AtomicU32::new(0),
            latency: AtomicU32::new(0),
            renewed: AtomicU64::new(0),
            since: AtomicU64::new(0),
            born: now,
        }
    }

    /// A call is outstanding from now on.
    pub(crate) fn begin(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    /// One is so no longer.
    pub(crate) fn end(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }

    /// It is new, or back: it gets its share little by little, from now on.
    pub(crate) fn start_slowly(&self, now: Instant) {
        self.latency.store(0, Ordering::Relaxed);
        self.since.store(self.micros(now), Ordering::Relaxed);
    }

    /// A reply came after `latency`.
    pub(crate) fn succeeded(&self, latency: Duration, now: Instant) {
        let sample = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        let kept = self.kept(now);
        let old = self.latency.load(Ordering::Relaxed);
        let faded = f64::from(old) * kept;
        // What is worse counts at once; what is better, as fast as the old fades.
        let new = if f64::from(sample) >= faded {
            sample
        } else {
            (faded + f64::from(sample) * (1.0 - kept)) as u32
        };
        // Two concurrent updates may lose one sample, which the next ones make up for.
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

    /// How much of the latency known is left by now, from 0 to 1.
    fn kept(&self, now: Instant) -> f64 {
        let idle = self.micros(now).saturating_sub(self.renewed.load(Ordering::Relaxed));
        (-(idle as f64) / HALF_LIFE.as_micros() as f64).exp2()
    }

    /// The part of a full share that it gets by now, in thousandths.
    fn share(&self, ramp: Duration, now: Instant) -> u64 {
        let ramp = u64::try_from(ramp.as_micros()).unwrap_or(u64::MAX);
        let age = self.micros(now).saturating_sub(self.since.load(Ordering::Relaxed));
        if age >= ramp { WHOLE } else { (age.saturating_mul(WHOLE) / ramp).max(FIRST) }
    }

    /// Expected cost of one more call.
    fn cost(&self, now: Instant) -> u64 {
        let outstanding = u64::from(self.outstanding.load(Ordering::Relaxed)) + 1;
        let latency = (f64::from(self.latency.load(Ordering::Relaxed)) * self.kept(now)) as u64;
        outstanding * latency.max(EQUAL.as_micros() as u64)
    }
}

/// The cheaper of two candidates picked at random; `None` when there are none. Only a choice needs the time.
pub(crate) fn pick(
    candidates: &[Arc<PeerLink>],
    ramp: Duration,
    now: impl FnOnce() -> Instant,
) -> Option<&Arc<PeerLink>> {
    if let [_, _, ..] = candidates {
        let now = now();
        let cost = |i: usize| candidates[i].load.cost(now);
        let share = |i: usize| candidates[i].load.share(ramp, now);
        let index = choose(candidates.len(), cost, share, |n| fastrand::usize(..n))?;
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
fn choose(
    count: usize,
    cost: impl Fn(usize) -> u64,
    share: impl Fn(usize) -> u64,
    chance: impl Fn(usize) -> usize,
) -> Option<usize> {
    match count {
        0 => None,
        1 => Some(0),
        _ => {
            let first = chance(count);
            // The second differs from the first.
            let second = (first + 1 + chance(count - 1)) % count;
            let (better, other) = if cost(second) < cost(first) { (second, first) } else { (first, second) };
            // One that is newer than the other passes on what is over its share.
            let (its, full) = (share(better), share(other));
            let passes = its < full && chance(full as usize) as u64 >= its;
            Some(if passes { other } else { better })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_cheaper_of_two_different_ones() {
        let old = |_| WHOLE;
        assert_eq!(choose(0, |_| 0, old, |_| 0), None);
        assert_eq!(choose(1, |_| 9, old, |_| 0), Some(0));
        for chance in 0..3 {
            let costs = [5, 1, 9];
            let picked = choose(3, |i| costs[i], old, |n| chance % n);
            assert_ne!(picked, Some(2), "never the dearest of the pair when the other is cheaper");
        }
    }

    #[test]
    fn a_failure_looks_slow_and_is_forgiven() {
        let now = Instant::now();
        let (good, bad) = (Load::new(now), Load::new(now));
        good.succeeded(2 * MS, now);
        bad.failed(MS / 20, now);
        assert!(good.cost(now) * 100 < bad.cost(now));
        let later = now + 10 * S;
        assert_eq!(good.cost(later), bad.cost(later));
    }

    #[test]
    fn noise_does_not_decide_but_outstanding_calls_do() {
        let now = Instant::now();
        let (fast, slow) = (Load::new(now), Load::new(now));
        fast.succeeded(MS / 20, now);
        slow.succeeded(MS * 9 / 10, now);
        assert_eq!(fast.cost(now), slow.cost(now));
        fast.begin();
        assert!(slow.cost(now) < fast.cost(now));
    }

    #[test]
    fn a_peak_counts_at_once_and_decays_however_many_good_ones_follow() {
        let now = Instant::now();
        for calls in [2, 10, 1000] {
            let load = Load::new(now);
            load.succeeded(2 * MS, now);
            load.succeeded(100 * MS, now);
            assert_eq!(load.cost(now), 100_000);
            let after = |time: Duration, n| now + time * n / calls;
            for n in 1..=calls {
                load.succeeded(2 * MS, after(S / 2, n));
            }
            let half = load.cost(now + S / 2);
            assert!((50_000..53_000).contains(&half), "{half} after a half-life and {calls} calls");
            for n in 1..=calls {
                load.succeeded(2 * MS, after(5 * S, n) + S / 2);
            }
            let end = load.cost(now + 6 * S);
            assert!(end < 3_000, "{end} after {calls} calls");
        }
    }

    #[test]
    fn a_new_one_gets_its_share_little_by_little() {
        let now = Instant::now();
        let (old, new) = (Load::new(now), Load::new(now));
        let began = now + 60 * S;
        new.start_slowly(began);
        let loads = [old, new];
        // Equal costs, and every chance there is: an even share is half.
        let picked = |at: Instant| {
            let mut random = fastrand::Rng::with_seed(7);
            let picks = (0..10_000).map(|_| {
                let random = std::cell::RefCell::new(&mut random);
                let share = |i: usize| loads[i].share(10 * S, at);
                choose(2, |_| 1, share, |n| random.borrow_mut().usize(..n)).unwrap()
            });
            picks.filter(|picked| *picked == 1).count()
        };
        let shares: Vec<_> = [0, 5, 10].map(|s| picked(began + s * S)).into();
        assert!((400..600).contains(&shares[0]), "{shares:?}");
        assert!((2300..2700).contains(&shares[1]), "{shares:?}");
        assert!((4800..5200).contains(&shares[2]), "{shares:?}");
        // Where all are new, nobody passes on anything.
        assert_eq!(choose(2, |_| 1, |_| FIRST, |n| n - 1), Some(1));
    }
}
