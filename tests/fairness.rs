//! Busy connections share a receiver evenly, and one that floods does not starve the others. Shares are counted, not timed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ripstop::Node;
use ripstop::socket::{Pull, Push};

type Done = Result<(), Box<dyn std::error::Error>>;

const CONNECTIONS: u32 = 100;
/// Of each connection, on average, after all have come, and then while it is counted.
const WARM: u32 = 1_000;
const COUNTED: u32 = 4_000;

async fn limited<F: Future>(test: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(120), test).await.expect("it hangs")
}

/// Sends more than will be counted, and gives the socket once all of it is under way, so that nobody has nothing to send when
/// its turn comes.
async fn fill(
    endpoint: &ripstop::Endpoint,
    message: Vec<Vec<u8>>,
) -> Result<Push, Box<dyn std::error::Error>> {
    let push = Push::new();
    push.connect(endpoint.clone())?;
    for _ in 0..2 * (WARM + COUNTED) {
        push.send(&message[..]).await?;
    }
    Ok(push)
}

/// Counts who was received, and says how far apart the most and the least are.
#[derive(Default)]
struct Shares {
    come: HashSet<u32>,
    warm: u32,
    counted: u32,
    of: HashMap<u32, u32>,
}

impl Shares {
    /// `true`: that was the last.
    fn count(&mut self, who: u32) -> bool {
        if self.come.len() < CONNECTIONS as usize {
            self.come.insert(who);
        } else if self.warm < WARM * CONNECTIONS {
            self.warm += 1;
        } else {
            self.counted += 1;
            *self.of.entry(who).or_default() += 1;
        }
        self.counted == COUNTED * CONNECTIONS
    }

    fn judge(&self, what: &str) {
        let (least, most) = (self.of.values().min().unwrap(), self.of.values().max().unwrap());
        println!("{what}: {} connections, {least} to {most} messages each", self.of.len());
        assert_eq!(self.of.len(), CONNECTIONS as usize, "{what}: some got nothing");
        let average = f64::from(COUNTED);
        let (least, most) = (f64::from(*least) / average, f64::from(*most) / average);
        assert!(least > 0.9 && most < 1.1, "{what}: {least:.2} to {most:.2} of the average");
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_connections_share_a_socket() -> Done {
    limited(async {
        for batches in [false, true] {
            let pull = Pull::new();
            let endpoint = pull.bind("tcp://127.0.0.1:0").await?;
            let mut senders = Vec::new();
            for who in 0..CONNECTIONS {
                senders.push(fill(&endpoint, vec![[&who.to_be_bytes()[..], &[7; 12]].concat()]).await?);
            }
            let (mut shares, mut batch) = (Shares::default(), Vec::new());
            'counted: loop {
                if batches {
                    pull.recv_many(&mut batch, 8).await?;
                } else {
                    batch.push(pull.recv().await?);
                }
                for message in batch.drain(..) {
                    tokio::task::yield_now().await;
                    if shares.count(number(message.frame(0).unwrap_or_default())) {
                        break 'counted;
                    }
                }
            }
            shares.judge(if batches { "recv_many" } else { "recv" });
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_connections_share_a_node() -> Done {
    limited(async {
        let node = Node::builder("worker").listen("127.0.0.1:0").local(false).mdns(false).start().await?;
        let mut items = node.pull::<u32>("items").await?;
        let endpoint = node.endpoints()[0].clone();
        let mut senders = Vec::new();
        for who in 0..CONNECTIONS {
            senders.push(
                fill(&endpoint, vec![b"items".to_vec(), [&[0xce][..], &who.to_be_bytes()].concat()]).await?,
            );
        }
        let mut shares = Shares::default();
        while !shares.count(items.recv().await.ok_or("no more items")??.body) {
            // Work that takes longer than bringing an item: else whoever comes next is served at once.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        }
        shares.judge("pull");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_does_not_starve_the_others() -> Done {
    limited(async {
        let pull = Pull::new();
        let endpoint = pull.bind("tcp://127.0.0.1:0").await?;
        let flood = Push::new();
        flood.connect(endpoint.clone())?;
        tokio::spawn(async move { while flood.send(&[7; 64][..]).await.is_ok() {} });
        let polite = Push::new();
        polite.connect(endpoint)?;
        polite.send("0").await?;
        // Until it is connected, and the flood is under way.
        while pull.recv().await? != "0".into() {}
        let mut worst = 0;
        for n in 1..=200 {
            polite.send(&n.to_string()).await?;
            let mut before = 0;
            while pull.recv().await? != n.to_string().into() {
                before += 1;
            }
            worst = worst.max(before);
        }
        println!("{worst} messages of the flood came before one of the other's, at most");
        // As many as are received while it is under way, and a thread sleeps: not what waits of the flood, 65,536.
        assert!(worst < 30_000, "{worst} messages of the flood came first");
        Ok(())
    })
    .await
}
