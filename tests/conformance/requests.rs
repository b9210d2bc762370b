//! REQ and REP, when all does not go well.

use std::time::Duration;

use ripstop::socket::*;

use crate::{
    Transport,
    common::{awaits, quick},
    on_every_transport,
};

/// A late reply is never taken for the current one.
async fn late_reply(transport: Transport) {
    let router = Router::new();
    let endpoint = router.bind(transport.free()).await.unwrap();
    let req = Req::new();
    req.connect(endpoint).unwrap();
    req.send("one").await.unwrap();
    let one = router.recv().await.unwrap();
    // Nobody answers in time.
    assert!(tokio::time::timeout(Duration::from_millis(20), req.recv()).await.is_err());
    req.send("two").await.unwrap();
    let two = router.recv().await.unwrap();
    router.send(&one).await.unwrap();
    router.send(&two).await.unwrap();
    assert_eq!(req.recv().await.unwrap(), "two".into());
    assert!(matches!(req.recv().await, Err(RecvError::State(_))));
}

async fn without_correlation(transport: Transport) {
    let router = Router::new();
    let endpoint = router.bind(transport.free()).await.unwrap();
    let req = Req::with_options(Options::new().req_correlate(false));
    req.connect(endpoint).unwrap();
    req.send("one").await.unwrap();
    let one = router.recv().await.unwrap();
    assert_eq!(one.len(), 3);
    router.send(&one).await.unwrap();
    assert_eq!(req.recv().await.unwrap(), "one".into());
}

/// A request that was handed to a connection which ended gets no answer, and says so; one that was still queued goes
/// out on the next connection.
async fn peer_lost(transport: Transport) {
    let endpoint = transport.free();
    let req = Req::with_options(quick());
    req.connect(&endpoint).unwrap();
    let router = Router::new();
    router.bind(&endpoint).await.unwrap();
    req.send("one").await.unwrap();
    router.recv().await.unwrap();
    let waiting = tokio::spawn({
        let req = req.clone();
        async move { req.recv().await }
    });
    tokio::task::yield_now().await;
    router.close().await;
    assert_eq!(waiting.await.unwrap(), Err(RecvError::PeerLost));
    let mut seen = req.monitor();
    awaits!(seen, Event::Retrying { .. });
    req.send("two").await.unwrap();
    let rep = Rep::new();
    rep.bind(&endpoint).await.unwrap();
    assert_eq!(rep.recv().await.unwrap(), "two".into());
    rep.send("answer").await.unwrap();
    assert_eq!(req.recv().await.unwrap(), "answer".into());
}

/// A peer that answers and leaves has answered, even if the answer is taken only after it left.
async fn answered_and_left(transport: Transport) {
    let rep = Rep::new();
    let endpoint = rep.bind(transport.free()).await.unwrap();
    let req = Req::with_options(quick());
    req.connect(&endpoint).unwrap();
    let mut seen = req.monitor();
    req.send("ask").await.unwrap();
    rep.recv().await.unwrap();
    rep.send("answer").await.unwrap();
    rep.close().await;
    awaits!(seen, Event::Disconnected { .. });
    assert_eq!(req.recv().await.unwrap(), "answer".into());
    assert!(matches!(req.recv().await, Err(RecvError::State(_))));
}

/// Requests of several peers, answered in the order they are taken, each to its asker; order of calls is checked.
async fn rep_keeps_order(transport: Transport) {
    let rep = Rep::new();
    let endpoint = rep.bind(transport.free()).await.unwrap();
    assert_eq!(rep.send("nobody asked").await, Err(SendError::State));
    let asks: Vec<_> = (0..5)
        .map(|n| {
            let req = Req::new();
            req.connect(&endpoint).unwrap();
            tokio::spawn(async move {
                for i in 0..50 {
                    let ask = format!("{n} {i}");
                    req.send(&ask).await.unwrap();
                    assert_eq!(req.recv().await.unwrap(), ask.into());
                }
            })
        })
        .collect();
    for _ in 0..250 {
        let ask = rep.recv().await.unwrap();
        assert!(matches!(rep.recv().await, Err(RecvError::State(_))));
        rep.send(&ask).await.unwrap();
        assert_eq!(rep.send("twice").await, Err(SendError::State));
    }
    for ask in asks {
        ask.await.unwrap();
    }
}

/// An asker that has gone does not stop the others; a request without an envelope is nobody's.
async fn rep_survives(transport: Transport) {
    let rep = Rep::new();
    let mut seen = rep.monitor();
    let endpoint = rep.bind(transport.free()).await.unwrap();
    let gone = Req::new();
    gone.connect(&endpoint).unwrap();
    gone.send("ask").await.unwrap();
    rep.recv().await.unwrap();
    gone.close().await;
    awaits!(seen, Event::Disconnected { .. });
    rep.send("to nobody").await.unwrap();
    let dealer = Dealer::new();
    dealer.connect(&endpoint).unwrap();
    dealer.send("no envelope").await.unwrap();
    dealer.send(["", "envelope"]).await.unwrap();
    assert_eq!(rep.recv().await.unwrap(), "envelope".into());
    rep.send("answer").await.unwrap();
    assert_eq!(dealer.recv().await.unwrap().frame(1), Some(&b"answer"[..]));
}

on_every_transport!(
    late_reply,
    without_correlation,
    peer_lost,
    answered_and_left,
    rep_keeps_order,
    rep_survives
);
