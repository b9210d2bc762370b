//! What many peers cost: `cargo bench --bench scale [-- --smoke]`.
//!
//! Memory of an idle node; of each of 10,000 idle peers on it; how long a broadcast takes to reach all of them; a lookup in a
//! directory of 1,000 adverts; and, as root, how long it takes from the start of a process to the first reply of a service
//! that it has to find by mDNS, between two hosts of a network that is made for it.

#[path = "../tests/hosts/net.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod net;

use std::hint::black_box;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ripstop::config::Config;
use ripstop::discovery::{Advert, Directory, Memory, NodeId, Source};
use ripstop::socket::Sub;
use ripstop::{Node, fabric::SlowPolicy};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const SUBJECT: &str = "node.ticks";

fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--node"] => runtime()?.block_on(node()),
        ["--peers", endpoint, count] => runtime()?.block_on(peers(endpoint, count.parse()?)),
        ["--serve", address] => runtime()?.block_on(serve(address)),
        ["--ask", address] => runtime()?.block_on(ask(address)),
        [] => measure(10_000, 1_000_000, 9),
        ["--smoke"] => measure(200, 10_000, 1),
        _ => Err("there is --smoke".into()),
    }
}

fn measure(peers: u64, lookups: u32, starts: usize) -> Result<()> {
    let mut node = Role::start(&["--node"])?;
    let endpoint = node.hear()?;
    let idle = node.resident()?;
    println!("an idle node                   {:>8.1} MiB", idle as f64 / 1024.0);
    let mut others = Role::start(&["--peers", &endpoint, &peers.to_string()])?;
    others.hear()?;
    node.tell(&peers.to_string())?;
    node.hear()?;
    let each = (node.resident()?.saturating_sub(idle)) as f64 / peers as f64;
    println!("each of {peers} idle peers    {each:>8.1} KiB");
    node.tell("publish")?;
    let publish = node.hear()?;
    let last: u128 = others.hear()?.parse()?;
    let first: u128 = publish.parse()?;
    println!("a broadcast reaches all after  {:>8.1} ms", last.saturating_sub(first) as f64 / 1e6);
    drop((node, others));
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(directory(lookups))?;
    first_reply(starts)
}

fn nanoseconds() -> Result<u128> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos())
}

/// A node that says where it is; then it waits for so many subscribers, says so, and publishes when it is told to.
async fn node() -> Result<()> {
    let mut config = Config::default();
    let limits = &mut config.limits;
    (limits.connections, limits.connections_per_address) = (20_000, 20_000);
    (limits.handshakes, limits.handshakes_per_address, limits.handshake_rate) = (4096, 4096, 100_000);
    let node = Node::builder("node").config(config).local(false).mdns(false).start().await?;
    println!("{}", node.endpoints().first().ok_or("it listens nowhere")?);
    let mut lines = std::io::stdin().lines();
    let mut next = || -> Result<String> { Ok(lines.next().ok_or("nothing is told any more")??) };
    let peers: usize = next()?.parse()?;
    let publisher = node.publisher::<u64>(SUBJECT).when_full(SlowPolicy::Block).await?;
    publisher.ready(peers).timeout(Duration::from_secs(60)).await?;
    // What the handshakes needed is given back after a while.
    tokio::time::sleep(Duration::from_secs(12)).await;
    println!("ready");
    next()?;
    println!("{}", nanoseconds()?);
    publisher.publish(&1).await?;
    std::future::pending().await
}

async fn peers(endpoint: &str, count: usize) -> Result<()> {
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..count {
        let subscriber = Sub::new();
        subscriber.subscribe(SUBJECT);
        subscriber.connect(endpoint)?;
        waiting.spawn(async move { subscriber.recv().await.map(|_| subscriber) });
        // The listener's queue of the kernel is 128 connections long, or 4,096.
        if n % 64 == 63 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    println!("connecting");
    let mut kept = Vec::new();
    while let Some(received) = waiting.join_next().await {
        kept.push(received??);
    }
    println!("{}", nanoseconds()?);
    std::future::pending().await
}

async fn directory(lookups: u32) -> Result<()> {
    const ADVERTS: u32 = 1_000;
    let lan = Memory::new();
    let directory = Directory::new("default", NodeId::random());
    directory.add_source(Arc::new(lan.source()));
    let mut sources = Vec::new();
    for n in 0..ADVERTS {
        let source = lan.source();
        let service = format!("service{n}");
        let endpoint = format!("tcp://10.0.{}.{}:5555", n / 250, n % 250 + 1).parse()?;
        source
            .announce(Advert::new(NodeId::random(), "default", &service).endpoint(endpoint).root(&service))
            .await?;
        sources.push(source);
    }
    let mut changed = directory.changed();
    while directory.all().len() < ADVERTS as usize {
        changed.changed().await?;
    }
    let began = Instant::now();
    for n in 0..lookups {
        const ROOTS: [&str; 4] = ["service7", "service123", "service500", "service999"];
        black_box(directory.by_root(black_box(ROOTS[n as usize % ROOTS.len()])));
    }
    let each = began.elapsed().as_nanos() as f64 / f64::from(lookups);
    println!("a lookup among {ADVERTS} adverts    {each:>8.0} ns");
    Ok(())
}

async fn serve(address: &str) -> Result<()> {
    let node = Node::builder("hello").listen(address).insecure(true).local(false).start().await?;
    let _serving = node.serve("hello.up", |(): (), _| async move { Ok(true) }).await?;
    println!("serving");
    std::future::pending().await
}

async fn ask(address: &str) -> Result<()> {
    let node = Node::builder("shop").listen(address).insecure(true).local(false).start().await?;
    let _: bool = node.call("hello.up", &()).await?;
    println!("answered");
    Ok(())
}

fn first_reply(starts: usize) -> Result<()> {
    let Some(net) = net::net(2) else { return Ok(()) };
    let this = std::env::current_exe()?;
    let this = this.to_str().ok_or("this program's path is not text")?;
    let mut server = net.start(1, this, &["--serve", &format!("{}:0", net::address(1))], &[]);
    server.hear("serving", Duration::from_secs(10));
    let mut took = Vec::new();
    for _ in 0..starts {
        // A record is not multicast twice within a second (RFC 6762, 6): who starts just after another waits for that.
        std::thread::sleep(Duration::from_millis(1500));
        let began = Instant::now();
        let mut asks = net.start(2, this, &["--ask", &format!("{}:0", net::address(2))], &[]);
        asks.hear("answered", Duration::from_secs(10));
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    let (median, most) = (took.get(took.len() / 2), took.last());
    println!(
        "from start to first reply, mDNS {:>7.0} ms, {:.0} at most",
        median.unwrap_or(&f64::NAN),
        most.unwrap_or(&f64::NAN)
    );
    Ok(())
}

/// One of the processes; ended when it is dropped.
struct Role {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Role {
    fn start(args: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        Ok(Self { child, lines })
    }

    fn hear(&mut self) -> Result<String> {
        Ok(self.lines.next().ok_or("it ended early")??)
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.child.stdin.as_mut().ok_or("no input")?, "{line}")?)
    }

    /// KiB in memory.
    fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
