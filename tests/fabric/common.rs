//! A fabric in memory, its nodes on loopback TCP.

use std::{future::IntoFuture, time::Duration};

use ripstop::{Node, discovery::Memory};

/// Long enough for anything that does not hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn start(lan: &Memory, service: &str) -> Node {
    Node::builder(service).local(false).mdns(false).source(lan.source()).start().await.unwrap()
}

#[cfg(feature = "durable")]
pub(crate) async fn with_disk(lan: &Memory, service: &str, dir: &std::path::Path) -> Node {
    let builder = Node::builder(service).local(false).mdns(false).source(lan.source());
    builder.data_dir(dir).start().await.unwrap()
}

/// Fails the test instead of hanging it.
pub(crate) async fn soon<F: IntoFuture>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("it hangs")
}
