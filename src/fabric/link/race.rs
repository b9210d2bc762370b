//! One round of dialling: a peer's addresses side by side, and what stands behind each of the connections.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use tokio::sync::mpsc;

use super::{Connection, Dialling, Lane, PeerLink};
use crate::{
    discovery::{Advert, Key},
    endpoint::Endpoint,
    fabric::{calls::pending::Pending, error::instance_name, guard::Who, shared::Shared, wire::property},
    socket::{
        ConnectError,
        core::{Admission, Admit, Core, Disconnect, Flow, Origin, Refusal},
        dial::dial,
        pipe::Pipe,
    },
    transport::tls::Proof,
    zmtp::{Peer, Received},
};

/// How many addresses of one peer are dialled at once; another follows for each that fails, and after each pause.
const RACE: usize = 4;
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses dialled in one round, at most: as many as an advert may have.
const ADDRESSES: usize = 20;
/// How long one round of dialling may take before it counts as failed.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// What a dialled connection tells its supervisor.
pub(super) enum Told {
    Joined { attempt: usize, pipe: Arc<Pipe> },
    Failed { endpoint: Endpoint, reason: String },
    Left { attempt: usize, reason: String },
}

pub(super) type Won = (Arc<Connection>, usize, mpsc::Receiver<Told>);

/// Dials the peer's addresses side by side; the first that gets through the handshake wins.
pub(super) async fn race(
    shared: &Arc<Shared>,
    link: &Arc<PeerLink>,
    lane: Lane,
    endpoints: Vec<Endpoint>,
) -> Result<Won, String> {
    // A connection tells at most three things.
    let (tell, mut told) = mpsc::channel(3 * ADDRESSES);
    let begin = |attempt, endpoint| {
        let core = Arc::new_cyclic(|me| Dialled {
            me: me.clone(),
            shared: Arc::downgrade(shared),
            link: link.clone(),
            lane,
            attempt,
            pending: Arc::new(Pending::new(link.name())),
            tell: tell.clone(),
        });
        let pending = core.pending.clone();
        let options = shared.dial_options(lane, &link.instance().advert.service);
        (Dialling(dial(endpoint, options, core, shared.monitor.clone())), pending)
    };
    let mut endpoints = endpoints.into_iter().take(ADDRESSES).enumerate();
    let mut dials = Vec::new();
    let mut reason = String::from("it has no address");
    let (mut under_way, mut allowed) = (0usize, RACE);
    let outcome = tokio::time::timeout(DIAL_TIMEOUT, async {
        loop {
            for (attempt, endpoint) in endpoints.by_ref().take(allowed) {
                dials.push(Some(begin(attempt, endpoint)));
                under_way += 1;
            }
            allowed = 1;
            if under_way == 0 {
                return None;
            }
            let said = tokio::select! {
                said = told.recv() => said,
                () = tokio::time::sleep(STAGGER), if endpoints.len() > 0 => continue,
            };
            match said {
                Some(Told::Joined { attempt, pipe }) => {
                    if let Some((dial, pending)) = dials.get_mut(attempt).and_then(Option::take) {
                        return Some((Arc::new(Connection { pipe, pending, _dial: dial }), attempt));
                    }
                }
                Some(Told::Failed { endpoint, reason: why }) => {
                    reason = format!("{endpoint}: {why}");
                    under_way = under_way.saturating_sub(1);
                }
                Some(Told::Left { reason: why, .. }) => {
                    reason = why;
                    under_way = under_way.saturating_sub(1);
                }
                None => return None,
            }
        }
    })
    .await;
    match outcome {
        Ok(Some((connection, attempt))) => Ok((connection, attempt, told)),
        Ok(None) => Err(reason),
        Err(_) => Err(format!("no answer within {} s", DIAL_TIMEOUT.as_secs())),
    }
}

/// Stands behind one dialled connection.
struct Dialled {
    me: Weak<Dialled>,
    shared: Weak<Shared>,
    link: Arc<PeerLink>,
    lane: Lane,
    attempt: usize,
    pending: Arc<Pending>,
    tell: mpsc::Sender<Told>,
}

impl Dialled {
    fn tell(&self, told: Told) {
        // The channel holds all that the connections of one race can say; a closed one means nobody cares any more.
        let _ = self.tell.try_send(told);
    }
}

impl Dialled {
    fn admission(
        &self,
        peer: &Peer,
        proof: &Proof,
    ) -> Result<(Arc<Shared>, Option<Who>, Admission), Refusal> {
        let closing = |reason: &str| Refusal { reason: reason.into(), last: false };
        let gone = || closing("the node is gone");
        let shared = self.shared.upgrade().ok_or_else(gone)?;
        // The advert was a hint; this is who really answers. With keys its certificate says so: it was read before.
        let who = shared.guard.identify(peer, proof).map_err(|reason| closing(&reason))?;
        if let Some(fabric) = peer.property(property::FABRIC)
            && fabric != shared.fabric.as_bytes()
        {
            return Err(closing("the peer belongs to another fabric"));
        }
        if let (Some(expected), Some(said)) = (self.link.node(), peer.property(property::NODE))
            && said != expected.to_string().as_bytes()
        {
            // A configured address now leads to this one.
            if let Some(advert) = advert_of(peer, &self.link) {
                shared.directory.met(&self.link.key, advert);
                shared.reconcile();
            }
            return Err(closing("another node answers at this address"));
        }
        if let (Key::Endpoint(_), Some(advert)) = (&self.link.key, advert_of(peer, &self.link)) {
            // Now the directory knows the node behind this address, perhaps from another source as well. One link a node:
            // the next dial is made under the node's own key.
            let name = instance_name(&advert.service, advert.node);
            shared.directory.met(&self.link.key, advert);
            self.link.identified.store(true, Ordering::Relaxed);
            shared.reconcile();
            return Err(closing(&format!("identified as {name}")));
        }
        let core = self.me.upgrade().ok_or_else(gone)?;
        let local = shared.local(self.lane.dials_as(), Some(self.lane));
        Ok((shared, who, Admission { local, core, about: None }))
    }
}

impl Core for Dialled {
    fn admit(&self, peer: &Peer, from: &Origin, proof: &Proof) -> Admit {
        match self.admission(peer, proof) {
            Ok((shared, who, admission)) => {
                shared.guard.welcome(who, peer, from, shared.options.link.limits.handshake, admission)
            }
            Err(refusal) => Admit::Now(Err(refusal)),
        }
    }

    fn joined(&self, pipe: &Arc<Pipe>) {
        self.tell(Told::Joined { attempt: self.attempt, pipe: pipe.clone() });
    }

    fn deliver(&self, pipe: &Arc<Pipe>, received: &mut Received) -> Flow {
        let Some(shared) = self.shared.upgrade() else { return Flow::Close("the node is gone".into()) };
        match self.lane {
            Lane::Calls => self.pending.deliver(&shared, &self.link, pipe, received),
            Lane::Events => shared.subscriptions.deliver(&shared, pipe, received),
            // Credit counts once the connection is the lane's: what is pushed into one that loses the race, or that a
            // flush does not know yet, would be lost. `up` resumes it.
            Lane::Work if !self.link.current(Lane::Work).is_some_and(|up| Arc::ptr_eq(&up.pipe, pipe)) => {
                Flow::Pause
            }
            Lane::Work => shared.outlets.deliver(&shared, &self.link, pipe, received),
        }
    }

    fn writable(&self, pipe: &Arc<Pipe>) {
        if let (Lane::Work, Some(shared)) = (self.lane, self.shared.upgrade()) {
            shared.outlets.writable(pipe);
        }
    }

    fn left(&self, pipe: &Arc<Pipe>, why: &Disconnect) {
        let reason = why.reason.clone();
        if !why.clean {
            let (peer, lane, unknown, dropped) =
                (self.link.name(), self.lane.name(), why.unknown, why.dropped);
            tracing::debug!(%peer, lane, unknown, dropped, %reason, "connection lost");
        }
        self.pending.fail_all(&reason);
        if let Some(shared) = self.shared.upgrade() {
            match self.lane {
                Lane::Calls => {}
                Lane::Events => shared.subscriptions.left(pipe),
                Lane::Work => shared.work_lost(pipe),
            }
        }
        self.tell(Told::Left { attempt: self.attempt, reason });
    }

    fn failed(&self, origin: &Origin, error: &ConnectError, _retry_in: Option<Duration>) {
        self.tell(Told::Failed { endpoint: origin.endpoint().clone(), reason: error.to_string() });
    }
}

/// What a peer's READY says of it; `None` for one that is not a node of ours.
fn advert_of(peer: &Peer, link: &PeerLink) -> Option<Advert> {
    let text = |name| peer.property(name).and_then(|value| std::str::from_utf8(value).ok());
    let known = &link.instance().advert;
    let mut advert =
        Advert::new(text(property::NODE)?.parse().ok()?, text(property::FABRIC)?, text(property::SERVICE)?);
    advert.epoch = text(property::EPOCH)?.parse().ok()?;
    advert.endpoints.clone_from(&known.endpoints);
    advert.roots.clone_from(&known.roots);
    Some(advert)
}
