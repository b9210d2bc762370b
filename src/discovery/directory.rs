//! A node's local view of all adverts, merged from its sources.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;

use super::table::{Heard, Table};
use super::{Advert, Change, DiscoveryError, Key, NodeId, Source};
use crate::endpoint::Endpoint;
use crate::sync::lock;

/// Pauses before a failed or closed source is opened again.
const REOPEN_MIN: Duration = Duration::from_millis(50);
const REOPEN_MAX: Duration = Duration::from_secs(5);
/// How long a source that was opened anew has to repeat what it knows, before the rest is forgotten.
const REPEAT: Duration = Duration::from_secs(3);
/// How often an announcement that failed is tried again.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(5);
/// A suspect is offered again after this, doubled for each time it failed in a row, lest a configured peer be lost for ever.
const FORGIVE_MIN: Duration = Duration::from_secs(1);
const FORGIVE_MAX: Duration = Duration::from_secs(30);
/// Changes of a source that are merged at one go.
const BATCH: usize = 256;
/// Then there is a pause, so that a flood (which can be forged) is merged in few pieces: what each costs grows with what
/// is known.
const BATCH_PAUSE: Duration = Duration::from_millis(10);
/// Events that a slow reader may fall behind before it misses some.
const EVENTS: usize = 1024;

/// What is known of an instance.
///
/// ```
/// use ripstop::discovery::State;
/// assert_eq!(State::Live.to_string(), "live");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum State {
    /// A source lists it; no link has proven it yet.
    Known,
    /// A link to it is up.
    Live,
    /// A link to it died or a dial failed; not offered until it is seen again.
    Suspect,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Known => "known",
            Self::Live => "live",
            Self::Suspect => "suspect",
        })
    }
}

/// One instance, as the directory knows it now. A snapshot: changes make a new one.
///
/// ```
/// # use ripstop::discovery::{Directory, Key, NodeId};
/// # let directory = Directory::new("default", NodeId::random());
/// for instance in directory.all() {
///     println!("{} at {:?}, found by {:?}", instance.advert.service, instance.advert.endpoints, instance.sources);
/// }
/// ```
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Instance {
    /// What it says of itself, merged from its sources, or from its hello while it is live.
    pub advert: Advert,
    /// What it is filed under.
    pub key: Key,
    /// The sources that list it, in the order in which they were added.
    pub sources: Vec<&'static str>,
    /// Whether a link has proven it.
    pub state: State,
    /// Endpoints that an advert names while the live link uses others: dial them beside it, never instead of it.
    pub pending: Vec<Endpoint>,
    /// When it was first seen.
    pub first_seen: Instant,
}

/// What changed in the directory.
///
/// ```no_run
/// # use ripstop::discovery::{Directory, DirectoryEvent, NodeId};
/// # async fn example(directory: Directory) {
/// while let Ok(event) = directory.events().recv().await {
///     if let DirectoryEvent::Left(instance) = event {
///         println!("{} left", instance.advert.service);
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DirectoryEvent {
    /// A new instance.
    Joined(Arc<Instance>),
    /// Its advert, its sources or its state changed.
    Changed(Arc<Instance>),
    /// Gone: no source lists it and no link is up.
    Left(Arc<Instance>),
}

/// A node's view of the fabric, merged from its sources. Cheap to clone; all clones are one directory.
///
/// Reading never waits for a source and takes well under a microsecond. Sources are watched by tasks, which end when the last
/// clone is dropped.
///
/// ```
/// use ripstop::discovery::{Directory, NodeId};
/// let directory = Directory::new("default", NodeId::random());
/// assert!(directory.by_root("pricing").is_empty());
/// ```
#[derive(Clone)]
pub struct Directory {
    inner: Arc<Inner>,
}

struct Inner {
    fabric: String,
    /// Changes go through here, one at a time. A std mutex: it is never held across an await.
    table: Mutex<Table>,
    sources: Mutex<Sources>,
    /// One announcement at a time, so that an older one can't overtake a newer one.
    announcing: tokio::sync::Mutex<()>,
    /// What readers see, published by whoever holds the table.
    instances: DashMap<Key, Arc<Instance>>,
    roots: DashMap<String, Arc<[Arc<Instance>]>>,
    nobody: Arc<[Arc<Instance>]>,
    changed: watch::Sender<u64>,
    events: broadcast::Sender<DirectoryEvent>,
}

#[derive(Default)]
struct Sources {
    list: Vec<Arc<dyn Source>>,
    /// Sources that have not taken the present advert yet.
    behind: BTreeSet<usize>,
    own: Option<Advert>,
    tasks: Vec<AbortHandle>,
}

impl Directory {
    /// The empty directory of the node `self_id` in `fabric`. Adverts of other fabrics, and its own, are ignored.
    ///
    /// ```
    /// # use ripstop::discovery::{Directory, NodeId};
    /// assert!(Directory::new("default", NodeId::random()).all().is_empty());
    /// ```
    pub fn new(fabric: impl Into<String>, self_id: NodeId) -> Self {
        let fabric = fabric.into();
        Self {
            inner: Arc::new(Inner {
                table: Mutex::new(Table::new(fabric.clone(), self_id)),
                fabric,
                sources: Mutex::default(),
                announcing: tokio::sync::Mutex::new(()),
                instances: DashMap::new(),
                roots: DashMap::new(),
                nobody: Arc::new([]),
                changed: watch::Sender::new(0),
                events: broadcast::Sender::new(EVENTS),
            }),
        }
    }

    /// The fabric's name.
    ///
    /// ```
    /// # use ripstop::discovery::{Directory, NodeId};
    /// assert_eq!(Directory::new("shop", NodeId::random()).fabric(), "shop");
    /// ```
    pub fn fabric(&self) -> &str {
        &self.inner.fabric
    }

    /// Watches one more source, from a task of its own, and announces to it what was announced before. A source that fails or
    /// ends is opened again after 50 ms to 5 s. Call it inside a tokio runtime; outside of one the source is not watched.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # use ripstop::discovery::{Directory, Memory, NodeId};
    /// let directory = Directory::new("default", NodeId::random());
    /// directory.add_source(std::sync::Arc::new(Memory::new().source()));
    /// assert_eq!(directory.sources(), ["memory"]);
    /// # }
    /// ```
    pub fn add_source(&self, source: Arc<dyn Source>) {
        let name = source.name();
        let index = lock(&self.inner.table).add_source(name);
        let mut sources = lock(&self.inner.sources);
        sources.list.push(source.clone());
        if sources.own.is_some() {
            sources.behind.insert(index);
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            tracing::error!(
                source = name,
                "a discovery source was added outside a tokio runtime: it is not watched"
            );
            return;
        };
        let task = runtime.spawn(watch_source(Arc::downgrade(&self.inner), index, source));
        sources.tasks.push(task.abort_handle());
    }

    /// The names of its sources, in the order in which they were added.
    ///
    /// ```
    /// # use ripstop::discovery::{Directory, NodeId};
    /// assert!(Directory::new("default", NodeId::random()).sources().is_empty());
    /// ```
    pub fn sources(&self) -> Vec<&'static str> {
        lock(&self.inner.sources).list.iter().map(|source| source.name()).collect()
    }

    /// Announces this node through all sources; a later call replaces the earlier one. Cancelled half-way, some sources have
    /// it already and the others follow within 5 s.
    ///
    /// # Errors
    /// The first error of a source. The other sources have the advert nevertheless, and the failed one is tried again every 5 s.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # use ripstop::discovery::{Advert, Directory, NodeId};
    /// let id = NodeId::random();
    /// let directory = Directory::new("default", id);
    /// directory.announce(Advert::new(id, "default", "pricing")).await.unwrap();
    /// # }
    /// ```
    pub async fn announce(&self, advert: Advert) -> Result<(), DiscoveryError> {
        {
            let mut table = lock(&self.inner.table);
            table.set_own_endpoints(&advert.endpoints);
            self.inner.publish(&mut table);
        }
        {
            let mut sources = lock(&self.inner.sources);
            sources.behind = (0..sources.list.len()).collect();
            sources.own = Some(advert);
        }
        self.inner.announce_where_behind(None).await
    }

    /// Takes the announcement back from all sources, each with its goodbye. Failures are logged.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # use ripstop::discovery::{Directory, NodeId};
    /// Directory::new("default", NodeId::random()).withdraw().await; // nothing announced: nothing to do
    /// # }
    /// ```
    pub async fn withdraw(&self) {
        let sources = {
            let mut sources = lock(&self.inner.sources);
            sources.own = None;
            sources.behind.clear();
            sources.list.clone()
        };
        let _one_at_a_time = self.inner.announcing.lock().await;
        for source in sources {
            if let Err(error) = source.withdraw().await {
                tracing::warn!(source = source.name(), %error, "cannot withdraw the advert");
            }
        }
    }

    /// Every instance known, suspects included, sorted by service and key.
    ///
    /// ```
    /// # use ripstop::discovery::{Directory, NodeId};
    /// assert_eq!(Directory::new("default", NodeId::random()).all().len(), 0);
    /// ```
    pub fn all(&self) -> Vec<Arc<Instance>> {
        let mut all: Vec<_> = self.inner.instances.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.sort_by(|a, b| (&a.advert.service, &a.key).cmp(&(&b.advert.service, &b.key)));
        all
    }

    /// The instances that have `root` among their roots and are not suspect. A lookup and a reference count.
    ///
    /// ```
    /// # use ripstop::discovery::{Directory, NodeId};
    /// assert!(Directory::new("default", NodeId::random()).by_root("pricing").is_empty());
    /// ```
    pub fn by_root(&self, root: &str) -> Arc<[Arc<Instance>]> {
        self.inner.roots.get(root).map_or_else(|| Arc::clone(&self.inner.nobody), |list| Arc::clone(&list))
    }

    /// The instance filed under this key, or met at this address.
    ///
    /// ```
    /// # use ripstop::discovery::{Directory, Key, NodeId};
    /// let directory = Directory::new("default", NodeId::random());
    /// assert!(directory.find(&Key::Node(NodeId::random())).is_none());
    /// ```
    pub fn find(&self, key: &Key) -> Option<Arc<Instance>> {
        let found = |key: &Key| self.inner.instances.get(key).map(|entry| Arc::clone(entry.value()));
        found(key).or_else(|| found(&lock(&self.inner.table).resolve(key)))
    }

    /// Whether anybody has ever had this root: tells a service that is away from one that never was.
    ///
    /// ```
    /// # use ripstop::discovery::{Directory, NodeId};
    /// assert!(!Directory::new("default", NodeId::random()).ever_seen_root("pricing"));
    /// ```
    pub fn ever_seen_root(&self, root: &str) -> bool {
        lock(&self.inner.table).seen_root(root)
    }

    /// The root most like `root` that anybody has ever had, if it is like enough to be meant.
    ///
    /// ```
    /// # use ripstop::discovery::{Directory, NodeId};
    /// assert_eq!(Directory::new("default", NodeId::random()).nearest("pricng"), None);
    /// ```
    pub fn nearest(&self, root: &str) -> Option<String> {
        let table = lock(&self.inner.table);
        crate::config::nearest(root, table.seen_roots().filter(|seen| *seen != root)).map(str::to_owned)
    }

    /// A counter that grows with every change: wait on it, then look again. Cancel safe.
    ///
    /// ```
    /// # use ripstop::discovery::{Directory, NodeId};
    /// assert_eq!(*Directory::new("default", NodeId::random()).changed().borrow(), 0);
    /// ```
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// What happens from now on. A reader that falls 1,024 events behind is told so and should read [`all`](Self::all).
    ///
    /// ```
    /// # use ripstop::discovery::{Directory, NodeId};
    /// let mut events = Directory::new("default", NodeId::random()).events();
    /// assert!(events.try_recv().is_err());
    /// ```
    pub fn events(&self) -> broadcast::Receiver<DirectoryEvent> {
        self.inner.events.subscribe()
    }

    /// The hello of an authenticated link: who stands behind `key`. The instance becomes live; a configured address becomes
    /// that node's. Where another node than `key` answers and no address is configured, nothing changes. A later hello
    /// replaces an earlier one, unless its epoch is lower. `hello.endpoints` may be empty: then the listed ones stay.
    ///
    /// ```
    /// use ripstop::discovery::{Advert, Directory, Key, NodeId, State};
    /// let directory = Directory::new("default", NodeId::random());
    /// let other = NodeId::random();
    /// directory.met(&Key::Node(other), Advert::new(other, "default", "pricing").root("pricing"));
    /// assert_eq!(directory.by_root("pricing")[0].state, State::Live);
    /// ```
    pub fn met(&self, key: &Key, hello: Advert) {
        self.inner.change(|table| table.met(key, hello, Instant::now()));
    }

    /// A link to a known node is up again: from now on a removal by a source does not remove it.
    ///
    /// ```
    /// # use ripstop::discovery::{Directory, NodeId};
    /// Directory::new("default", NodeId::random()).link_up(NodeId::random()); // unknown: nothing happens
    /// ```
    pub fn link_up(&self, node: NodeId) {
        self.inner.change(|table| table.link_up(node));
    }

    /// The last connection to this node is gone. If no source lists it, it leaves; otherwise its sources are asked to verify it.
    ///
    /// ```
    /// # use ripstop::discovery::{Directory, NodeId};
    /// Directory::new("default", NodeId::random()).link_down(NodeId::random());
    /// ```
    pub fn link_down(&self, node: NodeId) {
        let key = Key::Node(node);
        let mut listed_by = Vec::new();
        self.inner.change(|table| {
            table.link_down(node);
            listed_by = table.listed_by(&key);
        });
        self.inner.verify(listed_by);
    }

    /// A link died or a dial failed: the instance is not offered by [`by_root`](Self::by_root) until a source reports it again, a
    /// link is up, or 1 s (doubled each time, 30 s at most) has passed. Its sources are asked to verify it. A live one is left alone.
    ///
    /// ```
    /// # use ripstop::discovery::{Directory, Key, NodeId};
    /// Directory::new("default", NodeId::random()).suspect(&Key::Node(NodeId::random()));
    /// ```
    pub fn suspect(&self, key: &Key) {
        let mut newly = None;
        let mut listed_by = Vec::new();
        self.inner.change(|table| {
            newly = table.suspect(key);
            listed_by = table.listed_by(key);
        });
        self.inner.verify(listed_by);
        let (Some(strikes), Ok(runtime)) = (newly, tokio::runtime::Handle::try_current()) else { return };
        let pause = (FORGIVE_MIN * 2u32.saturating_pow((strikes - 1).min(10))).min(FORGIVE_MAX);
        let (weak, key) = (Arc::downgrade(&self.inner), key.clone());
        runtime.spawn(async move {
            tokio::time::sleep(pause).await;
            if let Some(inner) = weak.upgrade() {
                inner.change(|table| table.forgive(&key, strikes));
            }
        });
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("fabric", &self.inner.fabric)
            .field("sources", &self.sources())
            .field("instances", &self.inner.instances.len())
            .finish()
    }
}

impl Inner {
    fn change(&self, change: impl FnOnce(&mut Table)) {
        let mut table = lock(&self.table);
        change(&mut table);
        self.publish(&mut table);
    }

    fn verify(&self, listed_by: Vec<(usize, Key)>) {
        let sources = lock(&self.sources);
        for (source, listed_as) in listed_by {
            if let Some(source) = sources.list.get(source) {
                source.verify(&listed_as);
            }
        }
    }

    /// Makes readers see what the table has touched, and tells them. The lock on the table keeps publishing in order.
    fn publish(&self, table: &mut Table) {
        let mut dirty = BTreeSet::new();
        let mut events = Vec::new();
        for key in std::mem::take(&mut table.touched) {
            let old = self.instances.get(&key).map(|entry| Arc::clone(entry.value()));
            let new = table.instance(&key).map(Arc::new);
            if old == new {
                continue;
            }
            for root in old.iter().flat_map(|instance| &instance.advert.roots) {
                table.unindex(root, &key);
                dirty.insert(root.clone());
            }
            for root in new.iter().flat_map(|instance| &instance.advert.roots) {
                table.index(root, &key);
                dirty.insert(root.clone());
            }
            match &new {
                Some(new) => self.instances.insert(key, Arc::clone(new)),
                None => self.instances.remove(&key).map(|(_, instance)| instance),
            };
            match (old, new) {
                (None, Some(new)) => events.push(DirectoryEvent::Joined(new)),
                (Some(_), Some(new)) => events.push(DirectoryEvent::Changed(new)),
                (Some(old), None) => events.push(DirectoryEvent::Left(old)),
                (None, None) => {}
            }
        }
        for root in dirty {
            let list: Arc<[_]> = table
                .indexed(&root)
                .filter_map(|key| self.instances.get(key).map(|entry| Arc::clone(entry.value())))
                .filter(|instance| instance.state != State::Suspect)
                .collect();
            if list.is_empty() {
                self.roots.remove(&root).map(drop)
            } else {
                self.roots.insert(root, list).map(drop)
            };
        }
        if events.is_empty() {
            return;
        }
        metrics::gauge!("ripstop_directory_instances").set(self.instances.len() as f64);
        self.changed.send_modify(|count| *count += 1);
        for event in events {
            let (what, instance) = match &event {
                DirectoryEvent::Joined(instance) => ("joined", instance),
                DirectoryEvent::Changed(instance) => ("changed", instance),
                DirectoryEvent::Left(instance) => ("left", instance),
            };
            tracing::debug!(
                peer = %instance.key, service = instance.advert.service, state = %instance.state,
                sources = ?instance.sources, "directory: {what}"
            );
            // Nobody listening is fine.
            let _ = self.events.send(event);
        }
    }

    fn apply(&self, index: usize, source: &'static str, generation: u64, batch: &mut Vec<Change>) {
        let now = Instant::now();
        let mut refused = 0;
        self.change(|table| {
            for change in batch.drain(..) {
                match change {
                    Change::Up(advert) => {
                        if table.up(index, generation, advert, now) == Heard::Refused {
                            refused += 1;
                        }
                    }
                    Change::Down(key) => table.down(index, &key),
                }
            }
        });
        if refused > 0 {
            metrics::counter!("ripstop_discovery_adverts_refused_total", "source" => source)
                .increment(refused);
            tracing::debug!(
                source,
                refused,
                "adverts refused: unusable, or more than the quota of one source"
            );
        }
    }

    /// Gives the present advert to the sources that lack it, or to one of them.
    async fn announce_where_behind(&self, only: Option<usize>) -> Result<(), DiscoveryError> {
        let _one_at_a_time = self.announcing.lock().await;
        let (advert, behind) = {
            let sources = lock(&self.sources);
            let Some(advert) = sources.own.clone() else { return Ok(()) };
            let behind: Vec<_> = sources
                .behind
                .iter()
                .filter(|index| only.is_none_or(|only| only == **index))
                .filter_map(|index| Some((*index, Arc::clone(sources.list.get(*index)?))))
                .collect();
            (advert, behind)
        };
        let mut outcome = Ok(());
        for (index, source) in behind {
            match source.announce(advert.clone()).await {
                Ok(()) => {
                    let mut sources = lock(&self.sources);
                    // Meanwhile there may be a newer advert, and then it is behind again.
                    if sources.own.as_ref() == Some(&advert) {
                        sources.behind.remove(&index);
                    }
                }
                Err(error) => {
                    tracing::warn!(source = source.name(), %error, "cannot announce this node; trying again");
                    if outcome.is_ok() {
                        outcome = Err(error);
                    }
                }
            }
        }
        outcome
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in &lock(&self.sources).tasks {
            task.abort();
        }
    }
}

/// Watches one source for as long as the directory lives. Holds no strong reference to it while it waits.
async fn watch_source(directory: Weak<Inner>, index: usize, source: Arc<dyn Source>) {
    let name = source.name();
    let mut pause = REOPEN_MIN;
    let mut again = tokio::time::interval(ANNOUNCE_AGAIN);
    again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for generation in 1.. {
        let opened = tokio::time::Instant::now();
        match source.watch().await {
            Ok(mut changes) => {
                let mut batch = Vec::new();
                let mut repeated = std::pin::pin!(tokio::time::sleep(REPEAT));
                let mut swept = generation == 1;
                loop {
                    tokio::select! {
                        received = changes.recv_many(&mut batch, BATCH) => {
                            let Some(directory) = directory.upgrade() else { return };
                            if received == 0 {
                                break;
                            }
                            directory.apply(index, name, generation, &mut batch);
                            drop(directory);
                            tokio::time::sleep(BATCH_PAUSE).await;
                        }
                        () = &mut repeated, if !swept => {
                            swept = true;
                            let Some(directory) = directory.upgrade() else { return };
                            directory.change(|table| table.sweep(index, generation));
                        }
                        _ = again.tick() => {
                            let Some(directory) = directory.upgrade() else { return };
                            // Its error is logged, and there will be another tick.
                            let _ = directory.announce_where_behind(Some(index)).await;
                        }
                    }
                }
                metrics::counter!("ripstop_discovery_reopened_total", "source" => name).increment(1);
                tracing::warn!(source = name, "discovery ended or fell behind; opening it again");
            }
            Err(error) => {
                metrics::counter!("ripstop_discovery_errors_total", "source" => name).increment(1);
                tracing::warn!(source = name, %error, "cannot watch; trying again");
            }
        }
        if opened.elapsed() > REOPEN_MAX {
            pause = REOPEN_MIN;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(REOPEN_MAX);
    }
}

#[cfg(test)]
mod tests;
