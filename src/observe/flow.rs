//! What is counted of the events or items under one name: how many, how many not, and how long the oldest waits.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics::Counter;
use tokio::time::Instant;

use super::report::FlowStats;
use crate::sync::lock;

/// Looks at a queue that are kept in mind, to say how long the oldest waits.
const LOOKS: usize = 64;

/// Which metrics a flow is written to, under which label, and why something may be dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    pub(crate) total: &'static str,
    pub(crate) label: &'static str,
    pub(crate) dropped: Option<(&'static str, [&'static str; 2])>,
}

/// What goes out under one name.
pub(crate) struct Flow {
    total: AtomicU64,
    counter: Counter,
    dropped: Vec<(&'static str, AtomicU64, Counter)>,
    watch: Mutex<Watch>,
}

impl Flow {
    pub(crate) fn new(names: Names, name: &str) -> Self {
        let dropped = names.dropped.into_iter().flat_map(|(metric, reasons)| {
            reasons.map(|reason| {
                let counter = metrics::counter!(metric, names.label => name.to_owned(), "reason" => reason);
                (reason, AtomicU64::new(0), counter)
            })
        });
        Self {
            total: AtomicU64::new(0),
            counter: metrics::counter!(names.total, names.label => name.to_owned()),
            dropped: dropped.collect(),
            watch: Mutex::default(),
        }
    }

    pub(crate) fn count(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
        self.counter.increment(1);
    }

    /// So many went no further, for this reason, which is one of those that the names have.
    pub(crate) fn dropped(&self, reason: &str, count: u64) {
        if let Some((_, sum, counter)) = self.dropped.iter().find(|(known, ..)| *known == reason) {
            sum.fetch_add(count, Ordering::Relaxed);
            counter.increment(count);
        }
    }

    pub(crate) fn tick(&self, now: Instant) {
        lock(&self.watch).tick(now, self.total.load(Ordering::Relaxed));
    }

    pub(crate) fn stats(&self, name: String, now: Instant) -> FlowStats {
        let mut stats = lock(&self.watch).stats(name, now, self.total.load(Ordering::Relaxed), 0);
        let dropped = self.dropped.iter().map(|(reason, count, _)| (*reason, count.load(Ordering::Relaxed)));
        stats.dropped = dropped
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect();
        stats
    }
}

/// What was seen of a number that only rises, such as what has come into a queue.
pub(crate) struct Watch {
    older: (Instant, u64),
    newer: (Instant, u64),
    /// When it was looked at, and what had come until then.
    looks: VecDeque<(Instant, u64)>,
    /// What the metrics have been told.
    told: u64,
    /// And whether something waited then.
    waited: bool,
}

impl Default for Watch {
    fn default() -> Self {
        let start = (Instant::now(), 0);
        Self { older: start, newer: start, looks: VecDeque::new(), told: 0, waited: true }
    }
}

impl Watch {
    /// Moves the window of rates on.
    pub(crate) fn tick(&mut self, now: Instant, total: u64) {
        self.older = std::mem::replace(&mut self.newer, (now, total));
    }

    /// Whether the metrics are to be told: something has come, or waits, or has waited the last time.
    pub(crate) fn is_news(&mut self, (total, waiting): (u64, u64)) -> bool {
        let waited = std::mem::replace(&mut self.waited, waiting > 0);
        total > self.told || waited || waiting > 0
    }

    /// What the metrics were not told yet.
    pub(crate) fn untold(&mut self, total: u64) -> u64 {
        let untold = total.saturating_sub(self.told);
        self.told = total;
        untold
    }

    pub(crate) fn stats(&mut self, name: String, now: Instant, total: u64, waiting: u64) -> FlowStats {
        let window = now.saturating_duration_since(self.older.0);
        let since = total.saturating_sub(self.older.1);
        FlowStats {
            name,
            total,
            rate: if window.is_zero() { 0.0 } else { since as f64 / window.as_secs_f64() },
            window_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            waiting,
            oldest_ms: u64::try_from(self.oldest(now, total, waiting).as_millis()).unwrap_or(u64::MAX),
            ..FlowStats::default()
        }
    }

    /// At least so long the oldest waits: since the first look at which it was there. Costs nobody a clock who puts or takes.
    pub(crate) fn oldest(&mut self, now: Instant, total: u64, waiting: u64) -> Duration {
        let taken = total.saturating_sub(waiting);
        while self.looks.front().is_some_and(|(_, had)| *had <= taken) {
            self.looks.pop_front();
        }
        if waiting == 0 {
            return Duration::ZERO;
        }
        if self.looks.len() == LOOKS {
            // The first stays; of the others every second one does.
            let mut n = 0usize;
            self.looks.retain(|_| {
                n += 1;
                n % 2 == 1
            });
        }
        if self.looks.back().is_none_or(|(_, had)| *had < total) {
            self.looks.push_back((now, total));
        }
        self.looks.front().map_or(Duration::ZERO, |(seen, _)| now.saturating_duration_since(*seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn how_long_the_oldest_waits() {
        let (mut watch, second) = (Watch::default(), Duration::from_secs(1));
        let mut now = Instant::now();
        assert_eq!(watch.oldest(now, 10, 0), Duration::ZERO);
        assert_eq!(watch.oldest(now, 12, 2), Duration::ZERO, "seen for the first time");
        now += second;
        assert_eq!(watch.oldest(now, 15, 5), second);
        now += second;
        // Those first seen have been taken; the next ones were seen a second ago.
        assert_eq!(watch.oldest(now, 15, 3), second);
        for _ in 0..1000 {
            now += second;
            watch.oldest(now, 15, 3);
        }
        assert_eq!(watch.oldest(now, 15, 3), second * 1001);
        assert!(watch.looks.len() <= LOOKS);
        assert_eq!(watch.oldest(now, 15, 0), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn rates_of_the_last_moments_and_what_was_dropped() {
        let names = Names { total: "t", label: "l", dropped: Some(("d", ["a", "b"])) };
        let flow = Flow::new(names, "x");
        (0..50).for_each(|_| flow.count());
        flow.dropped("b", 3);
        tokio::time::advance(Duration::from_secs(5)).await;
        let stats = flow.stats("x".into(), Instant::now());
        assert_eq!((stats.total, stats.dropped["b"], stats.dropped.len()), (50, 3, 1));
        assert!((stats.rate - 10.0).abs() < 0.01);
        flow.tick(Instant::now());
        flow.tick(Instant::now());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(flow.stats("x".into(), Instant::now()).rate, 0.0);
    }
}
