//! What holds for calls to one service, and what is kept for it.

use std::{sync::Arc, time::Duration};

use dashmap::DashMap;
use tokio::time::Instant;

use super::{budget::Budget, retry::Backoff};

/// With more services than this, those that nobody calls are forgotten.
const TARGETS: usize = 1024;

/// What holds for calls to one service.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Policy {
    /// A call's time in all, unless it says otherwise.
    pub(crate) deadline: Duration,
    /// Attempts of one call in all.
    pub(crate) attempts: u32,
    /// One attempt's time, where another may follow; `None`: half of what is left.
    pub(crate) attempt: Option<Duration>,
    pub(crate) backoff: Backoff,
    pub(crate) retry_percent: u32,
    pub(crate) retry_per_second: u32,
}

/// One service that this node calls.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) policy: Policy,
    pub(crate) budget: Budget,
}

impl Target {
    fn new(policy: Policy, now: Instant) -> Self {
        let budget = Budget::new(policy.retry_percent, policy.retry_per_second, now);
        Self { policy, budget }
    }

    /// How long an attempt that another may follow is waited for.
    pub(crate) fn share(&self, left: Duration) -> Duration {
        self.policy.attempt.unwrap_or(left / 2).min(left)
    }
}

/// All services that this node calls.
#[derive(Debug)]
pub(crate) struct Targets {
    targets: DashMap<Box<str>, Arc<Target>>,
    policy: Policy,
}

impl Targets {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { targets: DashMap::new(), policy }
    }

    pub(crate) fn of(&self, service: &str, now: impl FnOnce() -> Instant) -> Arc<Target> {
        if let Some(target) = self.targets.get(service) {
            return target.clone();
        }
        if self.targets.len() >= TARGETS {
            self.targets.retain(|_, target| Arc::strong_count(target) > 1);
        }
        let target = self.targets.entry(service.into());
        target.or_insert_with(|| Arc::new(Target::new(self.policy.clone(), now()))).clone()
    }
}
