//! Push and pull: each item goes to one of several workers, and no worker gets more than it asked for.
//!
//! `cargo run --example work`

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ripstop::{Node, discovery::Memory};
use tokio::sync::mpsc;

const MAILS: usize = 200;

#[tokio::main]
async fn main() -> ripstop::Result<()> {
    let lan = Memory::new();
    let node = |service| Node::builder(service).local(false).source(lan.source());
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut mailers = Vec::new();
    for name in ["mailer A", "mailer B"] {
        let mailer = node("mailer").start().await?;
        let (tell, busy) = (tell.clone(), Arc::new(AtomicUsize::new(0)));
        let handler = move |_mail: String, _ctx| {
            let (tell, busy) = (tell.clone(), busy.clone());
            async move {
                let at_work = busy.fetch_add(1, Ordering::Relaxed) + 1;
                tokio::time::sleep(Duration::from_millis(20)).await; // it is sent
                busy.fetch_sub(1, Ordering::Relaxed);
                tell.send((name, at_work))?;
                Ok(())
            }
        };
        mailer.work("emails", handler).concurrency(8).await?; // eight at a time
        mailers.push(mailer);
    }

    let shop = node("shop").start().await?;
    let started = Instant::now();
    for n in 0..MAILS {
        // Waits when every worker has as much as it takes. Nobody there is an error, after a while.
        shop.push("emails", &format!("mail {n}")).await?;
    }
    println!("{MAILS} mails pushed after {} ms", started.elapsed().as_millis());

    let mut sent = std::collections::BTreeMap::<_, (usize, usize)>::new();
    for _ in 0..MAILS {
        let Some((name, at_work)) = told.recv().await else { break };
        let (count, most) = sent.entry(name).or_default();
        *count += 1;
        *most = at_work.max(*most);
    }
    for (name, (count, most)) in sent {
        println!("{name} sent {count}, {most} at a time at most");
    }
    println!("all sent after {} ms", started.elapsed().as_millis());
    shop.drain().await;
    for mailer in mailers {
        mailer.drain().await;
    }
    Ok(())
}
