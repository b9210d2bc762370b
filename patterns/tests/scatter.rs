//! Scatter, with real nodes over TCP on loopback, and once with real processes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    future::IntoFuture,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ripstop::{
    HandlerError, Node,
    discovery::{Local, Memory, NodeId},
    fabric::CallError,
};
use ripstop_patterns::{Gathered, Scatter, ScatterError};
use tokio::sync::{Semaphore, mpsc};

/// Long enough for anything that does not hang.
const PATIENCE: Duration = Duration::from_secs(20);

async fn start(lan: &Memory, service: &str) -> Node {
    Node::builder(service).local(false).mdns(false).source(lan.source()).start().await.unwrap()
}

/// Fails the test instead of hanging it.
async fn soon<F: IntoFuture>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what.into_future()).await.expect("it hangs")
}

/// Until `node` knows so many instances of `service`.
async fn known(node: &Node, service: &str, count: usize) {
    let mut changed = node.directory().changed();
    soon(async {
        while node.directory().by_root(service).len() < count {
            changed.changed().await.unwrap();
        }
    })
    .await;
}

/// An instance whose method replies with this.
async fn replies(lan: &Memory, reply: u64) -> Node {
    let node = start(lan, "pricing").await;
    node.serve("pricing.quote", move |(): (), _| async move { Ok(reply) }).await.unwrap();
    node
}

/// An instance that works on the question for ever: tells when it began and when it was told to stop.
async fn hangs(lan: &Memory) -> (Node, mpsc::UnboundedReceiver<&'static str>) {
    struct Busy(mpsc::UnboundedSender<&'static str>);
    impl Drop for Busy {
        fn drop(&mut self) {
            let _ = self.0.send("cancelled");
        }
    }
    let node = start(lan, "pricing").await;
    let (tell, told) = mpsc::unbounded_channel();
    node.serve("pricing.quote", move |(): (), _| {
        let busy = Busy(tell.clone());
        async move {
            let _ = busy.0.send("asked");
            std::future::pending::<()>().await;
            Ok(0u64)
        }
    })
    .await
    .unwrap();
    (node, told)
}

fn values(gathered: &Gathered<u64>) -> Vec<u64> {
    let mut values: Vec<_> = gathered.replies.iter().map(|(_, value)| *value).collect();
    values.sort_unstable();
    values
}

#[tokio::test]
async fn everyone_is_asked_once_and_named() {
    let lan = Memory::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let mut instances = Vec::new();
    for n in 0..5u64 {
        let node = start(&lan, "pricing").await;
        let asked = asked.clone();
        node.serve("pricing.quote", move |qty: u64, _| {
            asked.fetch_add(1, Ordering::Relaxed);
            async move { Ok(n * qty) }
        })
        .await
        .unwrap();
        instances.push(node);
    }
    let caller = start(&lan, "caller").await;
    known(&caller, "pricing", 5).await;
    let gathered: Gathered<u64> = soon(Scatter::new(&caller, "pricing.quote", &10u64)).await.unwrap();
    assert_eq!(values(&gathered), [0, 10, 20, 30, 40]);
    for (id, value) in &gathered.replies {
        assert_eq!(*id, instances[*value as usize / 10].id());
    }
    assert!(gathered.has_quorum() && gathered.failed.is_empty() && gathered.silent.is_empty());
    assert_eq!(asked.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn failures_are_told_one_by_one() {
    let lan = Memory::new();
    let good = replies(&lan, 1).await;
    let bad = start(&lan, "pricing").await;
    bad.serve("pricing.quote", |(): (), _| async { Err::<u64, _>(HandlerError::new("sold out")) })
        .await
        .unwrap();
    let old = start(&lan, "pricing").await; // does not have the method yet
    old.serve("pricing.other", |(): (), _| async { Ok(0u64) }).await.unwrap();
    let caller = start(&lan, "caller").await;
    known(&caller, "pricing", 3).await;
    let gathered: Gathered<u64> = soon(Scatter::new(&caller, "pricing.quote", &())).await.unwrap();
    assert_eq!(gathered.replies, [(good.id(), 1)]);
    assert_eq!(gathered.asked(), 3);
    let error = |node: &Node| gathered.failed.iter().find(|(id, _)| *id == node.id()).map(|(_, error)| error);
    assert!(matches!(error(&bad), Some(CallError::Handler { message, .. }) if message == "sold out"));
    assert!(matches!(error(&old), Some(CallError::NoSuchMethod { .. })));
    assert!(!gathered.has_quorum());
    // That everybody failed is told in the same way.
    let gathered: Gathered<u64> = soon(Scatter::new(&caller, "pricing.nothing", &())).await.unwrap();
    assert_eq!((gathered.failed.len(), gathered.asked()), (3, 3));
}

#[tokio::test]
async fn the_deadline_ends_it_and_cancels_the_silent() {
    let lan = Memory::new();
    let good = replies(&lan, 1).await;
    let (slow, mut told) = hangs(&lan).await;
    let caller = start(&lan, "caller").await;
    known(&caller, "pricing", 2).await;
    let started = Instant::now();
    let scatter = Scatter::new(&caller, "pricing.quote", &()).deadline(Duration::from_millis(400));
    let gathered: Gathered<u64> = soon(scatter).await.unwrap();
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(gathered.replies, [(good.id(), 1)]);
    assert_eq!(gathered.silent, [slow.id()]);
    assert!(gathered.failed.is_empty() && !gathered.has_quorum());
    assert_eq!(soon(told.recv()).await, Some("asked"));
    assert_eq!(soon(told.recv()).await, Some("cancelled"));
}

#[tokio::test]
async fn a_quorum_ends_it_and_cancels_the_rest() {
    let lan = Memory::new();
    // The good ones reply once the slow one is busy, so that there is something to cancel.
    let gate = Arc::new(Semaphore::new(0));
    let mut good = Vec::new();
    for reply in [1u64, 2] {
        let (node, gate) = (start(&lan, "pricing").await, gate.clone());
        node.serve("pricing.quote", move |(): (), _| {
            let gate = gate.clone();
            async move {
                let _turn = gate.acquire().await?;
                Ok(reply)
            }
        })
        .await
        .unwrap();
        good.push(node);
    }
    let (slow, mut told) = hangs(&lan).await;
    let caller = start(&lan, "caller").await;
    known(&caller, "pricing", 3).await;
    // The calls have a minute: only the cancel can end the handler in time.
    let scatter = tokio::spawn(async move {
        let scatter = Scatter::<_, u64>::new(&caller, "pricing.quote", &());
        (scatter.quorum(2).deadline(Duration::from_secs(60)).await, caller)
    });
    assert_eq!(soon(told.recv()).await, Some("asked"));
    gate.add_permits(1);
    let (gathered, _caller) = soon(scatter).await.unwrap();
    let gathered = gathered.unwrap();
    assert_eq!(values(&gathered), [1, 2]);
    assert!(gathered.has_quorum());
    assert_eq!(gathered.silent, [slow.id()]);
    assert_eq!(soon(told.recv()).await, Some("cancelled"));
}

#[tokio::test]
async fn dropping_it_cancels_everyone() {
    let lan = Memory::new();
    let (_a, mut told_a) = hangs(&lan).await;
    let (_b, mut told_b) = hangs(&lan).await;
    let caller = start(&lan, "caller").await;
    known(&caller, "pricing", 2).await;
    let scatter = tokio::spawn(async move {
        Scatter::<_, u64>::new(&caller, "pricing.quote", &())
            .deadline(Duration::from_secs(60))
            .await
            .map(drop)
    });
    for told in [&mut told_a, &mut told_b] {
        assert_eq!(soon(told.recv()).await, Some("asked"));
    }
    scatter.abort();
    for told in [&mut told_a, &mut told_b] {
        assert_eq!(soon(told.recv()).await, Some("cancelled"));
    }
}

#[tokio::test]
async fn whoever_comes_while_it_gathers_is_asked_too() {
    let lan = Memory::new();
    let caller = start(&lan, "caller").await;
    let scatter = tokio::spawn(async move {
        Scatter::<_, u64>::new(&caller, "pricing.quote", &()).quorum(3).discovery_wait(PATIENCE).await
    });
    let mut instances = Vec::new();
    for n in 0..3 {
        instances.push(replies(&lan, n).await);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let gathered = soon(scatter).await.unwrap().unwrap();
    // Whoever was found before it offered the method may have failed; then there were too few, and that is told.
    assert_eq!(gathered.asked(), 3);
    assert_eq!(gathered.has_quorum(), gathered.failed.is_empty());
}

#[tokio::test]
async fn too_few_for_the_quorum_is_told_not_hidden() {
    let lan = Memory::new();
    let _one = replies(&lan, 1).await;
    let caller = start(&lan, "caller").await;
    known(&caller, "pricing", 1).await;
    let started = Instant::now();
    let scatter =
        Scatter::new(&caller, "pricing.quote", &()).quorum(2).discovery_wait(Duration::from_millis(200));
    let gathered: Gathered<u64> = soon(scatter).await.unwrap();
    assert_eq!(values(&gathered), [1]);
    assert!(!gathered.has_quorum());
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn nobody_there_is_an_error() {
    let lan = Memory::new();
    let pricing = replies(&lan, 1).await;
    let caller = start(&lan, "caller").await;
    known(&caller, "pricing", 1).await;
    let ask = async |subject: &str| {
        let scatter = Scatter::new(&caller, subject, &()).discovery_wait(Duration::from_millis(50));
        let gathered: Result<Gathered<u64>, _> = soon(scatter).await;
        gathered.unwrap_err()
    };
    let error = ask("pricign.quote").await;
    assert!(
        matches!(&error, ScatterError::NoSuchService { nearest: Some(nearest), .. } if nearest == "pricing"),
        "{error}"
    );
    let error = ask("two..dots").await;
    assert!(matches!(error, ScatterError::Call(CallError::Subject(_))), "{error}");
    pricing.drain().await;
    let mut changed = caller.directory().changed();
    soon(async {
        while !caller.directory().by_root("pricing").is_empty() {
            changed.changed().await.unwrap();
        }
    })
    .await;
    let error = ask("pricing.quote").await;
    assert!(matches!(error, ScatterError::NoInstance { .. }), "{error}");
    assert!(error.is_retryable());
    caller.drain().await;
}

#[tokio::test]
async fn an_instance_asks_itself_unless_it_says_no() {
    let lan = Memory::new();
    let (a, b) = (replies(&lan, 1).await, replies(&lan, 2).await);
    known(&a, "pricing", 1).await;
    let all: Gathered<u64> = soon(Scatter::new(&a, "pricing.quote", &())).await.unwrap();
    assert_eq!(values(&all), [1, 2]);
    let others: Gathered<u64> =
        soon(Scatter::new(&a, "pricing.quote", &()).include_self(false)).await.unwrap();
    assert_eq!(others.replies, [(b.id(), 2)]);
    // Under another service's name it has to be said.
    let other = start(&lan, "orders").await;
    other.serve("pricing.quote", |(): (), _| async { Ok(3u64) }).await.unwrap();
    known(&other, "pricing", 2).await;
    let all: Gathered<u64> =
        soon(Scatter::new(&other, "pricing.quote", &()).include_self(true)).await.unwrap();
    assert_eq!(values(&all), [1, 2, 3]);
}

#[tokio::test]
async fn inside_a_handler_its_deadline_is_the_bound() {
    let lan = Memory::new();
    let (_slow, mut told) = hangs(&lan).await;
    let front = start(&lan, "front").await;
    known(&front, "pricing", 1).await;
    front
        .serve("front.ask", |(): (), ctx| async move {
            let node = ctx.node();
            let all: Gathered<u64> =
                Scatter::new(&node, "pricing.quote", &()).deadline(Duration::from_secs(60)).await?;
            Ok(all.silent.len())
        })
        .await
        .unwrap();
    let caller = start(&lan, "caller").await;
    let started = Instant::now();
    let call = caller.call::<_, usize>("front.ask", &()).timeout(Duration::from_millis(500));
    let _ = soon(call).await;
    assert_eq!(soon(told.recv()).await, Some("asked"));
    assert_eq!(soon(told.recv()).await, Some("cancelled"));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_configured_address_is_met_first() {
    let lan = Memory::new();
    let pricing = replies(&lan, 4).await;
    let nowhere: ripstop::Endpoint = "tcp://127.0.0.1:1".parse().unwrap();
    let caller = Node::builder("caller")
        .local(false)
        .mdns(false)
        .peer("pricing", pricing.endpoints()[0].clone(), &[])
        .peer("pricing", nowhere.clone(), &[])
        .start()
        .await
        .unwrap();
    let gathered: Gathered<u64> = soon(Scatter::new(&caller, "pricing.quote", &())).await.unwrap();
    assert_eq!(gathered.replies, [(pricing.id(), 4)]);
    assert_eq!(gathered.unmet, [nowhere]);
    assert!(!gathered.has_quorum());
}

// ---- with real processes ----

const FABRIC: &str = "scatter-test";

/// Not a test of its own: what `a_process_killed_in_the_middle` runs in each of its processes.
#[tokio::test]
#[ignore = "started by another test, as a process of its own"]
async fn instance_process() {
    let (Ok(dir), Ok(behaviour)) = (std::env::var("SCATTER_DIR"), std::env::var("SCATTER_INSTANCE")) else {
        return;
    };
    let node =
        Node::builder("pricing").fabric(FABRIC).local(false).source(Local::in_dir(dir, FABRIC)).start();
    let node = node.await.unwrap();
    node.serve("pricing.quote", move |(): (), _| {
        println!("\nscatter-asked");
        let hangs = behaviour == "hangs";
        async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok(std::process::id())
        }
    })
    .await
    .unwrap();
    println!("\nscatter-ready {}", node.id());
    // Until whoever started it is gone: its end of the pipe closes, however it ends.
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await;
}

/// A process with one instance; killed when dropped.
struct Process {
    child: Child,
    id: NodeId,
    output: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    fn start(dir: &Path, behaviour: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["instance_process", "--exact", "--ignored", "--nocapture"])
            .env("SCATTER_DIR", dir)
            .env("SCATTER_INSTANCE", behaviour)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut process = Self { child, id: NodeId([0; 16]), output };
        process.id = process.says("scatter-ready ").parse().unwrap();
        process
    }

    /// Waits for a line that begins so, and returns the rest of it.
    fn says(&mut self, what: &str) -> String {
        for line in self.output.by_ref() {
            if let Some(rest) = line.unwrap().strip_prefix(what) {
                return rest.to_owned();
            }
        }
        panic!("the process ended without {what:?}");
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_in_the_middle_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let good = [Process::start(dir.path(), "replies"), Process::start(dir.path(), "replies")];
    let mut victim = Process::start(dir.path(), "hangs");
    let caller =
        Node::builder("caller").fabric(FABRIC).local(false).source(Local::in_dir(dir.path(), FABRIC));
    let caller = caller.start().await.unwrap();
    known(&caller, "pricing", 3).await;

    let started = Instant::now();
    let asking = caller.clone();
    let scatter = tokio::spawn(async move {
        Scatter::<_, u32>::new(&asking, "pricing.quote", &()).deadline(Duration::from_secs(60)).await
    });
    let victim = soon(tokio::task::spawn_blocking(move || {
        victim.says("scatter-asked");
        victim.kill();
        victim
    }))
    .await
    .unwrap();
    let gathered = soon(scatter).await.unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let mut replied: Vec<_> = gathered.replies.clone();
    replied.sort();
    let mut expected: Vec<_> = good.iter().map(|process| (process.id, process.child.id())).collect();
    expected.sort();
    assert_eq!(replied, expected);
    assert!(
        matches!(gathered.failed[..], [(id, CallError::Lost { .. })] if id == victim.id),
        "{:?}",
        gathered.failed
    );
    assert!(gathered.silent.is_empty());

    // Once it is known to be dead it is not asked again.
    let mut changed = caller.directory().changed();
    soon(async {
        while caller.directory().by_root("pricing").len() > 2 {
            changed.changed().await.unwrap();
        }
    })
    .await;
    let again: Gathered<u32> = soon(Scatter::new(&caller, "pricing.quote", &()).quorum(2)).await.unwrap();
    assert!(again.has_quorum());
    assert!(again.failed.is_empty(), "{:?}", again.failed);
}
