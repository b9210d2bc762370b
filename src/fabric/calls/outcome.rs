//! What calls tell of the instances that were asked: who is asked less, who is left out, and who comes back.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::client::Attempt;
use crate::{
    envelope::root,
    fabric::{
        balance,
        link::{Lane, PeerLink},
        resilience::ejection::{self, Sign, Standing, Tally},
    },
    sync::lock,
};

impl Attempt<'_> {
    /// Leaves out the instances that fail where others do not, but for a call now and then that finds out whether they are well
    /// again. A call that is for one certain instance goes there.
    pub(super) fn leave_out(&self, candidates: &mut Vec<Arc<PeerLink>>) {
        let Some(target) = self.target.filter(|target| target.policy.its.eject) else { return };
        let certain = self.key.is_some() || self.instance.is_some();
        if certain || !candidates.iter().any(|link| link.health.is_out()) {
            return;
        }
        let now = Instant::now();
        // Only one that is connected can say how it is.
        let half_open = candidates.iter().position(|link| {
            link.health.standing(now) == Standing::HalfOpen
                && link.current(Lane::Calls).is_some()
                && link.health.probe(target.policy.ejection, now)
        });
        if let Some(index) = half_open {
            let probe = candidates.swap_remove(index);
            candidates.clear();
            candidates.push(probe);
        } else if candidates.iter().any(|link| !link.health.is_out()) {
            candidates.retain(|link| !link.health.is_out());
        }
    }

    /// The instance answered, well or ill, as it should.
    pub(super) fn did_well(&self, link: &PeerLink, took: Duration, now: Instant) {
        link.load.succeeded(took, now);
        if link.health.succeeded(now) {
            link.load.start_slowly(now);
            tracing::info!(peer = %link.name(), "the instance is well again");
        }
    }

    /// The instance failed, or took too long.
    pub(super) fn did_ill(&self, link: &PeerLink, took: Duration, now: Instant) {
        link.load.failed(took, now);
        let Some(target) = self.target.filter(|target| target.policy.its.eject) else { return };
        let rule = target.policy.ejection;
        let suspicion = match link.health.failed(rule, now) {
            Sign::None => return,
            Sign::StillBad(time) => {
                tracing::warn!(peer = %link.name(), ?time, "the instance fails still, and is left out for longer");
                return;
            }
            Sign::Suspect(suspicion) => suspicion,
        };
        let service = root(self.subject);
        // One after the other: two that are judged at once could both be let go.
        let _judging = lock(&target.judging);
        let links = self.shared.links_for(service);
        let others = links.iter().filter(|other| other.key != link.key && !other.health.is_out());
        let others = others.fold(Tally::default(), |sum, other| sum.add(other.health.tally(now)));
        let out = links.iter().filter(|other| other.health.is_out()).count();
        if !ejection::may_leave(suspicion, others, out, links.len()) {
            return;
        }
        let gauge = metrics::gauge!("ripstop_ejected", "service" => service.to_owned());
        if let Some(time) = link.health.eject(rule, now, gauge) {
            metrics::counter!("ripstop_ejections_total", "service" => service.to_owned()).increment(1);
            tracing::warn!(peer = %link.name(), ?time, ?suspicion, "the instance fails where others do not: it is left out");
        }
    }
}

/// Keeps a call counted as outstanding. One that is `late` when it is dropped, and has no outcome, has failed.
pub(super) struct Outstanding<'a> {
    attempt: &'a Attempt<'a>,
    link: &'a PeerLink,
    pub(super) late: Option<Instant>,
}

impl<'a> Outstanding<'a> {
    pub(super) fn begin(attempt: &'a Attempt<'_>, link: &'a PeerLink, late: Instant) -> Self {
        link.load.begin();
        Self { attempt, link, late: Some(late) }
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.link.load.end();
        // Its caller waits no longer: because the time was up, or for reasons of its own.
        let Some(late) = self.late else { return };
        let now = Instant::now();
        if now >= late {
            self.attempt.did_ill(self.link, balance::FAILURE, now);
        }
    }
}
