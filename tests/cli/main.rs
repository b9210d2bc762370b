//! The `ripstop` program, as a user runs it: real processes, real pipes.

#![allow(clippy::unwrap_used)] // in tests a panic is the report; clippy.toml allows it within test functions only

mod demo;
#[cfg(all(unix, feature = "tls"))]
mod doctor;
#[cfg(all(unix, feature = "durable"))]
mod durable;
mod fabric;
#[cfg(all(unix, feature = "tls"))]
mod keys;
mod observe;
#[cfg(all(unix, feature = "tls", feature = "curve"))]
#[path = "../common/python.rs"]
mod python;
mod run;
#[cfg(all(unix, feature = "tls"))]
mod secured;
mod socket;
mod usage;
