//! The typed API of our fabric: a struct of six fields, about 128 bytes of MessagePack, made and read on both ends.

use ripstop::{Endpoint, Node, fabric::SlowPolicy};
use serde::{Deserialize, Serialize};

use super::System;
use crate::Result;
use crate::work::{Clock, Counter, Kind, Work, here};

pub const PUSH: System = System {
    name: "ripstop push",
    kinds: &[Kind::OneWay],
    size: Some(128),
    helper: None,
    stay: |work| super::block_on(work, pull),
    come: |work, endpoint| super::block_on_with(work, endpoint, push),
};
pub const PUBLISH: System = System {
    name: "ripstop publish",
    kinds: &[Kind::OneWay],
    size: Some(128),
    helper: None,
    stay: |work| super::block_on(work, publish),
    come: |work, endpoint| super::block_on_with(work, endpoint, subscribe),
};
pub const CALL: System = System {
    name: "ripstop call",
    kinds: &[Kind::Ask, Kind::Many],
    size: Some(64),
    helper: None,
    stay: |work| super::block_on(work, serve),
    come: |work, endpoint| super::block_on_with(work, endpoint, call),
};

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    id: u64,
    sku: String,
    quantity: u32,
    cents: u64,
    currency: String,
    address: String,
}

impl Order {
    /// Of about so many bytes as MessagePack with the fields' names.
    fn new(size: usize) -> Self {
        let mut order = Self {
            id: 123_456_789,
            sku: "SKU-0001".into(),
            quantity: 3,
            cents: 129_900,
            currency: "EUR".into(),
            address: String::new(),
        };
        let without = rmp_serde::to_vec_named(&order).map_or(size, |bytes| bytes.len());
        order.address = "x".repeat(size.saturating_sub(without));
        order
    }
}

/// A node that is found by nobody but who is told.
async fn node(service: &str, peer: Option<(&str, &str)>) -> Result<Node> {
    let mut builder = Node::builder(service).listen("127.0.0.1:0").insecure(true).local(false).mdns(false);
    if let Some((peer, endpoint)) = peer {
        builder = builder.peer(peer, endpoint.parse::<Endpoint>()?, &[peer]);
    }
    Ok(builder.start().await?)
}

fn say_where(node: &Node) {
    node.endpoints().first().into_iter().for_each(here);
}

async fn pull(work: Work) -> Result<()> {
    let there = node("there", None).await?;
    let mut items = there.pull::<Order>("there").prefetch(16_384).await?;
    say_where(&there);
    let mut counter = Counter::new(&work);
    while let Some(item) = items.recv().await {
        item?;
        if counter.add(1)? {
            return Ok(());
        }
    }
    Err("no more items".into())
}

async fn push(work: Work, endpoint: String) -> Result<()> {
    let here = node("here", Some(("there", &endpoint))).await?;
    let order = Order::new(work.size);
    for _ in 0..work.count {
        here.push("there", &order).await?;
    }
    here.drain().await;
    Ok(())
}

async fn publish(work: Work) -> Result<()> {
    let there = node("there", None).await?;
    let publisher = there.publisher::<Order>("there.orders").when_full(SlowPolicy::Block).await?;
    say_where(&there);
    publisher.ready(1).await?;
    let order = Order::new(work.size);
    for _ in 0..work.count {
        publisher.publish(&order).await?;
    }
    there.drain().await;
    Ok(())
}

async fn subscribe(work: Work, endpoint: String) -> Result<()> {
    let here = node("here", Some(("there", &endpoint))).await?;
    let mut events = here.subscribe::<Order>("there.orders").await?;
    let mut counter = Counter::new(&work);
    while let Some(event) = events.recv().await {
        if event?.missed > 0 {
            return Err("events were missed".into());
        }
        if counter.add(1)? {
            return Ok(());
        }
    }
    Err("no more events".into())
}

async fn serve(_: Work) -> Result<()> {
    let there = node("there", None).await?;
    let _serving = there.serve("there.echo", |order: Order, _| async move { Ok(order) }).await?;
    say_where(&there);
    std::future::pending().await
}

async fn call(work: Work, endpoint: String) -> Result<()> {
    let here = node("here", Some(("there", &endpoint))).await?;
    let order = Order::new(work.size);
    let mut clock = Clock::new(&work);
    if work.kind == Kind::Ask {
        for _ in 0..work.count {
            clock.asks();
            let _: Order = here.call("there.echo", &order).await?;
            clock.answered();
        }
        return clock.end(&work);
    }
    super::many(work, || {
        let (here, order) = (here.clone(), order.clone());
        async move { Ok(here.call::<_, Order>("there.echo", &order).await.map(drop)?) }
    })
    .await
}
