//! Typed calls, events and work between two nodes of one process over TCP loopback: `cargo bench --bench fabric`.
//!
//! Sender and receiver share two runtime threads, so the figures say how the fabric changes from commit to commit, not what
//! two machines would do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ripstop::{Node, Result, discovery::Memory};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    id: u64,
    sku: String,
    qty: u32,
    cents: u64,
    currency: String,
    address: String,
}

fn order() -> Order {
    Order {
        id: 123_456_789,
        sku: "SKU-0001-XL".into(),
        qty: 3,
        cents: 129_900,
        currency: "EUR".into(),
        address: "Am Alten Markt 12, 50667 Koeln, DE".into(),
    }
}

async fn start(lan: &Memory, service: &str) -> Result<Node> {
    Ok(Node::builder(service).local(false).mdns(false).source(lan.source()).start().await?)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let smoke = std::env::args().any(|arg| arg == "--smoke");
    let scale = if smoke { 100 } else { 1 };
    let lan = Memory::new();
    let (here, there) = (start(&lan, "here").await?, start(&lan, "there").await?);
    calls(&here, &there, 50_000 / scale, 300_000 / scale).await?;
    push(&here, &there, 1_000_000 / scale).await?;
    publish(&here, &there, 1_000_000 / scale).await
}

async fn calls(here: &Node, there: &Node, one: u64, many: u64) -> Result<()> {
    there.serve("there.echo", |order: Order, _| async move { Ok(order) }).await?;
    let order = order();
    let _: Order = here.call("there.echo", &order).await?;
    let mut took = Vec::new();
    for _ in 0..one {
        let start = Instant::now();
        let _: Order = here.call("there.echo", &order).await?;
        took.push(start.elapsed());
    }
    took.sort();
    println!(
        "call, one in flight     p50 {:>7.1?}  p99 {:>7.1?}",
        took[took.len() / 2],
        took[took.len() * 99 / 100]
    );
    let start = Instant::now();
    let callers = (0..64).map(|_| {
        let (here, order) = (here.clone(), order.clone());
        tokio::spawn(async move {
            for _ in 0..many / 64 {
                let _: Order = here.call("there.echo", &order).await?;
            }
            Ok::<(), ripstop::Error>(())
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        if let Ok(result) = caller.await {
            result?;
        }
    }
    rate("call, 64 in flight", many / 64 * 64, start.elapsed());
    Ok(())
}

async fn push(here: &Node, there: &Node, count: u64) -> Result<()> {
    let mut pull = there.pull::<Order>("items").prefetch(16_384).await?;
    let taking = tokio::spawn(async move {
        for _ in 0..count {
            pull.recv().await;
        }
    });
    let order = order();
    let start = Instant::now();
    for _ in 0..count {
        here.push("items", &order).await?;
    }
    let _ = taking.await;
    rate("push, typed", count, start.elapsed());
    Ok(())
}

async fn publish(here: &Node, there: &Node, count: u64) -> Result<()> {
    let mut events = there.subscribe::<Order>("here.*").await?;
    let seen = Arc::new(AtomicU64::new(0));
    let counter = seen.clone();
    let reading = tokio::spawn(async move {
        while let Some(Ok(event)) = events.recv().await {
            if counter.fetch_add(1 + event.missed, Ordering::Relaxed) + 1 + event.missed >= count {
                return;
            }
        }
    });
    let publisher =
        here.publisher::<Order>("here.orders").when_full(ripstop::fabric::SlowPolicy::Block).await?;
    publisher.ready(1).await?;
    let order = order();
    let start = Instant::now();
    for _ in 0..count {
        publisher.publish(&order).await?;
    }
    let _ = reading.await;
    rate("publish, typed", count, start.elapsed());
    Ok(())
}

fn rate(what: &str, count: u64, took: Duration) {
    println!("{what:<22} {:>10.0} a second", count as f64 / took.as_secs_f64());
}
