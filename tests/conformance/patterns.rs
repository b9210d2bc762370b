//! Every pair of socket types that can talk, with either side binding, connected before or after the bind.

use ripstop::Message;
use ripstop::socket::*;

use crate::{
    Transport,
    common::{awaits, quick},
    on_every_transport,
};

/// Binds one and connects the other, in each of the three orders, and lets `talk` have them.
macro_rules! each_way {
    ($transport:ident, $a:ident, $b:ident, $talk:expr) => {
        for order in 0..4 {
            let (a, b) = ($a::with_options(quick().identity("a")), $b::with_options(quick().identity("b")));
            let (mut seen_a, mut seen_b) = (a.monitor(), b.monitor());
            let endpoint = $transport.free();
            match order {
                0 => {
                    let endpoint = a.bind(endpoint).await.unwrap();
                    b.connect(endpoint).unwrap();
                }
                1 => {
                    let endpoint = b.bind(endpoint).await.unwrap();
                    a.connect(endpoint).unwrap();
                }
                2 => {
                    b.connect(&endpoint).unwrap();
                    awaits!(seen_b, Event::Retrying { .. });
                    a.bind(endpoint).await.unwrap();
                }
                _ => {
                    a.connect(&endpoint).unwrap();
                    awaits!(seen_a, Event::Retrying { .. });
                    b.bind(endpoint).await.unwrap();
                }
            }
            awaits!(seen_a, Event::Connected { .. } | Event::Accepted { .. });
            awaits!(seen_b, Event::Connected { .. } | Event::Accepted { .. });
            #[allow(clippy::redundant_closure_call)]
            ($talk)(a.clone(), b.clone(), seen_a).await;
            a.close().await;
            b.close().await;
        }
    };
}

fn frames<const N: usize>(frames: [&str; N]) -> Message {
    Message::from_frames(frames)
}

async fn req_rep(transport: Transport) {
    each_way!(transport, Req, Rep, async |req: Req, rep: Rep, _| {
        for n in 0..100 {
            req.send(["ask", &n.to_string()]).await.unwrap();
            let ask = rep.recv().await.unwrap();
            assert_eq!(ask, frames(["ask", &n.to_string()]));
            rep.send(&ask).await.unwrap();
            assert_eq!(req.recv().await.unwrap(), ask);
        }
    });
}

async fn req_router(transport: Transport) {
    each_way!(transport, Req, Router, async |req: Req, router: Router, _| {
        req.send("ask").await.unwrap();
        let ask = router.recv().await.unwrap();
        assert_eq!((ask.frame(0), ask.len()), (Some(&b"a"[..]), 4));
        let envelope: Vec<&[u8]> = ask.frames().take(3).chain([&b"answer"[..]]).collect();
        router.send(envelope).await.unwrap();
        assert_eq!(req.recv().await.unwrap(), "answer".into());
    });
}

async fn dealer_rep(transport: Transport) {
    each_way!(transport, Dealer, Rep, async |dealer: Dealer, rep: Rep, _| {
        for envelope in [vec![], vec!["x"], vec!["x", "y"]] {
            let ask: Vec<&str> = envelope.iter().copied().chain(["", "ask", ""]).collect();
            dealer.send(&ask).await.unwrap();
            assert_eq!(rep.recv().await.unwrap(), frames(["ask", ""]));
            rep.send("answer").await.unwrap();
            let expected: Vec<&str> = envelope.iter().copied().chain(["", "answer"]).collect();
            assert_eq!(dealer.recv().await.unwrap(), Message::from_frames(expected));
        }
    });
}

async fn dealer_router(transport: Transport) {
    each_way!(transport, Dealer, Router, async |dealer: Dealer, router: Router, _| {
        dealer.send(["ask", ""]).await.unwrap();
        assert_eq!(router.recv().await.unwrap(), frames(["a", "ask", ""]));
        router.send(["a", "answer", "2"]).await.unwrap();
        assert_eq!(dealer.recv().await.unwrap(), frames(["answer", "2"]));
    });
}

async fn dealer_dealer(transport: Transport) {
    each_way!(transport, Dealer, Dealer, async |a: Dealer, b: Dealer, _| {
        a.send("ping").await.unwrap();
        assert_eq!(b.recv().await.unwrap(), "ping".into());
        b.send("pong").await.unwrap();
        assert_eq!(a.recv().await.unwrap(), "pong".into());
    });
}

async fn router_router(transport: Transport) {
    each_way!(transport, Router, Router, async |a: Router, b: Router, _| {
        a.send(["b", "ping"]).await.unwrap();
        assert_eq!(b.recv().await.unwrap(), frames(["a", "ping"]));
        b.send_to(b"a", "pong").await.unwrap();
        assert_eq!(a.recv_from().await.unwrap(), ("b".into(), "pong".into()));
    });
}

async fn pub_sub(transport: Transport) {
    each_way!(transport, Pub, Sub, async |publisher: Pub, subscriber: Sub, mut seen| {
        subscriber.subscribe("b");
        subscriber.subscribe("a.");
        awaits!(seen, Event::Subscribed { prefix, .. } if prefix == "a.");
        publisher.send("a").await.unwrap();
        publisher.send(["a.1", "body"]).await.unwrap();
        assert_eq!(subscriber.recv().await.unwrap(), frames(["a.1", "body"]));
        subscriber.unsubscribe("a.");
        awaits!(seen, Event::Unsubscribed { .. });
        publisher.send("a.2").await.unwrap();
        publisher.send("b").await.unwrap();
        assert_eq!(subscriber.recv().await.unwrap(), "b".into());
    });
}

async fn pub_xsub(transport: Transport) {
    each_way!(transport, Pub, XSub, async |publisher: Pub, subscriber: XSub, mut seen| {
        subscriber.send("\x01a").await.unwrap();
        awaits!(seen, Event::Subscribed { .. });
        publisher.send("b").await.unwrap();
        publisher.send("ab").await.unwrap();
        assert_eq!(subscriber.recv().await.unwrap(), "ab".into());
    });
}

async fn xpub_sub(transport: Transport) {
    each_way!(transport, XPub, Sub, async |publisher: XPub, subscriber: Sub, _| {
        subscriber.subscribe("a");
        assert_eq!(publisher.recv().await.unwrap(), "\x01a".into());
        publisher.send("ab").await.unwrap();
        assert_eq!(subscriber.recv().await.unwrap(), "ab".into());
        subscriber.unsubscribe("a");
        assert_eq!(publisher.recv().await.unwrap(), "\x00a".into());
    });
}

async fn xpub_xsub(transport: Transport) {
    each_way!(transport, XPub, XSub, async |publisher: XPub, subscriber: XSub, _| {
        subscriber.send("\x01").await.unwrap();
        assert_eq!(publisher.recv().await.unwrap(), "\x01".into());
        subscriber.send(["up", "stream"]).await.unwrap();
        assert_eq!(publisher.recv().await.unwrap(), frames(["up", "stream"]));
        publisher.send("down").await.unwrap();
        assert_eq!(subscriber.recv().await.unwrap(), "down".into());
    });
}

async fn push_pull(transport: Transport) {
    each_way!(transport, Push, Pull, async |push: Push, pull: Pull, _| {
        let sender = tokio::spawn(async move {
            for n in 0..20_000u32 {
                push.send(n.to_be_bytes()).await.unwrap();
            }
        });
        for n in 0..10_000u32 {
            assert_eq!(pull.recv().await.unwrap().frame(0), Some(&n.to_be_bytes()[..]));
        }
        let mut batch = Vec::new();
        while batch.len() < 10_000 {
            pull.recv_many(&mut batch, 777).await.unwrap();
        }
        let last = batch.last().and_then(|m| m.frame_bytes(0));
        assert_eq!(last.as_deref(), Some(&19_999u32.to_be_bytes()[..]));
        sender.await.unwrap();
    });
}

async fn pair_pair(transport: Transport) {
    each_way!(transport, Pair, Pair, async |a: Pair, b: Pair, _| {
        a.send("ping").await.unwrap();
        assert_eq!(b.recv().await.unwrap(), "ping".into());
        b.send("pong").await.unwrap();
        assert_eq!(a.recv().await.unwrap(), "pong".into());
    });
}

/// Frames of all sizes, around each border: one-byte lengths, referenced frames, chunks, reads.
async fn sizes(transport: Transport) {
    each_way!(transport, Push, Pull, async |push: Push, pull: Pull, _| {
        let sizes = [0, 1, 255, 256, 16_384, 16_385, 65_535, 131_072, 1_000_000, 15 << 20];
        for size in sizes {
            let large = bytes::Bytes::from((0..size).map(|i| (i * 7 % 251) as u8).collect::<Vec<u8>>());
            push.send([&large[..]]).await.unwrap();
            push.send(&large).await.unwrap();
            push.send([large.slice(..size / 3), "small".into(), large.slice(size / 2..)]).await.unwrap();
            assert_eq!(pull.recv().await.unwrap(), large.clone().into());
            let again = pull.recv().await.unwrap();
            assert_eq!(again, large.clone().into());
            let three = pull.recv().await.unwrap();
            assert_eq!(three.len(), 3);
            assert_eq!(three.frame(0), Some(&large[..size / 3]));
            assert_eq!(three.frame(2), Some(&large[size / 2..]));
            // What was received can be sent on, whole.
            push.send(&three).await.unwrap();
            assert_eq!(pull.recv().await.unwrap(), three);
        }
    });
}

on_every_transport!(
    req_rep,
    req_router,
    dealer_rep,
    dealer_router,
    dealer_dealer,
    router_router,
    pub_sub,
    pub_xsub,
    xpub_sub,
    xpub_xsub,
    push_pull,
    pair_pair,
    sizes,
);
