//! What all handles, lanes and tasks of a node share, and the reconciler that decides whom to dial.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::{
        Arc, Mutex, RwLock, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dashmap::DashMap;
use serde::Serialize;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
};

use crate::{
    config::Config,
    discovery::{Advert, Directory, Instance, Key, NodeId, State},
    endpoint::Endpoint,
    envelope::{self, Header, HelloBody, Kind, ManifestBody, root},
    fabric::{
        Node,
        calls::server::Methods,
        drain,
        events::{publisher::Topics, subscription::Subscriptions},
        guard::Guard,
        identity::Identity,
        inbox::Inbox,
        link::{Lane, PeerLink},
        observe::Counted,
        resilience::{policy::Targets, rates::Rates},
        wire::{self, Envelope, own, property},
        work::{pull::Pulls, push::Outlets},
    },
    security::Action,
    socket::{
        core::{DialOptions, LinkOptions},
        gate::Gate,
        listen::Listening,
        monitor::Reporter,
        pipe::{Pipe, Turn},
        subscriptions::Caps,
    },
    sync::{lock, read, write},
    zmtp::{Local, SocketType},
};

/// The instant `after` from now; a year for one that is too far to be an instant.
pub(crate) fn deadline(after: Duration) -> tokio::time::Instant {
    let now = tokio::time::Instant::now();
    now.checked_add(after).unwrap_or_else(|| now + Duration::from_secs(86_400 * 365))
}

/// What a node keeps to; from the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) call_timeout: Duration,
    pub(crate) discovery_wait: Duration,
    pub(crate) drain: Duration,
    /// Pauses between dials: full jitter below a ceiling that doubles from the first to the second.
    pub(crate) reconnect: (Duration, Duration),
    pub(crate) queue_messages: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) max_message: usize,
    /// What one subscriber may ask for.
    pub(crate) subscriptions: Caps,
    /// What a body may be.
    pub(crate) body: envelope::Limits,
    /// Handlers of one method at once, unless it says otherwise.
    pub(crate) in_flight: usize,
    pub(crate) link: LinkOptions,
}

/// Where a node stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    Running,
    /// Nothing new is begun; what is under way may still talk.
    Draining,
    /// Nothing is sent or taken any more.
    Closed,
    /// Connections and listeners are gone.
    Gone,
}

/// What all handles, lanes and tasks of a node share.
pub(crate) struct Shared {
    pub(crate) id: NodeId,
    pub(crate) epoch: u64,
    pub(crate) identity: Identity,
    pub(crate) fabric: String,
    pub(crate) service: String,
    pub(crate) version: String,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) options: Options,
    pub(crate) directory: Directory,
    /// This node as it last announced itself.
    pub(crate) own: RwLock<Option<Arc<Instance>>>,
    pub(crate) links: DashMap<Key, Arc<PeerLink>>,
    pub(crate) methods: Arc<Methods>,
    /// The services that this node calls, and what holds for each.
    pub(crate) targets: Targets,
    /// How often each caller may ask this node.
    pub(crate) rates: Rates,
    pub(crate) topics: Arc<Topics>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) outlets: Outlets,
    /// What is owed on disk, if there is a place for it.
    #[cfg(feature = "durable")]
    pub(crate) outbox: std::sync::OnceLock<Arc<crate::fabric::work::outbox::Outbox>>,
    pub(crate) pulls: Arc<Pulls>,
    /// How often, how long, how many: what `$node.stats` says.
    pub(crate) counted: Counted,
    /// As it is in force.
    pub(crate) config: RwLock<Config>,
    pub(crate) guard: Guard,
    pub(crate) monitor: Reporter,
    /// For all listeners together.
    pub(crate) gate: Arc<Gate>,
    pub(crate) listeners: Mutex<Vec<Listening>>,
    /// As announced.
    pub(crate) endpoints: Mutex<Vec<Endpoint>>,
    /// Connections that came in, and whether they have confirmed our goaway.
    pub(crate) accepted: Mutex<HashMap<u64, (Arc<Pipe>, bool)>>,
    pub(crate) accepted_changed: Notify,
    /// Dialled connections that others have replaced and that somebody still waits on.
    pub(crate) retired: Mutex<Vec<Weak<Pipe>>>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) reconcile: Notify,
    /// A push or a publish has filled a batch.
    pub(crate) turn: Turn,
    /// Inboxes of subscriptions, to end them when the node drains.
    pub(crate) inboxes: Mutex<Vec<Weak<Inbox>>>,
    pub(crate) ids: AtomicU64,
    pub(crate) handles: AtomicUsize,
    pub(crate) started: tokio::time::Instant,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) me: Weak<Shared>,
}

impl Shared {
    /// One more handle.
    pub(crate) fn handle(self: &Arc<Self>) -> Node {
        self.handles.fetch_add(1, Ordering::AcqRel);
        Node::of(self.clone())
    }

    pub(crate) fn spawn<F>(&self, task: F) -> AbortHandle
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        self.runtime.spawn(task).abort_handle()
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.phase.borrow() >= Phase::Closed
    }

    pub(crate) async fn closed(&self) {
        // The sender is ours: the channel cannot close.
        let _ = self.phase.subscribe().wait_for(|phase| *phase >= Phase::Closed).await;
    }

    /// What our READY says.
    pub(crate) fn local(&self, socket_type: SocketType, lane: Option<Lane>) -> Local {
        let mut metadata = vec![
            (property::FABRIC.to_owned(), Bytes::from(self.fabric.clone())),
            (property::NODE.to_owned(), Bytes::from(self.id.to_string())),
            (property::SERVICE.to_owned(), Bytes::from(self.service.clone())),
            (property::EPOCH.to_owned(), Bytes::from(self.epoch.to_string())),
        ];
        if let Some(lane) = lane {
            metadata.push((property::LANE.to_owned(), Bytes::from_static(lane.name().as_bytes())));
        }
        Local { socket_type, metadata }
    }

    /// Whether this node itself may do that, as far as it knows: what it has no right to, its peers would refuse.
    pub(crate) fn may_itself(&self, action: Action, subject: &str) -> Result<(), String> {
        if self.guard.service_may(&self.fabric, &self.service, action, subject) {
            return Ok(());
        }
        Err(format!("this node is service {}, which may not {action} {subject}; see [[allow]]", self.service))
    }

    /// Whether the service that this link leads to may do that.
    pub(crate) fn service_may(&self, link: &PeerLink, action: Action, subject: &str) -> bool {
        self.guard.service_may(&self.fabric, &link.instance().advert.service, action, subject)
    }

    /// Whether everyone who is known to offer something under this subject's root is connected.
    pub(crate) fn all_up(&self, subject: &str, lane: Lane) -> bool {
        self.links_for(root(subject)).iter().all(|link| link.current(lane).is_some())
    }

    /// How to dial an instance of `service`: with keys, that is who has to answer.
    pub(crate) fn dial_options(&self, lane: Lane, service: &str) -> DialOptions {
        DialOptions {
            local: self.local(lane.dials_as(), Some(lane)),
            link: self.options.link.clone(),
            tls: self.guard.connector(service),
            keep_queue: false,
            reconnect: None,
        }
    }

    pub(crate) fn hello_body(&self) -> HelloBody {
        HelloBody {
            node: self.id.to_string(),
            epoch: self.epoch,
            fabric: self.fabric.clone(),
            service: self.service.clone(),
            version: self.version.clone(),
            clock: None,
            endpoints: lock(&self.endpoints).iter().map(ToString::to_string).collect(),
            methods: self.methods.subjects(),
            idempotent: self.methods.idempotent(),
            topics: self.topics.subjects(),
            queues: self.pulls.queues(),
            metadata: self.metadata.clone(),
        }
    }

    /// The advert of this node as it is now.
    fn advert(&self) -> Advert {
        let mut advert = Advert::new(self.id, &*self.fabric, &*self.service);
        advert.epoch = self.epoch;
        advert.version.clone_from(&self.version);
        advert.endpoints = lock(&self.endpoints).clone();
        advert.metadata = self.metadata.clone();
        let subjects = [self.methods.subjects(), self.topics.subjects(), self.pulls.queues()].concat();
        // Not the service as such: until it serves something, a call to it would fail.
        advert.roots = subjects.iter().map(|subject| root(subject).to_owned()).collect();
        advert.roots.sort();
        advert.roots.dedup();
        advert
    }

    /// What this node offers has changed: everyone is told, through discovery and through the links there are.
    pub(crate) async fn roots_changed(&self) {
        let hello = self.hello_body().manifest();
        for (pipe, _) in lock(&self.accepted).values() {
            tell(pipe, Kind::Manifest, &hello);
        }
        if self.is_draining() {
            return;
        }
        let mut advert;
        {
            let mut own = write(&self.own);
            // Made while `own` is locked: of two changes at once the later one leaves the newer advert.
            advert = self.advert();
            if own.as_ref().is_some_and(|own| own.advert == advert) {
                return;
            }
            *own = Some(Arc::new(Instance {
                key: Key::Node(self.id),
                advert: advert.clone(),
                sources: Vec::new(),
                state: State::Live,
                pending: Vec::new(),
                first_seen: std::time::Instant::now(),
            }));
        }
        self.reconcile();
        // The directory tries again where a source cannot announce now; the node can be reached all the same by those
        // who know its address.
        loop {
            if let Err(error) = self.directory.announce(advert.clone()).await {
                tracing::warn!(%error, "a discovery source did not take the advert");
            }
            // A drain that began meanwhile may have withdrawn the advert before it was announced.
            if self.is_draining() {
                return self.directory.withdraw().await;
            }
            match read(&self.own).as_ref() {
                Some(own) if own.advert != advert => advert = own.advert.clone(),
                _ => return,
            }
        }
    }

    pub(crate) fn roots_changed_later(&self) {
        if let Some(shared) = self.me.upgrade() {
            self.spawn(async move { shared.roots_changed().await });
        }
    }

    /// A connection of the lane `work` takes nothing more.
    pub(crate) fn work_lost(&self, pipe: &Pipe) {
        self.outlets.lost(pipe);
        #[cfg(feature = "durable")]
        if let Some(outbox) = self.outbox.get() {
            outbox.lost(pipe);
        }
    }

    /// Has the reconciler look again at who should be dialled.
    pub(crate) fn reconcile(&self) {
        self.reconcile.notify_one();
    }

    pub(crate) fn note_inbox(&self, inbox: &Arc<Inbox>) {
        let mut inboxes = lock(&self.inboxes);
        inboxes.retain(|inbox| inbox.strong_count() > 0);
        inboxes.push(Arc::downgrade(inbox));
        drop(inboxes);
        // A drain may have ended the others already.
        if self.is_draining() {
            inbox.close();
        }
    }

    /// The link to an instance, with the newest that the directory says of it.
    pub(crate) fn link(&self, instance: &Arc<Instance>) -> Arc<PeerLink> {
        if let Some(link) = self.links.get(&instance.key) {
            link.update(instance.clone());
            return link.clone();
        }
        let link = self.links.entry(instance.key.clone());
        link.or_insert_with(|| Arc::new(PeerLink::new(instance.clone()))).clone()
    }

    /// Links to everyone who offers something under this root, this node itself included.
    pub(crate) fn links_for(&self, root: &str) -> Vec<Arc<PeerLink>> {
        let mut links: Vec<_> =
            self.directory.by_root(root).iter().map(|instance| self.link(instance)).collect();
        // A node that calls its own service may answer itself; the way is the same as to any other instance.
        if let Some(own) =
            read(&self.own).as_ref().filter(|own| own.advert.roots.iter().any(|own| own == root))
        {
            links.push(self.link(own));
        }
        links
    }

    pub(crate) fn knows(&self, key: &Key) -> bool {
        *key == Key::Node(self.id) || self.directory.find(key).is_some_and(|instance| instance.key == *key)
    }

    pub(crate) fn forget_if_gone(&self, link: &Arc<PeerLink>) {
        if !self.knows(&link.key) {
            self.links.remove_if(&link.key, |_, listed| {
                Arc::ptr_eq(listed, link) && link.connections().next().is_none()
            });
        }
    }

    pub(crate) fn link_up(&self, node: NodeId) {
        if node != self.id {
            self.directory.link_up(node);
        }
    }

    pub(crate) fn link_down(&self, node: NodeId) {
        if node != self.id {
            self.directory.link_down(node);
        }
    }

    /// A hello or a manifest came over an authenticated link.
    pub(crate) fn heard(&self, link: &Arc<PeerLink>, body: &[u8]) {
        let manifest = match envelope::decode_body::<ManifestBody>(body) {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::debug!(peer = %link.name(), %error, "an unreadable manifest");
                return;
            }
        };
        // The directory's newest, not what it said when the link was last used.
        let known = self.directory.find(&link.key).unwrap_or_else(|| link.instance());
        let mut advert = known.advert.clone();
        link.offers(manifest.methods.clone(), manifest.idempotent);
        let subjects = manifest.methods.iter().chain(&manifest.topics).chain(&manifest.queues);
        advert.roots = subjects.map(|subject| root(subject).to_owned()).collect();
        advert.roots.sort();
        advert.roots.dedup();
        if link.key != Key::Node(self.id) && advert.roots != known.advert.roots {
            self.directory.met(&link.key, advert);
        }
    }

    /// Another connection has taken the place of this one.
    pub(crate) fn note_retired(&self, pipe: &Arc<Pipe>) {
        let mut retired = lock(&self.retired);
        retired.retain(|pipe| pipe.strong_count() > 0);
        retired.push(Arc::downgrade(pipe));
    }

    /// A connection came in.
    pub(crate) fn accepted(&self, pipe: &Arc<Pipe>) {
        lock(&self.accepted).insert(pipe.id(), (pipe.clone(), false));
        if let Err(reason) = self.guard.still(pipe) {
            return pipe.abort(&reason);
        }
        tell(pipe, Kind::Hello, &self.hello_body());
        // It was admitted before the drain began; the others have been told.
        if self.is_draining() {
            drain::goaway(self);
        }
    }

    pub(crate) fn accepted_left(&self, pipe: &Pipe) {
        lock(&self.accepted).remove(&pipe.id());
        self.accepted_changed.notify_waiters();
    }

    pub(crate) fn goaway_confirmed(&self, pipe: u64) {
        if let Some((_, confirmed)) = lock(&self.accepted).get_mut(&pipe) {
            *confirmed = true;
        }
        self.accepted_changed.notify_waiters();
    }

    /// Dials whomever the subscriptions and the pushes need, once now and at each change of the directory.
    pub(crate) async fn reconciler(shared: Weak<Self>) {
        let Some(mut changed) = shared.upgrade().map(|shared| shared.directory.changed()) else { return };
        loop {
            {
                let Some(shared) = shared.upgrade() else { return };
                if shared.is_closed() {
                    return;
                }
                shared.dial_wanted();
            }
            let Some(strong) = shared.upgrade() else { return };
            tokio::select! {
                () = strong.reconcile.notified() => {}
                changed = changed.changed() => if changed.is_err() { return },
                () = strong.closed() => return,
            }
        }
    }

    fn dial_wanted(self: &Arc<Self>) {
        let mut wanted: Vec<(Arc<PeerLink>, Lane)> = Vec::new();
        for pattern in self.subscriptions.patterns() {
            match pattern.root() {
                Some(root) => {
                    wanted.extend(self.links_for(root).into_iter().map(|link| (link, Lane::Events)))
                }
                None => {
                    let known = self.directory.all();
                    let known = known.iter().filter(|instance| instance.state != State::Suspect);
                    wanted.extend(known.map(|instance| (self.link(instance), Lane::Events)));
                    wanted.extend(read(&self.own).iter().map(|own| (self.link(own), Lane::Events)));
                }
            }
        }
        for root in self.outlets.roots() {
            wanted.extend(self.links_for(&root).into_iter().map(|link| (link, Lane::Work)));
        }
        for (link, lane) in wanted {
            link.want(self, lane);
        }
        // Links to instances that are gone from the directory end with their connections' supervisors.
        self.links.retain(|key, link| self.knows(key) || link.connections().next().is_some());
    }
}

/// Tells a node of ours who we are or what we offer. Foreign peers and subscribers get none.
fn tell<T: Serialize>(pipe: &Pipe, kind: Kind, body: &T) {
    let lane = pipe.peer().and_then(|peer| peer.property(property::LANE).cloned());
    let envelope = match lane.as_deref() {
        Some(b"calls") => Envelope::Delimiter,
        Some(b"work") => Envelope::None,
        _ => return,
    };
    wire::urgent(pipe, envelope, own::HELLO, Header::new(kind, 0), body);
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A node that drained has none left; one that failed to start, or whose runtime went, gives its ports back.
        for listener in lock(&self.listeners).drain(..) {
            listener.close();
        }
    }
}
