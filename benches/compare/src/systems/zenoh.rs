//! zenoh, peer to peer; as it comes, and tuned as its documentation says: without priorities on the link, and where one
//! asks, with the low-latency transport and messages that wait for no batch.

use std::net::TcpListener;
use std::sync::mpsc;

use bytes::Bytes;
use zenoh::Wait;
use zenoh::bytes::ZBytes;
use zenoh::qos::CongestionControl;
use zenoh::{Config, Session};

use super::{System, WITH_EVENTS};
use crate::Result;
use crate::work::{self, Clock, Counter, FAN, Kind, Shared, Work, here};

pub const SYSTEM: System = System {
    name: "zenoh",
    kinds: WITH_EVENTS,
    size: None,
    helper: None,
    stay: |work| stay(work, false),
    come: |work, endpoint| come(work, endpoint, false),
};
pub const TUNED: System = System {
    name: "zenoh tuned",
    stay: |work| stay(work, true),
    come: |work, endpoint| come(work, endpoint, true),
    ..SYSTEM
};

fn open(work: &Work, tuned: bool, role: &str, endpoint: &str) -> Result<Session> {
    let mut config = Config::default();
    let endpoints = format!("[\"{endpoint}\"]");
    let mut set = |key: &str, value: &str| config.insert_json5(key, value);
    set("mode", "\"peer\"")?;
    // Two peers that are told where they are.
    set("scouting/multicast/enabled", "false")?;
    set("scouting/gossip/enabled", "false")?;
    set("listen/endpoints", "[]")?;
    set(&format!("{role}/endpoints"), &endpoints)?;
    if tuned {
        set("transport/unicast/qos/enabled", "false")?;
        // It has no batches, and no fragments.
        set("transport/unicast/lowlatency", if work.kind == Kind::Ask { "true" } else { "false" })?;
    }
    Ok(zenoh::open(config).wait()?)
}

fn stay(work: &Work, tuned: bool) -> Result<()> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let endpoint = format!("tcp/127.0.0.1:{port}");
    let session = open(work, tuned, "listen", &endpoint)?;
    if work.kind == Kind::FanOut {
        return publish(work, &session, &endpoint);
    }
    let (done, end) = mpsc::channel();
    if work.kind == Kind::OneWay {
        let counter = Shared::new(Counter::new(work).into());
        let counts = move |_| match work::add(&counter, 1) {
            Ok(false) => {}
            all => drop(done.send(all.map(drop))),
        };
        let _subscriber = session.declare_subscriber("work").callback(counts).wait()?;
        here(endpoint);
        return end.recv()?;
    }
    let answers = move |query: zenoh::query::Query| {
        let body = query.payload().cloned().unwrap_or_default();
        if let Err(error) = query.reply("work", body).express(tuned).wait() {
            let _ = done.send(Err(error));
        }
    };
    let _queryable = session.declare_queryable("work").callback(answers).wait()?;
    here(endpoint);
    end.recv()?
}

fn come(work: &Work, endpoint: &str, tuned: bool) -> Result<()> {
    if work.kind == Kind::FanOut {
        return subscribe(work, endpoint, tuned);
    }
    let session = open(work, tuned, "connect", endpoint)?;
    let message = ZBytes::from(Bytes::from(work.message()));
    if work.kind == Kind::OneWay {
        send(&session, "work", work.count, &message)?;
        // Until it has arrived; then this process is ended.
        loop {
            std::thread::park();
        }
    }
    let querier =
        session.declare_querier("work").congestion_control(CongestionControl::Block).express(tuned).wait()?;
    while !querier.matching_status().wait()?.matching() {
        std::thread::yield_now();
    }
    // It does not work on a runtime of one thread.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ask = || -> Result<()> {
        querier
            .get()
            .payload(message.clone())
            .wait()?
            .recv()?
            .into_result()
            .map_err(|error| error.to_string())?;
        Ok(())
    };
    if work.kind == Kind::Ask {
        let mut clock = Clock::new(work);
        for _ in 0..work.count {
            clock.asks();
            ask()?;
            clock.answered();
        }
        return clock.end(work);
    }
    let querier = std::sync::Arc::new(querier);
    let many = super::many(*work, || {
        let (querier, message) = (querier.clone(), message.clone());
        async move {
            let replies = querier.get().payload(message).await?;
            replies.recv_async().await?.into_result().map_err(|error| error.to_string())?;
            Ok(())
        }
    });
    runtime.block_on(many)
}

fn send(session: &Session, key: &'static str, count: u64, message: &ZBytes) -> Result<()> {
    let publisher = session.declare_publisher(key).congestion_control(CongestionControl::Block).wait()?;
    while !publisher.matching_status().wait()?.matching() {
        std::thread::yield_now();
    }
    for _ in 0..count {
        publisher.put(message.clone()).wait()?;
    }
    Ok(())
}

fn publish(work: &Work, session: &Session, endpoint: &str) -> Result<()> {
    let (said, ready) = mpsc::channel();
    let _subscriber = session.declare_subscriber("ready").callback(move |_| _ = said.send(())).wait()?;
    here(endpoint);
    for _ in 0..FAN {
        ready.recv()?;
    }
    send(session, "work", work.count, &ZBytes::from(Bytes::from(work.message())))?;
    loop {
        std::thread::park();
    }
}

fn subscribe(work: &Work, endpoint: &str, tuned: bool) -> Result<()> {
    let counter = Shared::new(Counter::new(work).into());
    let (done, end) = mpsc::channel();
    let mut open_ones = Vec::new();
    for _ in 0..FAN {
        let session = open(work, tuned, "connect", endpoint)?;
        let (counter, done) = (counter.clone(), done.clone());
        let counts = move |_| match work::add(&counter, 1) {
            Ok(false) => {}
            all => drop(done.send(all.map(drop))),
        };
        let subscriber = session.declare_subscriber("work").callback(counts).wait()?;
        send(&session, "ready", 1, &ZBytes::new())?;
        open_ones.push((session, subscriber));
    }
    end.recv()?
}
