//! The smallest program: a service that offers a method, and a call by name.
//!
//! `cargo run --example hello` calls and ends. `cargo run --example hello -- stay` goes on serving: start it in several
//! terminals, and `ripstop call pricing.quote '{"qty": 3}'` is answered by one of them.

use ripstop::Node;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Ask {
    qty: u64,
}

#[derive(Serialize, Deserialize)]
struct Quote {
    cents: u64,
}

#[tokio::main]
async fn main() -> ripstop::Result<()> {
    // Reads ripstop.toml and the environment, if there. Others on this machine find it without any configuration.
    let node = Node::start("pricing").await?;

    // Ordinary types on both ends. The handler may use `?` on any error: it reaches the caller, typed.
    node.serve("pricing.quote", |ask: Ask, _ctx| async move { Ok(Quote { cents: 250 * ask.qty }) }).await?;

    // By name, not by address: this instance answers, or another one.
    let quote: Quote = node.call("pricing.quote", &Ask { qty: 3 }).await?;
    println!("3 cost {} cents", quote.cents);

    if std::env::args().nth(1).as_deref() == Some("stay") {
        println!("serving pricing.quote; Ctrl-C ends it");
        return node.run().await; // until SIGTERM or SIGINT, then drain
    }
    node.drain().await; // finishes what is under way and says goodbye
    Ok(())
}
