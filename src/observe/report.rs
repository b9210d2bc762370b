//! What a node says of itself on its own subjects.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::histogram::Counts;

/// Who a node is and what it offers: `$node.info`.
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
/// println!("{} since {} ms", node.inspect(node.id()).info().await?.service, node.inspect(node.id()).info().await?.uptime_ms);
/// # Ok(()) }
/// ```
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct NodeInfo {
    /// Its id, 32 hex digits.
    pub node: String,
    /// Its epoch.
    pub epoch: u64,
    /// Its fabric.
    pub fabric: String,
    /// Its service.
    pub service: String,
    /// The service's version; may be empty.
    pub version: String,
    /// The release of Ripstop that it is built with.
    pub ripstop: String,
    /// Its process id.
    pub pid: u32,
    /// How long it has been there, in milliseconds.
    pub uptime_ms: u64,
    /// Where it can be dialled.
    pub endpoints: Vec<String>,
    /// Methods that it serves.
    pub methods: Vec<String>,
    /// Topics that it publishes.
    pub topics: Vec<String>,
    /// Queues that it pulls.
    pub queues: Vec<String>,
    /// Whatever it says of itself.
    pub metadata: BTreeMap<String, String>,
}

/// Whether a node is well: `$node.health`, `/healthz` and `/readyz`.
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
/// assert!(node.health().ready);
/// # Ok(()) }
/// ```
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct NodeHealth {
    /// Its service.
    pub service: String,
    /// Its id.
    pub node: String,
    /// It can take requests: it offers something, has a listener and is not leaving.
    pub ready: bool,
    /// Why it is not ready; empty if it is.
    pub reasons: Vec<String>,
    /// How long it has been there, in milliseconds.
    pub uptime_ms: u64,
}

/// What a node has counted: `$node.stats`.
///
/// ```no_run
/// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
/// for method in node.stats().await.served {
///     println!("{}: {:.1}/s, p99 {:?}", method.name, method.rate, method.p99());
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct NodeStats {
    /// Its id.
    pub node: String,
    /// Its service.
    pub service: String,
    /// How long it has been there, in milliseconds.
    pub uptime_ms: u64,
    /// What it serves, by method.
    pub served: Vec<CallStats>,
    /// The same, by the service that calls.
    pub callers: Vec<CallStats>,
    /// What it calls, by method.
    pub called: Vec<CallStats>,
    /// The same, by the service that is called.
    pub targets: Vec<CallStats>,
    /// Events published, by topic.
    pub published: Vec<FlowStats>,
    /// Events received, by pattern.
    pub subscribed: Vec<FlowStats>,
    /// Work pushed, by queue.
    pub pushed: Vec<FlowStats>,
    /// Work pulled, by queue.
    pub pulled: Vec<FlowStats>,
    /// Handlers of pulled work, by queue.
    pub worked: Vec<CallStats>,
    /// Its connections.
    pub links: LinkStats,
    /// What it keeps on disk; `None` where there is no place for it.
    pub store: Option<KeptStats>,
}

/// Calls under one name.
///
/// ```
/// assert_eq!(ripstop::observe::CallStats::default().p99(), None);
/// ```
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CallStats {
    /// The method, queue or service; `(other)` for those beyond the bound.
    pub name: String,
    /// All that have ended since the node is there.
    pub total: u64,
    /// Of them those that failed, by code.
    pub errors: BTreeMap<String, u64>,
    /// Under way now.
    pub in_flight: u64,
    /// Of them waiting for a free place.
    pub waiting: u64,
    /// Rates and quantiles are those of so many last milliseconds, 5 to 10 s.
    pub window_ms: u64,
    /// Ended a second.
    pub rate: f64,
    /// Failed a second.
    pub error_rate: f64,
    /// Half of them took no longer, in microseconds; `None`: none ended.
    pub p50_us: Option<u64>,
    /// 99 % of them took no longer, in microseconds.
    pub p99_us: Option<u64>,
    /// Bucket and count, of the window: what quantiles of several instances together are made of.
    pub latency: Vec<(u16, u64)>,
}

impl CallStats {
    /// Half of them took no longer.
    ///
    /// ```
    /// assert_eq!(ripstop::observe::CallStats::default().p50(), None);
    /// ```
    pub fn p50(&self) -> Option<Duration> {
        self.p50_us.map(Duration::from_micros)
    }

    /// 99 % of them took no longer.
    ///
    /// ```
    /// assert_eq!(ripstop::observe::CallStats::default().p99(), None);
    /// ```
    pub fn p99(&self) -> Option<Duration> {
        self.p99_us.map(Duration::from_micros)
    }

    /// How many failed, of all codes.
    ///
    /// ```
    /// assert_eq!(ripstop::observe::CallStats::default().failed(), 0);
    /// ```
    pub fn failed(&self) -> u64 {
        self.errors.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Adds those of another instance, or of another method. Quantiles are those of both together.
    ///
    /// ```
    /// let mut all = ripstop::observe::CallStats::default();
    /// all.add(&ripstop::observe::CallStats::default());
    /// assert_eq!(all.total, 0);
    /// ```
    pub fn add(&mut self, other: &Self) {
        self.total = self.total.saturating_add(other.total);
        for (code, count) in &other.errors {
            let sum = self.errors.entry(code.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.in_flight = self.in_flight.saturating_add(other.in_flight);
        self.waiting = self.waiting.saturating_add(other.waiting);
        self.window_ms = self.window_ms.max(other.window_ms);
        self.rate += other.rate;
        self.error_rate += other.error_rate;
        let mut latency = Counts(std::mem::take(&mut self.latency));
        latency.add(&Counts(other.latency.clone()));
        let micros = |part| latency.quantile(part).and_then(|took| u64::try_from(took.as_micros()).ok());
        (self.p50_us, self.p99_us) = (micros(0.5), micros(0.99));
        self.latency = latency.0;
    }
}

/// Events or work under one name.
///
/// ```
/// assert_eq!(ripstop::observe::FlowStats::default().total, 0);
/// ```
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct FlowStats {
    /// The topic, pattern or queue; `(other)` for those beyond the bound.
    pub name: String,
    /// All since the node is there.
    pub total: u64,
    /// What did not get further, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// In the last `window_ms`, a second.
    pub rate: f64,
    /// What the rate is of, in milliseconds: 5 to 10 s.
    pub window_ms: u64,
    /// Received and not taken by the program yet.
    pub waiting: u64,
    /// The first of them has waited at least so long, in milliseconds; as exact as one looks often, at worst to 5 s.
    pub oldest_ms: u64,
}

/// A node's connections.
///
/// ```
/// assert_eq!(ripstop::observe::LinkStats::default().accepted, 0);
/// ```
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LinkStats {
    /// Connections that came in.
    pub accepted: u64,
    /// Connections that were dialled and are up.
    pub dialled: u64,
    /// Messages in their queues, to be sent.
    pub queued: u64,
    /// Their bytes.
    pub queued_bytes: u64,
}

/// What a node keeps on disk.
///
/// ```
/// assert_eq!(ripstop::observe::KeptStats::default().items, 0);
/// ```
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct KeptStats {
    /// Items that wait until they are processed.
    pub items: u64,
    /// The bytes of their bodies.
    pub bytes: u64,
    /// Dead letters.
    pub letters: u64,
    /// The oldest item waits so long, in milliseconds.
    pub oldest_ms: u64,
    /// The oldest dead letter lies there so long, in milliseconds.
    pub letters_oldest_ms: u64,
}
