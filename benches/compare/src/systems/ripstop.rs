//! Our sockets.

use std::path::PathBuf;

use ripstop::socket::{ConnectOptions, Dealer, Options, Pull, Push, Router, Sub, WhenFull, XPub, curve_keys};

use super::System;
use crate::Result;
use crate::work::{self, Clock, Counter, FAN, Kind, Shared, Work, here};

pub const SYSTEM: System = System {
    name: "ripstop",
    kinds: &[Kind::OneWay, Kind::Tls, Kind::Curve, Kind::Ask, Kind::Many, Kind::FanOut],
    size: None,
    helper: None,
    stay: |work| super::block_on(work, stay),
    come: |work, endpoint| super::block_on_with(work, endpoint, come),
};

async fn stay(work: Work) -> Result<()> {
    match work.kind {
        Kind::OneWay | Kind::Tls | Kind::Curve => receive(work).await,
        Kind::FanOut => publish(work).await,
        Kind::Ask | Kind::Many | Kind::Durable(_) => {
            let router = Router::new();
            here(router.bind("tcp://127.0.0.1:0").await?);
            // Until the one who asks has gone.
            while router.send(router.recv().await?).await.is_ok() {}
            Ok(())
        }
    }
}

async fn receive(work: Work) -> Result<()> {
    let pull = Pull::with_options(match work.kind {
        Kind::Tls => keys(true)?,
        Kind::Curve => Options::new().curve_server(work::CURVE_SERVER.1.parse()?),
        _ => Options::new(),
    });
    here(
        pull.bind(if work.kind == Kind::Tls { "tls+tcp://127.0.0.1:0" } else { "tcp://127.0.0.1:0" }).await?,
    );
    let (mut counter, mut batch) = (Counter::new(&work), Vec::new());
    while !counter.add(pull.recv_many(&mut batch, 4096).await? as u64)? {
        batch.clear();
    }
    Ok(())
}

async fn come(work: Work, endpoint: String) -> Result<()> {
    match work.kind {
        Kind::OneWay | Kind::Tls | Kind::Curve => send(work, endpoint).await,
        Kind::FanOut => subscribe(work, endpoint).await,
        Kind::Ask | Kind::Many | Kind::Durable(_) => ask(work, &endpoint).await,
    }
}

async fn send(work: Work, endpoint: String) -> Result<()> {
    let push = Push::with_options(if work.kind == Kind::Tls { keys(false)? } else { Options::new() });
    match work.kind {
        Kind::Curve => {
            let to = ConnectOptions::new().curve(work::CURVE_SERVER.0.parse()?, curve_keys()?);
            push.connect_with(endpoint, to)?;
        }
        _ => push.connect(endpoint)?,
    }
    let message = bytes::Bytes::from(work.message());
    for _ in 0..work.count {
        push.send(&message).await?;
    }
    push.close().await;
    Ok(())
}

async fn ask(work: Work, endpoint: &str) -> Result<()> {
    let dealer = Dealer::new();
    dealer.connect(endpoint)?;
    let (message, mut clock) = (work.message(), Clock::new(&work));
    for _ in 1..work.window() {
        dealer.send(&message).await?;
    }
    for _ in work.window()..=work.count {
        clock.asks();
        dealer.send(&message).await?;
        dealer.recv().await?;
        clock.answered();
    }
    clock.end(&work)
}

async fn publish(work: Work) -> Result<()> {
    let publisher = XPub::with_options(Options::new().when_full(WhenFull::Block).xpub_verbose(true));
    here(publisher.bind("tcp://127.0.0.1:0").await?);
    for _ in 0..FAN {
        publisher.recv().await?;
    }
    let message = bytes::Bytes::from(work.message());
    for _ in 0..work.count {
        publisher.send(&message).await?;
    }
    publisher.close().await;
    Ok(())
}

async fn subscribe(work: Work, endpoint: String) -> Result<()> {
    let counter = Shared::new(Counter::new(&work).into());
    let mut subscribers = tokio::task::JoinSet::new();
    for _ in 0..FAN {
        let (subscriber, counter, endpoint) = (Sub::new(), counter.clone(), endpoint.clone());
        subscriber.subscribe("");
        subscriber.connect(endpoint)?;
        subscribers.spawn(async move {
            let mut batch = Vec::new();
            while !work::add(&counter, subscriber.recv_many(&mut batch, 4096).await? as u64)? {
                batch.clear();
            }
            Result::Ok(())
        });
    }
    subscribers.join_next().await.ok_or("no subscriber")??
}

/// A throw-away certificate that both processes read and trust; the first of them makes it.
fn keys(make: bool) -> Result<Options> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let place = |name: &str| -> PathBuf { std::env::temp_dir().join(format!("ripstop-compare-{name}.pem")) };
    if make {
        let key = rcgen::KeyPair::generate()?;
        let cert = rcgen::CertificateParams::new(vec!["ripstop.invalid".to_owned()])?.self_signed(&key)?;
        std::fs::write(place("key"), key.serialize_pem())?;
        std::fs::write(place("cert"), cert.pem())?;
    }
    let (cert, key) =
        (CertificateDer::from_pem_file(place("cert"))?, PrivateKeyDer::from_pem_file(place("key"))?);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.clone())?;
    let server = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert], key)?;
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(Options::new().tls(server.into(), client.into()))
}
