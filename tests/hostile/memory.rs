//! Lengths that are claims, messages without an end, values without a bottom: memory follows the bytes that came.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::raw::{call, closed, dial, frame, greeting, header, read_message, shaken};
use crate::victim::{Host, METHOD, alone};
use crate::{Growth, MIB, each};

const SOON: Duration = Duration::from_secs(5);
/// More than a message may have, and what libzmq reserves at once.
const TWO_GIB: u64 = 1 << 31;

/// 1,000 connections announce a frame of 2 GiB: half of them before their handshake is over, half of them after.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_headers_of_two_gib() {
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    let growth = Growth::of(&host);
    host.attacked(|| {
        each(1000, move |n| async move {
            let mut peer = if n % 2 == 0 { shaken(to, n, "DEALER").await } else { dial(to, n).await };
            if n % 2 == 1 {
                peer.write_all(&greeting("NULL")).await.unwrap();
            }
            let claim = [&header(0, TWO_GIB)[..], &[0; 100]].concat();
            peer.write_all(&claim).await.unwrap();
            assert!(closed(&mut peer, SOON).await);
        })
    })
    .await;
    host.victim.logged("a frame of 2147483648 bytes; at most 16777216 are allowed", 500);
    host.victim.logged("a message came before the handshake was finished", 500);
    growth.is_under(&host, 10 * MIB);
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}

/// A length that is allowed is a claim as well. They stay open, because they may be honest and slow.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_headers_of_the_largest_message() {
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    let growth = Growth::of(&host);
    let mut peers = host
        .attacked(|| {
            each(1000, move |n| async move {
                let mut peer = shaken(to, n, "DEALER").await;
                let claim = [&header(1, 16 << 20)[..], &[0; 100]].concat();
                peer.write_all(&claim).await.unwrap();
                peer
            })
        })
        .await;
    host.victim.logged("connected", 1000);
    growth.is_under(&host, 20 * MIB);
    assert!(!host.victim.log_lines("disconnected").iter().any(|line| line.contains("remote=\"127.0.1.")));
    // One that sends what it announced makes memory grow.
    let mut slow = peers.pop().unwrap();
    slow.write_all(&vec![0; (16 << 20) - 100]).await.unwrap();
    // But one byte more is too much for one message.
    slow.write_all(&frame(0, &[7])).await.unwrap();
    let address = slow.local_addr().unwrap();
    assert!(closed(&mut slow, SOON).await);
    host.victim.logged_of(address, "a message of at least 16777217 bytes");
    growth.is_under(&host, (20 + 3 * 16) * MIB);
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}

/// 4 MB of empty frames with MORE, which costs libzmq 126 MB; and messages of as many frames as are allowed, which never
/// end.
#[tokio::test(flavor = "multi_thread")]
async fn empty_frames_without_an_end() {
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    let growth = Growth::of(&host);
    let kept = host
        .attacked(|| async move {
            each(8, move |n| async move {
                let mut peer = shaken(to, n, "DEALER").await;
                let _ = peer.write_all(&[1, 0].repeat(2 << 20)).await;
                assert!(closed(&mut peer, SOON).await);
            })
            .await;
            each(300, move |n| async move {
                let mut peer = shaken(to, n, "PUSH").await;
                peer.write_all(&[1, 0].repeat(1023)).await.unwrap();
                peer
            })
            .await
        })
        .await;
    host.victim.logged("a message of more than 1024 frames", 8);
    growth.is_under(&host, 10 * MIB);
    assert_eq!(kept.len(), 300);
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}

/// The same as a flood of PINGs between two frames, whose answers nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn pings_without_an_end() {
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    let growth = Growth::of(&host);
    let pings = host
        .attacked(|| async move {
            let mut peer = shaken(to, 0, "DEALER").await;
            let ping = crate::raw::command("PING", &[&[0, 0][..], &[7; 16]].concat());
            let some = ping.repeat(1000);
            let mut sent = 0;
            // It may stop reading us, which is as good as an end.
            while sent < 1_000_000
                && matches!(
                    tokio::time::timeout(Duration::from_secs(1), peer.write_all(&some)).await,
                    Ok(Ok(()))
                )
            {
                sent += 1000;
            }
            let mut between = shaken(to, 1, "DEALER").await;
            between.write_all(&frame(1, METHOD.as_bytes())).await.unwrap();
            let _ = between.write_all(&ping.repeat(10_000)).await;
            assert!(closed(&mut between, SOON).await);
            sent
        })
        .await;
    println!("{pings} pings");
    assert!(pings > 10_000, "that is no flood");
    host.victim.logged("a command of ", 1);
    growth.is_under(&host, 10 * MIB);
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}

/// The answer to a request: a typed error, and the connection stays.
async fn is_refused(peer: &mut TcpStream, body: &[u8]) {
    peer.write_all(&call(METHOD, body)).await.unwrap();
    let answer = read_message(peer).await.expect("closed instead of answered");
    assert_eq!(answer.len(), 3, "{answer:?}");
    // [version, kind 2 = error, …] and a body that names the code.
    assert_eq!(&answer[1][1..3], &[1, 2], "{answer:?}");
    assert!(answer[2].windows(4).any(|four| four == b"RS04"), "{}", answer[2].escape_ascii());
}

/// MessagePack nested 10^5 deep, and every kind of value that claims 2^32 elements or bytes.
#[tokio::test(flavor = "multi_thread")]
async fn values_without_a_bottom() {
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    let growth = Growth::of(&host);
    host.attacked(|| async move {
        let deep = |open: &[u8]| [&open.repeat(100_000)[..], &[0xc0]].concat();
        let mut bodies =
            vec![deep(&[0x91]), deep(&[0x81, 0xc0]), deep(&[0xdc, 0, 1]), deep(&[0xde, 0, 1, 1])];
        for claims in [0xdd, 0xdf, 0xdb, 0xc6, 0xc9] {
            bodies.push(vec![claims, 0xff, 0xff, 0xff, 0xff, 0]);
        }
        for _ in 0..20 {
            let mut peer = shaken(to, 0, "DEALER").await;
            for body in &bodies {
                is_refused(&mut peer, body).await;
            }
            // The same connection is served on.
            peer.write_all(&call(METHOD, &[7])).await.unwrap();
            assert_eq!(read_message(&mut peer).await.unwrap().last().unwrap(), &[7]);
            // As a header it is no message: nobody knows whom to answer.
            let message = [frame(1, METHOD.as_bytes()), frame(1, &bodies[0]), frame(0, &[7])].concat();
            peer.write_all(&message).await.unwrap();
            assert!(closed(&mut peer, SOON).await);
        }
    })
    .await;
    growth.is_under(&host, 10 * MIB);
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}
