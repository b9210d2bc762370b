//! A service written on the `zeromq` crate takes part in a fabric, with a node's one port and the typed envelope:
//! it calls with a `DealerSocket` and subscribes with a `SubSocket`.
//!
//! `cargo run --example zeromq_peer --features zeromq`

use std::time::Duration;

use ripstop::{Node, interop};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use zeromq::{DealerSocket, Socket, SocketRecv, SocketSend, SubSocket};

#[derive(Serialize, Deserialize)]
struct Ask {
    qty: u64,
}

#[derive(Serialize, Deserialize)]
struct Quote {
    cents: u64,
}

/// The crate speaks ZMTP 3.0, which has no heartbeats: whoever waits says how long.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // An ordinary node. In real life it runs elsewhere, and its address is known.
    let node = Node::builder("pricing").local(false).start().await?;
    node.serve("pricing.quote", |ask: Ask, _ctx| async move { Ok(Quote { cents: 250 * ask.qty }) }).await?;
    let changes = node.publisher::<Quote>("pricing.changed").await?;
    let url = node.endpoints().first().ok_or("the node listens nowhere")?.to_string();

    // From here on everything goes through the `zeromq` crate.
    let mut calls = DealerSocket::new();
    calls.connect(&url).await?;
    for (id, qty) in [(1, 3), (2, 5), (3, 8)] {
        calls.send(interop::request("pricing.quote", id, PATIENCE, &Ask { qty })?).await?;
    }
    for _ in 0..3 {
        let received = timeout(PATIENCE, calls.recv()).await??;
        let answer = interop::answer::<Quote>(&received)?; // in the order in which they are ready
        match answer.result {
            Ok(quote) => println!("answer {}: {} cents", answer.id, quote.cents),
            Err(error) => return Err(error.message.into()),
        }
    }

    let mut events = SubSocket::new();
    events.connect(&url).await?;
    events.subscribe("pricing.").await?;
    changes.ready(1).timeout(PATIENCE).await?;
    changes.publish(&Quote { cents: 275 }).await?;
    let received = timeout(PATIENCE, events.recv()).await??;
    let (subject, quote) = interop::posted::<Quote>(&received)?.ok_or("a gap before the first event")?;
    println!("{subject}: {} cents", quote.cents);

    node.drain().await;
    Ok(())
}
