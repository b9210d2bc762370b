//! The `zeromq` crate.

use zeromq::{
    DealerSocket, PullSocket, PushSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage,
};

use super::{PLAIN, System};
use crate::Result;
use crate::work::{Clock, Counter, Kind, Work, here};

pub const SYSTEM: System = System { name: "zeromq", kinds: PLAIN, size: None, helper: None, stay, come };

fn stay(work: &Work) -> Result<()> {
    let work = *work;
    super::runtime(&work)?.block_on(async move { tokio::spawn(listen(work)).await? })
}

async fn listen(work: Work) -> Result<()> {
    if work.kind == Kind::OneWay {
        let (mut pull, mut counter) = (PullSocket::new(), Counter::new(&work));
        here(pull.bind("tcp://127.0.0.1:0").await?);
        loop {
            pull.recv().await?;
            if counter.add(1)? {
                return Ok(());
            }
        }
    }
    let mut router = RouterSocket::new();
    here(router.bind("tcp://127.0.0.1:0").await?);
    loop {
        let message = router.recv().await?;
        router.send(message).await?;
    }
}

fn come(work: &Work, endpoint: &str) -> Result<()> {
    let (work, endpoint) = (*work, endpoint.to_owned());
    super::runtime(&work)?.block_on(async move { tokio::spawn(go(work, endpoint)).await? })
}

async fn go(work: Work, endpoint: String) -> Result<()> {
    let message = bytes::Bytes::from(work.message());
    if work.kind == Kind::OneWay {
        let mut push = PushSocket::new();
        push.connect(&endpoint).await?;
        for _ in 0..work.count {
            push.send(ZmqMessage::from(message.clone())).await?;
        }
        // It has no linger: what is still queued would be lost.
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        return Ok(());
    }
    let mut dealer = DealerSocket::new();
    dealer.connect(&endpoint).await?;
    let mut clock = Clock::new(&work);
    for _ in 1..work.window() {
        dealer.send(ZmqMessage::from(message.clone())).await?;
    }
    for _ in work.window()..=work.count {
        clock.asks();
        dealer.send(ZmqMessage::from(message.clone())).await?;
        dealer.recv().await?;
        clock.answered();
    }
    clock.end(&work)
}
