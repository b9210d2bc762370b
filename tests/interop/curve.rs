//! CURVE with libzmq: keys that are right, wrong and unknown, a ZAP handler, and boxes of another making.

use ripstop::socket::{ConnectOptions, Dealer, Event, Options, Pull, Push, Router, curve_keys};
use ripstop::zmtp::curve::KeyPair;
use serde_json::{Value, json};

use crate::ours::{message, until};
use crate::peer::{Peer, count, soon};

/// Keys for both sides: what our socket has to know, and in `theirs` what pyzmq has to.
pub(crate) fn protect(options: Options, theirs: &mut Value, we_bind: bool) -> (Options, ConnectOptions) {
    let (server, client) = (curve_keys().unwrap(), curve_keys().unwrap());
    if we_bind {
        theirs["curve"] = dialling(&server, &client);
        return (options.curve_server(server.secret().clone()), ConnectOptions::new());
    }
    theirs["curve"] = json!({"server": server.secret().expose_z85()});
    (options, ConnectOptions::new().curve(server.public(), client))
}

fn dialling(server: &KeyPair, client: &KeyPair) -> Value {
    json!({
        "to": server.public().to_string(),
        "public": client.public().to_string(),
        "secret": client.secret().expose_z85(),
    })
}

fn pair() -> (KeyPair, KeyPair) {
    (curve_keys().unwrap(), curve_keys().unwrap())
}

/// A ZAP handler of libzmq lets the key in that it knows, and no other; we learn that it is final.
#[tokio::test(flavor = "multi_thread")]
async fn a_zap_handler_decides() {
    let (server, client) = pair();
    let setup = json!({"curve": {
        "server": server.secret().expose_z85(),
        "allow": [client.public().to_string()],
    }});
    let Some(mut peer) = Peer::bound("PULL", "tcp://127.0.0.1:*", setup).await else { return };
    let push = Push::new();
    push.connect_with(&peer.url[..], ConnectOptions::new().curve(server.public(), client)).unwrap();
    for n in 0..100 {
        push.send(message(n, &[])).await.unwrap();
    }
    peer.run("receive", count(100)).await;

    let stranger = Push::new();
    let mut seen = stranger.monitor();
    let options = ConnectOptions::new().curve(server.public(), curve_keys().unwrap());
    stranger.connect_with(&peer.url[..], options).unwrap();
    until(&mut seen, |event| matches!(event, Event::GaveUp { reason, .. } if reason.contains("400"))).await;
    push.send("t0").await.unwrap();
    assert_eq!(peer.ask("get", json!({})).await, "7430");
    peer.end().await;
}

/// libzmq as a client: the known key comes in, an unknown one is refused for good, and a wrong server key gets nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_clients_and_wrong_servers() {
    let (server, client) = pair();
    let options = Options::new().curve_server(server.secret().clone()).curve_clients([client.public()]);
    let router = Router::with_options(options);
    let mut seen = router.monitor();
    let url = router.bind("tcp://127.0.0.1:0").await.unwrap().to_string();

    let setup = json!({"curve": dialling(&server, &curve_keys().unwrap())});
    let Some(stranger) = Peer::connected("DEALER", &url, setup).await else { return };
    until(
        &mut seen,
        |event| matches!(event, Event::HandshakeFailed { reason, .. } if reason.contains("not allowed")),
    )
    .await;

    let setup = json!({"curve": dialling(&curve_keys().unwrap(), &client)});
    let Some(misled) = Peer::connected("DEALER", &url, setup).await else { return };
    until(
        &mut seen,
        |event| matches!(event, Event::HandshakeFailed { reason, .. } if reason.contains("HELLO")),
    )
    .await;

    misled.kill().await;
    // libzmq sees in our greeting that this is not for it, and leaves; or we see it in its greeting first.
    let Some(plain) = Peer::connected("DEALER", &url, json!({})).await else { return };
    until(&mut seen, |event| {
        let refused =
            |reason: &str| reason.contains("NULL") || reason.contains("closed the connection during");
        matches!(event, Event::HandshakeFailed { reason, .. } if refused(reason))
    })
    .await;

    // A good client is served all the same.
    let setup = json!({"curve": dialling(&server, &client)});
    let Some(mut good) = Peer::connected("DEALER", &url, setup).await else { return };
    good.tell("ask", json!({"count": 300, "window": 8})).await;
    for _ in 0..300 {
        router.send(soon("a request", router.recv()).await.unwrap()).await.unwrap();
    }
    assert_eq!(good.answer().await, "done");
    good.end().await;
    for peer in [stranger, plain] {
        peer.kill().await;
    }
}

/// Ours with a wrong server key, and ours without any, get nothing across to libzmq.
#[tokio::test(flavor = "multi_thread")]
async fn our_own_wrong_keys() {
    let (server, client) = pair();
    let setup = json!({"curve": {"server": server.secret().expose_z85()}});
    let Some(mut peer) = Peer::bound("ROUTER", "tcp://127.0.0.1:*", setup).await else { return };
    let (misled, plain, good) = (Dealer::new(), Dealer::new(), Dealer::new());
    let (mut misled_seen, mut plain_seen) = (misled.monitor(), plain.monitor());
    let wrong = ConnectOptions::new().curve(client.public(), client.clone());
    misled.connect_with(&peer.url[..], wrong).unwrap();
    plain.connect(&peer.url[..]).unwrap();
    misled.send("secret").await.unwrap();
    plain.send("secret").await.unwrap();
    until(&mut misled_seen, |event| matches!(event, Event::HandshakeFailed { .. })).await;
    until(&mut plain_seen, |event| matches!(event, Event::HandshakeFailed { .. })).await;
    good.connect_with(&peer.url[..], ConnectOptions::new().curve(server.public(), client)).unwrap();
    good.send("good").await.unwrap();
    let got = peer.ask("get", json!({})).await;
    assert!(got.ends_with("676f6f64"), "{got}");
    peer.end().await;
}

/// One socket, two servers with keys of their own, and a listener beside.
#[tokio::test(flavor = "multi_thread")]
async fn keys_per_connect() {
    let (one, two) = pair();
    let (own, client) = pair();
    let setup = |keys: &KeyPair| json!({"plain": 1, "curve": {"server": keys.secret().expose_z85()}});
    let Some(first) = Peer::bound("PUSH", "tcp://127.0.0.1:*", setup(&one)).await else { return };
    let Some(second) = Peer::bound("PUSH", "tcp://127.0.0.1:*", setup(&two)).await else { return };
    let pull = Pull::with_options(Options::new().curve_server(own.secret().clone()));
    for (peer, keys) in [(&first, &one), (&second, &two)] {
        pull.connect_with(&peer.url[..], ConnectOptions::new().curve(keys.public(), client.clone())).unwrap();
    }
    let url = pull.bind("tcp://127.0.0.1:0").await.unwrap().to_string();
    let dialling = json!({"plain": 1, "curve": dialling(&own, &client)});
    let Some(third) = Peer::connected("PUSH", &url, dialling).await else { return };
    let mut peers = [first, second, third];
    for peer in &mut peers {
        peer.run("send", count(50)).await;
    }
    for _ in 0..150 {
        soon("a message", pull.recv()).await.unwrap();
    }
    for peer in peers {
        peer.end().await;
    }
}
