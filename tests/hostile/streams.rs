//! Bytes that are no ZMTP, are cut off, or say what is not allowed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::raw::{
    call, closed, command, dial, frame, greeting, header, hello, property, read_message, ready, shake, shaken,
};
use crate::victim::{Host, METHOD, alone, good};

/// Closed by the victim: an honest refusal takes milliseconds, a handshake's whole time is 5 s.
const SOON: Duration = Duration::from_secs(3);

/// A request in two frames, `[subject] [7]`, and what comes before it.
fn good_call() -> Vec<u8> {
    [hello("DEALER"), call(METHOD, &[7])].concat()
}

async fn is_answered(stream: &mut TcpStream) {
    let reply = read_message(stream).await.expect("a good call was not answered");
    assert_eq!(reply.last().unwrap(), &[7], "{reply:?}");
}

/// A good conversation in two pieces is a good conversation, wherever the cut is; and one that ends there ends clean.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_cut_at_every_point() {
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    let points = good_call().len() - 1;
    host.attacked(|| async move {
        let (good, stream) = (good(to).await, good_call());
        // In waves: between the halves of all of them the victim answers a call, so that it has seen the first ones.
        for wave in (1..=points).collect::<Vec<_>>().chunks(32) {
            let mut halves = Vec::new();
            for cut in wave {
                let mut peer = dial(to, *cut).await;
                peer.write_all(&stream[..*cut]).await.unwrap();
                halves.push((*cut, peer));
            }
            let _: u64 = good.call(METHOD, &0u64).await.unwrap();
            for (cut, peer) in &mut halves {
                peer.write_all(&stream[*cut..]).await.unwrap();
            }
            for (_, peer) in &mut halves {
                shake(peer).await;
                is_answered(peer).await;
            }
        }
        for cut in 0..=points {
            let mut peer = dial(to, cut).await;
            peer.write_all(&stream[..cut]).await.unwrap();
            peer.shutdown().await.unwrap();
            assert!(closed(&mut peer, SOON).await, "cut off after {cut} bytes and still open");
        }
    })
    .await;
    let handshake = hello("DEALER").len();
    host.victim.logged("the peer closed the connection during the handshake", handshake);
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}

/// What other programs say first, and noise: refused at the first byte that tells.
#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused() {
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    let mut noise: Vec<Vec<u8>> = [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0; 64],
        &[0xff; 200],
        b"\x00",
    ]
    .map(<[u8]>::to_vec)
    .into();
    // Pseudo-random, and the same each time. The first byte is ZMTP's in half of them.
    let mut state = 1u64;
    for n in 0..200 {
        let mut bytes: Vec<u8> = (0..300)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        if n % 2 == 0 {
            bytes[0] = 0xff;
        }
        noise.push(bytes);
    }
    let (all, noise) = (noise.len(), Arc::new(noise));
    host.attacked(|| {
        let noise = noise.clone();
        async move {
            for (n, bytes) in noise.iter().enumerate() {
                let mut peer = dial(to, n % 20).await;
                // It may be refused while it is still talking.
                let _ = peer.write_all(bytes).await;
                assert!(closed(&mut peer, SOON).await, "`{}` is still listened to", bytes.escape_ascii());
            }
        }
    })
    .await;
    host.victim.logged("handshake failed", all);
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}

/// Handshakes that break one rule each, and the reason that the victim has to give.
#[tokio::test(flavor = "multi_thread")]
async fn bad_handshakes_are_refused_with_the_reason() {
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    let greeted = |rest: &[u8]| [&greeting("NULL")[..], rest].concat();
    let up = |rest: &[u8]| [&hello("DEALER")[..], rest].concat();
    let named = |name: &str| ready("DEALER", &[(name, b"x")]);
    let many: Vec<String> = (0..64).map(|n| format!("X-{n}")).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|name| (&name[..], &b""[..])).collect();
    let typed = property("Socket-Type", b"DEALER");
    let short = &typed[..typed.len() - 1];
    let crimes: Vec<(&str, Vec<u8>)> = vec![
        // Greetings.
        ("does not speak ZMTP", vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x00]),
        ("the peer speaks ZMTP 2", vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 1]),
        ("unknown security mechanism `ROT13`", greeting("ROT13")),
        ("wants the security mechanism PLAIN", greeting("PLAIN")),
        ("wants encryption (CURVE), and this side has no keys", greeting("CURVE")),
        // Oversized, short, out of turn.
        ("a command of 2147483648 bytes", greeted(&header(4, 1 << 31))),
        ("a command of 9223372036854775807 bytes", greeted(&header(4, u64::MAX >> 1))),
        ("a command of 65537 bytes", greeted(&header(4, (64 << 10) + 1))),
        ("bad frame flags", greeted(&[0x10, 0])),
        ("bad frame flags", greeted(&[5, 0])),
        ("a message came before the handshake was finished", greeted(&frame(0, b"hi"))),
        ("a message came before the handshake was finished", greeted(&header(0, 1 << 31))),
        ("bad ", greeted(&frame(4, b""))),
        ("bad ", greeted(&frame(4, b"\x05REA"))),
        ("bad READY", greeted(&command("READY", b""))),
        ("bad READY", greeted(&command("READY", short))),
        ("bad READY", greeted(&command("READY", &[&typed[..], &[0]].concat()))),
        ("bad READY", greeted(&command("READY", b"\x0bSocket-Type\xff\xff\xff\xffDEALER"))),
        ("a property comes twice", greeted(&command("READY", &[&typed[..], &typed].concat()))),
        ("more than 64 properties", greeted(&ready("DEALER", &many))),
        ("longer than 255 bytes", greeted(&ready("DEALER", &[("Identity", &[b'x'; 256])]))),
        ("bad ", greeted(&command("PING", &[0, 0]))),
        ("bad ", greeted(&command("SUBSCRIBE", b"orders"))),
        ("the peer refused: ", greeted(&command("ERROR", b"\x04nope"))),
        // Who they say they are.
        ("the peer's socket type `STREAM` is unknown", greeted(&ready("STREAM", &[]))),
        ("not PULL", hello("PULL")),
        ("not ROUTER", hello("ROUTER")),
        ("not PAIR", hello("PAIR")),
        ("DEALER on the lane nowhere", greeted(&ready("DEALER", &[("X-Ripstop-Lane", b"nowhere")]))),
        ("PUSH on the lane calls", greeted(&ready("PUSH", &[("X-Ripstop-Lane", b"calls")]))),
        ("this is fabric default", greeted(&ready("DEALER", &[("X-Ripstop-Fabric", b"other")]))),
        // When all seems well.
        ("bad READY command: it comes twice", up(&ready("DEALER", &[]))),
        ("the peer refused: ", up(&command("ERROR", b"\x04nope"))),
        ("a command of 65537 bytes", up(&header(4, (64 << 10) + 1))),
        ("bad frame flags", up(&[0x08, 0])),
        ("bad PING", up(&command("PING", &[0]))),
        ("bad ", up(&command("READY", &named("x")[..3]))),
    ];
    let crimes = Arc::new(crimes);
    let culprits: Vec<(&str, SocketAddr)> = host
        .attacked(|| {
            let crimes = crimes.clone();
            async move {
                let mut culprits = Vec::new();
                for (n, (reason, bytes)) in crimes.iter().enumerate() {
                    let mut peer = dial(to, n).await;
                    peer.write_all(bytes).await.unwrap();
                    assert!(closed(&mut peer, SOON).await, "{reason}: still open");
                    culprits.push((*reason, peer.local_addr().unwrap()));
                }
                culprits
            }
        })
        .await;
    for (reason, culprit) in culprits {
        host.victim.logged_of(culprit, reason);
    }
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}

/// Two peers of one node cannot be told apart by a message that is cut off: what has begun with one is not finished by
/// the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_never_ends_reaches_nobody() {
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    host.attacked(|| async move {
        let whole = call(METHOD, &[7]);
        for cut in 1..whole.len() {
            let mut peer = shaken(to, cut, "DEALER").await;
            peer.write_all(&whole[..cut]).await.unwrap();
            drop(peer);
            let mut other = shaken(to, cut, "DEALER").await;
            other.write_all(&whole).await.unwrap();
            is_answered(&mut other).await;
        }
    })
    .await;
    assert!(host.victim.is_alive());
    host.takes_newcomers().await;
}
