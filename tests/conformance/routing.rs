//! ROUTER: who is who.

use ripstop::Message;
use ripstop::socket::*;

use crate::{
    Transport,
    common::{awaits, quick},
    on_every_transport,
};

async fn unroutable(transport: Transport) {
    let router = Router::new();
    router.bind(transport.free()).await.unwrap();
    assert_eq!(router.send(["x", "y"]).await, Err(SendError::Unroutable("x".into())));
    let lax = Router::with_options(Options::new().router_mandatory(false));
    lax.send(["x", "y"]).await.unwrap();
}

/// Made-up ids are five bytes that begin with zero, and lead back.
async fn made_up_ids(transport: Transport) {
    let router = Router::new();
    let endpoint = router.bind(transport.free()).await.unwrap();
    let dealers: Vec<Dealer> = (0..3).map(|_| Dealer::new()).collect();
    for (n, dealer) in dealers.iter().enumerate() {
        dealer.connect(&endpoint).unwrap();
        dealer.send(n.to_string()).await.unwrap();
    }
    for _ in 0..3 {
        let (from, message) = router.recv_from().await.unwrap();
        assert_eq!((from.len(), from[0]), (5, 0));
        router.send_to(&from, &message).await.unwrap();
    }
    for (n, dealer) in dealers.iter().enumerate() {
        assert_eq!(dealer.recv().await.unwrap(), n.to_string().into());
    }
}

/// Two peers with one identity both live; the second can be reached by it when the first has gone.
async fn same_identity(transport: Transport) {
    let router = Router::new();
    let mut seen = router.monitor();
    let endpoint = router.bind(transport.free()).await.unwrap();
    let twin = || Dealer::with_options(quick().identity("twin"));
    let (first, second) = (twin(), twin());
    first.connect(&endpoint).unwrap();
    awaits!(seen, Event::Accepted { .. });
    second.connect(&endpoint).unwrap();
    awaits!(seen, Event::Accepted { .. });
    second.send("second").await.unwrap();
    let (label, _) = router.recv_from().await.unwrap();
    assert_eq!((label.len(), label[0]), (5, 0));
    first.send("first").await.unwrap();
    assert_eq!(router.recv().await.unwrap(), Message::from_frames(["twin", "first"]));
    router.send(["twin", "to the first"]).await.unwrap();
    assert_eq!(first.recv().await.unwrap(), "to the first".into());
    router.send_to(&label, "to the second").await.unwrap();
    assert_eq!(second.recv().await.unwrap(), "to the second".into());
    first.close().await;
    awaits!(seen, Event::Disconnected { .. });
    router.send(["twin", "now the second"]).await.unwrap();
    assert_eq!(second.recv().await.unwrap(), "now the second".into());
    router.send_to(&label, "still").await.unwrap();
    assert_eq!(second.recv().await.unwrap(), "still".into());
}

/// A full peer makes only those wait who send to it.
async fn one_full_peer(transport: Transport) {
    let router = Router::with_options(Options::new().send_hwm(2));
    let mut seen = router.monitor();
    let endpoint = router.bind(transport.free()).await.unwrap();
    let stuck = Dealer::with_options(Options::new().identity("stuck").receive_hwm(1));
    stuck.connect(&endpoint).unwrap();
    awaits!(seen, Event::Accepted { .. });
    let good = Dealer::with_options(Options::new().identity("good"));
    good.connect(&endpoint).unwrap();
    awaits!(seen, Event::Accepted { .. });
    let large = vec![0; 1 << 20];
    let mut sent = 0;
    let mut refused = 0;
    // Until it stays full while others are served.
    while refused < 20 {
        match router.try_send([&b"stuck"[..], &large]) {
            Ok(()) => (sent, refused) = (sent + 1, 0),
            Err(error) => {
                assert_eq!(error, SendError::Full);
                refused += 1;
            }
        }
        router.send(["good", "x"]).await.unwrap();
        good.recv().await.unwrap();
    }
    for _ in 0..sent {
        assert_eq!(stuck.recv().await.unwrap().size(), 1 << 20);
    }
    router.send(["stuck", "free"]).await.unwrap();
    assert_eq!(stuck.recv().await.unwrap(), "free".into());
}

on_every_transport!(unroutable, made_up_ids, same_identity, one_full_peer);
