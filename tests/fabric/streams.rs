//! Replies that come one after the other.

use std::{
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ripstop::{
    HandlerError, Node,
    discovery::Memory,
    fabric::{CallError, Replies, ReplySink},
};
use tokio::sync::mpsc;

use crate::common::{soon, start};

/// Serves as many numbers as are asked for, and counts those that it has sent.
async fn counting(node: &Node) -> Arc<AtomicU64> {
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let serve = move |numbers: u64, _, replies: ReplySink<(u64, Vec<u8>)>| {
        let count = count.clone();
        async move {
            for n in 0..numbers {
                replies.send(&(n, vec![7; 1000])).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    };
    node.serve_stream("numbers.count", serve).await.unwrap();
    sent
}

type Numbers = Replies<(u64, Vec<u8>)>;

async fn ask(node: &Node, numbers: u64) -> Numbers {
    soon(node.call_stream("numbers.count", &numbers).into_future()).await.unwrap()
}

#[tokio::test]
async fn they_come_in_order_and_end() {
    let lan = Memory::new();
    let (numbers, shop) = (start(&lan, "numbers").await, start(&lan, "shop").await);
    counting(&numbers).await;
    let mut replies = ask(&shop, 2000).await;
    assert_eq!(replies.instance(), Some(numbers.id()));
    for n in 0..2000 {
        let (number, bytes) = soon(replies.recv()).await.unwrap().unwrap();
        assert_eq!((number, bytes.len()), (n, 1000));
    }
    assert!(soon(replies.recv()).await.is_none() && soon(replies.recv()).await.is_none());
    assert!(soon(ask(&shop, 0).await.recv()).await.is_none());
}

/// How far it got when it gets no further.
async fn stuck(sent: &AtomicU64) -> u64 {
    let mut before = u64::MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = sent.load(Ordering::Relaxed);
        if now > 0 && now == before {
            return now;
        }
        before = now;
    }
}

#[tokio::test]
async fn a_slow_reader_slows_its_own_writer_and_nothing_else() {
    let lan = Memory::new();
    let (numbers, shop) = (start(&lan, "numbers").await, start(&lan, "shop").await);
    let sent = counting(&numbers).await;
    numbers.serve("numbers.one", |(): (), _| async { Ok(1u64) }).await.unwrap();
    let mut slow = ask(&shop, 10_000).await;
    let ahead = stuck(&sent).await;
    assert!((100..400).contains(&ahead), "{ahead} of 1 KB went ahead of a reader that takes 256 KiB");
    // Over the same connection: calls, and another stream.
    assert_eq!(soon(shop.call::<_, u64>("numbers.one", &()).into_future()).await.unwrap(), 1);
    let mut other = ask(&shop, 1000).await;
    for n in 0..1000 {
        assert_eq!(soon(other.recv()).await.unwrap().unwrap().0, n);
    }
    for n in 0..10_000 {
        assert_eq!(soon(slow.recv()).await.unwrap().unwrap().0, n);
    }
    assert!(soon(slow.recv()).await.is_none());
}

#[tokio::test]
async fn a_reply_larger_than_the_window_comes_alone() {
    let lan = Memory::new();
    let (numbers, shop) = (start(&lan, "numbers").await, start(&lan, "shop").await);
    let serve = |(): (), _, replies: ReplySink<String>| async move {
        // Each of another size: whatever the reader has not granted yet, the next one fits.
        for length in [1 << 20, 10, 1 << 20, 10, 10, 900, 1 << 20] {
            replies.send(&"x".repeat(length)).await?;
        }
        Ok(())
    };
    numbers.serve_stream("numbers.large", serve).await.unwrap();
    let asked = shop.call_stream::<_, String>("numbers.large", &()).window(1000);
    let mut replies = soon(asked.into_future()).await.unwrap();
    for length in [1 << 20, 10, 1 << 20, 10, 10, 900, 1 << 20] {
        assert_eq!(soon(replies.recv()).await.unwrap().unwrap().len(), length);
    }
    assert!(soon(replies.recv()).await.is_none());
}

/// Tells when it is dropped.
struct Gone(mpsc::UnboundedSender<()>);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn a_reader_that_goes_and_a_deadline_that_passes_cancel_the_handler() {
    let lan = Memory::new();
    let (numbers, shop) = (start(&lan, "numbers").await, start(&lan, "shop").await);
    let (tell, mut told) = mpsc::unbounded_channel();
    let serve = move |(): (), _, replies: ReplySink<u64>| {
        let gone = Gone(tell.clone());
        async move {
            let _gone = gone;
            replies.send(&1).await?;
            std::future::pending().await
        }
    };
    numbers.serve_stream("numbers.one", serve).await.unwrap();
    let ask = || shop.call_stream::<_, u64>("numbers.one", &());
    let mut replies = soon(ask().into_future()).await.unwrap();
    assert_eq!(soon(replies.recv()).await.unwrap().unwrap(), 1);
    assert!(told.try_recv().is_err());
    drop(replies);
    soon(told.recv()).await.unwrap();

    let mut replies = soon(ask().timeout(Duration::from_millis(300)).into_future()).await.unwrap();
    assert_eq!(soon(replies.recv()).await.unwrap().unwrap(), 1);
    let error = soon(replies.recv()).await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Deadline { .. }), "{error}");
    assert!(soon(replies.recv()).await.is_none());
    soon(told.recv()).await.unwrap();
}

#[tokio::test]
async fn errors_come_behind_the_replies_before_them() {
    let lan = Memory::new();
    let (numbers, shop) = (start(&lan, "numbers").await, start(&lan, "shop").await);
    let serve = |how: String, _, replies: ReplySink<u64>| async move {
        replies.send(&1).await?;
        match how.as_str() {
            "panic" => panic!("a bug"),
            _ => Err(HandlerError::new("no more").with_code("E_END")),
        }
    };
    numbers.serve_stream("numbers.fail", serve).await.unwrap();
    for how in ["panic", "fail"] {
        let mut replies = soon(shop.call_stream::<_, u64>("numbers.fail", how).into_future()).await.unwrap();
        assert_eq!(soon(replies.recv()).await.unwrap().unwrap(), 1);
        let error = soon(replies.recv()).await.unwrap().unwrap_err();
        let CallError::Handler { message, code, .. } = error else { panic!("{error}") };
        match how {
            "panic" => assert!(message.contains("a bug"), "{message}"),
            _ => assert_eq!((message.as_str(), code.as_deref()), ("no more", Some("E_END"))),
        }
        assert!(soon(replies.recv()).await.is_none());
    }
    // One that is not what it should be, and nobody there.
    let mut texts = soon(shop.call_stream::<_, String>("numbers.fail", "fail").into_future()).await.unwrap();
    assert!(matches!(soon(texts.recv()).await, Some(Err(CallError::Decode { .. }))));
    assert!(matches!(soon(texts.recv()).await, Some(Err(CallError::Handler { .. }))));
    let asked = shop.call_stream::<_, u64>("numbres.fail", &()).timeout(Duration::from_secs(30));
    let error = soon(asked.into_future()).await.unwrap_err();
    assert!(matches!(error, CallError::NoSuchService { .. }), "{error}");
}

#[tokio::test]
async fn one_that_is_asked_the_other_way_says_so_or_gives_what_it_has() {
    let lan = Memory::new();
    let (numbers, shop) = (start(&lan, "numbers").await, start(&lan, "shop").await);
    counting(&numbers).await;
    numbers.serve("numbers.one", |(): (), _| async { Ok(1u64) }).await.unwrap();
    let error = soon(shop.call::<_, u64>("numbers.count", &1u64).into_future()).await.unwrap_err();
    assert!(error.to_string().contains("call_stream"), "{error}");
    let mut once = soon(shop.call_stream::<_, u64>("numbers.one", &()).into_future()).await.unwrap();
    assert_eq!(soon(once.recv()).await.unwrap().unwrap(), 1);
    assert!(soon(once.recv()).await.is_none());
}

#[tokio::test]
async fn an_instance_that_goes_ends_the_stream_with_an_error() {
    let lan = Memory::new();
    let shop = start(&lan, "shop").await;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let torn = lan.clone();
    let serving = runtime.spawn(async move {
        let numbers = start(&torn, "numbers").await;
        counting(&numbers).await;
        numbers
    });
    std::mem::forget(serving.await.unwrap()); // what is torn away does not leave in good order
    let mut replies = ask(&shop, 1_000_000).await;
    soon(replies.recv()).await.unwrap().unwrap();
    runtime.shutdown_background();
    let error = loop {
        match soon(replies.recv()).await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CallError::Lost { .. }), "{error}");
    assert!(soon(replies.recv()).await.is_none());
}
