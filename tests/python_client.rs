//! `examples/python/ripstop_client.py`, sixty lines of pyzmq and msgpack, against a node: call, publish, subscribe, push.

#![allow(clippy::unwrap_used)] // the helpers are tests, too

#[path = "common/python.rs"]
mod python;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use ripstop::Node;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Ask {
    qty: u64,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Quote {
    cents: u64,
}

fn start(python: &Path, arguments: &[&str]) -> Child {
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python/ripstop_client.py");
    let mut command = Command::new(python);
    command.arg(client).args(arguments).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn patient<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work)
        .await
        .unwrap_or_else(|_| panic!("{what} takes too long"))
}

async fn run(python: &Path, arguments: &[&str]) -> Output {
    patient(arguments[0], start(python, arguments).wait_with_output()).await.unwrap()
}

fn text(output: &Output) -> &str {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::str::from_utf8(&output.stdout).unwrap().trim()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sixty_line_client_does_it_all() {
    let Some(python) = python::python("the Python client") else { return };
    let node = Node::builder("pricing").local(false).start().await.unwrap();
    let url = node.endpoints()[0].to_string();

    node.serve("pricing.quote", |ask: Ask, _ctx| async move { Ok(Quote { cents: 250 * ask.qty }) })
        .await
        .unwrap();
    let answer = run(python, &["call", &url, "pricing.quote", r#"{"qty": 3}"#]).await;
    assert_eq!(text(&answer), r#"{"cents": 750}"#);

    // A method that isn't there, and a body that doesn't fit, come back as errors in words.
    let refused = run(python, &["call", &url, "pricing.qoute", "null"]).await;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("pricing.qoute"), "{words}");
    let misfit = run(python, &["call", &url, "pricing.quote", r#"{"qty": "three"}"#]).await;
    let words = String::from_utf8_lossy(&misfit.stderr).into_owned();
    assert!(
        !misfit.status.success() && words.contains("qty: a string, where another type belongs"),
        "{words}"
    );

    // It publishes: nothing is lost, because it waits for the node's subscription.
    let mut orders = node.subscribe::<Ask>("orders.*").await.unwrap();
    text(&run(python, &["pub", &url, "orders.created", r#"{"qty": 5}"#]).await);
    let event = patient("the event", orders.recv()).await.unwrap().unwrap();
    assert_eq!((&*event.subject, event.body), ("orders.created", Ask { qty: 5 }));

    // It subscribes: the publisher sees it come.
    let changes = node.publisher::<Quote>("pricing.changed").await.unwrap();
    let listening = start(python, &["sub", &url, "pricing.", "2"]);
    patient("the subscriber", async { changes.ready(1).timeout(Duration::from_secs(20)).await })
        .await
        .unwrap();
    changes.publish(&Quote { cents: 1 }).await.unwrap();
    changes.publish(&Quote { cents: 2 }).await.unwrap();
    let heard = patient("the subscriber", listening.wait_with_output()).await.unwrap();
    assert_eq!(text(&heard), "pricing.changed {\"cents\": 1}\npricing.changed {\"cents\": 2}");

    // It pushes.
    let mut mails = node.pull::<Ask>("emails").await.unwrap();
    text(&run(python, &["push", &url, "emails", r#"{"qty": 7}"#]).await);
    let delivery = patient("the work", mails.recv()).await.unwrap().unwrap();
    assert_eq!(delivery.body, Ask { qty: 7 });

    patient("drain", node.drain()).await;
}
