//! What a node counts and says of itself.
//!
//! ```text
//! mod      the tables that calls are counted in, and the task that keeps windows and gauges up to date
//! own      what is answered to $node.info, $node.stats, $node.health, $node.config
//! inspect  asking that of another node
//! ```

pub(crate) mod inspect;
pub(crate) mod own;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};

#[cfg(feature = "durable")]
use crate::observe::KeptStats;
use crate::{
    Code,
    envelope::root,
    fabric::{inbox::Inbox, shared::Shared},
    observe::{
        FlowStats, LinkStats, NodeHealth, NodeStats,
        flow::Flow,
        names::{CALLERS, CALLS, PUBLISHED, PUSHED, REQUESTS, WORK},
        series::{InFlight, Series},
        table::{OTHER, Table},
    },
    sync::lock,
};

/// Names that are counted apart: methods, topics and queues are this node's own choice, and still there may be too many.
const SUBJECTS: usize = 1000;
/// Services that are counted apart. Who calls is what a peer says, where it need not prove it.
const SERVICES: usize = 100;
/// Half the window of rates and quantiles.
const TICK: Duration = Duration::from_secs(5);

/// Metrics of what comes in.
struct Received {
    label: &'static str,
    total: &'static str,
    waiting: &'static str,
    oldest: &'static str,
}

const WORK_RECEIVED: Received = Received {
    label: "queue",
    total: "ripstop_work_received_total",
    waiting: "ripstop_work_waiting",
    oldest: "ripstop_work_oldest_seconds",
};
const EVENTS_RECEIVED: Received = Received {
    label: "pattern",
    total: "ripstop_events_received_total",
    waiting: "ripstop_events_waiting",
    oldest: "ripstop_events_oldest_seconds",
};

/// What is counted of a method that this node calls.
pub(crate) struct Called {
    pub(crate) method: Arc<Series>,
    /// The same for all methods of its service.
    pub(crate) target: Arc<Series>,
}

impl Called {
    /// A call begins.
    pub(crate) fn begin(&self) -> Counting {
        Counting { both: [self.method.begin(), self.target.begin()], began: Instant::now() }
    }
}

/// A call that is under way, counted in two tables.
pub(crate) struct Counting {
    both: [InFlight; 2],
    began: Instant,
}

impl Counting {
    pub(crate) fn new(both: [InFlight; 2], began: Instant) -> Self {
        Self { both, began }
    }

    /// It has ended. One that is given up is under way no longer, and otherwise not counted.
    pub(crate) fn ended(self, outcome: Result<(), Code>) {
        let took = self.began.elapsed();
        self.both.iter().for_each(|under_way| under_way.series().ended(outcome, took));
    }
}

/// What a node counts.
pub(crate) struct Counted {
    served: Table<Series>,
    callers: Table<Series>,
    called: Table<Called>,
    targets: Table<Series>,
    worked: Table<Series>,
    published: Table<Flow>,
    pushed: Table<Flow>,
    /// Names of queues and patterns, for metrics of what is received.
    received: Table<()>,
}

impl Counted {
    pub(crate) fn new() -> Self {
        Self {
            served: Table::new(SUBJECTS),
            callers: Table::new(SERVICES),
            called: Table::new(SUBJECTS),
            targets: Table::new(SERVICES),
            worked: Table::new(SUBJECTS),
            published: Table::new(SUBJECTS),
            pushed: Table::new(SUBJECTS),
            received: Table::new(SUBJECTS),
        }
    }

    /// A method that this node serves.
    pub(crate) fn served(&self, subject: &str) -> Arc<Series> {
        self.served.get(subject, |subject| Series::new(Some(REQUESTS), subject, &[]))
    }

    /// The same, and the gauge of what waits for it.
    pub(crate) fn served_and_waiting(&self, subject: &str) -> (Arc<Series>, metrics::Gauge) {
        let label = if self.received.is_known(subject, || ()) { subject } else { OTHER };
        (self.served(subject), metrics::gauge!("ripstop_requests_waiting", "subject" => label.to_owned()))
    }

    /// A service that calls this node; one that does not say who it is has no name.
    pub(crate) fn caller(&self, service: Option<&str>) -> Arc<Series> {
        self.callers.get(service.unwrap_or("(unknown)"), |service| Series::new(Some(CALLERS), service, &[]))
    }

    /// A method that this node calls.
    pub(crate) fn called(&self, subject: &str) -> Arc<Called> {
        self.called.get(subject, |name| {
            let service = root(name);
            Called {
                method: Arc::new(Series::new(Some(CALLS), name, &[("service", service)])),
                target: self.targets.get(service, |service| Series::new(None, service, &[])),
            }
        })
    }

    /// Handlers of a queue that this node pulls.
    pub(crate) fn worked(&self, queue: &str) -> Arc<Series> {
        self.worked.get(queue, |queue| Series::new(Some(WORK), queue, &[]))
    }

    /// A topic that this node publishes.
    pub(crate) fn published(&self, subject: &str) -> Arc<Flow> {
        self.published.get(subject, |subject| Flow::new(PUBLISHED, subject))
    }

    /// A queue that this node pushes to.
    pub(crate) fn pushed(&self, queue: &str) -> Arc<Flow> {
        self.pushed.get(queue, |queue| Flow::new(PUSHED, queue))
    }

    /// All that is counted.
    pub(crate) fn report(&self, now: Instant, into: &mut NodeStats) {
        let stats = |(name, series): (String, Arc<Series>)| series.stats(name, now);
        into.served = self.served.all().into_iter().map(stats).collect();
        into.callers = self.callers.all().into_iter().map(stats).collect();
        into.targets = self.targets.all().into_iter().map(stats).collect();
        into.worked = self.worked.all().into_iter().map(stats).collect();
        let flows = |(name, flow): (String, Arc<Flow>)| flow.stats(name, now);
        into.published = self.published.all().into_iter().map(flows).collect();
        into.pushed = self.pushed.all().into_iter().map(flows).collect();
        into.called =
            self.called.all().into_iter().map(|(name, called)| called.method.stats(name, now)).collect();
    }

    fn tick(&self, now: Instant) {
        for table in [&self.served, &self.callers, &self.targets, &self.worked] {
            table.each(|series| series.tick(now));
        }
        self.called.each(|called| called.method.tick(now));
        for table in [&self.published, &self.pushed] {
            table.each(|flow| flow.tick(now));
        }
    }
}

/// Keeps windows and gauges up to date for as long as the node is there.
pub(crate) async fn keep(shared: Weak<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        let Some(strong) = shared.upgrade() else { return };
        tokio::select! {
            now = ticks.tick() => {
                strong.counted.tick(now);
                for (_, inbox) in strong.pulls.inboxes().into_iter().chain(strong.subscriptions.inboxes()) {
                    lock(&inbox.watch).tick(now, inbox.counts().0);
                }
                strong.sample();
                #[cfg(feature = "durable")]
                strong.sample_store().await;
                #[cfg(feature = "observe")]
                crate::observe::endpoint::upkeep();
            }
            () = strong.closed() => return,
        }
    }
}

impl Shared {
    /// Whether this node can take requests, and if not, why.
    pub(crate) fn health(&self) -> NodeHealth {
        let mut reasons = Vec::new();
        if self.is_draining() {
            reasons.push("it is leaving".to_owned());
        }
        if lock(&self.listeners).is_empty() {
            reasons.push("it has no listener".to_owned());
        }
        let offers = [self.methods.subjects(), self.topics.subjects(), self.pulls.queues()];
        if offers.iter().all(Vec::is_empty) {
            reasons.push("it serves, publishes and pulls nothing yet".to_owned());
        }
        NodeHealth {
            service: self.service.clone(),
            node: self.id.to_string(),
            ready: reasons.is_empty(),
            reasons,
            uptime_ms: self.uptime(),
        }
    }

    pub(crate) fn uptime(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn link_stats(&self) -> LinkStats {
        let accepted: Vec<_> = lock(&self.accepted).values().map(|(pipe, _)| pipe.clone()).collect();
        let dialled: Vec<_> =
            self.links.iter().flat_map(|link| link.connections().collect::<Vec<_>>()).collect();
        let pipes = accepted.iter().chain(dialled.iter().map(|connection| &connection.pipe));
        let (queued, bytes) = pipes.fold((0, 0), |(messages, bytes), pipe| {
            let (more, larger) = pipe.queued();
            (messages + more, bytes + larger)
        });
        LinkStats {
            accepted: accepted.len() as u64,
            dialled: dialled.len() as u64,
            queued: queued as u64,
            queued_bytes: bytes as u64,
        }
    }

    /// What came into these inboxes and waits there; several of one name together.
    pub(crate) fn received(inboxes: Vec<(String, Arc<Inbox>)>, now: Instant) -> Vec<FlowStats> {
        let mut all: BTreeMap<String, FlowStats> = BTreeMap::new();
        for (name, inbox) in inboxes {
            let (entered, waiting) = inbox.counts();
            let one = lock(&inbox.watch).stats(name.clone(), now, entered, waiting);
            match all.entry(name) {
                Entry::Vacant(new) => drop(new.insert(one)),
                Entry::Occupied(mut sum) => {
                    let sum = sum.get_mut();
                    sum.total += one.total;
                    sum.rate += one.rate;
                    sum.waiting += one.waiting;
                    sum.oldest_ms = sum.oldest_ms.max(one.oldest_ms);
                }
            }
        }
        all.into_values().collect()
    }

    /// Tells the metrics of what came into these inboxes.
    fn sample_received(&self, mut inboxes: Vec<(String, Arc<Inbox>)>, names: &Received) {
        let now = Instant::now();
        // Those of which there is nothing new are left alone: looking a metric up takes memory.
        inboxes.retain(|(_, inbox)| lock(&inbox.watch).is_news(inbox.counts()));
        for (name, inbox) in &inboxes {
            let untold = lock(&inbox.watch).untold(inbox.counts().0);
            metrics::counter!(names.total, names.label => self.label(name)).increment(untold);
        }
        for flow in Self::received(inboxes, now) {
            let label = self.label(&flow.name);
            metrics::gauge!(names.waiting, names.label => label.clone()).set(flow.waiting as f64);
            metrics::gauge!(names.oldest, names.label => label).set(flow.oldest_ms as f64 / 1e3);
        }
    }

    /// The name, if there is room for another label.
    fn label(&self, name: &str) -> String {
        let known = self.counted.received.is_known(name, || ());
        if known { name.to_owned() } else { OTHER.to_owned() }
    }

    /// What waits on disk, and since when.
    #[cfg(feature = "durable")]
    pub(crate) async fn kept(&self) -> Option<KeptStats> {
        self.outbox.get()?.stats().await.ok()
    }

    #[cfg(feature = "durable")]
    async fn sample_store(&self) {
        if let Some(kept) = self.kept().await {
            metrics::gauge!("ripstop_outbox_oldest_seconds").set(kept.oldest_ms as f64 / 1e3);
            metrics::gauge!("ripstop_dead_letters_oldest_seconds").set(kept.letters_oldest_ms as f64 / 1e3);
        }
    }

    /// Brings the gauges up to date that nobody sets in between.
    pub(crate) fn sample(&self) {
        self.sample_received(self.pulls.inboxes(), &WORK_RECEIVED);
        self.sample_received(self.subscriptions.inboxes(), &EVENTS_RECEIVED);
        let links = self.link_stats();
        metrics::gauge!("ripstop_connections", "direction" => "in").set(links.accepted as f64);
        metrics::gauge!("ripstop_connections", "direction" => "out").set(links.dialled as f64);
        metrics::gauge!("ripstop_queue_messages").set(links.queued as f64);
        metrics::gauge!("ripstop_queue_bytes").set(links.queued_bytes as f64);
        self.methods.sample();
    }
}

#[cfg(feature = "observe")]
pub(crate) use endpoint::watch;

#[cfg(feature = "observe")]
mod endpoint {
    use std::sync::{Arc, Weak};

    use tokio::net::TcpListener;

    use crate::{
        fabric::shared::{Phase, Shared},
        observe::{
            NodeHealth,
            endpoint::{Watched, serve},
        },
    };

    impl Watched for Weak<Shared> {
        fn health(&self) -> Option<NodeHealth> {
            Some(self.upgrade()?.health())
        }

        fn sample(&self) {
            if let Some(shared) = self.upgrade() {
                shared.sample();
            }
        }
    }

    /// Answers at the observe endpoint until the node has drained.
    pub(crate) fn watch(shared: &Arc<Shared>, listener: TcpListener) {
        let mut phase = shared.phase.subscribe();
        let end = async move {
            // An error: the node is gone altogether.
            let _ = phase.wait_for(|phase| *phase == Phase::Gone).await;
        };
        shared.spawn(serve(listener, Arc::downgrade(shared), end));
    }
}
