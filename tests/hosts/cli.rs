//! The command line on three hosts, as a newcomer would use it: one line of configuration, and they find each other.

#![cfg(feature = "cli")]

use std::time::Duration;

use crate::net::{Net, Process, net};

const FOUND: Duration = Duration::from_secs(10);

fn run(net: &Net, host: usize, runtime: &tempfile::TempDir, args: &[&str]) -> Process {
    // Namespaces share the file system: a runtime directory each, or they would meet as if on one machine.
    let runtime = runtime.path().to_str().unwrap();
    let environment =
        [("RIPSTOP_LISTEN", "lan"), ("RIPSTOP_SECURITY__INSECURE", "true"), ("RIPSTOP_RUNTIME_DIR", runtime)];
    net.start(host, env!("CARGO_BIN_EXE_ripstop"), args, &environment)
}

#[test]
fn three_hosts_serve_call_and_publish_by_mdns() {
    let Some(net) = net(3) else { return };
    let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut serving = run(&net, 1, &dirs[0], &["serve", "hello.up", "--command", "tr a-z A-Z"]);
    let mut listening = run(&net, 2, &dirs[1], &["sub", "orders.>", "--count", "1"]);

    let mut call = run(&net, 3, &dirs[2], &["call", "hello.up", "\"ada\""]);
    println!("3 called 1 in {:?}", call.hear("\"ADA\"", FOUND).1);

    let mut publish = run(&net, 3, &dirs[3], &["pub", "orders.created", "7", "--wait-subscribers", "1"]);
    println!("2 heard 3 in {:?}", listening.hear("orders.created", FOUND).1);
    publish.listen(Duration::from_millis(100));

    let mut peers = run(&net, 3, &dirs[2], &["peers", "--json"]);
    let (found, _) = peers.hear("{", FOUND);
    assert!(found.contains("\"service\":\"hello\"") && found.contains("mdns"), "{found}");

    serving.kill();
    let mut after = run(&net, 3, &dirs[2], &["peers", "--json"]);
    let (found, took) = after.hear("{", FOUND);
    let found: serde_json::Value = serde_json::from_str(&format!("{{{found}")).unwrap();
    let there = |peer: &serde_json::Value| peer["service"] == "hello" && !peer["rtt_ms"].is_null();
    assert!(!found["peers"].as_array().unwrap().iter().any(there), "{found}");
    println!("a killed one is not shown as there, found out in {took:?}");
}
