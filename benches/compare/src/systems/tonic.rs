//! gRPC with `tonic`: unary calls of a message with six fields.

use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use super::System;
use crate::Result;
use crate::work::{Clock, Kind, Work, here};

/// Made by `build.rs`: the client and the server of one method.
mod stubs {
    include!(concat!(env!("OUT_DIR"), "/compare.Echo.rs"));
}

pub const SYSTEM: System = System {
    name: "tonic",
    kinds: &[Kind::Ask, Kind::Many],
    size: Some(64),
    helper: None,
    stay: |work| super::block_on(work, stay),
    come: |work, endpoint| super::block_on_with(work, endpoint, come),
};

/// What [`super::typed`] sends, as protobuf.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Order {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    sku: String,
    #[prost(uint32, tag = "3")]
    quantity: u32,
    #[prost(uint64, tag = "4")]
    cents: u64,
    #[prost(string, tag = "5")]
    currency: String,
    #[prost(string, tag = "6")]
    address: String,
}

struct Echo;

#[tonic::async_trait]
impl stubs::echo_server::Echo for Echo {
    async fn echo(&self, request: Request<Order>) -> std::result::Result<Response<Order>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

async fn stay(_: Work) -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    here(format!("http://{}", listener.local_addr()?));
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = stubs::echo_server::EchoServer::new(Echo);
    Ok(Server::builder().add_service(service).serve_with_incoming(incoming).await?)
}

async fn come(work: Work, endpoint: String) -> Result<()> {
    let channel = Channel::from_shared(endpoint)?.connect().await?;
    let mut client = stubs::echo_client::EchoClient::new(channel);
    let mut order = Order {
        id: 123_456_789,
        sku: "SKU-0001".into(),
        quantity: 3,
        cents: 129_900,
        currency: "EUR".into(),
        address: String::new(),
    };
    order.address = "x".repeat(work.size.saturating_sub(prost::Message::encoded_len(&order) + 2));
    if work.kind == Kind::Ask {
        let mut clock = Clock::new(&work);
        for _ in 0..work.count {
            clock.asks();
            client.echo(Request::new(order.clone())).await?;
            clock.answered();
        }
        return clock.end(&work);
    }
    super::many(work, move || {
        let (mut client, order) = (client.clone(), order.clone());
        async move { Ok(client.echo(Request::new(order)).await.map(drop)?) }
    })
    .await
}
