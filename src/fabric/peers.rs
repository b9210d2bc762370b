//! Who is there.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::broadcast,
    time::{Instant, timeout},
};

use crate::{
    discovery::{DirectoryEvent, Instance, Key, NodeId},
    endpoint::Endpoint,
    fabric::{Node, calls::client::ping, link::PeerLink, shared::Shared},
};

/// How long a peer may take to answer whether it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// How long after its start a node has not yet heard of everyone on the machine and the network.
const SETTLE: Duration = Duration::from_millis(400);

/// One instance of a service, as this node sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Its id; `None` for a configured address that has not answered yet.
    pub node: Option<NodeId>,
    /// Its service.
    pub service: String,
    /// Its version; may be empty.
    pub version: String,
    /// Where it can be dialled.
    pub endpoints: Vec<Endpoint>,
    /// First tokens of what it serves, publishes or pulls.
    pub roots: Vec<String>,
    /// Who found it.
    pub sources: Vec<&'static str>,
    /// How long it took to answer; `None`: it did not, within 1 s.
    pub rtt: Option<Duration>,
    /// Why it did not answer.
    pub unreachable: Option<String>,
    /// How far its clock is ahead of this machine's, in milliseconds; below 0 it is behind. Right to about half of `rtt`. `None`: it did
    /// not say.
    pub clock_ahead_ms: Option<i64>,
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl PeerInfo {
    fn of(instance: &Instance) -> Self {
        Self {
            node: instance.advert.node,
            service: instance.advert.service.clone(),
            version: instance.advert.version.clone(),
            endpoints: instance.advert.endpoints.clone(),
            roots: instance.advert.roots.clone(),
            sources: instance.sources.clone(),
            rtt: None,
            unreachable: None,
            clock_ahead_ms: None,
        }
    }
}

async fn probe(shared: &Arc<Shared>, instance: Arc<Instance>) -> PeerInfo {
    let mut instance = instance;
    // A configured address turns into a node when it is first met: one more try under its own id.
    for _ in 0..2 {
        let link: Arc<PeerLink> = shared.link(&instance);
        let (started, asked) = (Instant::now(), SystemTime::now());
        let result = timeout(PING_TIMEOUT, ping(shared, &link)).await;
        let mut info =
            PeerInfo::of(&shared.directory.find(&instance.key).unwrap_or_else(|| instance.clone()));
        match result {
            Ok(Ok(hello)) => {
                let rtt = started.elapsed();
                info.rtt = Some(rtt);
                // It looked at its clock half-way, as far as anybody knows.
                let now = i64::try_from(unix_ms(asked + rtt / 2)).unwrap_or(i64::MAX);
                info.clock_ahead_ms =
                    hello.clock.map(|clock| i64::try_from(clock).unwrap_or(i64::MAX).saturating_sub(now));
                info.version = hello.version;
                return info;
            }
            Ok(Err(reason)) => info.unreachable = Some(reason),
            Err(_) => info.unreachable = Some("no answer within 1 s".into()),
        }
        match shared.directory.find(&instance.key) {
            Some(found) if found.key != instance.key => instance = found,
            _ => return info,
        }
    }
    PeerInfo::of(&instance)
}

/// Everyone the directory lists, each pinged, side by side.
pub(crate) async fn peers(shared: &Arc<Shared>) -> Vec<PeerInfo> {
    // A node that has just started has not heard of everyone yet.
    tokio::time::sleep_until(shared.started + SETTLE).await;
    let mut probes = tokio::task::JoinSet::new();
    for instance in shared.directory.all() {
        let shared = shared.clone();
        probes.spawn(async move { probe(&shared, instance).await });
    }
    let mut peers: Vec<PeerInfo> = probes.join_all().await;
    // Two sources, or an address and the node behind it, may have led to the same instance.
    peers.sort_by(|a, b| (&a.service, a.node).cmp(&(&b.service, b.node)));
    peers.dedup_by(|a, b| a.node.is_some() && a.node == b.node);
    peers
}

/// A peer came or went.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PeerEvent {
    /// It is there now.
    Joined(PeerInfo),
    /// It is there no longer.
    Left(PeerInfo),
}

/// A stream of [`PeerEvent`]s; made by [`Node::watch_peers`].
pub struct PeerWatch {
    node: Node,
    events: broadcast::Receiver<DirectoryEvent>,
    /// Known so far: after a gap in the events the difference is told.
    known: HashMap<Key, Arc<Instance>>,
    ready: std::collections::VecDeque<PeerEvent>,
}

impl PeerWatch {
    pub(crate) fn new(node: &Node) -> Self {
        let events = node.directory().events();
        let mut watch = Self {
            node: node.clone(),
            events,
            known: HashMap::new(),
            ready: std::collections::VecDeque::new(),
        };
        watch.compare();
        watch
    }

    fn told(&mut self, event: DirectoryEvent) {
        match event {
            DirectoryEvent::Joined(instance) | DirectoryEvent::Changed(instance) => {
                if self.known.insert(instance.key.clone(), instance.clone()).is_none() {
                    self.ready.push_back(PeerEvent::Joined(PeerInfo::of(&instance)));
                }
            }
            DirectoryEvent::Left(instance) => {
                if self.known.remove(&instance.key).is_some() {
                    self.ready.push_back(PeerEvent::Left(PeerInfo::of(&instance)));
                }
            }
        }
    }

    /// Tells the difference between what was told and what is.
    fn compare(&mut self) {
        let now: HashMap<Key, Arc<Instance>> = self
            .node
            .directory()
            .all()
            .into_iter()
            .map(|instance| (instance.key.clone(), instance))
            .collect();
        for (key, instance) in &self.known {
            if !now.contains_key(key) {
                self.ready.push_back(PeerEvent::Left(PeerInfo::of(instance)));
            }
        }
        for (key, instance) in &now {
            if !self.known.contains_key(key) {
                self.ready.push_back(PeerEvent::Joined(PeerInfo::of(instance)));
            }
        }
        self.known = now;
    }

    /// The next event; `None` when the node has drained. Cancel safe.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) {
    /// let first = node.watch_peers().recv().await;
    /// # }
    /// ```
    pub async fn recv(&mut self) -> Option<PeerEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let event = tokio::select! {
                event = self.events.recv() => event,
                // The watch itself keeps the directory: only the end of the node ends it.
                () = self.node.shared().closed() => return None,
            };
            match event {
                Ok(event) => self.told(event),
                Err(broadcast::error::RecvError::Lagged(_)) => self.compare(),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

show!([] PeerWatch, "PeerWatch", this, { node: this.node, known: this.known.len() });
