//! NATS: `async-nats` on both ends, and the `nats-server` of the machine between them.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream;
use async_nats::{Client, ConnectOptions, Subject};
use bytes::Bytes;
use futures_util::StreamExt;

use super::{Helper, System, WITH_EVENTS};
use crate::Result;
use crate::run::{self, Reaped};
use crate::work::{self, Clock, Counter, FAN, Kind, Shared, Work, here};

pub const SYSTEM: System = System {
    name: "nats",
    kinds: WITH_EVENTS,
    size: None,
    helper: Some(server),
    stay: |work| super::block_on(work, stay),
    come: |work, _| super::block_on(work, come),
};

/// A stream in a file, synchronised with each message before it is acked. Without `sync_interval`, which servers before 2.10 do
/// not have, it would be synchronised every two minutes.
pub const JETSTREAM: System = System {
    name: "nats jetstream",
    kinds: super::DURABLE,
    size: None,
    helper: Some(keeper),
    stay: super::kept::OURS.stay,
    come: |work, _| super::block_on(work, keep),
};

const WORK: Subject = Subject::from_static("work");
const READY: Subject = Subject::from_static("ready");

/// A server of our own. Its limits are those under which nothing of a run is dropped.
fn server(pinned: bool) -> Result<Helper> {
    serve(pinned, tempfile::tempdir()?, "")
}

/// The same, with a place on disk.
fn keeper(pinned: bool) -> Result<Helper> {
    let dir = super::kept::directory()?;
    let store = format!("jetstream {{ store_dir: {:?}, sync_interval: always }}\n", dir.path().join("js"));
    serve(pinned, dir, &store)
}

fn serve(pinned: bool, dir: tempfile::TempDir, more: &str) -> Result<Helper> {
    let file = dir.path().join("nats.conf");
    let limits = "host: 127.0.0.1\nport: -1\nmax_pending: 1GB\nwrite_deadline: \"30s\"\nmax_payload: 1MB\n";
    write!(std::fs::File::create(&file)?, "{limits}{more}ports_file_dir: {:?}\n", dir.path())?;
    let mut command = run::command(Some("nats-server"), pinned)?;
    command.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Reaped(command.spawn().map_err(|error| format!("nats-server: {error}"))?);
    let ports = dir.path().join(format!("nats-server_{}.ports", process.0.id()));
    let began = Instant::now();
    loop {
        let said = std::fs::read(&ports).ok().and_then(|said| serde_json::from_slice(&said).ok());
        if let Some(said) = said {
            let said: serde_json::Value = said;
            let endpoint = said["nats"][0].as_str().ok_or("nats-server listens nowhere")?.to_owned();
            return Ok(Helper { process, endpoint, _dir: dir });
        }
        if began.elapsed() > Duration::from_secs(10) {
            return Err("nats-server does not say its port".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn connect() -> Result<Client> {
    // A subscription that is full drops.
    Ok(ConnectOptions::new().subscription_capacity(1 << 23).connect(super::helper()?).await?)
}

async fn stay(work: Work) -> Result<()> {
    let client = connect().await?;
    if work.kind == Kind::FanOut {
        return publish(work, client).await;
    }
    let mut messages = client.subscribe(WORK).await?;
    client.flush().await?;
    here("ready");
    let mut counter = Counter::new(&work);
    while let Some(message) = messages.next().await {
        if work.kind == Kind::OneWay {
            if counter.add(1)? {
                return Ok(());
            }
        } else if let Some(reply) = message.reply {
            client.publish(reply, message.payload).await?;
        }
    }
    Err("no more messages".into())
}

async fn come(work: Work) -> Result<()> {
    let message = Bytes::from(work.message());
    match work.kind {
        Kind::FanOut => return subscribe(work).await,
        Kind::OneWay => {
            let client = connect().await?;
            for _ in 0..work.count {
                client.publish(WORK, message.clone()).await?;
            }
            client.flush().await?;
            // A socket that is closed with something unread in it loses what is on its way.
            return std::future::pending().await;
        }
        _ => {}
    }
    let client = connect().await?;
    if work.kind == Kind::Ask {
        let mut clock = Clock::new(&work);
        for _ in 0..work.count {
            clock.asks();
            client.request(WORK, message.clone()).await?;
            clock.answered();
        }
        return clock.end(&work);
    }
    super::many(work, move || {
        let (client, message) = (client.clone(), message.clone());
        async move { Ok(client.request(WORK, message).await.map(drop)?) }
    })
    .await
}

async fn keep(work: Work) -> Result<()> {
    let jetstream = async_nats::jetstream::new(connect().await?);
    let stream = stream::Config {
        name: "work".into(),
        subjects: vec![WORK.to_string()],
        storage: stream::StorageType::File,
        ..stream::Config::default()
    };
    jetstream.create_stream(stream).await?;
    let message = Bytes::from(work.message());
    super::many(work, move || {
        let (jetstream, message) = (jetstream.clone(), message.clone());
        async move { Ok(jetstream.publish(WORK, message).await?.await.map(drop)?) }
    })
    .await
}

async fn publish(work: Work, client: Client) -> Result<()> {
    let mut ready = client.subscribe(READY).await?;
    client.flush().await?;
    here("ready");
    for _ in 0..FAN {
        ready.next().await;
    }
    let message = Bytes::from(work.message());
    for _ in 0..work.count {
        client.publish(WORK, message.clone()).await?;
    }
    client.flush().await?;
    std::future::pending().await
}

async fn subscribe(work: Work) -> Result<()> {
    let counter = Shared::new(Counter::new(&work).into());
    let mut subscribers = tokio::task::JoinSet::new();
    for _ in 0..FAN {
        let (client, counter) = (connect().await?, counter.clone());
        let mut messages = client.subscribe(WORK).await?;
        client.flush().await?;
        client.publish(READY, Bytes::new()).await?;
        subscribers.spawn(async move {
            let _open = client;
            while messages.next().await.is_some() {
                if work::add(&counter, 1)? {
                    return Ok(());
                }
            }
            Err("no more messages".into())
        });
    }
    subscribers.join_next().await.ok_or("no subscriber")??
}
