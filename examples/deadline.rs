//! A deadline travels along a chain of services and shrinks; when it passes, or the caller goes away, the handlers at
//! work on it are cancelled, to the last one.
//!
//! ```text
//!   caller ──1 s──▶ front ──0.8 s──▶ middle ──0.6 s──▶ back, which takes 5 s
//! ```
//! `cargo run --example deadline`

use std::time::{Duration, Instant};

use ripstop::{Context, Node, discovery::Memory};

/// What each service does before it asks the next one.
const WORK: Duration = Duration::from_millis(200);

/// Says when its handler was dropped before it was done. Whatever a handler holds is freed just so.
struct Guard(&'static str);

impl Drop for Guard {
    fn drop(&mut self) {
        println!("{}: cancelled", self.0);
    }
}

fn say(name: &str, ctx: &Context) {
    println!(
        "{name}: asked by {}, {:.1?} left",
        ctx.caller().unwrap_or("?"),
        ctx.remaining().unwrap_or_default()
    );
}

#[tokio::main]
async fn main() -> ripstop::Result<()> {
    let lan = Memory::new();
    let start = async |service| Node::builder(service).local(false).source(lan.source()).start().await;
    let (front, middle, back) = (start("front").await?, start("middle").await?, start("back").await?);
    for (node, name, next) in [(&front, "front", "middle.do"), (&middle, "middle", "back.do")] {
        let handler = move |(): (), ctx: Context| async move {
            say(name, &ctx);
            let _guard = Guard(name);
            tokio::time::sleep(WORK).await;
            // Asks for a minute, and gets what its own caller has left.
            Ok(ctx.node().call::<_, String>(next, &()).timeout(Duration::from_secs(60)).await?)
        };
        node.serve(&format!("{name}.do"), handler).await?;
    }
    let handler = |(): (), ctx: Context| async move {
        say("back", &ctx);
        let _guard = Guard("back");
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok("done".to_owned())
    };
    back.serve("back.do", handler).await?;

    let caller = start("caller").await?;
    let started = Instant::now();
    let reply = caller.call::<_, String>("front.do", &()).timeout(Duration::from_secs(1)).await;
    match reply {
        Ok(reply) => println!("caller: {reply}"),
        Err(error) => println!("caller: {error} ({}), after {:.1?}", error.code(), started.elapsed()),
    }
    tokio::time::sleep(WORK).await; // lets the cancelled ones speak

    println!("once more, and the caller loses patience after 0.5 s:");
    let call = caller.call::<_, String>("front.do", &());
    let _ = tokio::time::timeout(Duration::from_millis(500), call).await; // dropping the call is what cancels it
    tokio::time::sleep(WORK).await;
    for node in [caller, front, middle, back] {
        node.drain().await;
    }
    Ok(())
}
