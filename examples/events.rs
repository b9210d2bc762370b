//! Publish and subscribe: the publisher does not know who listens, and a slow listener hears what he has missed.
//!
//! `cargo run --example events`

use ripstop::{Node, discovery::Memory, fabric::SlowPolicy};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order {
    id: u64,
    /// Makes the events large, so that queues fill.
    note: String,
}

#[tokio::main]
async fn main() -> ripstop::Result<()> {
    // Both nodes live in this process and find each other in memory; what they say goes over TCP on loopback.
    let lan = Memory::new();
    let node = |service| Node::builder(service).local(false).source(lan.source()).queue(100, 1 << 20);
    let (orders, ledger) = (node("orders").start().await?, node("ledger").start().await?);

    // `*` stands for one token, a last `>` for one or more.
    let mut subscription = ledger.subscribe::<Order>("orders.*").await?;
    // What happens to a subscriber that is too slow is the publisher's choice; dropping the oldest is the default.
    let created = orders.publisher::<Order>("orders.created").when_full(SlowPolicy::DropOldest).await?;
    let paid = orders.publisher::<Order>("orders.paid").await?;

    // Subscriptions take a moment to arrive: without this the first events would be lost.
    created.ready(1).await?;
    paid.ready(1).await?;

    let order = |id| Order { id, note: "x".repeat(4096) };
    for publisher in [&created, &paid] {
        let fate = publisher.publish(&order(0)).await?;
        println!("published on {}: {fate}", publisher.subject());
    }
    for _ in 0..2 {
        if let Some(event) = subscription.recv().await {
            let event = event?; // an event that is not an `Order` is an error of its own
            println!("received {} {}", event.subject, event.body.id);
        }
    }

    // Nobody reads while this flood passes through a queue of 100.
    const FLOOD: u64 = 20_000;
    for id in 1..=FLOOD {
        created.publish(&order(id)).await?;
    }
    let (mut received, mut missed) = (0, 0);
    while received + missed < FLOOD {
        let Some(event) = subscription.recv().await else { break };
        missed += event?.missed; // how many were lost right before this one
        received += 1;
    }
    println!("of {FLOOD} events {received} were received and {missed} missed: none without a word");

    orders.drain().await;
    ledger.drain().await;
    Ok(())
}
