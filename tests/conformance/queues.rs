//! High-water marks, backpressure, fairness, linger.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ripstop::socket::*;

use crate::{
    Transport,
    common::{awaits, quick},
    on_every_transport,
};

/// Without a peer, exactly the mark can be queued, and all of it arrives once there is one.
async fn mark_before_a_connection(transport: Transport) {
    for mark in [1, 2, 10] {
        let endpoint = transport.free();
        let push = Push::with_options(quick().send_hwm(mark));
        assert_eq!(push.try_send("nobody"), Err(SendError::Full));
        push.connect(&endpoint).unwrap();
        for n in 0..mark {
            push.try_send(n.to_string()).unwrap();
        }
        assert_eq!(push.try_send("one too many"), Err(SendError::Full));
        let waiting = tokio::spawn({
            let push = push.clone();
            async move { push.send("waited").await }
        });
        let pull = Pull::new();
        pull.bind(&endpoint).await.unwrap();
        for n in 0..mark {
            assert_eq!(pull.recv().await.unwrap(), n.to_string().into());
        }
        assert_eq!(pull.recv().await.unwrap(), "waited".into());
        waiting.await.unwrap().unwrap();
    }
}

/// The same in bytes; an empty queue takes any message.
async fn mark_in_bytes(transport: Transport) {
    let push = Push::with_options(quick().send_hwm_bytes(1000));
    push.connect(transport.free()).unwrap();
    push.try_send([0; 5000]).unwrap();
    assert_eq!(push.try_send("x"), Err(SendError::Full));
    let push = Push::with_options(quick().send_hwm_bytes(1000));
    push.connect(transport.free()).unwrap();
    for _ in 0..9 {
        push.try_send([0; 100]).unwrap();
    }
    assert_eq!(push.try_send([0; 100]), Err(SendError::Full));
    push.try_send([0; 50]).unwrap();
}

/// A receiver that takes nothing stops the sender, and nothing is lost or reordered when it goes on.
async fn backpressure(transport: Transport) {
    let pull = Pull::with_options(quick().receive_hwm(5));
    let endpoint = pull.bind(transport.free()).await.unwrap();
    let push = Push::with_options(quick().send_hwm(10));
    let mut seen = push.monitor();
    push.connect(endpoint).unwrap();
    awaits!(seen, Event::Connected { .. });
    let body = vec![7u8; 10_000];
    let mut sent = 0u32;
    loop {
        let message = [&sent.to_be_bytes()[..], &body];
        let sending = push.send(message);
        // Full for this long means stuck: nobody receives.
        match tokio::time::timeout(Duration::from_millis(300), sending).await {
            Ok(outcome) => outcome.unwrap(),
            Err(_) => break,
        }
        sent += 1;
        assert!(sent < 5_000, "nothing stops the sender");
    }
    for n in 0..sent {
        assert_eq!(pull.recv().await.unwrap().frame(0), Some(&n.to_be_bytes()[..]));
    }
    push.send("on").await.unwrap();
    assert_eq!(pull.recv().await.unwrap(), "on".into());
}

/// A receiver that is slower than the heartbeat allows is not dead, nor is its sender.
async fn slow_is_not_dead(transport: Transport) {
    let beat =
        |options: Options| options.heartbeat(Some((Duration::from_millis(100), Duration::from_secs(1))));
    let pull = Pull::with_options(beat(quick()).receive_hwm(1));
    let endpoint = pull.bind(transport.free()).await.unwrap();
    let push = Push::with_options(beat(quick()).send_hwm(10));
    let (mut seen, mut seen_pull) = (push.monitor(), pull.monitor());
    push.connect(endpoint).unwrap();
    awaits!(seen, Event::Connected { .. });
    let body = vec![7u8; 100_000];
    let sender = tokio::spawn({
        let push = push.clone();
        async move {
            for n in 0..100u32 {
                push.send([&n.to_be_bytes()[..], &body]).await.unwrap();
            }
        }
    });
    for n in 0..100u32 {
        if n % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(1500)).await; // slowness itself
        }
        assert_eq!(pull.recv().await.unwrap().frame(0), Some(&n.to_be_bytes()[..]));
    }
    sender.await.unwrap();
    push.close().await;
    pull.close().await;
    while let Some(event) = seen.next().await {
        if let Event::Disconnected { reason, .. } = event {
            assert!(reason.contains("disconnected by this side"), "{reason}");
            break;
        }
    }
    while let Some(event) = seen_pull.next().await {
        if let Event::Disconnected { reason, .. } = event {
            assert!(reason.contains("closed"), "{reason}");
            break;
        }
    }
}

/// Every peer has its turn, however much one of them sends.
async fn fair(transport: Transport) {
    let pull = Pull::new();
    let endpoint = pull.bind(transport.free()).await.unwrap();
    let mut seen = pull.monitor();
    let pushes: Vec<Push> = (0..3).map(|_| Push::new()).collect();
    for push in &pushes {
        push.connect(&endpoint).unwrap();
        awaits!(seen, Event::Accepted { .. });
    }
    // So many that taking them lasts far longer than the two others' messages take to come.
    for _ in 0..60_000 {
        pushes[0].send("0").await.unwrap();
    }
    assert_eq!(pull.recv().await.unwrap(), "0".into());
    pushes[1].send("1").await.unwrap();
    pushes[2].send("2").await.unwrap();
    let mut turns = 0;
    let mut missing = HashSet::from(["1".to_owned(), "2".to_owned()]);
    while !missing.is_empty() {
        let message = pull.recv().await.unwrap();
        missing.remove(&String::from_utf8_lossy(message.frame(0).unwrap()).into_owned());
        turns += 1;
        tokio::task::yield_now().await;
    }
    assert!(turns < 48_000, "{turns} turns");
}

/// Work goes round.
async fn round_robin(transport: Transport) {
    let push = Push::new();
    let endpoint = push.bind(transport.free()).await.unwrap();
    let mut seen = push.monitor();
    let pulls: Vec<Pull> = (0..3).map(|_| Pull::new()).collect();
    for pull in &pulls {
        pull.connect(&endpoint).unwrap();
        awaits!(seen, Event::Accepted { .. });
    }
    for n in 0..300 {
        push.send(n.to_string()).await.unwrap();
    }
    for pull in &pulls {
        let mut got = Vec::new();
        while got.len() < 100 {
            pull.recv_many(&mut got, 1000).await.unwrap();
        }
        assert_eq!(got.len(), 100);
    }
}

/// No wake-up is lost with several receivers on one socket, some of which give up in between.
async fn many_receivers(transport: Transport) {
    let pull = Pull::new();
    let endpoint = pull.bind(transport.free()).await.unwrap();
    let push = Push::new();
    push.connect(endpoint).unwrap();
    const EACH: usize = 2_000;
    let receivers: Vec<_> = (0..8)
        .map(|i| {
            let pull = pull.clone();
            tokio::spawn(async move {
                let mut got = 0;
                while got < EACH {
                    if i % 2 == 0 {
                        let short = Duration::from_micros(50);
                        got += usize::from(tokio::time::timeout(short, pull.recv()).await.is_ok());
                    } else {
                        let mut batch = Vec::new();
                        got += pull.recv_many(&mut batch, (EACH - got).min(7)).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for n in 0..8 * EACH {
        push.send("work").await.unwrap();
        if n % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for receiver in receivers {
        receiver.await.unwrap();
    }
}

/// A `recv` that is given up, again and again, takes no message with it, and the order holds.
async fn recv_is_cancel_safe(transport: Transport) {
    let pull = Pull::new();
    let endpoint = pull.bind(transport.free()).await.unwrap();
    let push = Push::new();
    push.connect(endpoint).unwrap();
    let sending = tokio::spawn(async move {
        for n in 0..2000u32 {
            push.send(n.to_be_bytes()).await.unwrap();
            if n % 10 == 0 {
                tokio::task::yield_now().await;
            }
        }
        push
    });
    let mut next = 0u32;
    while next < 2000 {
        if let Ok(message) = tokio::time::timeout(Duration::from_micros(50), pull.recv()).await {
            assert_eq!(message.unwrap().frame(0), Some(&next.to_be_bytes()[..]));
            next += 1;
        }
    }
    sending.await.unwrap();
}

/// `close` returns when everything is written, and the receiver gets all of it, however late it looks.
async fn linger_delivers(transport: Transport) {
    let pull = Pull::with_options(Options::new().receive_hwm(100));
    let endpoint = pull.bind(transport.free()).await.unwrap();
    let push = Push::new();
    push.connect(endpoint).unwrap();
    for n in 0..30_000u32 {
        push.send(n.to_be_bytes()).await.unwrap();
    }
    let closing = tokio::spawn(async move { push.close().await });
    for n in 0..30_000u32 {
        assert_eq!(pull.recv().await.unwrap().frame(0), Some(&n.to_be_bytes()[..]));
    }
    closing.await.unwrap();
}

/// The same when the last handle is dropped, and when the peer comes only then.
async fn linger_in_the_background(transport: Transport) {
    let endpoint = transport.free();
    let push = Push::with_options(quick());
    push.connect(&endpoint).unwrap();
    for n in 0..1000u32 {
        push.send(n.to_be_bytes()).await.unwrap();
    }
    drop(push);
    let pull = Pull::new();
    pull.bind(endpoint).await.unwrap();
    for n in 0..1000u32 {
        assert_eq!(pull.recv().await.unwrap().frame(0), Some(&n.to_be_bytes()[..]));
    }
}

/// Linger is an upper bound.
async fn linger_ends(transport: Transport) {
    for (linger, least) in
        [(Duration::ZERO, Duration::ZERO), (Duration::from_millis(200), Duration::from_millis(190))]
    {
        let push = Push::with_options(quick().linger(Some(linger)));
        push.connect(transport.free()).unwrap();
        push.send("to nobody").await.unwrap();
        let began = Instant::now();
        push.close().await;
        assert!(began.elapsed() >= least && began.elapsed() < Duration::from_secs(5));
        assert_eq!(push.send("late").await, Err(SendError::Closed));
    }
    // Connected, but the peer takes nothing.
    let pull = Pull::with_options(quick().receive_hwm(1));
    let endpoint = pull.bind(transport.free()).await.unwrap();
    let push = Push::with_options(quick().linger(Some(Duration::from_millis(200))));
    push.connect(endpoint).unwrap();
    for _ in 0..100 {
        push.send(vec![0; 100_000]).await.unwrap();
    }
    let began = Instant::now();
    push.close().await;
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// What a socket has received it can still receive after it was closed; then it says so, to everyone who waits.
async fn receive_after_close(transport: Transport) {
    let pull = Pull::new();
    let endpoint = pull.bind(transport.free()).await.unwrap();
    let push = Push::new();
    push.connect(endpoint).unwrap();
    push.send("1").await.unwrap();
    push.send("2").await.unwrap();
    assert_eq!(pull.recv().await.unwrap(), "1".into());
    let mut waiting = Vec::new();
    assert_eq!(pull.recv().await.unwrap(), "2".into());
    for _ in 0..3 {
        let pull = pull.clone();
        waiting.push(tokio::spawn(async move { pull.recv().await }));
    }
    tokio::task::yield_now().await;
    pull.close().await;
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), Err(RecvError::Closed));
    }
    assert_eq!(pull.recv().await, Err(RecvError::Closed));
    assert!(matches!(pull.bind(transport.free()).await, Err(BindError::Closed)));
    assert!(matches!(pull.connect(transport.free()), Err(ConnectError::Closed)));
}

async fn too_large(transport: Transport) {
    let pull = Pull::with_options(Options::new().max_message(1000));
    let endpoint = pull.bind(transport.free()).await.unwrap();
    let push = Push::with_options(quick().max_message(1000));
    push.connect(&endpoint).unwrap();
    push.send(vec![0; 1000]).await.unwrap();
    assert_eq!(pull.recv().await.unwrap().size(), 1000);
    let error = push.send([vec![0; 500], vec![0; 501]]).await.unwrap_err();
    assert_eq!(error, SendError::TooLarge { size: 1001, max: 1000 });
    // A peer that sends it all the same is disconnected.
    let other = Push::with_options(quick());
    let mut seen = pull.monitor();
    other.connect(&endpoint).unwrap();
    other.send(vec![0; 1001]).await.unwrap();
    awaits!(seen, Event::Disconnected { reason, .. } if reason.contains("at most 1000"));
    push.send("still served").await.unwrap();
    assert_eq!(pull.recv().await.unwrap(), "still served".into());
}

on_every_transport!(
    mark_before_a_connection,
    recv_is_cancel_safe,
    mark_in_bytes,
    backpressure,
    slow_is_not_dead,
    fair,
    round_robin,
    many_receivers,
    linger_delivers,
    linger_in_the_background,
    linger_ends,
    receive_after_close,
    too_large,
);
