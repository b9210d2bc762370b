//! How many instructions the hot paths take, by callgrind: `cargo bench --bench instructions [-- --update | --check]`.
//!
//! Times differ from run to run on a machine that is shared; instructions hardly do. Each path runs twice, the second time with
//! twice as many messages, and the difference counts, so that start and end do not. One thread, both ends on it. `--check`
//! fails if a path takes more than it did when `instructions.txt` was written, which is what `--update` does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use ripstop::Node;
use ripstop::discovery::Memory;
use ripstop::envelope::{Limits, check, decode_body, encode_body};
use ripstop::socket::{Dealer, Options, Pull, Push, Router, Sub, WhenFull, XPub};
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// More than this, in percent, is a regression; less is an improvement that `--update` should write down. When which task
/// runs, and with it how much one read brings, is the kernel's to say, so that paths over TCP are not exact.
const TOLERANCE: u64 = 10;
const MESSAGES: u64 = 4_000;
const ANYWHERE: &str = "tcp://127.0.0.1:0";

const PATHS: [&str; 9] = [
    "encode a struct",
    "check its bytes",
    "decode a struct",
    "PUSH to PULL, a hundred at once",
    "PUSH to PULL, one by one",
    "DEALER to ROUTER and back",
    "XPUB to eight SUB, a hundred at once",
    "push, typed, a hundred at once",
    "call, typed",
];

#[derive(Serialize, Deserialize)]
struct Order {
    id: u64,
    sku: String,
    quantity: u32,
    cents: u64,
    currency: String,
    address: String,
}

fn order() -> Order {
    Order {
        id: 123_456_789,
        sku: "SKU-0001".into(),
        quantity: 3,
        cents: 129_900,
        currency: "EUR".into(),
        address: "x".repeat(60),
    }
}

fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--path", path, count] => run(path, count.parse()?),
        [] => compare(false, false),
        ["--check"] => compare(true, false),
        ["--update"] => compare(false, true),
        _ => Err("there are --check and --update".into()),
    }
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.txt")
}

fn compare(check: bool, update: bool) -> Result<()> {
    let text = std::fs::read_to_string(file()).unwrap_or_default();
    let before: BTreeMap<_, u64> = text
        .lines()
        .filter_map(|line| line.rsplit_once(": "))
        .map(|(k, v)| (k, v.parse().unwrap_or(0)))
        .collect();
    let (mut now, mut worse) = (String::new(), Vec::new());
    println!("{:<38} {:>10} {:>10}", "instructions a message", "expected", "now");
    for path in PATHS {
        let count = (counted(path, 2 * MESSAGES)? - counted(path, MESSAGES)?) / MESSAGES;
        now += &format!("{path}: {count}\n");
        let expected = before.get(path).copied().unwrap_or(0);
        let change = match expected {
            0 => "new".to_owned(),
            _ => format!("{:+.1} %", (count as f64 / expected as f64 - 1.0) * 100.0),
        };
        println!("{path:<38} {expected:>10} {count:>10}  {change}");
        if count * 100 > expected * (100 + TOLERANCE) {
            worse.push(path);
        }
    }
    if update {
        std::fs::write(file(), now)?;
    }
    match worse[..] {
        [] => Ok(()),
        _ if !check => Ok(()),
        _ => {
            Err(format!("more instructions than before: {}; if that is meant, --update", worse.join(", "))
                .into())
        }
    }
}

/// Instructions of a whole process that does it so often.
fn counted(path: &str, count: u64) -> Result<u64> {
    let out = std::env::temp_dir().join(format!("ripstop-callgrind-{}", std::process::id()));
    let done = Command::new("valgrind")
        .args(["--tool=callgrind", "--log-file=/dev/null", "--error-exitcode=1"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["--path", path, &count.to_string()])
        .status()
        .map_err(|error| format!("valgrind: {error}"))?;
    if !done.success() {
        return Err(format!("{path}: valgrind ended with {done}").into());
    }
    let text = std::fs::read_to_string(&out)?;
    std::fs::remove_file(&out)?;
    let totals =
        text.lines().find_map(|line| line.strip_prefix("totals: ")).ok_or("callgrind says no totals")?;
    Ok(totals.trim().parse()?)
}

fn run(path: &str, count: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match path {
            "encode a struct" => {
                let (order, mut out) = (order(), Vec::new());
                for _ in 0..count {
                    out.clear();
                    encode_body(std::hint::black_box(&order), &mut out)?;
                }
            }
            "check its bytes" | "decode a struct" => {
                let mut bytes = Vec::new();
                encode_body(&order(), &mut bytes)?;
                for _ in 0..count {
                    let bytes = std::hint::black_box(&bytes);
                    match path {
                        "check its bytes" => check(bytes, Limits::default())?,
                        _ => drop(std::hint::black_box(decode_body::<Order>(bytes)?)),
                    }
                }
            }
            "PUSH to PULL, a hundred at once" => push(count, 100).await?,
            "PUSH to PULL, one by one" => push(count, 1).await?,
            "DEALER to ROUTER and back" => ask(count).await?,
            "XPUB to eight SUB, a hundred at once" => publish(count).await?,
            "push, typed, a hundred at once" => push_typed(count).await?,
            "call, typed" => call(count).await?,
            _ => return Err("no such path".into()),
        }
        Ok(())
    })
}

async fn push(count: u64, at_once: u64) -> Result<()> {
    let (push, pull) = (Push::new(), Pull::new());
    push.connect(pull.bind(ANYWHERE).await?)?;
    let (message, mut batch) = (bytes::Bytes::from(vec![7; 128]), Vec::new());
    for _ in 0..count / at_once {
        for _ in 0..at_once {
            push.send(&message).await?;
        }
        let mut left = at_once as usize;
        while left > 0 {
            left -= pull.recv_many(&mut batch, left).await?;
            batch.clear();
        }
    }
    Ok(())
}

async fn ask(count: u64) -> Result<()> {
    let (dealer, router) = (Dealer::new(), Router::new());
    dealer.connect(router.bind(ANYWHERE).await?)?;
    for _ in 0..count {
        dealer.send(&[7; 64][..]).await?;
        let (from, ask) = router.recv_from().await?;
        router.send_to(&from, &ask).await?;
        dealer.recv().await?;
    }
    Ok(())
}

async fn publish(count: u64) -> Result<()> {
    let publisher = XPub::with_options(Options::new().when_full(WhenFull::Block).xpub_verbose(true));
    let endpoint = publisher.bind(ANYWHERE).await?;
    let mut subscribers = Vec::new();
    for _ in 0..8 {
        let subscriber = Sub::new();
        subscriber.subscribe("");
        subscriber.connect(endpoint.clone())?;
        publisher.recv().await?;
        subscribers.push(subscriber);
    }
    let (message, mut batch) = (bytes::Bytes::from(vec![7; 128]), Vec::new());
    for _ in 0..count / 100 {
        for _ in 0..100 {
            publisher.send(&message).await?;
        }
        for subscriber in &subscribers {
            let mut left = 100;
            while left > 0 {
                left -= subscriber.recv_many(&mut batch, left).await?;
                batch.clear();
            }
        }
    }
    Ok(())
}

/// Two nodes that know each other by configuration.
async fn nodes() -> Result<(Node, Node)> {
    let node =
        |service, memory: &Memory| Node::builder(service).local(false).mdns(false).source(memory.source());
    let memory = Memory::new();
    let there = node("there", &memory).listen("127.0.0.1:0").start().await?;
    Ok((node("here", &memory).start().await?, there))
}

async fn push_typed(count: u64) -> Result<()> {
    let (here, there) = nodes().await?;
    let mut items = there.pull::<Order>("there").await?;
    let order = order();
    for _ in 0..count / 100 {
        for _ in 0..100 {
            here.push("there", &order).await?;
        }
        for _ in 0..100 {
            items.recv().await.ok_or("no more items")??;
        }
    }
    Ok(())
}

async fn call(count: u64) -> Result<()> {
    let (here, there) = nodes().await?;
    let _serving = there.serve("there.echo", |order: Order, _| async move { Ok(order) }).await?;
    let order = order();
    for _ in 0..count {
        let _: Order = here.call("there.echo", &order).await?;
    }
    Ok(())
}
