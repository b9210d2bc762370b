//! Three shops, a process each, are asked for a price at once; a fourth never answers, and a fifth is killed while it thinks.
//!
//! `cargo run -p ripstop-patterns --example scatter`
//!
//! The program starts itself as its own children; they find each other through the source `local`, in a directory of
//! their own, so nothing else on this machine is asked or disturbed.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ripstop::{Node, discovery::Local};
use ripstop_patterns::{Gathered, Scatter};
use serde::{Deserialize, Serialize};

const FABRIC: &str = "scatter-example";
const DIRECTORY: &str = "RIPSTOP_RUNTIME_DIR";

#[derive(Serialize, Deserialize)]
struct Ask {
    qty: u64,
}

#[derive(Serialize, Deserialize)]
struct Quote {
    shop: String,
    cents: u64,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => buyer().await,
        [name, cents] => shop(name, cents.parse()?).await,
        _ => Err("usage: scatter [NAME CENTS]".into()),
    }
}

/// One instance of the service `pricing`. It thinks for 100 ms, or for ever if it has no price.
async fn shop(name: &str, cents: u64) -> Result<()> {
    let node = Node::builder("pricing").fabric(FABRIC).metadata("shop", name).start().await?;
    let name = name.to_owned();
    node.serve("pricing.quote", move |ask: Ask, _ctx| {
        let shop = name.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(if cents == 0 { 60_000 } else { 100 })).await;
            Ok(Quote { shop, cents: cents * ask.qty })
        }
    })
    .await?;
    // Lives until whoever started it is gone.
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await?;
    Ok(())
}

async fn buyer() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let source = Local::in_dir(directory.path(), FABRIC);
    let node = Node::builder("buyer").fabric(FABRIC).local(false).source(source).start().await?;
    let mut children = Children(Vec::new());
    for (name, cents) in
        [("anchor", "310"), ("bosun", "275"), ("clove", "290"), ("dozy", "0"), ("doomed", "0")]
    {
        children.start(directory.path(), name, cents)?;
    }
    let doomed = children.0.pop().ok_or("no children")?;
    while node.directory().by_root("pricing").len() < 5 {
        node.directory().changed().changed().await?;
    }
    // As it is now: the one that is killed will be gone from the directory.
    let shops = node.directory().by_root("pricing");
    let name = |id| {
        let shop = shops.iter().find(|shop| shop.advert.node == Some(id));
        shop.and_then(|shop| shop.advert.metadata.get("shop")).map_or("?", String::as_str)
    };

    println!("Everyone, for one second; one shop is killed after 300 ms:");
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        let mut doomed = doomed;
        doomed.kill().and_then(|()| doomed.wait())
    });
    let started = Instant::now();
    let ask = Ask { qty: 3 };
    let all: Gathered<Quote> =
        Scatter::new(&node, "pricing.quote", &ask).deadline(Duration::from_secs(1)).await?;
    for (_, quote) in &all.replies {
        println!("  {} asks {} cents", quote.shop, quote.cents);
    }
    for (id, error) in &all.failed {
        println!("  {} failed: {error}", name(*id));
    }
    for id in &all.silent {
        println!("  {} did not answer, and was told to stop", name(*id));
    }
    println!("  after {} ms, {} were asked", started.elapsed().as_millis(), all.asked());
    killer.join().map_err(|_| "the killer panicked")??;

    println!("The first two will do:");
    let started = Instant::now();
    let two: Gathered<Quote> = Scatter::new(&node, "pricing.quote", &ask).quorum(2).await?;
    for (_, quote) in &two.replies {
        println!("  {} asks {} cents", quote.shop, quote.cents);
    }
    println!("  after {} ms, enough: {}", started.elapsed().as_millis(), two.has_quorum());

    node.drain().await;
    if all.replies.len() != 3 || all.failed.len() != 1 || all.silent.len() != 1 || !two.has_quorum() {
        return Err("that is not what should have happened".into());
    }
    Ok(())
}

/// The shops' processes; killed when dropped, however the buyer ends.
struct Children(Vec<Child>);

impl Children {
    fn start(&mut self, directory: &Path, name: &str, cents: &str) -> Result<()> {
        let child = Command::new(std::env::current_exe()?)
            .args([name, cents])
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .spawn()?;
        self.0.push(child);
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
