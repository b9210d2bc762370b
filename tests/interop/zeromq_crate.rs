//! The `zeromq` crate, which speaks ZMTP 3.0: the pairs that it has, either side ours, either side binding.

use bytes::Bytes;
use ripstop::Message;
use ripstop::socket::Options;
use zeromq::{
    DealerSocket, PubSocket, PullSocket, PushSocket, RepSocket, ReqSocket, RouterSocket, Socket, SocketRecv,
    SocketSend, SubSocket, ZmqError, ZmqMessage,
};

use crate::ours::{Ours, message};
use crate::peer::soon;

const MANY: usize = 2000;

fn theirs(n: usize, prefix: &[&str]) -> ZmqMessage {
    let frames: Vec<_> = message(n, prefix).frames().map(Bytes::copy_from_slice).collect();
    frames.try_into().unwrap()
}

fn same(received: &ZmqMessage, n: usize, prefix: &[&str]) {
    let received = Message::from_frames(received.iter());
    assert!(received == message(n, prefix), "{n}: {:.200}", format!("{received:?}"));
}

/// Connects them, either side binding.
async fn meet<S: Socket>(ours: &Ours, we_bind: bool) -> S {
    let mut socket = S::new();
    if we_bind {
        socket.connect(&ours.bind("tcp://127.0.0.1:0").await.to_string()).await.unwrap();
    } else {
        ours.connect(&socket.bind("tcp://127.0.0.1:0").await.unwrap().to_string());
    }
    socket
}

/// Sends; while nobody has come yet, the crate gives the message back.
async fn put(socket: &mut impl SocketSend, mut message: ZmqMessage) {
    loop {
        match soon("their send", socket.send(message)).await {
            Ok(()) => return,
            Err(ZmqError::ReturnToSender { message: again, .. }) => message = again,
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

async fn get(socket: &mut impl SocketRecv) -> ZmqMessage {
    soon("their receive", socket.recv()).await.unwrap()
}

/// The socket is the caller's to drop: the crate does not linger.
async fn they_echo(socket: &mut (impl SocketSend + SocketRecv), count: usize) {
    for _ in 0..count {
        let message = get(socket).await;
        put(socket, message).await;
    }
}

async fn they_ask(socket: &mut (impl SocketSend + SocketRecv), prefix: &[&str], window: usize) {
    for n in 0..MANY + window - 1 {
        if n < MANY {
            put(socket, theirs(n, prefix)).await;
        }
        if n + 1 >= window {
            same(&get(socket).await, n + 1 - window, prefix);
        }
    }
}

async fn we_ask<S: Socket + SocketSend + SocketRecv>(kind: &str, prefix: &[&str], window: usize) {
    for we_bind in [true, false] {
        let ours = Ours::new(kind, Options::new());
        let mut socket = meet::<S>(&ours, we_bind).await;
        tokio::join!(they_echo(&mut socket, MANY), ours.ask_all(MANY, prefix, window));
    }
}

async fn we_echo<S: Socket + SocketSend + SocketRecv>(kind: &str, prefix: &[&str], window: usize) {
    for we_bind in [true, false] {
        let ours = Ours::new(kind, Options::new());
        let mut socket = meet::<S>(&ours, we_bind).await;
        tokio::join!(they_ask(&mut socket, prefix, window), ours.echo(MANY));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn req_rep() {
    we_ask::<RepSocket>("REQ", &[], 1).await;
    we_echo::<ReqSocket>("REP", &[], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn req_router() {
    we_ask::<RouterSocket>("REQ", &[], 1).await;
    we_echo::<ReqSocket>("ROUTER", &[], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dealer_rep() {
    we_ask::<RepSocket>("DEALER", &[""], 16).await;
    we_echo::<DealerSocket>("REP", &[""], 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dealer_router() {
    we_ask::<RouterSocket>("DEALER", &[], 16).await;
    we_echo::<DealerSocket>("ROUTER", &[], 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dealer_dealer() {
    we_ask::<DealerSocket>("DEALER", &[], 16).await;
    we_echo::<DealerSocket>("DEALER", &[], 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn push_pull() {
    for we_bind in [true, false] {
        let ours = Ours::new("PUSH", Options::new());
        let mut socket = meet::<PullSocket>(&ours, we_bind).await;
        let receive = async {
            for n in 0..MANY {
                same(&get(&mut socket).await, n, &[]);
            }
        };
        tokio::join!(receive, ours.send_all(0..MANY, &[]));

        let ours = Ours::new("PULL", Options::new());
        let mut socket = meet::<PushSocket>(&ours, we_bind).await;
        let send = async {
            for n in 0..MANY {
                put(&mut socket, theirs(n, &[])).await;
            }
        };
        tokio::join!(send, ours.receive_all(0..MANY, &[]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pub_sub() {
    for we_bind in [true, false] {
        let ours = Ours::new("XPUB", Options::new());
        let mut socket = meet::<SubSocket>(&ours, we_bind).await;
        // A 3.0 peer subscribes by a message of one frame.
        socket.subscribe("t").await.unwrap();
        assert_eq!(ours.recv().await, "\x01t".into());
        let receive = async {
            for n in 0..MANY {
                same(&get(&mut socket).await, n, &[]);
            }
        };
        tokio::join!(receive, ours.send_all(0..MANY, &[]));
        socket.unsubscribe("t").await.unwrap();
        assert_eq!(ours.recv().await, "\x00t".into());

        let ours = Ours::new("SUB", Options::new());
        ours.subscribe("t").await;
        ours.subscribe("probe").await;
        let mut socket = meet::<PubSocket>(&ours, we_bind).await;
        // Its PUB does not tell when a subscription has come.
        let mut heard = std::pin::pin!(ours.recv());
        loop {
            put(&mut socket, "probe".into()).await;
            if tokio::time::timeout(std::time::Duration::from_millis(5), &mut heard).await.is_ok() {
                break;
            }
        }
        for n in 0..MANY {
            // One by one: it drops what a subscriber is slow to take.
            put(&mut socket, theirs(n, &[])).await;
            ours.receive_all(n..n + 1, &[]).await;
        }
    }
}

/// Feature `zeromq`: a service written on the crate takes part with the typed envelope.
#[cfg(feature = "zeromq")]
mod envelope {
    use std::time::Duration;

    use ripstop::{Node, interop};

    use super::*;

    #[test]
    fn messages_both_ways() {
        for n in [0, 1, 3, 999] {
            let (ours, theirs) = (message(n, &[]), theirs(n, &[]));
            assert!(ZmqMessage::from(&ours).iter().eq(theirs.iter()));
            assert_eq!(Message::from(&theirs), ours);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_crate_service_takes_part() {
        let node = Node::builder("pricing").local(false).mdns(false).start().await.unwrap();
        node.serve("pricing.double", |n: u64, _| async move { Ok(n * 2) }).await.unwrap();
        let url = node.endpoints()[0].to_string();

        let mut calls = DealerSocket::new();
        calls.connect(&url).await.unwrap();
        for id in 0..100 {
            put(&mut calls, interop::request("pricing.double", id, Duration::from_secs(5), &id).unwrap())
                .await;
        }
        for _ in 0..100 {
            let answer = interop::answer::<u64>(&get(&mut calls).await).unwrap();
            assert_eq!(answer.result.unwrap(), answer.id * 2);
        }
        put(&mut calls, interop::request("pricing.nothing", 1, Duration::from_secs(5), &1u64).unwrap()).await;
        let error = interop::answer::<u64>(&get(&mut calls).await).unwrap().result.unwrap_err();
        assert_eq!(error.code, "RS0412");

        let mut asks = ReqSocket::new();
        asks.connect(&url).await.unwrap();
        put(&mut asks, interop::post("pricing.double", &4u64).unwrap()).await;
        assert_eq!(interop::answer::<u64>(&get(&mut asks).await).unwrap().result, Ok(8));

        let changes = node.publisher::<u64>("pricing.changed").await.unwrap();
        let mut events = SubSocket::new();
        events.connect(&url).await.unwrap();
        events.subscribe("pricing.").await.unwrap();
        changes.ready(1).await.unwrap();
        changes.publish(&275).await.unwrap();
        let event = interop::posted::<u64>(&get(&mut events).await).unwrap();
        assert_eq!(event, Some(("pricing.changed".into(), 275)));

        let mut mails = node.pull::<u64>("emails").await.unwrap();
        let mut push = PushSocket::new();
        push.connect(&url).await.unwrap();
        put(&mut push, interop::post("emails", &7u64).unwrap()).await;
        assert_eq!(soon("the work", mails.recv()).await.unwrap().unwrap().body, 7);
    }
}
