//! Keeps a lane connected: dials, dials again, and changes over from one connection to the next.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::{
    Connection, Lane, PeerLink,
    race::{Told, Won, race},
};
use crate::fabric::{shared::Shared, wire::property};
use crate::zmtp::WANTS_KEYS;

/// Dials that new keys cause are spread over this.
const SPREAD: Duration = Duration::from_millis(100);
/// A publisher is heard on both connections for so long when one takes over from the other.
const OVERLAP: Duration = Duration::from_secs(1);

/// Keeps one lane of one link connected for as long as the peer is in the directory.
pub(super) async fn supervise(shared: Weak<Shared>, link: Arc<PeerLink>, lane: Lane) {
    let Some((least, most)) = shared.upgrade().map(|shared| shared.options.reconnect) else { return };
    let mut ceiling = least;
    loop {
        let Some(strong) = shared.upgrade() else { return };
        if strong.is_closed() || !strong.knows(&link.key) {
            link.resign(lane, "the instance is gone");
            strong.forget_if_gone(&link);
            return;
        }
        // The directory may have heard of other addresses since the link was last used.
        if let Some(instance) = strong.directory.find(&link.key).filter(|instance| instance.key == link.key) {
            link.update(instance);
        }
        match race(&strong, &link, lane, link.instance().advert.endpoints.clone()).await {
            Ok((connection, attempt, mut told)) => {
                ceiling = least;
                let pipe = connection.pipe.clone();
                drop(link.up(&strong, lane, connection));
                pipe.resume();
                let mut changed = strong.directory.changed();
                let mut renewals = strong.guard.renewals();
                drop(strong);
                let (mut attempt, mut pipe) = (attempt, pipe);
                // A renewal that came to nothing is tried again.
                let (mut pause, mut again) = (least, None);
                let reason = loop {
                    let moving = tokio::select! {
                        reason = ended(&mut told, attempt) => break reason,
                        // It may have announced another address: that is dialled beside the live connection.
                        Ok(()) = changed.changed() => true,
                        // So is the same one, when keys have changed or the peer's will soon be over.
                        Ok(()) = renewals.changed() => false,
                        () = link.slot(lane).renew.notified() => false,
                        () = at(again) => false,
                    };
                    let Some(strong) = shared.upgrade() else { return };
                    let won = async {
                        match moving {
                            true => moved(&strong, &link, lane).await,
                            false => renewed(&strong, &link, lane).await,
                        }
                    };
                    let won = tokio::select! {
                        reason = ended(&mut told, attempt) => break reason,
                        won = won => won,
                    };
                    let Some((connection, won, tells)) = won else {
                        if !moving {
                            again = Some(Instant::now() + pause.mul_f64(fastrand::f64()));
                            pause = (pause * 2).min(most);
                        }
                        continue;
                    };
                    (pause, again) = (least, None);
                    (attempt, told, pipe) = (won, tells, connection.pipe.clone());
                    // It ends with the last call that waits on it, and when both have brought the same events.
                    if let Some(old) = link.up(&strong, lane, connection) {
                        strong.note_retired(&old.pipe);
                        let shared = Arc::downgrade(&strong);
                        strong.spawn(retire(shared, lane, old));
                    }
                    pipe.resume();
                };
                let Some(strong) = shared.upgrade() else { return };
                tracing::debug!(peer = %link.name(), lane = lane.name(), %reason, "link down");
                metrics::counter!("ripstop_links_lost_total", "lane" => lane.name()).increment(1);
                link.down(&strong, lane, &reason);
                if lane == Lane::Work {
                    strong.work_lost(&pipe);
                }
            }
            Err(reason) => {
                if link.identified.load(Ordering::Relaxed) {
                    link.resign(lane, &reason);
                    strong.forget_if_gone(&link);
                    return;
                }
                // A peer that proves to be somebody else, or that does not let us in, is worth a word: whoever calls it
                // gets the reason as an error, whoever subscribes gets nothing.
                let unheard = lane != Lane::Calls && reason.contains(WANTS_KEYS);
                let told = (strong.guard.keys().is_some() || unheard)
                    && strong.guard.strangers.is_news(&format!("{} {reason}", link.name()));
                match told {
                    true => tracing::warn!(peer = %link.name(), lane = lane.name(), %reason, "dial failed"),
                    false => tracing::debug!(peer = %link.name(), lane = lane.name(), %reason, "dial failed"),
                }
                link.down(&strong, lane, &reason);
                strong.directory.suspect(&link.key);
                ceiling = (ceiling * 2).min(most);
            }
        }
        tokio::time::sleep(ceiling.mul_f64(fastrand::f64())).await;
    }
}

/// Dials the addresses that a live peer has announced since it was dialled. The advert is a hint: only a peer that
/// proves to be the same node takes over.
async fn moved(shared: &Arc<Shared>, link: &Arc<PeerLink>, lane: Lane) -> Option<Won> {
    let instance = shared.directory.find(&link.key).filter(|instance| !instance.pending.is_empty())?;
    let won = race(shared, link, lane, instance.pending.clone()).await.ok()?;
    let mut advert = instance.advert.clone();
    advert.endpoints.clone_from(&instance.pending);
    let epoch = won.0.pipe.peer().and_then(|peer| peer.property(property::EPOCH).cloned());
    let epoch = epoch.and_then(|epoch| std::str::from_utf8(&epoch).ok()?.parse().ok());
    advert.epoch = epoch.unwrap_or(advert.epoch);
    shared.directory.met(&link.key, advert);
    Some(won)
}

/// Dials a live peer once more, so that the connection stands on the newest keys of both sides.
async fn renewed(shared: &Arc<Shared>, link: &Arc<PeerLink>, lane: Lane) -> Option<Won> {
    // All links do so at about the same time.
    tokio::time::sleep(SPREAD.mul_f64(fastrand::f64())).await;
    race(shared, link, lane, link.instance().advert.endpoints.clone()).await.ok()
}

/// Keeps the events of a connection that was replaced coming until those of the new one go on from there.
async fn retire(shared: Weak<Shared>, lane: Lane, old: Arc<Connection>) {
    if lane == Lane::Events {
        tokio::time::sleep(OVERLAP).await;
        if let Some(shared) = shared.upgrade() {
            shared.subscriptions.left(&old.pipe);
        }
    }
}

/// Waits until then, if ever.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Waits for the end of the connection that won.
async fn ended(told: &mut mpsc::Receiver<Told>, attempt: usize) -> String {
    loop {
        match told.recv().await {
            Some(Told::Left { attempt: of, reason }) if of == attempt => return reason,
            Some(_) => {}
            None => return "the connection ended".into(),
        }
    }
}
