//! Lengths that are claims, messages without an end, values without a bottom: memory follows the bytes that came.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::raw::{call, closed, dial, frame, greeting, header, read_message, shaken};
use crate::victim::{Host, METHOD, Victim, alone};
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

/// A body of more values than are allowed is refused before it is decoded, and the connection stays. (From a file, as
/// it is configured in earnest.)
#[tokio::test(flavor = "multi_thread")]
async fn more_values_than_allowed() {
    let _turn = alone().await;
    let place = Arc::new(tempfile::tempdir().unwrap());
    let toml = "[limits]\nelements = 1000\ndepth = 3\n";
    let victim = Victim::configured(&place, toml, &["serve", METHOD, "--echo"]);
    let mut host = Host::of(victim).await;
    let to = host.address;
    let array = |n: u16| [&[0xdc][..], &n.to_be_bytes(), &vec![0xc0; n.into()]].concat();
    host.attacked(|| async move {
        let mut peer = shaken(to, 0, "DEALER").await;
        for _ in 0..100 {
            is_refused(&mut peer, &array(1000)).await;
            is_refused(&mut peer, &[0x91, 0x91, 0x91, 0x91, 0]).await;
            for allowed in [array(999), vec![0x91, 0x91, 0x91, 0]] {
                peer.write_all(&call(METHOD, &allowed)).await.unwrap();
                assert_eq!(read_message(&mut peer).await.unwrap().last().unwrap(), &allowed);
            }
        }
    })
    .await;
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}

/// Callers that never read an answer: what waits for them is bounded by the account of each, and then nothing more is
/// read from them.
#[tokio::test(flavor = "multi_thread")]
async fn callers_that_do_not_read() {
    const CALLERS: usize = 8;
    const EACH: u64 = 64;
    let _turn = alone().await;
    let limits = [
        ("RIPSTOP_LIMITS__MAX_MESSAGE", "1MiB"),
        ("RIPSTOP_LIMITS__QUEUE_BYTES", "1MiB"),
        ("RIPSTOP_LIMITS__PEER_MEMORY", "4MiB"),
    ];
    let mut host = Host::start(&limits).await;
    let to = host.address;
    let growth = Growth::of(&host);
    let written = host
        .attacked(|| async move {
            let written = each(CALLERS, move |n| async move {
                let mut peer = shaken(to, n, "DEALER").await;
                // Text of 64 KiB, which costs little to decode.
                let value = [&[0xdb, 0, 1, 0, 0][..], &[b'x'; 64 << 10]].concat();
                let request = call(METHOD, &value);
                let mut written = 0;
                while written < EACH << 20 {
                    // No longer read, or closed.
                    let one = tokio::time::timeout(Duration::from_secs(2), peer.write_all(&request));
                    if !matches!(one.await, Ok(Ok(()))) {
                        break;
                    }
                    written += request.len() as u64;
                }
                written
            })
            .await;
            written.iter().sum::<u64>() >> 20
        })
        .await;
    println!("{written} MiB were written");
    assert!(written > 8, "{written} MiB are no flood");
    growth.is_under(&host, (CALLERS as u64 * 4 + 32) * MIB);
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}

/// More answers wait for such callers than requests may wait in all: they take no places of others' requests.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_take_no_places() {
    const CALLERS: usize = 8;
    const EACH: usize = 600;
    let _turn = alone().await;
    let limits = [
        ("RIPSTOP_LIMITS__MAX_MESSAGE", "1MiB"),
        ("RIPSTOP_LIMITS__QUEUE_BYTES", "1MiB"),
        ("RIPSTOP_LIMITS__QUEUE_MESSAGES", "16"),
        ("RIPSTOP_LIMITS__PEER_MEMORY", "16MiB"),
    ];
    let mut host = Host::start(&limits).await;
    let to = host.address;
    let growth = Growth::of(&host);
    host.attacked(|| async move {
        let mut peers = each(CALLERS, move |n| async move {
            let mut peer = shaken(to, n, "DEALER").await;
            // More than the system's buffers take, so that it is full for the small ones.
            let value = [&[0xdb, 0, 14, 0, 0][..], &[b'x'; 14 << 16]].concat();
            for _ in 0..10 {
                peer.write_all(&call(METHOD, &value)).await.unwrap();
            }
            peer
        })
        .await;
        // Slow enough that they are answered as they come.
        let small = call(METHOD, &[7]).repeat(EACH / 100);
        for _ in 0..100 {
            for peer in &mut peers {
                peer.write_all(&small).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await; // the pace
        }
        // Their requests were all read; the ones that follow are served, too.
        let mut other = shaken(to, 0, "DEALER").await;
        other.write_all(&call(METHOD, &[7])).await.unwrap();
        assert_eq!(read_message(&mut other).await.unwrap().last().unwrap(), &[7]);
    })
    .await;
    growth.is_under(&host, CALLERS as u64 * 16 * MIB);
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}

/// Work and events that this node has no use for are not kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_wants_is_not_kept() {
    const EACH: usize = 2048;
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    let growth = Growth::of(&host);
    host.attacked(|| async move {
        each(4, move |n| async move {
            let socket_type = if n % 2 == 0 { "PUSH" } else { "PUB" };
            let mut peer = shaken(to, n, socket_type).await;
            let message = call("emails", &[&[0xc6, 0, 0, 0x40, 0][..], &[7; 16 << 10]].concat());
            for _ in 0..EACH {
                peer.write_all(&message).await.unwrap();
            }
            // It has all been read, and the peer is still welcome.
            assert!(!closed(&mut peer, Duration::from_millis(100)).await);
        })
        .await;
    })
    .await;
    growth.is_under(&host, 10 * MIB);
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}
