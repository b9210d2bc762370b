//! Nodes with keys: who gets in, and who may do what.

use std::collections::{HashMap, HashSet};
use std::future::IntoFuture;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ripstop::config::{AllowRule, Config, SecurityConfig};
use ripstop::discovery::{Advert, Memory, NodeId, Source};
use ripstop::fabric::{
    CallError, NodeBuilder, PublishError, PushError, ReceiveError, ServeError, SubscribeError,
};
use ripstop::security::{AuthRequest, Ca, Keys, Verdict};
use ripstop::{HandlerError, Node};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, watch};

use crate::common::soon;
use crate::raw;

const DAY: Duration = Duration::from_secs(86_400);

/// A CA, a place for keys, and a LAN.
struct Shop {
    ca: Ca,
    dir: tempfile::TempDir,
    lan: Memory,
    serials: HashMap<String, String>,
}

impl Shop {
    fn new() -> Self {
        let ca = Ca::new("shop", SystemTime::now(), 30).unwrap();
        Self { ca, dir: tempfile::tempdir().unwrap(), lan: Memory::new(), serials: Default::default() }
    }

    /// The directory of the keys of this service, issued now.
    fn keys(&mut self, service: &str) -> PathBuf {
        let dir = self.dir.path().join(service);
        let now = SystemTime::now();
        let issued = self.ca.issue(service, now - DAY, now + DAY).unwrap();
        self.serials.insert(service.into(), issued.serial().to_owned());
        issued.write(&dir).unwrap();
        dir
    }

    fn node(&mut self, service: &str) -> NodeBuilder {
        let keys = self.keys(service);
        plain(&self.lan, service).keys(keys)
    }

    async fn start(&mut self, service: &str) -> Node {
        self.node(service).start().await.unwrap()
    }

    /// Revokes it, and tells those.
    fn revoke(&mut self, service: &str, nodes: &[&str]) {
        self.ca.revoke(&self.serials[service], SystemTime::now()).unwrap();
        for node in nodes {
            std::fs::write(self.dir.path().join(node).join("crl.pem"), self.ca.crl_pem()).unwrap();
        }
    }
}

fn plain(lan: &Memory, service: &str) -> NodeBuilder {
    Node::builder(service).fabric("shop").local(false).mdns(false).source(lan.source())
}

fn allow(who: &str, change: impl FnOnce(&mut AllowRule)) -> AllowRule {
    let mut rule = AllowRule::new(who);
    change(&mut rule);
    rule
}

fn list(patterns: &[&str]) -> Option<Vec<String>> {
    Some(patterns.iter().map(|pattern| (*pattern).to_owned()).collect())
}

async fn double(n: u64) -> Result<u64, HandlerError> {
    Ok(2 * n)
}

async fn serve(node: &Node) {
    node.serve("pricing.double", |n: u64, _| double(n)).await.unwrap();
}

async fn call(node: &Node) -> Result<u64, CallError> {
    soon(node.call("pricing.double", &21u64).timeout(Duration::from_secs(5)).into_future()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn members_call_publish_and_push_as_without_keys() {
    let mut shop = Shop::new();
    let (pricing, orders) = (shop.start("pricing").await, shop.start("orders").await);
    assert!(pricing.endpoints().iter().all(|endpoint| endpoint.to_string().starts_with("tls+tcp://")));
    serve(&pricing).await;
    assert_eq!(call(&orders).await.unwrap(), 42);

    let mut events = pricing.subscribe::<u64>("orders.*").await.unwrap();
    let publisher = orders.publisher::<u64>("orders.created").await.unwrap();
    soon(publisher.ready(1).into_future()).await.unwrap();
    publisher.publish(&7).await.unwrap();
    assert_eq!(soon(events.recv()).await.unwrap().unwrap().body, 7);

    let mut work = pricing.pull::<u64>("pricing.recount").await.unwrap();
    soon(orders.push("pricing.recount", &9u64).into_future()).await.unwrap();
    assert_eq!(soon(work.recv()).await.unwrap().unwrap().body, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_our_keys_gets_in_or_is_believed() {
    let mut shop = Shop::new();
    let pricing = shop.start("pricing").await;
    serve(&pricing).await;
    // Without keys, and with those of another CA of the same name.
    let mut other = Shop { lan: shop.lan.clone(), ..Shop::new() };
    let stranger = other.start("orders").await;
    let plain = plain(&shop.lan, "orders").start().await.unwrap();
    let error = call(&plain).await.unwrap_err();
    assert!(matches!(error, CallError::NoInstance { .. }), "{error}");
    let error = call(&stranger).await.unwrap_err().to_string();
    assert!(error.contains("issued by another CA"), "{error}");
    // A member that says it is somebody else does not even start.
    let keys = shop.keys("billing");
    let error = self::plain(&shop.lan, "pricing").keys(&keys).start().await.unwrap_err().to_string();
    assert!(
        error.contains(
            "the certificate is for service billing of fabric shop, and this node is service pricing"
        ),
        "{error}"
    );
    // The name can be left to the keys.
    let billing = Node::builder("cli").local(false).keys(&keys).named_by_keys(true).start().await.unwrap();
    assert_eq!((billing.service(), billing.fabric()), ("billing", "shop"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_record_reaches_nobody() {
    let mut shop = Shop::new();
    let orders = shop.start("orders").await;
    // A member that would like to be `pricing`, too: it may not serve, and its record leads to a refused certificate.
    let billing = shop.start("billing").await;
    let error = billing.serve("pricing.double", |n: u64, _| double(n)).await.unwrap_err();
    assert!(matches!(error, ServeError::Forbidden { .. }), "{error}");
    let mut forged = Advert::new(NodeId::random(), "shop", "pricing");
    forged.epoch = u64::MAX;
    forged.roots = vec!["pricing".into()];
    forged.endpoints = billing.endpoints();
    let liar = shop.lan.source();
    liar.announce(forged).await.unwrap();
    let error = call(&orders).await.unwrap_err().to_string();
    assert!(error.contains("is for service billing, and pricing was dialled"), "{error}");
    // One that offers under its own name what is not its, and whose own rules let it: never asked.
    let rule = allow("intern", |rule| rule.serve = list(&["pricing.*"]));
    let intern = shop.node("intern").allow(rule).start().await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let offers = move |n: u64, _| {
        count.fetch_add(1, Ordering::Relaxed);
        double(n)
    };
    intern.serve("pricing.double", offers).await.unwrap();
    assert!(call(&orders).await.is_err());
    // The real one is found beside them.
    let pricing = shop.start("pricing").await;
    serve(&pricing).await;
    for _ in 0..20 {
        assert_eq!(call(&orders).await.unwrap(), 42);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    // Whose rules let it, asks it.
    soon(async {
        while asked.load(Ordering::Relaxed) == 0 {
            assert_eq!(call(&intern).await.unwrap(), 42);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_call_is_told_and_nothing_is_delivered() {
    let mut shop = Shop::new();
    let rule = allow("orders", |rule| rule.call = list(&["pricing.double"]));
    let pricing = shop.node("pricing").allow(rule).start().await.unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    serve(&pricing).await;
    let count = handled.clone();
    pricing
        .serve("pricing.secret", move |_: u64, _| {
            count.fetch_add(1, Ordering::Relaxed);
            async { Ok(0u64) }
        })
        .await
        .unwrap();
    let orders = shop.start("orders").await;
    assert_eq!(call(&orders).await.unwrap(), 42);
    let error = soon(orders.call::<_, u64>("pricing.secret", &1u64).into_future()).await.unwrap_err();
    assert_eq!(error.to_string(), "forbidden: spiffe://shop/service/orders may not call pricing.secret");
    assert!(matches!(&error, CallError::Forbidden { subject, .. } if subject == "pricing.secret"));
    assert_eq!((handled.load(Ordering::Relaxed), error.code().to_string()), (0, "RS0440".into()));
    assert!(!error.is_retryable());
    // Another service has the default still.
    let billing = shop.start("billing").await;
    assert_eq!(soon(billing.call::<_, u64>("pricing.secret", &1u64).into_future()).await.unwrap(), 0);
    assert_eq!(handled.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_and_pushers_need_permission_and_so_do_those_they_trust() {
    let mut shop = Shop::new();
    let orders = shop
        .node("orders")
        .allow(allow("billing", |rule| rule.subscribe = list(&["orders.created"])))
        .allow(allow("mailer", |rule| rule.pull = list(&["emails"])))
        .start()
        .await
        .unwrap();
    let billing = shop.start("billing").await;
    let mut events = billing.subscribe::<u64>("orders.*").await.unwrap();
    let created = orders.publisher::<u64>("orders.created").await.unwrap();
    let deleted = orders.publisher::<u64>("orders.deleted").await.unwrap();
    soon(created.ready(1).into_future()).await.unwrap();
    // The subscription is there; this topic is not for it.
    deleted.publish(&1).await.unwrap();
    created.publish(&2).await.unwrap();
    let refused = soon(events.recv()).await.unwrap().unwrap_err();
    assert!(
        matches!(&refused, ReceiveError::Forbidden { subject, .. } if subject == "orders.deleted"),
        "{refused}"
    );
    assert_eq!(
        refused.to_string(),
        "forbidden: spiffe://shop/service/billing may not subscribe orders.deleted"
    );
    assert_eq!(soon(events.recv()).await.unwrap().unwrap().body, 2);

    // By default one publishes and pulls only what has one's own name.
    let error = billing.publisher::<u64>("orders.created").await.unwrap_err();
    assert!(matches!(error, PublishError::Forbidden { .. }), "{error}");
    let error = billing.pull::<u64>("orders.returns").await.unwrap_err();
    assert!(matches!(error, SubscribeError::Forbidden { .. }), "{error}");

    // The mailer thinks that it may pull `emails`, and so does orders; billing does not.
    let mailer = shop
        .node("mailer")
        .allow(allow("mailer", |rule| rule.pull = list(&["emails"])))
        .allow(allow("ledger", |rule| rule.push = list(&[])))
        .start()
        .await
        .unwrap();
    let mut emails = mailer.pull::<u64>("emails").await.unwrap();
    soon(orders.push("emails", &3u64).into_future()).await.unwrap();
    assert_eq!(soon(emails.recv()).await.unwrap().unwrap().body, 3);
    let patience = Duration::from_secs(3);
    let error = soon(billing.push("emails", &4u64).timeout(patience).into_future()).await.unwrap_err();
    assert!(matches!(&error, PushError::Forbidden { queue, .. } if queue == "emails"), "{error}");
    let ledger = shop.start("ledger").await;
    let error = soon(ledger.push("emails", &5u64).timeout(patience).into_future()).await.unwrap_err();
    assert!(matches!(&error, PushError::Forbidden { .. }), "{error}");
    // Nothing of theirs came.
    soon(orders.push("emails", &6u64).into_future()).await.unwrap();
    assert_eq!(soon(emails.recv()).await.unwrap().unwrap().body, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_rules_are_in_force_at_once_and_broken_ones_never() {
    let mut shop = Shop::new();
    let keys = shop.keys("pricing");
    let file = shop.dir.path().join("ripstop.toml");
    let rules = |rules: &str| {
        let text = format!("fabric = 'shop'\n[security]\ndir = {keys:?}\n{rules}");
        // As editors do.
        std::fs::write(file.with_extension("new"), text).unwrap();
        std::fs::rename(file.with_extension("new"), &file).unwrap();
    };
    rules("");
    let loaded = Config::load(Some(&file)).unwrap();
    let pricing = Node::builder("pricing").loaded(loaded).local(false).mdns(false).source(shop.lan.source());
    let pricing = pricing.start().await.unwrap();
    serve(&pricing).await;
    let changes = pricing.publisher::<u64>("pricing.changed").await.unwrap();
    let mut queue = pricing.pull::<u64>("pricing.recount").await.unwrap();
    let orders = shop.start("orders").await;
    let mut events = orders.subscribe::<u64>("pricing.*").await.unwrap();
    assert_eq!(call(&orders).await.unwrap(), 42);
    soon(changes.ready(1).into_future()).await.unwrap();
    changes.publish(&1).await.unwrap();
    assert_eq!(soon(events.recv()).await.unwrap().unwrap().body, 1);
    soon(orders.push("pricing.recount", &1u64).into_future()).await.unwrap();
    assert_eq!(soon(queue.recv()).await.unwrap().unwrap().body, 1);

    rules("[[allow]]\nwho = 'orders'\ncall = []\nsubscribe = []\npush = []\n");
    soon(async { while call(&orders).await.is_ok() {} }).await;
    assert!(matches!(call(&orders).await, Err(CallError::Forbidden { .. })));
    // A live subscription is looked at again.
    changes.publish(&2).await.unwrap();
    let refused = soon(events.recv()).await.unwrap().unwrap_err();
    assert!(matches!(refused, ReceiveError::Forbidden { .. }), "{refused}");
    let pushed =
        soon(orders.push("pricing.recount", &2u64).timeout(Duration::from_secs(3)).into_future()).await;
    assert!(matches!(pushed, Err(PushError::Forbidden { .. })), "{pushed:?}");

    // A broken file changes nothing.
    rules("[[allow]]\nwhom = 'orders'\n");
    rules("[[allow]]\nwho = 'orders'\ncall = ['pricing..']\n");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(matches!(call(&orders).await, Err(CallError::Forbidden { .. })));

    rules("");
    soon(async { while call(&orders).await.is_err() {} }).await;
    soon(changes.ready(1).into_future()).await.unwrap();
    changes.publish(&3).await.unwrap();
    assert_eq!(soon(events.recv()).await.unwrap().unwrap().body, 3);
    soon(orders.push("pricing.recount", &3u64).into_future()).await.unwrap();
    assert_eq!(soon(queue.recv()).await.unwrap().unwrap().body, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_out_within_a_second_and_nobody_else_notices() {
    let mut shop = Shop::new();
    let pricing = shop.start("pricing").await;
    serve(&pricing).await;
    let (orders, billing) = (shop.start("orders").await, shop.start("billing").await);
    for node in [&orders, &billing] {
        assert_eq!(call(node).await.unwrap(), 42);
    }
    let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let good = tokio::spawn({
        let (orders, stop) = (orders.clone(), stop.clone());
        async move {
            let mut calls = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(orders.call::<_, u64>("pricing.double", &21u64).await.unwrap(), 42);
                calls += 1;
            }
            calls
        }
    });
    let bad = tokio::spawn({
        let (billing, failed) = (billing.clone(), failed.clone());
        async move {
            let error = loop {
                if let Err(error) = billing.call::<_, u64>("pricing.double", &21u64).await {
                    break error;
                }
            };
            failed.notify_one();
            error
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    shop.revoke("billing", &["pricing", "orders"]);
    soon(failed.notified()).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    // It hears why when it comes back.
    let _first = bad.await.unwrap();
    let error = call(&billing).await.unwrap_err().to_string();
    assert!(error.contains("refused our certificate: it was revoked"), "{error}");
    stop.store(true, Ordering::Relaxed);
    assert!(soon(good).await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_began_before_a_revocation_does_not_get_in() {
    let mut shop = Shop::new();
    let pricing = shop.start("pricing").await;
    serve(&pricing).await;
    let billing = shop.start("billing").await;
    assert_eq!(call(&billing).await.unwrap(), 42);
    // TLS is through, and the greeting; what it says of itself is still to come.
    let address = pricing.endpoints()[0].to_string().replace("tls+tcp://", "");
    let config = SecurityConfig { dir: Some(shop.dir.path().join("billing")), ..SecurityConfig::default() };
    let keys = Keys::load(&config, Path::new("")).unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let tls = tokio_rustls::TlsConnector::from(keys.client_config(Some("pricing")));
    let mut stream = soon(tls.connect("ripstop.invalid".try_into().unwrap(), stream)).await.unwrap();
    stream.write_all(&raw::greeting("NULL")).await.unwrap();
    soon(stream.read_exact(&mut [0; 64])).await.unwrap();

    shop.revoke("billing", &["pricing"]);
    soon(async { while call(&billing).await.is_ok() {} }).await;
    stream.write_all(&raw::ready("DEALER", &[])).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains("ERROR") && answer.contains("revoked"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_certificate_ends_soon_is_dialled_anew() {
    let mut shop = Shop::new();
    let (dir, now) = (shop.dir.path().join("pricing"), SystemTime::now());
    shop.ca.issue("pricing", now - DAY, now + Duration::from_secs(200)).unwrap().write(&dir).unwrap();
    let (let_in, mut counted) = watch::channel(0);
    let let_in = move |_: AuthRequest| {
        let_in.send_modify(|count| *count += 1);
        async { Verdict::Allow }
    };
    let pricing = plain(&shop.lan, "pricing").keys(&dir).authoriser(let_in).start().await.unwrap();
    serve(&pricing).await;
    let orders = shop.start("orders").await;
    assert_eq!(call(&orders).await.unwrap(), 42);
    let before = *counted.borrow_and_update();
    // What `orders` has to look at is looked at when its own files change, too.
    shop.keys("billing");
    shop.revoke("billing", &["orders"]);
    soon(counted.wait_for(|count| *count > before)).await.unwrap();
    assert_eq!(call(&orders).await.unwrap(), 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_under_load_loses_nothing() {
    let mut shop = Shop::new();
    let services = ["pricing", "orders"];
    let (pricing, orders) = (shop.start("pricing").await, shop.start("orders").await);
    serve(&pricing).await;
    let mut work = pricing.pull::<u64>("pricing.recount").await.unwrap();
    let mut events = pricing.subscribe::<u64>("orders.created").await.unwrap();
    let publisher = orders.publisher::<u64>("orders.created").await.unwrap();
    soon(publisher.ready(1).into_future()).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                publisher.publish(&n).await.unwrap();
                orders.push("pricing.recount", &n).await.unwrap();
                assert_eq!(orders.call::<_, u64>("pricing.double", &n).await.unwrap(), 2 * n);
                n += 1;
            }
            n
        }
    });
    let taken = tokio::spawn(async move {
        // Each once; the new connection may be ahead of the old one.
        let mut taken = HashSet::new();
        while let Some(item) = work.recv().await {
            assert!(taken.insert(item.unwrap().body));
        }
        taken.len() as u64
    });
    let heard = tokio::spawn(async move {
        let mut next = 0;
        while let Some(event) = events.recv().await {
            let event = event.unwrap();
            assert_eq!((event.body, event.missed), (next, 0));
            next += 1;
        }
        next
    });
    let update = |shop: &Shop| {
        for service in services {
            shop.ca.update_node(&shop.dir.path().join(service)).unwrap();
        }
    };
    let settle = || tokio::time::sleep(Duration::from_millis(300));
    // Both CAs are trusted; everyone gets a new certificate; the old CA goes.
    shop.ca.rotate(SystemTime::now(), 30).unwrap();
    update(&shop);
    settle().await;
    for service in services {
        shop.keys(service);
        settle().await;
    }
    shop.ca.finish_rotation(SystemTime::now()).unwrap();
    update(&shop);
    settle().await;
    // Past the grace that connections of the old CA have.
    tokio::time::sleep(Duration::from_secs(6)).await;
    // A new node still gets through with the new one.
    let billing = shop.start("billing").await;
    assert_eq!(call(&billing).await.unwrap(), 42);
    stop.store(true, Ordering::Relaxed);
    let sent = soon(load).await.unwrap();
    assert!(sent > 0);
    soon(pricing.drain()).await;
    assert_eq!(soon(taken).await.unwrap(), sent);
    assert_eq!(soon(heard).await.unwrap(), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_itself_may_say_who_comes_in() {
    let mut shop = Shop::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = asked.clone();
    let pricing = shop
        .node("pricing")
        .authoriser(move |request: AuthRequest| {
            let times = seen.fetch_add(1, Ordering::Relaxed);
            async move {
                assert!(request.address.starts_with("127.0.0.1:"), "{}", request.address);
                match request.identity.name() {
                    "intern" => Verdict::Refuse("not at night".into()),
                    "orders" if times == 0 => Verdict::TooLate,
                    _ => Verdict::Allow,
                }
            }
        })
        .start()
        .await
        .unwrap();
    serve(&pricing).await;
    // Whoever proves nothing is not even spoken of.
    let plain = plain(&shop.lan, "orders").start().await.unwrap();
    assert!(call(&plain).await.is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    // Too late once: it comes back by itself.
    let orders = shop.start("orders").await;
    soon(async { while call(&orders).await.is_err() {} }).await;
    let intern = shop.start("intern").await;
    let error = call(&intern).await.unwrap_err().to_string();
    assert!(error.contains("not at night"), "{error}");
}

#[tokio::test]
async fn keys_that_are_none_are_a_clear_error() {
    let error = Node::builder("pricing").local(false).keys(Path::new("no/such")).start().await.unwrap_err();
    assert!(error.to_string().contains("no/such/node.pem"), "{error}");
    assert_eq!(error.code().to_string(), "RS0409");
}

#[cfg(feature = "curve")]
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_about_before_the_proof() {
    use ripstop::security::{CurveNames, make_curve_key};
    use ripstop::socket::{ConnectOptions, Dealer, Event, curve_keys};

    let mut shop = Shop::new();
    let dir = shop.keys("pricing");
    let (server, known) = (make_curve_key(&dir.join("curve.key")).unwrap(), curve_keys().unwrap());
    let mut names = CurveNames::default();
    names.enrol("reports", known.public()).unwrap();
    names.write(&dir.join("curve.toml")).unwrap();
    let (asked, mut count) = watch::channel(0);
    let authoriser = move |_: AuthRequest| {
        asked.send_modify(|asked| *asked += 1);
        async { Verdict::Allow }
    };
    let pricing = plain(&shop.lan, "pricing").keys(&dir).authoriser(authoriser).start().await.unwrap();
    let address = pricing.endpoints()[0].to_string().replace("tls+", "");
    let to = address.trim_start_matches("tcp://").parse().unwrap();

    // A HELLO whose box nobody can open, and one that is good, of a key that is not enrolled.
    let hello = [&[1, 0][..], &[0; 72], &[9; 120]].concat();
    let hello = [raw::greeting("CURVE"), raw::command("HELLO", &hello)].concat();
    for n in 0..20 {
        let mut peer = raw::dial(to, n).await;
        peer.write_all(&hello).await.unwrap();
        assert!(raw::closed(&mut peer, Duration::from_secs(10)).await);
    }
    let stranger = Dealer::new();
    let mut told = stranger.monitor();
    let options = |keys| ConnectOptions::new().curve(server.public(), keys);
    stranger.connect_with(&*address, options(curve_keys().unwrap())).unwrap();
    soon(async { while !matches!(told.next().await, Some(Event::GaveUp { .. })) {} }).await;
    assert_eq!(*count.borrow_and_update(), 0);
    let reports = Dealer::new();
    reports.connect_with(&*address, options(known)).unwrap();
    soon(count.wait_for(|asked| *asked == 1)).await.unwrap();
}

#[cfg(feature = "curve")]
#[tokio::test(flavor = "multi_thread")]
async fn a_curve_client_is_who_it_is_enrolled_as() {
    use ripstop::Context;
    use ripstop::envelope::{NIL, Parts, decode_body};
    use ripstop::security::{CurveNames, make_curve_key};
    use ripstop::socket::{ConnectOptions, Dealer, Event, curve_keys};

    let mut shop = Shop::new();
    let dir = shop.keys("pricing");
    let (server, client) = (make_curve_key(&dir.join("curve.key")).unwrap(), curve_keys().unwrap());
    let enrol = |name: &str| {
        let mut names = CurveNames::default();
        names.enrol(name, client.public()).unwrap();
        names.write(&dir.join("curve.toml")).unwrap();
    };
    enrol("reports");
    let pricing = plain(&shop.lan, "pricing").keys(&dir).start().await.unwrap();
    let who = |_: (), context: Context| async move { Ok(context.caller().map(str::to_owned)) };
    pricing.serve("pricing.who", who).await.unwrap();

    let dealer = Dealer::new();
    let mut monitor = dealer.monitor();
    let address = pricing.endpoints()[0].to_string().replace("tls+", "");
    dealer.connect_with(&*address, ConnectOptions::new().curve(server.public(), client.clone())).unwrap();
    let ask = async || {
        dealer.send([&b""[..], b"pricing.who", NIL]).await.unwrap();
        let answer = soon(dealer.recv()).await.unwrap();
        decode_body::<String>(Parts::read(&answer, 1).unwrap().body).unwrap()
    };
    assert_eq!(ask().await, "curve:reports");
    // Under another name it has other rights, and none of those it had: it has to come again.
    enrol("intern");
    soon(async { while !matches!(monitor.next().await, Some(Event::Disconnected { .. })) {} }).await;
    assert_eq!(ask().await, "curve:intern");
}
