//! What is counted of the calls under one name: by outcome, how long, how many at once.
//!
//! Everything is counted twice: in atomics here, so that the node can answer `$node.stats` without any collector, and through
//! handles of the `metrics` facade, which do nothing where no recorder is installed. The handles are looked up once, when the series is
//! made: a recorder has to be installed before that, as it has for every program that uses the facade.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics::{Counter, Gauge};
use tokio::time::Instant;

use super::{
    histogram::{Counts, Histogram},
    names,
    report::CallStats,
};
use crate::{Code, sync::lock};

/// Which metrics a series is written to, and under which label.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    pub(crate) total: &'static str,
    pub(crate) seconds: &'static str,
    pub(crate) in_flight: &'static str,
    pub(crate) label: &'static str,
}

/// The calls under one name.
pub(crate) struct Series {
    ok: AtomicU64,
    ok_counter: Counter,
    /// By code; few, because codes are ours.
    errors: Mutex<BTreeMap<Code, (u64, Counter)>>,
    in_flight: AtomicU64,
    in_flight_gauge: Gauge,
    latency: Histogram,
    latency_metric: metrics::Histogram,
    /// Where the window that rates are told of begins.
    window: Mutex<Window>,
    /// Names and labels, for codes that are new.
    names: Option<(Names, Vec<metrics::Label>)>,
}

/// What was counted at some moment.
#[derive(Clone)]
struct Mark {
    at: Instant,
    ok: u64,
    errors: u64,
    latency: Counts,
}

/// Two marks, so that the window is never shorter than the time between them.
struct Window {
    older: Mark,
    newer: Mark,
}

impl Series {
    /// Counted here, and under these names in the `metrics` facade, if there are any.
    pub(crate) fn new(names: Option<Names>, name: &str, more: &[(&'static str, &str)]) -> Self {
        let names = names.map(|names| {
            let labels = more.iter().map(|(key, value)| metrics::Label::new(*key, (*value).to_owned()));
            let own = metrics::Label::new(names.label, name.to_owned());
            (names, std::iter::once(own).chain(labels).collect::<Vec<_>>())
        });
        let (ok_counter, in_flight_gauge, latency_metric) = match &names {
            Some((names, labels)) => (
                counter(names.total, labels, "ok"),
                metrics::gauge!(names.in_flight, labels.clone()),
                metrics::histogram!(names.seconds, labels.clone()),
            ),
            None => (Counter::noop(), Gauge::noop(), metrics::Histogram::noop()),
        };
        let mark = Mark { at: Instant::now(), ok: 0, errors: 0, latency: Counts::default() };
        Self {
            ok: AtomicU64::new(0),
            ok_counter,
            errors: Mutex::default(),
            in_flight: AtomicU64::new(0),
            in_flight_gauge,
            latency: Histogram::default(),
            latency_metric,
            window: Mutex::new(Window { older: mark.clone(), newer: mark }),
            names,
        }
    }

    /// One call has begun; its end is counted when the guard is told of it, or dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.in_flight_gauge.increment(1.0);
        InFlight(self.clone())
    }

    /// One call has ended.
    pub(crate) fn ended(&self, outcome: Result<(), Code>, took: Duration) {
        match outcome {
            Ok(()) => {
                self.ok.fetch_add(1, Ordering::Relaxed);
                self.ok_counter.increment(1);
            }
            Err(code) => self.failed(code),
        }
        self.latency.record(took);
        self.latency_metric.record(took);
    }

    /// One call was refused, before it began.
    pub(crate) fn failed(&self, code: Code) {
        let mut errors = lock(&self.errors);
        let (count, counter) = errors.entry(code).or_insert_with(|| {
            let counter =
                self.names.as_ref().map(|(names, labels)| counter(names.total, labels, &code.to_string()));
            (0, counter.unwrap_or_else(Counter::noop))
        });
        *count += 1;
        counter.increment(1);
    }

    fn mark(&self, now: Instant) -> Mark {
        Mark {
            at: now,
            ok: self.ok.load(Ordering::Relaxed),
            errors: self.failures(),
            latency: self.latency.counts(),
        }
    }

    /// Moves the window on. To be called now and then, always after about the same time.
    pub(crate) fn tick(&self, now: Instant) {
        let errors = self.failures();
        let mut window = lock(&self.window);
        let Window { older, newer } = &mut *window;
        std::mem::swap(older, newer);
        (newer.at, newer.ok, newer.errors) = (now, self.ok.load(Ordering::Relaxed), errors);
        self.latency.count_into(&mut newer.latency);
    }

    fn failures(&self) -> u64 {
        lock(&self.errors).values().map(|(count, _)| count).sum()
    }

    /// What there is to say of it now.
    pub(crate) fn stats(&self, name: String, now: Instant) -> CallStats {
        let mark = self.mark(now);
        let older = lock(&self.window).older.clone();
        let window = now.saturating_duration_since(older.at);
        let latency = mark.latency.since(&older.latency);
        let rate = |count: u64| if window.is_zero() { 0.0 } else { count as f64 / window.as_secs_f64() };
        let errors = lock(&self.errors).iter().map(|(code, (count, _))| (code.to_string(), *count)).collect();
        CallStats {
            name,
            total: mark.ok + mark.errors,
            errors,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            waiting: 0,
            window_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            rate: rate(mark.ok.saturating_sub(older.ok) + mark.errors.saturating_sub(older.errors)),
            error_rate: rate(mark.errors.saturating_sub(older.errors)),
            p50_us: latency.quantile(0.5).map(micros),
            p99_us: latency.quantile(0.99).map(micros),
            latency: latency.0,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn counter(name: &'static str, labels: &[metrics::Label], code: &str) -> Counter {
    let code = metrics::Label::new(names::CODE, code.to_owned());
    metrics::counter!(name, labels.iter().cloned().chain([code]).collect::<Vec<_>>())
}

/// A call that is under way.
pub(crate) struct InFlight(Arc<Series>);

impl InFlight {
    pub(crate) fn series(&self) -> &Arc<Series> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.in_flight_gauge.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rates_are_of_the_last_moments() {
        let series = Arc::new(Series::new(None, "a.b", &[]));
        for _ in 0..100 {
            series.ended(Ok(()), Duration::from_millis(7));
        }
        series.failed(Code::new(418));
        tokio::time::advance(Duration::from_secs(5)).await;
        let stats = series.stats("a.b".into(), Instant::now());
        assert_eq!((stats.total, stats.errors["RS0418"]), (101, 1));
        assert!((stats.rate - 20.2).abs() < 0.01 && (stats.error_rate - 0.2).abs() < 0.01, "{stats:?}");
        assert!(stats.p50_us.is_some_and(|us| us.abs_diff(7000) < 300), "{stats:?}");
        // Two ticks on, all that is over.
        series.tick(Instant::now());
        series.tick(Instant::now());
        tokio::time::advance(Duration::from_secs(5)).await;
        let under_way = series.begin();
        let stats = series.stats("a.b".into(), Instant::now());
        assert_eq!((stats.total, stats.rate, stats.p99_us, stats.in_flight), (101, 0.0, None, 1));
        drop(under_way);
        assert_eq!(series.stats("a.b".into(), Instant::now()).in_flight, 0);
    }
}
