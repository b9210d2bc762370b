//! What holds for calls to one service, and what is kept for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use dashmap::DashMap;
use tokio::time::Instant;

use super::{budget::Budget, bulkhead::Bulkhead, ejection::Rule, retry::Backoff};
use crate::{
    config::{Config, InForce, ServiceConfig},
    sync::{read, write},
};

/// With more services than this, those that nobody calls are forgotten.
const TARGETS: usize = 1024;

/// What holds for calls to one service.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Policy {
    pub(crate) its: InForce,
    pub(crate) backoff: Backoff,
    /// When a failing instance is left out, and for how long.
    pub(crate) ejection: Rule,
    /// In this time a new instance comes to its full share.
    pub(crate) slow_start: Duration,
}

impl Policy {
    fn of(config: &Config, own: Option<&ServiceConfig>) -> Self {
        let all = &config.resilience;
        Self {
            its: InForce::of(config, own),
            backoff: Backoff { min: all.backoff_min, max: all.backoff_max },
            ejection: Rule { after: all.eject_after, out: (all.eject_min, all.eject_max) },
            slow_start: all.slow_start,
        }
    }
}

/// One service that this node calls.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) policy: Policy,
    pub(crate) budget: Budget,
    pub(crate) bulkhead: Bulkhead,
    /// Held while it is decided whether an instance is left out.
    pub(crate) judging: Mutex<()>,
}

impl Target {
    fn new(policy: Policy, now: Instant) -> Self {
        let budget = Budget::new(policy.its.retry_percent, policy.its.retry_per_second, now);
        let bulkhead = Bulkhead::new(policy.its.in_flight, policy.its.waiting);
        Self { policy, budget, bulkhead, judging: Mutex::default() }
    }

    /// How long an attempt that another may follow is waited for.
    pub(crate) fn share(&self, left: Duration) -> Duration {
        self.policy.its.attempt_time.unwrap_or(left / 2).min(left)
    }
}

/// All services that this node calls.
#[derive(Debug)]
pub(crate) struct Targets {
    targets: DashMap<Box<str>, Arc<Target>>,
    policies: RwLock<Policies>,
}

#[derive(PartialEq, Debug)]
struct Policies {
    all: Policy,
    single: HashMap<String, Policy>,
}

impl Policies {
    fn of(config: &Config) -> Self {
        let single = config.resilience.services.iter();
        let single = single.map(|own| (own.name.clone(), Policy::of(config, Some(own)))).collect();
        Self { all: Policy::of(config, None), single }
    }
}

impl Targets {
    pub(crate) fn new(config: &Config) -> Self {
        Self { targets: DashMap::new(), policies: RwLock::new(Policies::of(config)) }
    }

    /// This holds from now on. Calls under way go on under what they began with, and keep their places.
    pub(crate) fn replace(&self, config: &Config) {
        *write(&self.policies) = Policies::of(config);
        self.targets.clear();
    }

    pub(crate) fn of(&self, service: &str, now: impl FnOnce() -> Instant) -> Arc<Target> {
        if let Some(target) = self.targets.get(service) {
            return target.clone();
        }
        if self.targets.len() >= TARGETS {
            self.targets.retain(|_, target| Arc::strong_count(target) > 1);
        }
        let target = self.targets.entry(service.into());
        // Read with the entry locked: a change that comes now clears it again.
        target
            .or_insert_with(|| {
                let policies = read(&self.policies);
                let policy = policies.single.get(service).unwrap_or(&policies.all);
                Arc::new(Target::new(policy.clone(), now()))
            })
            .clone()
    }
}
