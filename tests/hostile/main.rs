//! Attacks on a real `ripstop` process, as many as there are rows under "before trust" and "after trust" in
//! `docs/security.md`. Each test makes the attack happen, asserts that it did, and measures what it cost the victim; and
//! all the while a good client of the same node calls it: every call has to succeed, at a p99 under twice the quiet one
//! (see [`victim::FLOOR`] for what is too little to tell).
//!
//! Everything stays on loopback. The tests take turns, because they measure.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // in tests a panic is the report; clippy.toml allows it within test functions only

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

/// KiB in a MiB, which is what memory is measured in here.
const MIB: u64 = 1024;
