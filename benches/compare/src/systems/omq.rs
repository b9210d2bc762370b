//! omq-tokio; and its caller-driven sockets, which are its fastest for one request in flight.

use std::time::Duration;

use omq_tokio::exclusive;
use omq_tokio::options::WorkloadProfile;
use omq_tokio::{
    CurveKeypair, CurvePublicKey, CurveSecretKey, Endpoint, Message, Options, Socket, SocketType,
};

use super::System;
use crate::Result;
use crate::work::{self, Clock, Counter, FAN, Kind, Shared, Work, here};

pub const SYSTEM: System = System {
    name: "omq",
    kinds: &[Kind::OneWay, Kind::Curve, Kind::Ask, Kind::Many, Kind::FanOut],
    size: None,
    helper: None,
    stay,
    come,
};
pub const EXCLUSIVE: System = System {
    name: "omq exclusive",
    kinds: &[Kind::Ask],
    size: None,
    helper: None,
    stay,
    come: come_exclusive,
};

fn options(work: &Work) -> Options {
    match work.kind {
        Kind::Ask => Options::default().workload_profile(WorkloadProfile::Latency),
        _ => Options::default(),
    }
    // The default ends at once and loses what is queued.
    .linger(Duration::from_secs(30))
}

fn one_way(work: &Work) -> bool {
    matches!(work.kind, Kind::OneWay | Kind::Curve)
}

fn stay(work: &Work) -> Result<()> {
    let work = *work;
    super::runtime(&work)?.block_on(async move { tokio::spawn(listen(work)).await? })
}

async fn listen(work: Work) -> Result<()> {
    if work.kind == Kind::FanOut {
        return publish(work).await;
    }
    let kind = if one_way(&work) { SocketType::Pull } else { SocketType::Router };
    let mut options = options(&work);
    if work.kind == Kind::Curve {
        let (public, secret) = work::CURVE_SERVER;
        let (public, secret) = (CurvePublicKey::from_z85(public)?, CurveSecretKey::from_z85(secret)?);
        options = options.curve_server(CurveKeypair { public, secret });
    }
    let socket = Socket::new(kind, options);
    here(socket.bind("tcp://127.0.0.1:0".parse::<Endpoint>()?).await?);
    if !one_way(&work) {
        loop {
            socket.send(socket.recv().await?).await?;
        }
    }
    let (mut counter, mut batch) = (Counter::new(&work), Vec::new());
    while !counter.add(socket.recv_many_into(4096, &mut batch).await? as u64)? {
        batch.clear();
    }
    Ok(())
}

fn come(work: &Work, endpoint: &str) -> Result<()> {
    let (work, endpoint) = (*work, endpoint.parse::<Endpoint>()?);
    super::runtime(&work)?.block_on(async move { tokio::spawn(go(work, endpoint)).await? })
}

async fn go(work: Work, endpoint: Endpoint) -> Result<()> {
    if work.kind == Kind::FanOut {
        return subscribe(work, endpoint).await;
    }
    let kind = if one_way(&work) { SocketType::Push } else { SocketType::Dealer };
    let mut options = options(&work);
    if work.kind == Kind::Curve {
        let server = CurvePublicKey::from_z85(work::CURVE_SERVER.0)?;
        options = options.curve_client(CurveKeypair::generate(), server);
    }
    let socket = Socket::new(kind, options);
    socket.connect(endpoint).await?;
    let message = work.message();
    if one_way(&work) {
        let message = Message::from_slice(&message);
        for _ in 0..work.count {
            socket.send(message.clone()).await?;
        }
        return Ok(socket.close().await?);
    }
    let mut clock = Clock::new(&work);
    for _ in 1..work.window() {
        socket.send(Message::from_slice(&message)).await?;
    }
    for _ in work.window()..=work.count {
        clock.asks();
        socket.send(Message::from_slice(&message)).await?;
        socket.recv().await?;
        clock.answered();
    }
    clock.end(&work)
}

async fn publish(work: Work) -> Result<()> {
    let mut options = options(&work);
    options.xpub_nodrop = true;
    let publisher = Socket::new(SocketType::XPub, options);
    here(publisher.bind("tcp://127.0.0.1:0".parse::<Endpoint>()?).await?);
    // Of the subscriptions that are the same it shows the first.
    let mut ready = 0;
    while ready < FAN {
        ready += u64::from(publisher.recv().await?.byte_len() > 1);
    }
    let message = Message::from_slice(&work.message());
    for _ in 0..work.count {
        publisher.send(message.clone()).await?;
    }
    Ok(publisher.close().await?)
}

async fn subscribe(work: Work, endpoint: Endpoint) -> Result<()> {
    let counter = Shared::new(Counter::new(&work).into());
    let mut subscribers = tokio::task::JoinSet::new();
    for n in 0..FAN {
        let (subscriber, counter) = (Socket::new(SocketType::Sub, options(&work)), counter.clone());
        subscriber.subscribe("").await?;
        subscriber.subscribe(format!("ready {n}")).await?;
        subscriber.connect(endpoint.clone()).await?;
        subscribers.spawn(async move {
            let mut batch = Vec::new();
            while !work::add(&counter, subscriber.recv_many_into(4096, &mut batch).await? as u64)? {
                batch.clear();
            }
            Result::Ok(())
        });
    }
    subscribers.join_next().await.ok_or("no subscriber")??
}

fn come_exclusive(work: &Work, endpoint: &str) -> Result<()> {
    let (work, endpoint) = (*work, endpoint.parse::<Endpoint>()?);
    super::runtime(&work)?.block_on(async move {
        let mut socket =
            exclusive::Socket::connect(SocketType::Dealer, endpoint, exclusive::Options::default()).await?;
        let (message, mut clock) = (Message::from_slice(&work.message()), Clock::new(&work));
        for _ in 0..work.count {
            clock.asks();
            socket.send(&message).await?;
            socket.recv().await?;
            clock.answered();
        }
        clock.end(&work)
    })
}
