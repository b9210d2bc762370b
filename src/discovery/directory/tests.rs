use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::config::PeerConfig;
use crate::discovery::{BoxFuture, Changes, Memory, MemorySource, Static};

fn at(port: u16) -> Endpoint {
    format!("tcp://127.0.0.1:{port}").parse().unwrap()
}

fn advert(node: NodeId, port: u16) -> Advert {
    Advert::new(node, "default", "pricing").endpoint(at(port)).root("pricing")
}

fn directory() -> Directory {
    Directory::new("default", NodeId::random())
}

async fn announce(source: &MemorySource, advert: Advert) {
    source.announce(advert).await.unwrap();
}

/// Waits until the directory is as wanted; with paused time this moves time, it does not sleep.
async fn until(directory: &Directory, what: &str, wanted: impl Fn(&Directory) -> bool) {
    let mut changed = directory.changed();
    let waiting = async {
        while !wanted(directory) {
            changed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}; there are {}", directory.all().len()));
}

fn only(directory: &Directory) -> Arc<Instance> {
    let all = directory.all();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

#[tokio::test(start_paused = true)]
async fn two_find_each_other_and_one_leaves() {
    let lan = Memory::new();
    let (here, there) = (directory(), directory());
    let mut events = here.events();
    let (a, b) = (NodeId::random(), NodeId::random());
    here.add_source(Arc::new(lan.source()));
    there.add_source(Arc::new(lan.source()));
    here.announce(advert(a, 1)).await.unwrap();
    there.announce(advert(b, 2)).await.unwrap();

    until(&here, "b here", |d| d.find(&b.into()).is_some()).await;
    until(&there, "a there", |d| d.find(&a.into()).is_some()).await;
    let found = here.find(&b.into()).unwrap();
    assert_eq!((found.state, &found.sources[..]), (State::Known, &["memory"][..]));
    assert!(here.by_root("pricing").iter().any(|i| i.key == Key::Node(b)));

    there.withdraw().await;
    until(&here, "b gone", |d| d.find(&b.into()).is_none()).await;
    assert!(here.by_root("pricing").iter().all(|i| i.key != Key::Node(b)));
    assert!(here.ever_seen_root("pricing"));
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        told.push(event);
    }
    assert!(told.iter().any(|e| matches!(e, DirectoryEvent::Joined(i) if i.key == Key::Node(b))), "{told:?}");
    assert!(told.iter().any(|e| matches!(e, DirectoryEvent::Left(i) if i.key == Key::Node(b))), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn other_fabrics_and_itself_are_ignored() {
    let lan = Memory::new();
    let me = NodeId::random();
    let here = Directory::new("default", me);
    here.add_source(Arc::new(lan.source()));
    here.announce(advert(me, 1)).await.unwrap();
    let (foreign, good) = (lan.source(), lan.source());
    let mut other = advert(NodeId::random(), 2);
    other.fabric = "elsewhere".into();
    announce(&foreign, other).await;
    let node = NodeId::random();
    announce(&good, advert(node, 3)).await;
    until(&here, "the good one", |d| !d.all().is_empty()).await;
    assert_eq!(only(&here).key, Key::Node(node));
}

#[tokio::test(start_paused = true)]
async fn a_live_link_beats_a_removal() {
    let lan = Memory::new();
    let here = directory();
    here.add_source(Arc::new(lan.source()));
    let node = NodeId::random();
    let source = lan.source();
    announce(&source, advert(node, 1)).await;
    until(&here, "found", |d| d.find(&node.into()).is_some()).await;
    here.met(&node.into(), advert(node, 1));

    source.withdraw().await.unwrap();
    until(&here, "unlisted", |d| only(d).sources.is_empty()).await;
    assert_eq!(here.by_root("pricing").len(), 1);
    assert_eq!(only(&here).state, State::Live);

    here.link_down(node);
    assert!(here.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_forged_epoch_does_not_move_a_live_link() {
    let lan = Memory::new();
    let here = directory();
    here.add_source(Arc::new(lan.source()));
    let node = NodeId::random();
    let honest = lan.source();
    announce(&honest, advert(node, 1)).await;
    until(&here, "found", |d| d.find(&node.into()).is_some()).await;
    here.met(&node.into(), advert(node, 1));

    let forger = lan.source();
    let mut forged = advert(node, 666);
    forged.epoch = u64::MAX;
    announce(&forger, forged).await;
    until(&here, "pending", |d| !only(d).pending.is_empty()).await;
    let instance = only(&here);
    assert_eq!((&instance.advert.endpoints[..], instance.advert.epoch), (&[at(1)][..], 0));
    assert_eq!(instance.pending, [at(666)]);

    // The same happens honestly after a restart; then the hello of the new link takes over.
    let mut reborn = advert(node, 666);
    reborn.epoch = 7;
    here.met(&node.into(), reborn);
    assert_eq!(only(&here).advert.endpoints, [at(666)]);
    // And a hello of the earlier life comes too late.
    here.met(&node.into(), advert(node, 1));
    assert_eq!(only(&here).advert.endpoints, [at(666)]);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_is_not_offered_until_something_speaks_for_it() {
    let lan = Memory::new();
    let here = directory();
    here.add_source(Arc::new(lan.source()));
    let node = NodeId::random();
    let source = lan.source();
    announce(&source, advert(node, 1)).await;
    until(&here, "found", |d| d.find(&node.into()).is_some()).await;

    here.suspect(&node.into());
    assert!(here.by_root("pricing").is_empty());
    assert_eq!(only(&here).state, State::Suspect);
    announce(&source, advert(node, 1)).await;
    until(&here, "announced again", |d| d.by_root("pricing").len() == 1).await;

    here.suspect(&node.into());
    here.link_up(node);
    assert_eq!(only(&here).state, State::Live);
    here.suspect(&node.into());
    assert_eq!(only(&here).state, State::Live, "a failed dial beside a live link says nothing");

    here.link_down(node);
    here.suspect(&node.into());
    let start = tokio::time::Instant::now();
    until(&here, "forgiven", |d| d.by_root("pricing").len() == 1).await;
    // The timer of the first doubt may be the one that runs out: it began a merge of changes earlier.
    assert!((980..=1010).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    here.suspect(&node.into());
    let start = tokio::time::Instant::now();
    until(&here, "forgiven later", |d| d.by_root("pricing").len() == 1).await;
    assert_eq!(start.elapsed().as_millis() / 10, 200);
}

#[tokio::test(start_paused = true)]
async fn a_configured_address_becomes_the_node_that_answers() {
    let here = directory();
    let peers = vec![PeerConfig::new("ledger", at(5))];
    here.add_source(Arc::new(Static::new(peers, "default")));
    until(&here, "listed", |d| d.by_root("ledger").len() == 1).await;
    let address = Key::Endpoint(at(5));
    assert_eq!(only(&here).key, address);

    let (first, second) = (NodeId::random(), NodeId::random());
    here.met(&address, Advert::new(first, "default", "ledger").root("ledger").root("books"));
    let instance = only(&here);
    assert_eq!((&instance.key, &instance.advert.endpoints[..]), (&Key::Node(first), &[at(5)][..]));
    assert_eq!(instance.sources, ["static"]);
    assert_eq!(here.find(&address).unwrap().key, Key::Node(first));
    assert_eq!(here.by_root("books").len(), 1);

    // It restarts with another id at the same address.
    here.link_down(first);
    assert_eq!(only(&here).state, State::Known);
    here.met(&Key::Node(first), Advert::new(second, "default", "ledger").root("ledger"));
    assert_eq!(only(&here).key, Key::Node(second));
    assert!(here.by_root("books").is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_answers_in_anothers_place_changes_nothing_of_the_other() {
    let lan = Memory::new();
    let here = directory();
    here.add_source(Arc::new(lan.source()));
    let (pricing, ledger, evil) = (NodeId::random(), NodeId::random(), NodeId::random());
    let (one, two) = (lan.source(), lan.source());
    announce(&one, advert(pricing, 1)).await;
    announce(&two, Advert::new(ledger, "default", "ledger").root("ledger").endpoint(at(2))).await;
    until(&here, "found", |d| d.all().len() == 2).await;
    let before = [here.find(&ledger.into()), here.find(&pricing.into())];

    // Whoever answers at an address of pricing's says that it is yet another, or the ledger.
    here.met(&pricing.into(), Advert::new(evil, "default", "pricing").root("pricing").endpoint(at(666)));
    here.met(&pricing.into(), Advert::new(ledger, "default", "pricing").root("ledger").endpoint(at(666)));
    here.met(&pricing.into(), Advert::new(ledger, "default", "ledger").root("ledger").endpoint(at(666)));
    assert_eq!([here.find(&ledger.into()), here.find(&pricing.into())], before);
    assert_eq!(here.all().len(), 2);

    // Nor does a configured peer get the place of one that is connected.
    here.add_source(Arc::new(Static::new(vec![PeerConfig::new("evil", at(666))], "default")));
    until(&here, "listed", |d| d.all().len() == 3).await;
    let address = Key::Endpoint(at(666));
    here.met(&ledger.into(), Advert::new(ledger, "default", "ledger").root("ledger"));
    let live = here.find(&ledger.into());
    here.met(&address, Advert::new(ledger, "default", "evil").root("ledger"));
    assert_eq!(here.find(&ledger.into()), live);
    assert_eq!(here.find(&address).unwrap().key, address);
}

#[tokio::test(start_paused = true)]
async fn a_configured_address_of_our_own_is_dropped() {
    let me = NodeId::random();
    let here = Directory::new("default", me);
    let peers = vec![PeerConfig::new("a", at(5)), PeerConfig::new("b", at(6)), PeerConfig::new("c", at(7))];
    here.add_source(Arc::new(Static::new(peers, "default")));
    until(&here, "listed", |d| d.all().len() == 3).await;
    here.announce(advert(me, 5)).await.unwrap();
    assert_eq!(here.all().len(), 2);
    here.met(&Key::Endpoint(at(6)), advert(me, 6));
    assert_eq!(only(&here).key, Key::Endpoint(at(7)));
}

/// Closes its channel when told; counts how often it was opened; says only what it is given.
struct Fickle {
    opened: AtomicUsize,
    says: Mutex<Vec<Advert>>,
    open: Mutex<Option<tokio::sync::mpsc::Sender<Change>>>,
}

impl Source for Fickle {
    fn name(&self) -> &'static str {
        "fickle"
    }
    fn announce(&self, _: Advert) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async { Ok(()) })
    }
    fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async { Ok(()) })
    }
    fn watch(&self) -> BoxFuture<'_, Result<Changes, DiscoveryError>> {
        Box::pin(async {
            if self.opened.fetch_add(1, Ordering::SeqCst) == 1 {
                return Err(DiscoveryError::Source { source_name: "fickle", reason: "a bad day".into() });
            }
            let says = lock(&self.says);
            let (sender, changes) = tokio::sync::mpsc::channel(says.len().max(1));
            for advert in says.iter() {
                sender.try_send(Change::Up(advert.clone())).unwrap();
            }
            *lock(&self.open) = Some(sender);
            Ok(changes)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_ends_is_reopened_and_nothing_stays_missing_or_stale() {
    let here = directory();
    let (stays, goes, comes) = (NodeId::random(), NodeId::random(), NodeId::random());
    let source = Arc::new(Fickle {
        opened: AtomicUsize::new(0),
        says: Mutex::new(vec![advert(stays, 1), advert(goes, 2)]),
        open: Mutex::default(),
    });
    here.add_source(source.clone());
    until(&here, "both", |d| d.all().len() == 2).await;

    *lock(&source.says) = vec![advert(stays, 1), advert(comes, 3)];
    *lock(&source.open) = None;
    until(&here, "the new one, after a failed opening", |d| d.find(&comes.into()).is_some()).await;
    assert!(here.find(&goes.into()).is_some(), "not forgotten before the source had time to repeat it");
    until(&here, "the stale one gone", |d| d.find(&goes.into()).is_none()).await;
    assert_eq!(here.all().len(), 2);
    assert_eq!(source.opened.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_repeated_makes_room_when_a_flood_has_taken_it_all() {
    let here = directory();
    let (linked, late) = (NodeId::random(), NodeId::random());
    let full = crate::discovery::table::MAX_PER_SOURCE;
    let forged = (1..full).map(|_| advert(NodeId::random(), 1));
    let source = Arc::new(Fickle {
        opened: AtomicUsize::new(0),
        says: Mutex::new(forged.chain([advert(linked, 2)]).collect()),
        open: Mutex::default(),
    });
    here.add_source(source.clone());
    until(&here, "full", |d| d.all().len() == full).await;
    here.met(&Key::Node(linked), advert(linked, 2));

    *lock(&source.says) = vec![advert(late, 3)];
    *lock(&source.open) = None;
    until(&here, "the late one", |d| d.find(&late.into()).is_some()).await;
    assert_eq!(here.all().len(), full, "one made room, and the others have time to be repeated");
    assert!(here.find(&linked.into()).is_some(), "who has a link stays");
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_bounded_and_known_services_stay() {
    let lan = Memory::new();
    let here = directory();
    let node = NodeId::random();
    let good = lan.source();
    announce(&good, advert(node, 1)).await;
    here.add_source(Arc::new(lan.source()));
    until(&here, "the good one", |d| d.all().len() == 1).await;
    let mut forger = Vec::new();
    for n in 0..20_000_u32 {
        let source = lan.source();
        announce(
            &source,
            Advert::new(NodeId::random(), "default", format!("forged{n}")).root(format!("forged{n}")),
        )
        .await;
        forger.push(source);
        if n % 500 == 0 {
            tokio::task::yield_now().await;
        }
    }
    until(&here, "full", |d| d.all().len() == crate::discovery::table::MAX_PER_SOURCE).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(here.by_root("pricing").len(), 1);

    // A suspect makes room.
    let forged = here.all().into_iter().find(|i| i.key != Key::Node(node)).unwrap();
    here.suspect(&forged.key);
    let late = lan.source();
    let late_node = NodeId::random();
    announce(&late, advert(late_node, 9)).await;
    until(&here, "the late one", |d| d.find(&late_node.into()).is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn an_advert_is_cut_to_its_bounds() {
    let lan = Memory::new();
    let here = directory();
    here.add_source(Arc::new(lan.source()));
    let node = NodeId::random();
    let mut fat = advert(node, 1);
    fat.endpoints = (0..500).map(at).collect();
    fat.roots = (0..5_000).map(|n| format!("r{n}")).chain(["x".repeat(300)]).collect();
    fat.metadata = (0..1_000).map(|n| (n.to_string(), String::new())).collect();
    let source = lan.source();
    announce(&source, fat).await;
    until(&here, "found", |d| !d.all().is_empty()).await;
    let advert = &only(&here).advert;
    assert_eq!((advert.endpoints.len(), advert.roots.len(), advert.metadata.len()), (20, 256, 64));
}

#[tokio::test(start_paused = true)]
async fn sources_combine() {
    let (one, two) = (Memory::new(), Memory::new());
    let here = directory();
    here.add_source(Arc::new(one.source()));
    here.add_source(Arc::new(two.source()));
    let node = NodeId::random();
    let (first, second) = (one.source(), two.source());
    announce(&first, advert(node, 1)).await;
    announce(&second, advert(node, 2)).await;
    until(&here, "both endpoints", |d| d.all().iter().any(|i| i.advert.endpoints.len() == 2)).await;
    first.withdraw().await.unwrap();
    until(&here, "one endpoint", |d| only(d).advert.endpoints == [at(2)]).await;
}

#[tokio::test(start_paused = true)]
async fn the_nearest_root_is_named() {
    let here = directory();
    let node = NodeId::random();
    here.met(&node.into(), advert(node, 1));
    assert_eq!(here.nearest("pricng").as_deref(), Some("pricing"));
    assert_eq!(here.nearest("orders"), None);
    assert!(here.ever_seen_root("pricing") && !here.ever_seen_root("orders"));
}

#[tokio::test]
async fn a_dropped_directory_ends_its_tasks() {
    let lan = Memory::new();
    let source = Arc::new(lan.source());
    let weak = Arc::downgrade(&source);
    let here = directory();
    here.add_source(source);
    tokio::task::yield_now().await;
    drop(here);
    tokio::time::timeout(Duration::from_secs(5), async {
        while weak.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[test]
fn a_lookup_is_fast() {
    let here = directory();
    for n in 0..1_000 {
        let node = NodeId::random();
        let root = format!("service{}", n % 100);
        here.met(&node.into(), Advert::new(node, "default", "s").endpoint(at(1)).root(root));
    }
    let rounds = 100_000;
    let start = Instant::now();
    for n in 0..rounds {
        assert_eq!(here.by_root(["service1", "service42", "service99"][n % 3]).len(), 10);
    }
    let each = start.elapsed() / rounds as u32;
    println!("by_root: {each:?}");
    // Release: some 50 ns. The bound is for debug builds on a busy machine.
    assert!(each < Duration::from_micros(if cfg!(debug_assertions) { 20 } else { 1 }), "{each:?}");
}
