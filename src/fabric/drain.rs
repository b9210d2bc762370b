//! Leaving in good order.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use crate::{
    envelope::{Header, Kind},
    fabric::{
        shared::{Phase, Shared, deadline},
        wire::{self, Envelope, own, property},
    },
    socket::pipe::Pipe,
    sync::lock,
};

/// How long peers may take to confirm a goaway. One that does not is stopped or gone.
const CONFIRM: Duration = Duration::from_secs(1);

/// How long the goodbyes of discovery may take; the links say goodbye too.
const WITHDRAW: Duration = Duration::from_secs(1);

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Every connection there is.
fn pipes(shared: &Shared) -> Vec<Arc<Pipe>> {
    let accepted = lock(&shared.accepted).values().map(|(pipe, _)| pipe.clone()).collect::<Vec<_>>();
    let dialled = shared.links.iter().flat_map(|link| link.connections().collect::<Vec<_>>());
    accepted.into_iter().chain(dialled.map(|connection| connection.pipe.clone())).collect()
}

/// Waits until every queue has been handed to the system.
pub(crate) async fn flush(shared: &Shared) {
    for pipe in pipes(shared) {
        pipe.flushed().await;
    }
}

/// Begins to drain, unless that has begun, and waits for the end. A drain once begun goes on when nobody waits.
pub(crate) async fn drain(shared: &Arc<Shared>) {
    begin(shared);
    let _ = shared.phase.subscribe().wait_for(|phase| *phase == Phase::Gone).await;
}

/// Tells whoever waits for the end of a drain, even if its runtime was shut down under it.
struct Gone(Arc<Shared>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.phase.send_replace(Phase::Gone);
    }
}

/// Drains in a task of its own.
pub(crate) fn begin(shared: &Arc<Shared>) {
    let first = shared.phase.send_if_modified(|phase| {
        let running = *phase == Phase::Running;
        if running {
            *phase = Phase::Draining;
        }
        running
    });
    if first {
        let gone = Gone(shared.clone());
        shared.spawn(async move { leave(&gone.0).await });
    }
}

/// Goaway, finish, flush, close.
async fn leave(shared: &Arc<Shared>) {
    let started = Instant::now();
    let deadline = deadline(shared.options.drain);
    tracing::debug!(node = %shared.id, service = %shared.service, "draining");

    // Nobody finds us any more, and those who have us turn to others.
    let _ = timeout_at(deadline.min(started + WITHDRAW), shared.directory.withdraw()).await;
    shared.pulls.drain();
    goaway(shared);
    let _ = timeout_at(deadline.min(Instant::now() + CONFIRM), confirmed(shared)).await;

    // What is under way is finished: handlers, and items that were granted credit and have arrived.
    shared.pulls.end();
    for inbox in lock(&shared.inboxes).iter().filter_map(std::sync::Weak::upgrade) {
        inbox.close();
    }
    let finished = timeout_at(deadline, finished(shared)).await.is_ok();
    if !finished {
        let (handlers, items) = (shared.methods.busy.count(), shared.pulls.waiting());
        tracing::warn!(handlers, items, "drain: the time is up with work unfinished");
    }

    shared.phase.send_replace(Phase::Closed);
    if timeout_at(deadline, flush(shared)).await.is_err() {
        let unsent: usize = pipes(shared).iter().map(|pipe| pipe.queued().0).sum();
        metrics::counter!("ripstop_messages_dropped_total", "reason" => "drain").increment(unsent as u64);
        tracing::warn!(unsent, "drain: the time is up with messages unsent");
    }
    close(shared, deadline).await;
    #[cfg(feature = "durable")]
    if let Some(outbox) = shared.outbox.get() {
        outbox.journal().close().await;
    }
    shared.identity.release();
    tracing::debug!(node = %shared.id, took = ?started.elapsed(), "drained");
}

/// Tells everyone who has to confirm and has not yet.
pub(crate) fn goaway(shared: &Shared) {
    for (pipe, confirmed) in lock(&shared.accepted).values_mut().filter(|(_, confirmed)| !*confirmed) {
        let lane = pipe.peer().and_then(|peer| peer.property(property::LANE).cloned());
        let envelope = match lane.as_deref() {
            Some(b"calls") => Envelope::Delimiter,
            Some(b"work") => Envelope::None,
            // Subscribers and foreign peers have nothing to confirm.
            _ => {
                *confirmed = true;
                continue;
            }
        };
        wire::urgent(pipe, envelope, own::GOAWAY, Header::new(Kind::Goaway, 0), &());
    }
}

async fn confirmed(shared: &Shared) {
    loop {
        let changed = shared.accepted_changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if lock(&shared.accepted).values().all(|(_, confirmed)| *confirmed) {
            return;
        }
        changed.await;
    }
}

async fn finished(shared: &Shared) {
    loop {
        shared.methods.busy.idle().await;
        if shared.pulls.waiting() == 0 {
            return;
        }
        // The application is still taking items; there is no event for it, and 10 ms at shutdown are nothing.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn close(shared: &Shared, deadline: Instant) {
    for listener in lock(&shared.listeners).drain(..) {
        listener.close();
    }
    let open = pipes(shared);
    let linger = deadline.saturating_duration_since(Instant::now());
    open.iter().for_each(|pipe| pipe.close("the node is shutting down", Some(linger)));
    for pipe in &open {
        if timeout_at(deadline, pipe.ended()).await.is_err() {
            pipe.abort("the node is shutting down");
        }
    }
    for link in &shared.links {
        link.close("this node is shutting down");
    }
    shared.links.clear();
}
