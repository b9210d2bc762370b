use std::future::IntoFuture;

use ripstop::{Node, discovery::Memory, fabric::PeerEvent};

use crate::common::{soon, start};

#[tokio::test]
async fn peers_are_asked_whether_they_are_there() {
    let lan = Memory::new();
    let (a, b) = (start(&lan, "a").await, start(&lan, "b").await);
    let mut watch = a.watch_peers();
    assert!(matches!(soon(watch.recv()).await, Some(PeerEvent::Joined(peer)) if peer.service == "b"));
    let peers = soon(a.peers()).await;
    assert_eq!(peers.len(), 1);
    assert_eq!(
        (peers[0].node, peers[0].service.as_str(), peers[0].sources.as_slice()),
        (Some(b.id()), "b", &["memory"][..])
    );
    assert!(peers[0].rtt.is_some());
    b.drain().await;
    assert!(matches!(soon(watch.recv()).await, Some(PeerEvent::Left(peer)) if peer.service == "b"));
}

#[tokio::test]
async fn a_configured_address_becomes_a_node() {
    let lan = Memory::new();
    let b = start(&lan, "b").await;
    b.serve("b.echo", |n: u64, _| async move { Ok(n) }).await.unwrap();
    let a = Node::builder("a")
        .local(false)
        .mdns(false)
        .peer("b", b.endpoints()[0].clone(), &[])
        .start()
        .await
        .unwrap();
    let reply: u64 = soon(a.call("b.echo", &7u64).into_future()).await.unwrap();
    assert_eq!(reply, 7);
    let peers = soon(a.peers()).await;
    assert_eq!(peers.len(), 1, "{peers:?}");
    assert_eq!((peers[0].node, peers[0].sources.as_slice()), (Some(b.id()), &["static"][..]));
}

#[tokio::test]
async fn an_address_where_nobody_is_says_why() {
    let nowhere = "tcp://127.0.0.1:1".parse().unwrap();
    let a = Node::builder("a").local(false).mdns(false).peer("b", nowhere, &[]).start().await.unwrap();
    let peers = soon(a.peers()).await;
    assert_eq!(peers.len(), 1);
    assert!(peers[0].rtt.is_none());
    assert!(peers[0].unreachable.as_deref().unwrap().contains("refused"), "{peers:?}");
}

#[tokio::test]
async fn fabrics_do_not_mix() {
    let lan = Memory::new();
    let b = start(&lan, "b").await;
    b.serve("b.echo", |n: u64, _| async move { Ok(n) }).await.unwrap();
    let address = b.endpoints()[0].clone();
    let a = Node::builder("a")
        .fabric("other")
        .local(false)
        .mdns(false)
        .peer("b", address, &[])
        .start()
        .await
        .unwrap();
    assert!(soon(a.call::<_, u64>("b.echo", &7u64).into_future()).await.is_err());
}
