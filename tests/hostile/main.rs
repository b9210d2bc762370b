//! Attacks on a real `ripstop` process, as many as there are rows under "before trust" and "after trust" in
//! `docs/security.md`. Each test makes the attack happen, asserts that it did, and measures what it cost the victim; and
//! all the while a good client of the same node calls it: every call has to succeed, at a p99 under twice the quiet one
//! (see [`victim::FLOOR`] for what is too little to tell).
//!
//! Everything stays on loopback. The tests take turns, because they measure.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // in tests a panic is the report; clippy.toml allows it within test functions only

#[path = "../common/raw.rs"]
mod raw;
#[path = "../common/victim.rs"]
mod victim;

mod connections;
mod counted;
mod identity;
mod memory;
mod streams;
mod subscriptions;
#[cfg(all(feature = "tls", feature = "curve"))]
mod tls;

use std::time::{Duration, Instant};

/// KiB in a MiB, which is what memory is measured in here.
const MIB: u64 = 1024;

/// Does the work for each number, some of them at the same time, and rests for as long as those took: it is no test of
/// how much work a process gets done that has a small share of a busy machine.
async fn each<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    count: usize,
    work: impl Fn(usize) -> F,
) -> Vec<T> {
    let mut done = Vec::new();
    for some in (0..count).collect::<Vec<_>>().chunks(50) {
        let began = Instant::now();
        let tasks: Vec<_> = some.iter().map(|n| tokio::spawn(work(*n))).collect();
        for task in tasks {
            done.push(task.await.unwrap());
        }
        if done.len() < count {
            tokio::time::sleep(began.elapsed().min(Duration::from_millis(500))).await;
        }
    }
    done
}

/// What a victim's memory grows by, at its highest.
struct Growth(u64);

impl Growth {
    fn of(host: &victim::Host) -> Self {
        Self(host.victim.peak())
    }

    /// `most` in KiB.
    fn is_under(&self, host: &victim::Host, most: u64) {
        let peak = host.victim.peak();
        let grown = peak - self.0;
        println!("memory: {} KiB before, {peak} KiB at most, {grown} KiB more", self.0);
        assert!(grown < most, "{grown} KiB more");
    }
}
