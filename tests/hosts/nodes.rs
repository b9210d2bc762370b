//! The same with whole nodes: calls go on while hosts come and go, with nothing configured but `listen`.

use std::time::{Duration, Instant};

use ripstop::Node;
use ripstop::fabric::PeerEvent;

use crate::Host;
use crate::net::net;

/// Heartbeats notice silence in 6 s; then there is one dial, 2 s to verify, and a busy machine.
const LOST: Duration = Duration::from_secs(15);
const FOUND: Duration = Duration::from_secs(5);

/// What runs on a host: a node that serves, or one that calls all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node() {
    let Ok(own) = std::env::var(crate::HOST) else { return };
    // All hosts share one file system, so the source `local` is off. Nothing else differs from the real thing.
    let caller = std::env::var_os("RIPSTOP_TEST_CALLS").is_some();
    let node = Node::builder(if caller { "shop" } else { "hello" })
        .listen(&format!("{own}:0"))
        .insecure(true)
        .local(false)
        .start()
        .await
        .unwrap();
    println!("\nme {}", node.id());
    if !caller {
        let id = node.id().to_string();
        let _served = node
            .serve("hello.up", move |(): (), _| {
                let id = id.clone();
                async move { Ok(id) }
            })
            .await
            .unwrap();
        return std::future::pending().await;
    }
    let mut peers = node.watch_peers();
    tokio::spawn(async move {
        while let Some(event) = peers.recv().await {
            match event {
                PeerEvent::Joined(peer) => println!("joined {}", peer.node.unwrap()),
                PeerEvent::Left(peer) => println!("left {}", peer.node.unwrap()),
                _ => {}
            }
        }
    });
    loop {
        let began = Instant::now();
        match node.call::<_, String>("hello.up", &()).timeout(Duration::from_secs(2)).await {
            Ok(by) => println!("answered {by}\ntook {}", began.elapsed().as_micros()),
            Err(error) => println!("failed {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn calls_go_on_while_hosts_come_and_go() {
    let Some(net) = net(3) else { return };
    let mut one = Host::start(&net, 1, "nodes::a_node", &[]);
    let two = Host::start(&net, 2, "nodes::a_node", &[]);
    let mut three = Host::start(&net, 3, "nodes::a_node", &[("RIPSTOP_TEST_CALLS", "1")]);
    println!("3 called 1 after {:?}", three.hears("answered", &one, FOUND));
    println!("3 called 2 after {:?}", three.hears("answered", &two, FOUND));

    one.process.kill();
    println!("3 lost 1, killed, in {:?}", three.hears("left", &one, LOST));
    println!("3 calls 2 after {:?}", three.hears("answered", &two, FOUND));

    net.cable(2, false);
    println!("3 lost 2, unplugged, in {:?}", three.hears("left", &two, LOST));
    three.process.hear("failed", FOUND);
    net.cable(2, true);
    println!("3 calls 2, back, after {:?}", three.hears("answered", &two, LOST));
}
