//! Somebody on the network who lies: removals, redirections and a flood of nodes that do not exist.

use std::net::UdpSocket;
use std::time::Duration;

use ripstop::discovery::NodeId;

use crate::net::{Net, net};
use crate::{HOST, Host};

const FOUND: Duration = Duration::from_secs(5);
const TYPE: &str = "_ripstop._tcp.local";
const FLOOD: usize = 20_000;
/// Of this the quiet p99 is taken.
const QUIET: Duration = Duration::from_secs(3);
/// A p99 below this says nothing: a virtual machine's processors go away for milliseconds, and tests run side by side.
const FLOOR: Duration = Duration::from_millis(100);

/// What runs on the liar's host: it sends what it is told on its standard input.
#[test]
fn a_forger() {
    let Ok(own) = std::env::var(HOST) else { return };
    let socket = UdpSocket::bind((own.as_str(), 5353)).unwrap();
    let send = |packet: &[u8]| socket.send_to(packet, "224.0.0.251:5353").unwrap();
    println!("\nme {}", NodeId::random());
    for line in std::io::stdin().lines() {
        match line.unwrap().split_once(' ').unwrap() {
            ("goodbye", node) => drop(send(&packet(node, &own, 0, 0, "hello"))),
            ("redirect", node) => drop(send(&packet(node, &own, 4500, u64::MAX, "hello"))),
            ("flood", _) => {
                for n in 0..FLOOD {
                    send(&packet(&NodeId::random().to_string(), &own, 4500, 0, "forged"));
                    if n % 20 == 0 {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            }
            other => panic!("told to {other:?}"),
        }
        println!("sent");
    }
}

/// A response as a node's daemon would send it: PTR, SRV, TXT and A records.
fn packet(node: &str, address: &str, ttl: u32, epoch: u64, root: &str) -> Vec<u8> {
    let (instance, host) = (format!("{node}.{TYPE}"), format!("{node}.local"));
    let mut packet = vec![0, 0, 0x84, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    let mut record = |owner: &str, kind: u16, class: u16, data: &[u8]| {
        packet.extend(name(owner));
        packet.extend(kind.to_be_bytes());
        packet.extend(class.to_be_bytes());
        packet.extend(ttl.to_be_bytes());
        packet.extend((data.len() as u16).to_be_bytes());
        packet.extend(data);
    };
    let entries = [
        "txtvers=1".to_owned(),
        "fabric=default".into(),
        format!("node={node}"),
        format!("epoch={epoch}"),
        "service=hello".into(),
        format!("e0=tcp://{address}:9"),
        format!("r0={root}"),
    ];
    let text: Vec<u8> = entries.iter().flat_map(|e| [&[e.len() as u8], e.as_bytes()].concat()).collect();
    let octets: Vec<u8> = address.split('.').map(|part| part.parse().unwrap()).collect();
    record(TYPE, 12, 1, &name(&instance));
    record(&instance, 33, 0x8001, &[&[0, 0, 0, 0, 0, 9], &name(&host)[..]].concat());
    record(&instance, 16, 0x8001, &text);
    record(&host, 1, 0x8001, &octets);
    packet
}

fn name(text: &str) -> Vec<u8> {
    let mut name: Vec<u8> =
        text.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    name.push(0);
    name
}

fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn setting(net: &Net) -> (Host, Host, Host) {
    net.route_multicast(2);
    let one = Host::start(net, 1, "nodes::a_node", &[]);
    let forger = Host::start(net, 2, "forger::a_forger", &[]);
    let mut three = Host::start(net, 3, "nodes::a_node", &[("RIPSTOP_TEST_CALLS", "1")]);
    three.hears("answered", &one, FOUND);
    (one, forger, three)
}

/// What was said of calls: each was answered by the one honest node. Gives how many were, and the p99 of their time.
fn answered(lines: &[String], one: &Host) -> (usize, Duration) {
    let mut took = Vec::new();
    for line in lines {
        assert!(!line.starts_with("failed"), "{line}");
        if let Some(by) = line.strip_prefix("answered ") {
            assert_eq!(by, one.id);
        }
        took.extend(line.strip_prefix("took ").map(|micros| Duration::from_micros(micros.parse().unwrap())));
    }
    took.sort();
    (took.len(), took[took.len() * 99 / 100])
}

/// For this long every call has to be answered, as fast as before: at a p99 under twice the quiet one, or under what is
/// too little to tell on a machine that is busy.
fn undisturbed(three: &mut Host, one: &Host, time: Duration, quiet: Duration) {
    let (calls, p99) = answered(&three.process.listen(time), one);
    println!("{calls} calls, p99 {quiet:?} quiet, {p99:?} now");
    assert!(calls > 10, "{calls} calls are too few to tell");
    assert!(p99 < (2 * quiet).max(FLOOR), "p99 {quiet:?} quiet, {p99:?} now");
}

#[test]
fn a_forged_goodbye_or_redirection_does_not_touch_a_live_link() {
    let Some(net) = net(3) else { return };
    let (one, mut forger, mut three) = setting(&net);
    let (_, quiet) = answered(&three.process.listen(QUIET), &one);
    for lie in ["goodbye", "redirect"] {
        forger.process.tell(&format!("{lie} {}", one.id));
        forger.process.hear("sent", FOUND);
        undisturbed(&mut three, &one, Duration::from_secs(3), quiet);
    }
}

#[test]
fn a_flood_of_forged_nodes_is_survived() {
    let Some(net) = net(3) else { return };
    let (one, mut forger, mut three) = setting(&net);
    let (_, quiet) = answered(&three.process.listen(QUIET), &one);
    let before = resident(three.process.id());
    forger.process.tell("flood all");
    forger.process.hear("sent", Duration::from_secs(60));
    let lines = three.process.listen(Duration::from_secs(3));
    let after = resident(three.process.id());
    // That it was flooded shows in what it saw.
    let joined = lines.iter().filter(|line| line.starts_with("joined")).count();
    let (calls, p99) = answered(&lines, &one);
    println!("{FLOOD} forged nodes, {joined} of them seen: {before} MiB before, {after} MiB after");
    println!("{calls} calls, p99 {quiet:?} quiet, {p99:?} in the flood");
    assert!(joined > 100, "the flood did not arrive");
    assert!(calls > 10, "the honest node is not called any more");
    assert!(p99 < (2 * quiet).max(FLOOR), "p99 {quiet:?} quiet, {p99:?} in the flood");
    assert!(after < before + 64, "memory grew from {before} to {after} MiB");
    undisturbed(&mut three, &one, Duration::from_secs(3), quiet);
    // And who comes now is found (on the forger's host, whose mDNS port has to be free for that).
    drop(forger);
    let late = Host::start(&net, 2, "nodes::a_node", &[]);
    println!("a late node is called after {:?}", three.hears("answered", &late, Duration::from_secs(20)));
}
