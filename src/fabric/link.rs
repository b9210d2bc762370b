//! One peer as the fabric sees it: its three lanes, each kept connected by a supervisor once it is used.

mod race;
mod supervise;

use std::sync::{
    Arc, Mutex, RwLock,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::Instant,
};

use crate::{
    discovery::{Instance, Key, NodeId, State},
    fabric::{
        balance::Load, calls::pending::Pending, error::instance_name, resilience::ejection::Health,
        shared::Shared, wire::property,
    },
    socket::{dial::Dial, pipe::Pipe},
    sync::{lock, read, write},
    zmtp::SocketType,
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

/// All that this node knows of its connections to one peer.
pub(crate) struct PeerLink {
    pub(crate) key: Key,
    instance: Mutex<Arc<Instance>>,
    pub(crate) load: Load,
    pub(crate) health: Health,
    /// Who answered last on the lane `calls`: the node id and epoch it proved, or said.
    incarnation: Mutex<Option<(Option<Bytes>, Option<Bytes>)>>,
    /// What its newest hello or manifest says, if it has sent one.
    offers: RwLock<Option<Offers>>,
    /// Held while a lane goes up or down and the directory is told, so that it hears of both in the right order.
    telling: Mutex<()>,
    /// An address without a node id answered with one: the node's own link takes over.
    identified: AtomicBool,
    calls: Slot,
    events: Slot,
    work: Slot,
}

/// What a peer says that it serves; sorted.
struct Offers {
    methods: Vec<String>,
    idempotent: Vec<String>,
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
            health: Health::new(Instant::now()),
            incarnation: Mutex::default(),
            offers: RwLock::default(),
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

    /// What the peer says that it serves from now on.
    pub(crate) fn offers(&self, mut methods: Vec<String>, mut idempotent: Vec<String>) {
        methods.sort_unstable();
        idempotent.sort_unstable();
        *write(&self.offers) = Some(Offers { methods, idempotent });
    }

    /// Whether the peer has not said that it does without this method.
    pub(crate) fn may_serve(&self, subject: &str) -> bool {
        read(&self.offers).as_ref().is_none_or(|offers| has(&offers.methods, subject))
    }

    /// Whether the peer says that this method may be done twice.
    pub(crate) fn is_idempotent(&self, subject: &str) -> bool {
        read(&self.offers).as_ref().is_some_and(|offers| has(&offers.idempotent, subject))
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
            let task = supervise::supervise(Arc::downgrade(shared), self.clone(), lane);
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
                Lane::Work => shared.work_lost(&old.pipe),
            }
        }
        if let Err(reason) = shared.guard.still(&connection.pipe) {
            connection.pipe.abort(&reason);
        }
        if lane == Lane::Calls {
            self.meet(&connection.pipe);
        }
        // Only the connection in use subscribes: of several that got through, each would bring every event.
        if lane == Lane::Events {
            let old = old.as_ref().map(|old| &old.pipe);
            shared.subscriptions.joined(&connection.pipe, old.filter(|old| !old.is_closed()));
        }
        old
    }

    /// One that was started anew is not to blame for its predecessor, and gets its share of the calls little by little.
    fn meet(&self, pipe: &Pipe) {
        let peer = pipe.peer();
        let said = |property| peer.as_ref().and_then(|peer| peer.property(property).cloned());
        let incarnation = Some((said(property::NODE), said(property::EPOCH)));
        let mut known = lock(&self.incarnation);
        if *known != incarnation {
            *known = incarnation;
            self.health.reset();
            self.load.start_slowly(Instant::now());
        }
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

fn has(sorted: &[String], subject: &str) -> bool {
    sorted.binary_search_by(|one| one.as_str().cmp(subject)).is_ok()
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
