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
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    Code,
    envelope::root,
    fabric::shared::Shared,
    observe::{
        LinkStats, NodeHealth, NodeStats,
        names::{CALLERS, CALLS, REQUESTS},
        series::{InFlight, Series},
        table::Table,
    },
    sync::lock,
};

/// Names that are counted apart: methods, topics and queues are this node's own choice, and still there may be too many.
const SUBJECTS: usize = 1000;
/// Services that are counted apart. Who calls is what a peer says, where it need not prove it.
const SERVICES: usize = 100;
/// Half the window of rates and quantiles.
const TICK: Duration = Duration::from_secs(5);

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
}

impl Counted {
    pub(crate) fn new() -> Self {
        Self {
            served: Table::new(SUBJECTS),
            callers: Table::new(SERVICES),
            called: Table::new(SUBJECTS),
            targets: Table::new(SERVICES),
        }
    }

    /// A method that this node serves.
    pub(crate) fn served(&self, subject: &str) -> Arc<Series> {
        self.served.get(subject, |subject| Series::new(Some(REQUESTS), subject, &[]))
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

    /// All that is counted.
    pub(crate) fn report(&self, now: Instant, into: &mut NodeStats) {
        let stats = |(name, series): (String, Arc<Series>)| series.stats(name, now);
        into.served = self.served.all().into_iter().map(stats).collect();
        into.callers = self.callers.all().into_iter().map(stats).collect();
        into.targets = self.targets.all().into_iter().map(stats).collect();
        into.called =
            self.called.all().into_iter().map(|(name, called)| called.method.stats(name, now)).collect();
    }

    fn tick(&self, now: Instant) {
        self.served.all().iter().for_each(|(_, series)| series.tick(now));
        self.callers.all().iter().for_each(|(_, series)| series.tick(now));
        self.called.all().iter().for_each(|(_, called)| called.method.tick(now));
        self.targets.all().iter().for_each(|(_, series)| series.tick(now));
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
                strong.sample();
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

    /// Brings the gauges up to date that nobody sets in between.
    pub(crate) fn sample(&self) {
        let links = self.link_stats();
        metrics::gauge!("ripstop_connections", "direction" => "in").set(links.accepted as f64);
        metrics::gauge!("ripstop_connections", "direction" => "out").set(links.dialled as f64);
        metrics::gauge!("ripstop_queue_messages").set(links.queued as f64);
        metrics::gauge!("ripstop_queue_bytes").set(links.queued_bytes as f64);
        for (subject, waiting) in self.methods.waiting() {
            metrics::gauge!("ripstop_requests_waiting", "subject" => subject).set(waiting as f64);
        }
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
