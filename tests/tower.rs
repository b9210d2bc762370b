//! `tower` layers around calls and handlers, over real sockets.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ripstop::{
    Node,
    discovery::Memory,
    fabric::{CallError, ClientRequest},
};
use tower::{ServiceBuilder, ServiceExt, service_fn};

const PATIENCE: Duration = Duration::from_secs(20);

async fn start(lan: &Memory, service: &str) -> Node {
    Node::builder(service).local(false).mdns(false).source(lan.source()).start().await.unwrap()
}

#[tokio::test]
async fn any_layer_goes_around_a_call_and_around_a_handler() {
    let lan = Memory::new();
    let (shop, caller) = (start(&lan, "shop").await, start(&lan, "caller").await);
    let quote = service_fn(|qty: u64| async move {
        if qty == 0 { Err(std::io::Error::other("nothing")) } else { Ok(250 * qty) }
    });
    let layered =
        ServiceBuilder::new().concurrency_limit(4).map_response(|cents: u64| cents + 1).service(quote);
    shop.serve_service("shop.quote", layered).await.unwrap();
    let client = caller.client("shop").into_service::<u64, u64>();
    let doubled = ServiceBuilder::new()
        .timeout(PATIENCE)
        .map_request(|qty: u64| ClientRequest::new("quote", qty))
        .service(client.clone());
    assert_eq!(doubled.oneshot(3).await.unwrap(), 751);
    let error = client.oneshot(ClientRequest::new("quote", 0)).await.unwrap_err();
    assert!(matches!(&error, CallError::Handler { message, .. } if message == "nothing"), "{error}");
}
