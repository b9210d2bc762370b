//! A peer that says it is another one: a routing id is a label, and the first to claim it keeps it.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::raw::{call, dial, frame, greeting, read_message, ready, shake};
use crate::victim::{Host, METHOD, Victim, alone};

async fn claims(to: std::net::SocketAddr, from: usize, identity: &str) -> TcpStream {
    let mut peer = dial(to, from).await;
    let hello = [greeting("NULL"), ready("DEALER", &[("Identity", identity.as_bytes())])].concat();
    peer.write_all(&hello).await.unwrap();
    shake(&mut peer).await;
    peer
}

/// Many peers of a node claim the same id, and each gets the answers to its own calls.
#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_id_gets_nobody_elses_answers() {
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    host.attacked(|| async move {
        let mut peers = Vec::new();
        for n in 0..20 {
            peers.push(claims(to, n, "the-good-client").await);
        }
        for round in 0..20u8 {
            for (n, peer) in peers.iter_mut().enumerate() {
                peer.write_all(&call(METHOD, &[n as u8, round][..1])).await.unwrap();
            }
            for (n, peer) in peers.iter_mut().enumerate() {
                let reply = read_message(peer).await.expect("one of them is gone");
                assert_eq!(reply.last().unwrap(), &[n as u8], "an answer to somebody else");
            }
            // One of them leaves and comes back, in between.
            peers[0] = claims(to, 0, "the-good-client").await;
        }
    })
    .await;
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}

/// The plain ROUTER, on which libzmq with ROUTER_HANDOVER aborts on one path: the label is taken once, both stay alive.
#[tokio::test(flavor = "multi_thread")]
async fn a_router_keeps_both() {
    let _turn = alone().await;
    let args = ["socket", "router", "--bind", "tcp://127.0.0.1:0", "--echo"];
    let mut router = Victim::start(&args, &[], None);
    let to = router.address();
    let mut first = claims(to, 0, "me").await;
    let mut second = claims(to, 1, "me").await;
    let mut after = Vec::new();
    for round in 0..100u8 {
        for (peer, name) in [(&mut first, b'a'), (&mut second, b'b')] {
            peer.write_all(&frame(0, &[name, round])).await.unwrap();
            assert_eq!(read_message(peer).await.unwrap(), [[name, round]]);
        }
        // The label is free again when its owner has left, and claimed by the next.
        if round % 10 == 9 {
            first = claims(to, 2, "me").await;
        }
        after.push(claims(to, 3, "me").await);
    }
    assert!(router.is_alive());
    let mut good = claims(to, 4, "good").await;
    good.write_all(&frame(0, b"hi")).await.unwrap();
    assert_eq!(read_message(&mut good).await.unwrap(), [b"hi"]);
}
