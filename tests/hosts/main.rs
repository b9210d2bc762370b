//! Several hosts: they find each other, lose each other and find each other again.
//!
//! Each host is a network namespace; see `net.rs`. The tests need root and iproute2, and skip loudly without them.

#![cfg(all(target_os = "linux", feature = "mdns"))]
#![allow(clippy::unwrap_used)]

mod cli;
#[cfg(feature = "cli")]
mod doctor;
#[cfg(feature = "durable")]
mod durable;
mod forger;
#[cfg(feature = "durable")]
#[path = "../common/ledger.rs"]
mod ledger;
mod net;
mod nodes;

use std::sync::Arc;
use std::time::Duration;

use net::{Net, Process, address, net};
use ripstop::discovery::{Advert, Directory, DirectoryEvent, Key, Mdns, NodeId};
use tokio::io::{AsyncBufReadExt, BufReader};

const HOST: &str = "RIPSTOP_TEST_HOST";

/// What runs on a host: this test binary again, as a directory with mDNS that says what it sees and does what it is told.
#[tokio::test]
async fn a_host() {
    let Ok(own) = std::env::var(HOST) else { return };
    let me = NodeId::random();
    let directory = Directory::new("default", me);
    let mut events = directory.events();
    directory.add_source(Arc::new(Mdns::new("default", vec!["eth0".into()])));
    let endpoint = format!("tcp://{own}:5555").parse().unwrap();
    println!("\nme {me}");
    directory
        .announce(Advert::new(me, "default", "pricing").endpoint(endpoint).root("pricing"))
        .await
        .unwrap();
    let mut told = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            event = events.recv() => match event.unwrap() {
                DirectoryEvent::Joined(instance) => println!("joined {} {}", instance.key, instance.advert.endpoints[0]),
                DirectoryEvent::Left(instance) => println!("left {}", instance.key),
                DirectoryEvent::Changed(instance) => println!("changed {} {}", instance.key, instance.state),
                _ => {}
            },
            line = told.next_line() => match line.unwrap().as_deref().map(|line| line.split_once(' ').unwrap_or((line, ""))) {
                // What the fabric says when a link dies.
                Some(("suspect", id)) => {
                    directory.suspect(&Key::Node(id.parse().unwrap()));
                    println!("offered {}", directory.by_root("pricing").len());
                }
                Some(("withdraw", _)) => {
                    directory.withdraw().await;
                    println!("withdrawn");
                }
                Some((other, _)) => panic!("told to {other}"),
                None => return,
            },
        }
    }
}

struct Host {
    process: Process,
    id: String,
}

impl Host {
    fn start(net: &Net, n: usize, what: &str, environment: &[(&str, &str)]) -> Self {
        let this = std::env::current_exe().unwrap();
        let args = ["--exact", what, "--nocapture"];
        let own = address(n);
        let environment = [environment, &[(HOST, own.as_str())]].concat();
        let mut process = net.start(n, this.to_str().unwrap(), &args, &environment);
        let (id, _) = process.hear("me ", Duration::from_secs(10));
        Self { process, id }
    }

    fn hears(&mut self, what: &str, of: &Host, within: Duration) -> Duration {
        self.process.hear(&format!("{what} {}", of.id), within).1
    }
}

#[test]
fn three_hosts_find_lose_and_find_each_other_by_mdns() {
    let Some(net) = net(3) else { return };
    let mut one = Host::start(&net, 1, "a_host", &[]);
    let mut two = Host::start(&net, 2, "a_host", &[]);
    println!("1 found 2 in {:?}", one.hears("joined", &two, Duration::from_secs(5)));
    println!("2 found 1 in {:?}", two.hears("joined", &one, Duration::from_secs(5)));
    // A record is not multicast twice within a second (RFC 6762, 6), so who comes just after it was has to ask again. Who
    // comes later is answered at once, and whoever comes is seen at once.
    std::thread::sleep(Duration::from_millis(1500));
    let mut three = Host::start(&net, 3, "a_host", &[]);
    let newcomer = three.hears("joined", &one, Duration::from_secs(5));
    let others = one.hears("joined", &three, Duration::from_secs(5))
        + two.hears("joined", &three, Duration::from_secs(5));
    println!("3 found 1 in {newcomer:?}, 1 and 2 found 3 in {others:?}");
    assert!(newcomer < Duration::from_millis(500) && others < Duration::from_millis(500));

    // Killed: no goodbye. As soon as a link to it dies it is not offered any more, and is verified.
    three.process.kill();
    one.process.tell(&format!("suspect {}", three.id));
    assert_eq!(one.process.hear("offered ", Duration::from_secs(5)).0, "1");
    println!("1 lost 3, killed, in {:?}", one.hears("left", &three, Duration::from_secs(6)));

    // The cable is pulled.
    net.cable(2, false);
    one.process.tell(&format!("suspect {}", two.id));
    println!("1 lost 2, unplugged, in {:?}", one.hears("left", &two, Duration::from_secs(6)));
    println!("2 lost 1, unplugged, in {:?}", two.hears("left", &one, Duration::from_secs(6)));
    // And back.
    net.cable(2, true);
    println!("1 got 2 back in {:?}", one.hears("joined", &two, Duration::from_secs(10)));
    println!("2 got 1 back in {:?}", two.hears("joined", &one, Duration::from_secs(10)));

    // A new process on the third host, and a goodbye.
    let mut three = Host::start(&net, 3, "a_host", &[]);
    println!("1 found the new 3 in {:?}", one.hears("joined", &three, Duration::from_secs(5)));
    three.process.tell("withdraw");
    println!("1 heard its goodbye in {:?}", one.hears("left", &three, Duration::from_secs(5)));
}

/// A doubt that is not justified: the node answers, and stays.
#[test]
fn a_forged_removal_or_a_false_doubt_does_not_last() {
    let Some(net) = net(2) else { return };
    let mut one = Host::start(&net, 1, "a_host", &[]);
    let mut two = Host::start(&net, 2, "a_host", &[]);
    one.hears("joined", &two, Duration::from_secs(5));
    two.hears("joined", &one, Duration::from_secs(5));
    one.process.tell(&format!("suspect {}", two.id));
    assert_eq!(one.process.hear("offered ", Duration::from_secs(5)).0, "0");
    let (state, after) = one.process.hear(&format!("changed {} known", two.id), Duration::from_secs(5));
    println!("offered again after {after:?} {state}");
    // Longer than a node has to answer for itself; had it been forgotten, it would not be in the count.
    std::thread::sleep(Duration::from_secs(3));
    one.process.tell(&format!("suspect {}", NodeId::random()));
    assert_eq!(one.process.hear("offered ", Duration::from_secs(5)).0, "1");
}
