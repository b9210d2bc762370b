//! Connections that say nothing, too many of them, and no descriptors left for more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::{call, closed, dial, hello, read_message, shaken};
use crate::victim::{Host, METHOD, alone};
use crate::{Growth, MIB, each};

/// A handshake may take 5 s; the rest is for a machine that is busy.
const HANDSHAKE: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(3);

async fn is_answered(peer: &mut TcpStream) {
    peer.write_all(&call(METHOD, &[7])).await.unwrap();
    let reply = read_message(peer).await.expect("a connection that was up is gone");
    assert_eq!(reply.last().unwrap(), &[7], "{reply:?}");
}

/// 1,000 connections that say nothing, from 20 addresses: each ends within its 5 s, most of them at once because there
/// is no place for so many; and they cost no processor time while they wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_silent_connections() {
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    let growth = Growth::of(&host);
    let id = host.victim.id();
    let busy = host
        .attacked(|| async move {
            let mut silent = each(1000, move |n| dial(to, n % 20)).await;
            let (began, before) = (Instant::now(), crate::victim::cpu(id));
            for peer in &mut silent {
                assert!(closed(peer, HANDSHAKE).await, "a silent connection stays");
            }
            (crate::victim::cpu(id) - before).as_secs_f64() / began.elapsed().as_secs_f64()
        })
        .await;
    println!("the victim was busy for {:.0} % of the time", busy * 100.0);
    host.victim.logged("limited limit=\"handshakes\"", 500);
    host.victim.logged("the handshake was not finished in time", 200);
    // With its good client's calls, unoptimised, and a log line for each.
    assert!(busy < 0.5, "{busy}");
    growth.is_under(&host, 10 * MIB);
    host.takes_newcomers().await;
    assert!(host.victim.is_alive());
}

/// 1,000 silent connections to a process that may have 64 descriptors (libzmq takes a whole processor and serves nobody
/// new): handshakes that hang give way.
#[tokio::test(flavor = "multi_thread")]
async fn no_descriptors_left() {
    let _turn = alone().await;
    let mut host = Host::with(&[], Some(64)).await;
    let to = host.address;
    let id = host.victim.id();
    let (busy, newcomer) = host
        .attacked(|| async move {
            let (began, before) = (Instant::now(), crate::victim::cpu(id));
            let mut silent = each(1000, move |n| dial(to, n % 20)).await;
            // All of them are before this one in the queue of the system.
            let knocked = Instant::now();
            let mut newcomer = shaken(to, 30, "DEALER").await;
            is_answered(&mut newcomer).await;
            let newcomer = knocked.elapsed();
            for peer in &mut silent {
                assert!(closed(peer, HANDSHAKE).await, "a silent connection stays");
            }
            ((crate::victim::cpu(id) - before).as_secs_f64() / began.elapsed().as_secs_f64(), newcomer)
        })
        .await;
    println!("the victim was busy for {:.0} % of the time, a newcomer waited {newcomer:?}", busy * 100.0);
    host.victim.logged("no file descriptors left", 1);
    host.victim.logged("limited limit=\"descriptors\"", 800);
    assert!(busy < 0.8, "{busy}");
    assert!(newcomer < Duration::from_secs(10), "{newcomer:?}");
    host.takes_newcomers().await;
    assert!(host.victim.is_alive());
}

/// All descriptors are taken by peers that did shake hands and stay. Whoever is in is served, the process does not spin
/// (accepting fails all the time), and when they leave there is room again.
#[tokio::test(flavor = "multi_thread")]
async fn no_descriptors_left_for_long() {
    const WATCHED: Duration = Duration::from_secs(4);
    let _turn = alone().await;
    let mut host = Host::with(&[], Some(64)).await;
    let to = host.address;
    let id = host.victim.id();
    let (inside, busy) = host
        .attacked(|| async move {
            let mut staying = Vec::new();
            let mut waiting = Vec::new();
            for n in 0..100 {
                let mut peer = dial(to, n % 20).await;
                let _ = peer.write_all(&hello("DEALER")).await;
                let answered = async {
                    peer.read_exact(&mut [0; 64]).await.ok()?;
                    // Only then its handshake is over for certain; until then it may be given up for another's.
                    peer.write_all(&call(METHOD, &[7])).await.ok()?;
                    read_message(&mut peer).await
                };
                let up = tokio::time::timeout(Duration::from_millis(300), answered).await;
                match up {
                    Ok(Some(_)) => staying.push(peer),
                    // In the queue of the system, or given up for one behind it.
                    _ => waiting.push(peer),
                }
                if waiting.len() == 20 {
                    break;
                }
            }
            let (began, before) = (Instant::now(), crate::victim::cpu(id));
            let mut turns = 0;
            while began.elapsed() < WATCHED {
                let count = staying.len();
                is_answered(&mut staying[turns % count]).await;
                turns += 1;
                tokio::time::sleep(Duration::from_millis(5)).await; // the pace
            }
            (staying.len(), (crate::victim::cpu(id) - before).as_secs_f64() / began.elapsed().as_secs_f64())
        })
        .await;
    println!("{inside} are in; the victim was busy for {:.0} % of the time", busy * 100.0);
    assert!(inside > 20, "{inside} are too few to be all");
    host.victim.logged("no file descriptors left", 1);
    assert!(busy < 0.5, "{busy}");
    host.takes_newcomers().await;
    assert!(host.victim.is_alive());
}

/// Handshakes that never stop, a byte now and then: the time is for the whole of it, not from byte to byte.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_drip() {
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    host.attacked(|| async move {
        let drops = each(100, move |n| async move {
            let mut peer = dial(to, n % 20).await;
            let began = Instant::now();
            let mut pace = tokio::time::interval(Duration::from_millis(250));
            // In the pace of these it would take 20 s and more.
            for (sent, drop) in hello("DEALER").chunks(1).enumerate() {
                pace.tick().await;
                let ended = peer.write_all(drop).await.is_err()
                    || match peer.try_read(&mut [0; 256]) {
                        Ok(read) => read == 0,
                        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
                    };
                if ended {
                    return (sent, began.elapsed());
                }
            }
            panic!("the handshake took {:?} and was not given up", began.elapsed());
        })
        .await;
        for (sent, after) in drops {
            assert!(sent > 4, "{sent} bytes are no handshake that drips");
            assert!(after < HANDSHAKE, "{after:?}");
        }
    })
    .await;
    host.victim.logged("the handshake was not finished in time", 100);
    host.takes_newcomers().await;
    assert!(host.victim.is_alive());
}

/// One address connects as fast as it can. It is slowed down, and others are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections() {
    const FLOOD: Duration = Duration::from_secs(3);
    let _turn = alone().await;
    let mut host = Host::start(&[]).await;
    let to = host.address;
    let growth = Growth::of(&host);
    let (flood, newcomers) = host
        .attacked(|| async move {
            let until = Instant::now() + FLOOD;
            let count = Arc::new(AtomicUsize::new(0));
            let flooding: Vec<_> = (0..8)
                .map(|_| {
                    let count = count.clone();
                    tokio::spawn(async move {
                        // Each is reset, lest the attacker run out of ports first.
                        while Instant::now() < until {
                            let peer = dial(to, 0).await;
                            peer.set_zero_linger().unwrap();
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            let mut newcomers = 0;
            // Slower than the rate that one address may have.
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            while Instant::now() < until {
                pace.tick().await;
                is_answered(&mut shaken(to, 1, "DEALER").await).await;
                newcomers += 1;
            }
            for one in flooding {
                one.await.unwrap();
            }
            (count.load(Ordering::Relaxed), newcomers)
        })
        .await;
    println!("{flood} connections in {FLOOD:?}, {newcomers} newcomers from elsewhere were served meanwhile");
    assert!(flood > 2500, "{flood} connections are no flood");
    assert!(newcomers > 5, "{newcomers}");
    host.victim.logged("limited limit=\"handshake-rate\"", 500);
    growth.is_under(&host, 10 * MIB);
    host.takes_newcomers().await;
    assert!(host.victim.is_alive());
}

/// Too many connections from one address, and in all: the new one is turned away, and whoever is in stays.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections() {
    let _turn = alone().await;
    let limits = [("RIPSTOP_LIMITS__CONNECTIONS", "42"), ("RIPSTOP_LIMITS__CONNECTIONS_PER_ADDRESS", "10")];
    let mut host = Host::start(&limits).await;
    let to = host.address;
    host.attacked(|| async move {
        let mut greedy = Vec::new();
        for _ in 0..10 {
            greedy.push(gets_in(to, 1).await);
        }
        for _ in 0..20 {
            assert!(closed(&mut dial(to, 1).await, SOON).await);
        }
        // Elsewhere there is room still: one or two are the good client's, and ten the greedy one's.
        let mut others = Vec::new();
        for n in 0..28 {
            others.push(gets_in(to, 2 + n % 10).await);
        }
        let mut more: Vec<TcpStream> = Vec::new();
        for n in 0..20 {
            more.push(dial(to, 20 + n).await);
        }
        // Three at most have found a place.
        for peer in &mut more[3..] {
            assert!(closed(peer, SOON).await);
        }
        for peer in greedy.iter_mut().chain(&mut others) {
            is_answered(peer).await;
        }
        // They leave, and another gets in, as soon as that was noticed.
        drop((greedy, others, more));
        gets_in(to, 1).await;
    })
    .await;
    host.victim.logged("limited limit=\"connections-per-address\"", 20);
    host.victim.logged("limited limit=\"connections\"", 16);
    host.takes_newcomers().await;
    assert!(host.victim.is_alive());
}

/// Tries until there is a place.
async fn gets_in(to: SocketAddr, from: usize) -> TcpStream {
    let began = Instant::now();
    loop {
        let mut peer = dial(to, from).await;
        // Turned away while it greets, or when it listens.
        let _ = peer.write_all(&hello("DEALER")).await;
        if peer.read_exact(&mut [0; 64]).await.is_ok() {
            is_answered(&mut peer).await;
            return peer;
        }
        assert!(began.elapsed() < SOON, "a place that was given back is not to be had");
    }
}
