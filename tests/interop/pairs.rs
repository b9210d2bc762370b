//! Every socket pair: either side ours, either side binding, thousands of messages in order and none lost.

use ripstop::socket::{ConnectOptions, Event, Options};
use serde_json::json;

use crate::ours::{Ours, until};
use crate::peer::{Peer, count};

const MANY: usize = 3000;

/// Either side can be ours, and either can bind.
const CASES: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];

/// What protects a connection.
#[derive(Clone, Copy, PartialEq)]
enum How {
    Null,
    #[cfg(feature = "curve")]
    Curve,
}

/// Our socket and theirs, connected (or about to be).
async fn meet(
    how: How,
    ours: &str,
    options: Options,
    theirs: &str,
    mut more: serde_json::Value,
    we_bind: bool,
) -> Option<(Ours, Peer)> {
    let (mut options, mut connect) = (options, ConnectOptions::new());
    #[cfg(feature = "curve")]
    if how == How::Curve {
        (options, connect) = crate::curve::protect(options, &mut more, we_bind);
    }
    let _ = (how, &mut options, &mut connect, &mut more); // without the feature
    let ours = Ours::new(ours, options);
    if matches!(ours, Ours::Sub(_) | Ours::XSub(_)) {
        ours.subscribe("t").await;
        ours.subscribe("probe").await;
    }
    if we_bind {
        let url = ours.bind("tcp://127.0.0.1:0").await.to_string();
        return Some((ours, Peer::connected(theirs, &url, more).await?));
    }
    let peer = Peer::bound(theirs, "tcp://127.0.0.1:*", more).await?;
    ours.connect_with(&peer.url, connect);
    Some((ours, peer))
}

/// Requests from one side, echoes from the other.
async fn there_and_back(how: How, asker: &str, answerer: &str, prefix: &[&str], window: usize) {
    for (we_ask, we_bind) in CASES {
        let (our_kind, their_kind) = if we_ask { (asker, answerer) } else { (answerer, asker) };
        // Two routers know each other by name; nobody else needs one.
        let routers = asker == "ROUTER";
        let (mut options, mut more) = (Options::new(), json!({}));
        if routers {
            let (our_name, their_name) = if we_ask { ("asker", "answerer") } else { ("answerer", "asker") };
            options = options.identity(our_name);
            more = json!({"options": {"IDENTITY": their_name, "ROUTER_MANDATORY": 1}});
        }
        let Some((ours, mut peer)) = meet(how, our_kind, options, their_kind, more, we_bind).await else {
            return;
        };
        if we_ask {
            peer.tell("echo", count(MANY)).await;
            ours.ask_all(MANY, prefix, window).await;
        } else {
            peer.tell("ask", json!({"count": MANY, "prefix": prefix, "window": window})).await;
            ours.echo(MANY).await;
        }
        assert_eq!(peer.answer().await, "done");
        peer.end().await;
        ours.close().await;
    }
}

/// All in one direction.
async fn one_way(how: How, sender: &str, receiver: &str) {
    for (we_send, we_bind) in CASES {
        let (our_kind, their_kind) = if we_send { (sender, receiver) } else { (receiver, sender) };
        let more = match their_kind {
            "SUB" | "XSUB" => json!({"subscribe": ["t"]}),
            // Else it drops what we are too slow for.
            "PUB" | "XPUB" => json!({"options": {"SNDHWM": 0}}),
            _ => json!({}),
        };
        let ours = meet(how, our_kind, Options::new(), their_kind, more, we_bind).await;
        let Some((ours, mut peer)) = ours else { return };
        if we_send {
            // First of all: a bound libzmq socket sees its peers only while its program calls it.
            peer.tell("receive", count(MANY)).await;
            // What is published before somebody listens is lost, as it should be.
            match &ours {
                Ours::XPub(_) => assert_eq!(ours.recv().await, "\x01t".into()),
                Ours::Pub(publisher) => {
                    let mut monitor = publisher.monitor();
                    if publisher.subscriptions() == 0 {
                        until(&mut monitor, |event| matches!(event, Event::Subscribed { .. })).await;
                    }
                }
                _ => {}
            }
            ours.send_all(0..MANY, &[]).await;
            assert_eq!(peer.answer().await, "done");
        } else {
            if matches!(their_kind, "PUB" | "XPUB") {
                // A PUB tells nobody when its subscribers have come.
                peer.tell("probe", json!({})).await;
                assert_eq!(ours.recv().await.frame(0), Some(&b"probe"[..]));
            }
            peer.tell("send", count(MANY)).await;
            ours.receive_all(0..MANY, &[]).await;
        }
        peer.end().await;
        ours.close().await;
    }
}

macro_rules! every_pair {
    ($how:expr) => {
        use super::{How, one_way, there_and_back};

        #[tokio::test(flavor = "multi_thread")]
        async fn req_rep() {
            there_and_back($how, "REQ", "REP", &[], 1).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn req_router() {
            there_and_back($how, "REQ", "ROUTER", &[], 1).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn dealer_rep() {
            there_and_back($how, "DEALER", "REP", &[""], 64).await;
            there_and_back($how, "DEALER", "REP", &["hop", "another", ""], 64).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn dealer_router() {
            there_and_back($how, "DEALER", "ROUTER", &[], 64).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn dealer_dealer() {
            there_and_back($how, "DEALER", "DEALER", &[], 64).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn router_router() {
            there_and_back($how, "ROUTER", "ROUTER", &["answerer"], 64).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn pair_pair() {
            there_and_back($how, "PAIR", "PAIR", &[], 64).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn push_pull() {
            one_way($how, "PUSH", "PULL").await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn pub_sub() {
            one_way($how, "PUB", "SUB").await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn pub_xsub() {
            one_way($how, "PUB", "XSUB").await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn xpub_sub() {
            one_way($how, "XPUB", "SUB").await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn xpub_xsub() {
            one_way($how, "XPUB", "XSUB").await;
        }
    };
}

mod plain {
    every_pair!(How::Null);
}

#[cfg(feature = "curve")]
mod curve {
    every_pair!(How::Curve);
}
