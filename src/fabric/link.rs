//! One peer as the fabric sees it: its three lanes, each kept connected by a supervisor once it is used.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::AbortHandle,
    time::Instant,
};

use crate::{
    discovery::{Advert, Instance, Key, NodeId, State},
    endpoint::Endpoint,
    fabric::{
        balance::Load, calls::pending::Pending, error::instance_name, guard::Who, shared::Shared,
        wire::property,
    },
    socket::{
        ConnectError,
        core::{Admission, Admit, Core, Disconnect, Flow, Origin, Refusal},
        dial::{Dial, dial},
        pipe::Pipe,
    },
    sync::lock,
    transport::tls::Proof,
    zmtp::{Peer, Received, SocketType},
};

/// The three kinds of connection on a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lane {
    Calls,
    Events,
    Work,
}

impl Lane {
    const ALL: [Self; 3] = [Self::Calls, Self::Events, Self::Work];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Events => "events",
            Self::Work => "work",
        }
    }

    /// What the dialling side is.
    pub(crate) fn dials_as(self) -> SocketType {
        match self {
            Self::Calls | Self::Work => SocketType::Dealer,
            Self::Events => SocketType::Sub,
        }
    }
}

/// How many addresses of one peer are dialled at once; another follows for each that fails, and after each pause.
const RACE: usize = 4;
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses dialled in one round, at most: as many as an advert may have.
const ADDRESSES: usize = 20;
/// Dials that new keys cause are spread over this.
const SPREAD: Duration = Duration::from_millis(100);
/// A publisher is heard on both connections for so long when one takes over from the other.
const OVERLAP: Duration = Duration::from_secs(1);
/// How long one round of dialling may take before it counts as failed.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// All that this node knows of its connections to one peer.
pub(crate) struct PeerLink {
    pub(crate) key: Key,
    instance: Mutex<Arc<Instance>>,
    pub(crate) load: Load,
    /// Held while a lane goes up or down and the directory is told, so that it hears of both in the right order.
    telling: Mutex<()>,
    /// An address without a node id answered with one: the node's own link takes over.
    identified: AtomicBool,
    calls: Slot,
    events: Slot,
    work: Slot,
}

/// One lane of a link: the connection in use, if any.
struct Slot {
    state: watch::Sender<LaneState>,
    /// Has the connection replaced by another to the same peer.
    renew: Notify,
    supervisor: Mutex<Option<AbortHandle>>,
}

/// Where a lane stands.
#[derive(Clone)]
pub(crate) enum LaneState {
    /// Being dialled for the first time, or not yet asked for.
    Idle,
    /// In use.
    Up(Arc<Connection>),
    /// The last round of dialling failed, or the connection ended; the supervisor tries again.
    Down(Arc<str>),
}

/// One authenticated connection of a lane.
pub(crate) struct Connection {
    pub(crate) pipe: Arc<Pipe>,
    pub(crate) pending: Arc<Pending>,
    /// Dropping it, with the last call that waits on this connection, ends the connection.
    _dial: Dialling,
}

/// A dial that ends with its owner, what is queued being written first. A race that is given up ends all of its own.
struct Dialling(Dial);

impl Drop for Dialling {
    fn drop(&mut self) {
        self.0.close(None);
    }
}

impl PeerLink {
    pub(crate) fn new(instance: Arc<Instance>) -> Self {
        let slot = || Slot {
            state: watch::Sender::new(LaneState::Idle),
            renew: Notify::new(),
            supervisor: Mutex::new(None),
        };
        Self {
            key: instance.key.clone(),
            instance: Mutex::new(instance),
            load: Load::new(Instant::now()),
            telling: Mutex::default(),
            identified: AtomicBool::new(false),
            calls: slot(),
            events: slot(),
            work: slot(),
        }
    }

    fn slot(&self, lane: Lane) -> &Slot {
        match lane {
            Lane::Calls => &self.calls,
            Lane::Events => &self.events,
            Lane::Work => &self.work,
        }
    }

    pub(crate) fn instance(&self) -> Arc<Instance> {
        lock(&self.instance).clone()
    }

    pub(crate) fn update(&self, instance: Arc<Instance>) {
        *lock(&self.instance) = instance;
    }

    /// Service and short id, for logs and errors.
    pub(crate) fn name(&self) -> String {
        let instance = self.instance();
        instance_name(&instance.advert.service, instance.advert.node)
    }

    pub(crate) fn node(&self) -> Option<NodeId> {
        self.instance().advert.node
    }

    /// The peer said goaway on the connection in use: it takes no new calls.
    pub(crate) fn is_draining(&self) -> bool {
        self.current(Lane::Calls)
            .is_some_and(|connection| connection.pending.draining.load(Ordering::Relaxed))
    }

    /// The lane's connection if it is up.
    pub(crate) fn current(&self, lane: Lane) -> Option<Arc<Connection>> {
        match &*self.slot(lane).state.borrow() {
            LaneState::Up(connection) => Some(connection.clone()),
            _ => None,
        }
    }

    /// Starts the lane's supervisor unless it runs.
    pub(crate) fn want(self: &Arc<Self>, shared: &Arc<Shared>, lane: Lane) {
        let mut supervisor = lock(&self.slot(lane).supervisor);
        if supervisor.as_ref().is_none_or(AbortHandle::is_finished) {
            let task = supervise(Arc::downgrade(shared), self.clone(), lane);
            *supervisor = Some(shared.spawn(task));
        }
    }

    /// Waits until the lane is up. Fails with the reason when the present or next round of dialling fails. Cancel safe.
    pub(crate) async fn connected(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        lane: Lane,
    ) -> Result<Arc<Connection>, Arc<str>> {
        let mut state = self.slot(lane).state.subscribe();
        // Looked at after the subscription, so that no change is missed in between.
        if let LaneState::Up(connection) = &*state.borrow_and_update() {
            return Ok(connection.clone());
        }
        // Either the supervisor that runs has its end still to tell, or another one is started.
        self.want(shared, lane);
        loop {
            if state.changed().await.is_err() {
                return Err("the link was closed".into());
            }
            match &*state.borrow_and_update() {
                LaneState::Up(connection) => return Ok(connection.clone()),
                LaneState::Down(reason) => return Err(reason.clone()),
                LaneState::Idle => {}
            }
        }
    }

    /// All open connections, for flushing and closing.
    pub(crate) fn connections(&self) -> impl Iterator<Item = Arc<Connection>> {
        Lane::ALL.into_iter().filter_map(|lane| self.current(lane))
    }

    /// Has those connections replaced for which it is time.
    #[cfg(feature = "tls")]
    pub(crate) fn renew(&self, is_due: impl Fn(&Pipe) -> bool) {
        for lane in Lane::ALL {
            if self.current(lane).is_some_and(|connection| is_due(&connection.pipe)) {
                self.slot(lane).renew.notify_one();
            }
        }
    }

    /// The lane has a connection. What takes its place is returned, to be told to hand over.
    fn up(&self, shared: &Shared, lane: Lane, connection: Arc<Connection>) -> Option<Arc<Connection>> {
        let telling = lock(&self.telling);
        let old = self.slot(lane).state.send_replace(LaneState::Up(connection.clone()));
        if let Some(node) = self.node() {
            shared.link_up(node);
        }
        drop(telling);
        let old = if let LaneState::Up(old) = old { Some(old) } else { None };
        if let Some(old) = &old {
            match lane {
                // Heard until the new one has caught up: see `retire`.
                Lane::Calls | Lane::Events => {}
                Lane::Work => shared.outlets.lost(&old.pipe),
            }
        }
        if let Err(reason) = shared.guard.still(&connection.pipe) {
            connection.pipe.abort(&reason);
        }
        // Only the connection in use subscribes: of several that got through, each would bring every event.
        if lane == Lane::Events {
            let old = old.as_ref().map(|old| &old.pipe);
            shared.subscriptions.joined(&connection.pipe, old.filter(|old| !old.is_closed()));
        }
        old
    }

    /// The lane has no connection (any more).
    fn down(&self, shared: &Shared, lane: Lane, reason: &str) {
        let telling = lock(&self.telling);
        let old = self.slot(lane).state.send_replace(LaneState::Down(reason.into()));
        // A node whose other lanes are up is alive. One that was met and never got a connection is not.
        if let (Some(node), None) = (self.node(), self.connections().next())
            && shared.directory.find(&self.key).is_some_and(|instance| instance.state == State::Live)
        {
            shared.link_down(node);
        }
        drop(telling);
        if let LaneState::Up(old) = old {
            old.pending.fail_all(reason);
        }
    }

    /// Ends the lane's supervisor, which is the running task. The reason is told with the slot locked: who wants the
    /// lane before hears it, and who wants it after starts another supervisor.
    fn resign(&self, lane: Lane, reason: &str) {
        let slot = self.slot(lane);
        let mut supervisor = lock(&slot.supervisor);
        // Another may have been started since this one was aborted.
        if supervisor.as_ref().is_some_and(|running| Some(running.id()) == tokio::task::try_id()) {
            *supervisor = None;
        }
        slot.state.send_replace(LaneState::Down(reason.into()));
    }

    /// Ends every lane and its supervisor.
    pub(crate) fn close(&self, reason: &str) {
        for lane in Lane::ALL {
            let slot = self.slot(lane);
            if let Some(supervisor) = lock(&slot.supervisor).take() {
                supervisor.abort();
            }
            if let LaneState::Up(connection) = slot.state.send_replace(LaneState::Down(reason.into())) {
                connection.pipe.abort(reason);
                connection.pending.fail_all(reason);
            }
        }
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

/// What a dialled connection tells its supervisor.
enum Told {
    Joined { attempt: usize, pipe: Arc<Pipe> },
    Failed { endpoint: Endpoint, reason: String },
    Left { attempt: usize, reason: String },
}

/// Keeps one lane of one link connected for as long as the peer is in the directory.
async fn supervise(shared: Weak<Shared>, link: Arc<PeerLink>, lane: Lane) {
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
                    strong.outlets.lost(&pipe);
                }
            }
            Err(reason) => {
                // A peer that proves to be somebody else, or that does not let us in, is worth a word.
                let told = strong.guard.keys().is_some()
                    && strong.guard.strangers.is_news(&format!("{} {reason}", link.name()));
                match told {
                    true => tracing::warn!(peer = %link.name(), lane = lane.name(), %reason, "dial failed"),
                    false => tracing::debug!(peer = %link.name(), lane = lane.name(), %reason, "dial failed"),
                }
                if link.identified.load(Ordering::Relaxed) {
                    link.resign(lane, &reason);
                    strong.forget_if_gone(&link);
                    return;
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

type Won = (Arc<Connection>, usize, mpsc::Receiver<Told>);

/// Dials the peer's addresses side by side; the first that gets through the handshake wins.
async fn race(
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
            shared.directory.met(&self.link.key, advert);
            self.link.identified.store(true, Ordering::Relaxed);
            shared.reconcile();
            return Err(Refusal { reason: "identified".into(), last: false });
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
                Lane::Work => shared.outlets.lost(pipe),
            }
        }
        self.tell(Told::Left { attempt: self.attempt, reason });
    }

    fn failed(&self, origin: &Origin, error: &ConnectError, _retry_in: Option<Duration>) {
        self.tell(Told::Failed { endpoint: origin.endpoint().clone(), reason: error.to_string() });
    }
}

impl Drop for PeerLink {
    fn drop(&mut self) {
        for lane in Lane::ALL {
            if let Some(supervisor) = lock(&self.slot(lane).supervisor).take() {
                supervisor.abort();
            }
        }
    }
}
