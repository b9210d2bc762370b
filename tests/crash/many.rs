//! A great many items that wait: starting with them takes no time and no memory to speak of.
//!
//! `RIPSTOP_WAITING=1000000 cargo test --release --test crash many -- --nocapture` for more than the 100,000 of each run.

use std::{fs, time::Instant};

use ripstop::Node;

use super::{Role, numbers};

const WAITING: usize = 100_000;
/// Pushes under way at a time.
const TOGETHER: usize = 1024;

/// Memory that belongs to a process alone, in MiB, at its highest.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn a_great_many_may_wait() {
    let waiting =
        std::env::var("RIPSTOP_WAITING").ok().and_then(|count| count.parse().ok()).unwrap_or(WAITING);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let builder = Node::builder("sender").fabric("many").local(false).mdns(false);
        let node = builder.data_dir(dir.join("sender")).start().await.unwrap();
        for begin in (0..waiting).step_by(TOGETHER) {
            let pushes = (begin..waiting.min(begin + TOGETHER)).map(|number| {
                let node = node.clone();
                tokio::spawn(async move { node.push("items", &number).durable().await.map(drop) })
            });
            for push in pushes.collect::<Vec<_>>() {
                push.await.unwrap().unwrap();
            }
        }
        node.drain().await;
    });
    // It says that it has started with what it keeps next.
    let begun = Instant::now();
    let sender = Role::start("sender", dir);
    while numbers(dir, "kept").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let (took, memory) = (begun.elapsed(), peak(sender.pid()));
    println!(
        "{waiting} wait: started and kept the next one after {} ms, with {memory} MiB",
        took.as_millis()
    );
    assert!(memory < 200, "{memory} MiB");
}
