//! Attacks on three engines, one after the other: libzmq (where a C compiler and its headers are: `apt-get install
//! libzmq3-dev`), the `zeromq` crate, and ours, each in a process of its own, at its defaults, on loopback.
//!
//! `cargo bench --bench hostile` prints one table (`docs/hostile-head-to-head.md` has it). The victim is a ROUTER that
//! sends back what comes, or a publisher. What an attack did shows in memory, processor time, and in how long somebody
//! new waits for an answer afterwards. `--smoke` makes small attacks, to see that it runs; a number makes only that attack.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a measurement that can't be made ends with the reason

#[path = "../tests/common/raw.rs"]
mod raw;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ripstop::socket::{Options, Pub, Router, Sub};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use zeromq::{Socket, SocketRecv, SocketSend};

/// Longer than this nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["ripstop", "router"] => runtime.block_on(our_router()),
        ["ripstop", "pub", endpoint, topics] => runtime.block_on(our_pub(endpoint, topics.parse().unwrap())),
        ["ripstop", "sub", endpoint, topics] => runtime.block_on(our_sub(endpoint, topics.parse().unwrap())),
        ["zeromq", "router"] => runtime.block_on(their_router()),
        ["zeromq", "pub", endpoint, topics] => runtime.block_on(their_pub(endpoint, topics.parse().unwrap())),
        ["zeromq", "sub", endpoint, topics] => runtime.block_on(their_sub(endpoint, topics.parse().unwrap())),
        _ => {
            let smoke = words.iter().any(|word| ["--smoke", "--test"].contains(word));
            let only = words.iter().find_map(|word| word.parse().ok());
            runtime.block_on(compare(smoke, only));
        }
    }
}

async fn compare(smoke: bool, only: Option<usize>) {
    // A client that fails because its victim is gone is a result, not a failure of ours.
    std::panic::set_hook(Box::new(|_| {}));
    let mut engines = Vec::new();
    match build_libzmq() {
        Ok((program, version)) => engines.push((format!("libzmq {version}"), Engine::Libzmq(program))),
        Err(reason) => println!("libzmq not found: {reason}"),
    }
    engines.push(("`zeromq` crate 0.7.0".into(), Engine::Zeromq));
    engines.push(("ripstop".into(), Engine::Ripstop));

    let names: Vec<_> = engines.iter().map(|(name, _)| name.clone()).collect();
    println!("| attack | {} |\n| --- |{}", names.join(" | "), " --- |".repeat(names.len()));
    let attacks = [
        Attack::Claims(if smoke { 5 } else { 100 }),
        Attack::OneFrame,
        Attack::EmptyFrames(if smoke { 10_000 } else { 2 << 20 }),
        Attack::Silence(if smoke { 100 } else { 1000 }),
        Attack::SameName,
        Attack::ClaimedName,
        Attack::Restart(if smoke { 300 } else { 3000 }),
    ];
    for (n, attack) in (1..).zip(attacks) {
        if only.is_some_and(|only| only != n) {
            continue;
        }
        let mut cells = Vec::new();
        for (_, engine) in &engines {
            cells.push(attack.on(engine).await);
        }
        println!("| {attack} | {} |", cells.join(" | "));
    }
}

enum Engine {
    /// The program built from `libzmq_hostile.c`.
    Libzmq(PathBuf),
    Zeromq,
    Ripstop,
}

/// Compiles the victims of libzmq; gives the program and libzmq's version.
fn build_libzmq() -> Result<(PathBuf, String), String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/libzmq_hostile.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libzmq_hostile");
    let built = Command::new("cc").args(["-O2", "-o"]).args([&program, &source]).arg("-lzmq").output();
    let built = built.map_err(|error| error.to_string())?;
    if !built.status.success() {
        return Err(String::from_utf8_lossy(&built.stderr).lines().next().unwrap_or("cc failed").to_owned());
    }
    let version = Command::new(&program).arg("version").output().map_err(|error| error.to_string())?;
    Ok((program, String::from_utf8_lossy(&version.stdout).trim().to_owned()))
}

/// A process of one engine; killed when dropped.
struct Victim {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Victim {
    fn start(engine: &Engine, args: &[&str], descriptors: Option<u32>) -> Self {
        let this = std::env::current_exe().unwrap();
        let (program, first) = match engine {
            Engine::Libzmq(program) => (program.clone(), None),
            Engine::Zeromq => (this, Some("zeromq")),
            Engine::Ripstop => (this, Some("ripstop")),
        };
        let limit = descriptors.map_or(String::new(), |limit| format!("ulimit -n {limit}; "));
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -c 0; {limit}exec \"$0\" \"$@\"")]).arg(program);
        command.args(first).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (said, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        Self { stdin: child.stdin.take().unwrap(), child, lines }
    }

    fn router(engine: &Engine, descriptors: Option<u32>) -> (Self, SocketAddr) {
        let victim = Self::start(engine, &["router"], descriptors);
        let address = victim.address();
        (victim, address)
    }

    fn line(&self) -> Option<String> {
        self.lines.recv_timeout(PATIENCE).ok()
    }

    fn address(&self) -> SocketAddr {
        let endpoint = self.line().expect("the victim does not say where it is");
        endpoint.trim_start_matches("tcp://").parse().unwrap()
    }

    fn tell(&mut self, line: &str) {
        let _ = writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush());
    }

    /// In KiB; 0 when it is gone.
    fn memory(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(what));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    }

    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: Vec<u64> = fields.skip(11).take(2).filter_map(|ticks| ticks.parse().ok()).collect();
        Duration::from_millis(ticks.iter().sum::<u64>() * 10) // USER_HZ is 100 wherever Linux runs
    }

    /// How it ended, or else what became of somebody new.
    async fn end(&mut self, served: Option<String>) -> String {
        // Its connections end before it does.
        let tries = if served.is_none() { 200 } else { 1 };
        for _ in 0..tries {
            if let Some(status) = self.child.try_wait().unwrap() {
                return match status.signal() {
                    Some(6) => "**the process aborts**".into(),
                    Some(signal) => format!("**the process dies of signal {signal}**"),
                    None => format!("**the process ends: {status}**"),
                };
            }
            sleep(Duration::from_millis(10)).await;
        }
        served.unwrap_or_else(|| "**no newcomer is served**".into())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}

/// Connects as a DEALER and asks for an echo; how long that took, if it did not take too long.
async fn newcomer(to: SocketAddr, from: usize) -> Option<Duration> {
    let began = Instant::now();
    let asked = tokio::spawn(async move { echo(&mut raw::shaken(to, from, "DEALER").await, b"hi").await });
    timeout(PATIENCE, asked).await.ok()?.ok()?.then(|| began.elapsed())
}

async fn echo(peer: &mut TcpStream, word: &[u8]) -> bool {
    let asked = async {
        peer.write_all(&raw::frame(0, word)).await.ok()?;
        raw::read_message(peer).await
    };
    matches!(timeout(Duration::from_secs(2), asked).await, Ok(Some(answer)) if answer == [word])
}

async fn named(to: SocketAddr, from: usize, name: &[u8]) -> TcpStream {
    let mut peer = raw::dial(to, from).await;
    let hello = [raw::greeting("NULL"), raw::ready("DEALER", &[("Identity", name)])].concat();
    peer.write_all(&hello).await.unwrap();
    raw::shake(&mut peer).await;
    peer
}

/// What became of the victim and of somebody new.
async fn outcome(victim: &mut Victim, to: SocketAddr) -> String {
    let served = newcomer(to, 900).await;
    let served = served.map(|waited| format!("newcomer served after {:.1} ms", waited.as_secs_f64() * 1e3));
    victim.end(served).await
}

enum Attack {
    Claims(usize),
    OneFrame,
    EmptyFrames(usize),
    Silence(usize),
    SameName,
    ClaimedName,
    Restart(usize),
}

impl std::fmt::Display for Attack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Claims(count) => write!(f, "{count} connections, each announces a frame of 2 GiB"),
            Self::OneFrame => write!(f, "one stream of 73 bytes: a greeting, and a frame of 2^62 bytes"),
            Self::EmptyFrames(count) => write!(f, "{count} empty MORE frames, {} KiB", count * 2 / 1024),
            Self::Silence(count) => {
                write!(f, "{count} silent connections to a process with 64 descriptors, for 8 s")
            }
            Self::SameName => write!(f, "the attacker has claimed the honest client's routing id"),
            Self::ClaimedName => write!(f, "the same, and the ROUTER dials the one whom it knows by that id"),
            Self::Restart(count) => write!(f, "{count} subscriptions, publisher killed and restarted"),
        }
    }
}

impl Attack {
    async fn on(&self, engine: &Engine) -> String {
        match self {
            Self::Claims(count) => claims(engine, *count).await,
            Self::OneFrame => one_frame(engine).await,
            Self::EmptyFrames(count) => empty_frames(engine, *count).await,
            Self::Silence(count) => silence(engine, *count).await,
            Self::SameName => same_name(engine).await,
            Self::ClaimedName => claimed_name(engine).await,
            Self::Restart(count) => restart(engine, *count).await,
        }
    }
}

async fn claims(engine: &Engine, count: usize) -> String {
    let (mut victim, to) = Victim::router(engine, None);
    let _ = newcomer(to, 0).await;
    let (resident, reserved) = (victim.memory("VmHWM"), victim.memory("VmPeak"));
    let mut peers = Vec::new();
    for n in 0..count {
        let peer = tokio::spawn(async move {
            let mut peer = raw::shaken(to, n, "DEALER").await;
            let claim = [&raw::header(0, 1 << 31)[..], &[0; 100]].concat();
            peer.write_all(&claim).await.unwrap();
            peer
        });
        peers.extend(peer.await);
    }
    let mut closed = 0;
    for peer in &mut peers {
        let left = if closed == 0 { Duration::from_secs(2) } else { Duration::from_millis(100) };
        closed += usize::from(raw::closed(peer, left).await);
        if closed == 0 {
            break; // none will be
        }
    }
    let grown = (
        victim.memory("VmHWM").saturating_sub(resident),
        victim.memory("VmPeak") - reserved.min(victim.memory("VmPeak")),
    );
    let end = outcome(&mut victim, to).await;
    format!(
        "{} more resident, {} more reserved; {closed} of {count} closed; {end}",
        mib(grown.0),
        mib(grown.1)
    )
}

async fn one_frame(engine: &Engine) -> String {
    let (mut victim, to) = Victim::router(engine, None);
    let _ = newcomer(to, 0).await;
    let mut peer = raw::dial(to, 1).await;
    let stream = [raw::greeting("NULL"), raw::header(0, 1 << 62)].concat();
    assert_eq!(stream.len(), 73);
    peer.write_all(&stream).await.unwrap();
    let closed = raw::closed(&mut peer, Duration::from_secs(2)).await;
    let end = outcome(&mut victim, to).await;
    format!("{}; {end}", if closed { "closed" } else { "stays open" })
}

async fn empty_frames(engine: &Engine, count: usize) -> String {
    let (mut victim, to) = Victim::router(engine, None);
    let _ = newcomer(to, 0).await;
    let before = victim.memory("VmHWM");
    let mut peer = raw::shaken(to, 1, "DEALER").await;
    let sent = timeout(PATIENCE, peer.write_all(&[1, 0].repeat(count))).await;
    // Whoever is behind it has been read after it, or it was closed.
    let closed = raw::closed(&mut peer, Duration::from_secs(2)).await;
    let end = outcome(&mut victim, to).await;
    let grown = victim.memory("VmHWM").saturating_sub(before);
    let taken = match (closed, sent) {
        (true, _) => "closed",
        (false, Ok(Ok(()))) => "all of it kept",
        (false, _) => "no longer read",
    };
    format!("{} more; {taken}; {end}", mib(grown))
}

async fn silence(engine: &Engine, count: usize) -> String {
    const WATCHED: Duration = Duration::from_secs(8);
    let (mut victim, to) = Victim::router(engine, Some(64));
    let mut before = raw::shaken(to, 0, "DEALER").await;
    assert!(echo(&mut before, b"hi").await);
    let mut silent = Vec::new();
    let (began, cpu) = (Instant::now(), victim.cpu());
    // All at once: with a full backlog some are not through in the time that there is.
    let dialled: Vec<_> =
        (0..count).map(|n| tokio::spawn(async move { raw::dial(to, n % 20).await })).collect();
    let until = began + Duration::from_secs(2);
    for one in dialled {
        let left = until.saturating_duration_since(Instant::now());
        silent.extend(timeout(left, one).await.into_iter().flatten());
    }
    let mut latencies = Vec::new();
    let knocking = tokio::spawn(newcomer(to, 800));
    while began.elapsed() < WATCHED {
        let asked = Instant::now();
        if !echo(&mut before, b"hi").await {
            break;
        }
        latencies.push(asked.elapsed());
        sleep(Duration::from_millis(2)).await; // the pace
    }
    let busy = (victim.cpu() - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    latencies.sort();
    let p99 = latencies.get(latencies.len() * 99 / 100);
    let served = knocking.await.unwrap();
    let served = served.map(|waited| format!("newcomer served after {:.1} s", waited.as_secs_f64()));
    let end = victim.end(served).await;
    let p99 = p99.map_or("gets no answer".into(), |p99| format!("p99 {:.1} ms", p99.as_secs_f64() * 1e3));
    format!("{:.0} % of a processor; client from before {p99}; {end}", busy * 100.0)
}

async fn same_name(engine: &Engine) -> String {
    let (mut victim, to) = Victim::router(engine, None);
    let mut attacker = named(to, 0, b"good").await;
    let first = echo(&mut attacker, b"attacker").await;
    let honest = tokio::spawn(async move {
        let mut honest = named(to, 1, b"good").await;
        let served = echo(&mut honest, b"honest").await;
        (honest, served)
    });
    let honest = honest.await;
    // An answer that is not the attacker's own?
    let second = echo(&mut attacker, b"attacker").await;
    let served = matches!(honest, Ok((_, true)));
    let who = match (served, first && second) {
        (true, true) => "both are served",
        (true, false) => "**the honest one is served, the first one no longer**",
        (false, true) => "**the honest one gets no answer**",
        (false, false) => "**neither is served**",
    };
    victim.end(Some(who.to_owned())).await
}

async fn claimed_name(engine: &Engine) -> String {
    let Engine::Libzmq(_) = engine else { return "has no such option".into() };
    let (mut victim, to) = Victim::router(engine, None);
    let mut attacker = named(to, 0, b"good").await;
    let _ = echo(&mut attacker, b"hi").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    victim.tell(&format!("good tcp://{}", listener.local_addr().unwrap()));
    let accepted = timeout(Duration::from_secs(2), listener.accept()).await;
    if let Ok(Ok((mut peer, _))) = accepted {
        let _ = peer.write_all(&raw::hello("DEALER")).await;
        let _ = raw::closed(&mut peer, Duration::from_secs(2)).await;
    }
    outcome(&mut victim, to).await
}

async fn restart(engine: &Engine, count: usize) -> String {
    let topics = count.to_string();
    let publisher = Victim::start(engine, &["pub", "tcp://127.0.0.1:0", &topics], None);
    let at = format!("tcp://{}", publisher.address());
    let mut subscriber = Victim::start(engine, &["sub", &at, &topics], None);
    let mut count_topics = || {
        // Not all may be in force at once: the best of some counts of two seconds each.
        let mut best = 0;
        for _ in 0..4 {
            subscriber.tell("count");
            let Some(line) = subscriber.line() else { break };
            best = best.max(line.parse().unwrap_or(0));
            if best == count {
                break;
            }
        }
        best
    };
    let before = count_topics();
    drop(publisher);
    let _again = Victim::start(engine, &["pub", &at, &topics], None);
    let after = count_topics();
    let lost = if after < count { "**" } else { "" };
    format!("{before} in force before, {lost}{after} afterwards{lost}")
}

// ---- the victims of the two crates ----

async fn our_router() {
    let router = Router::with_options(Options::new().router_mandatory(false));
    println!("{}", router.bind("tcp://127.0.0.1:0").await.unwrap());
    while let Ok(message) = router.recv().await {
        let _ = router.send(&message).await;
    }
}

fn topic(n: usize) -> String {
    format!("topic.{n:05}")
}

async fn our_pub(endpoint: &str, topics: usize) {
    let publisher = Pub::new();
    println!("{}", publisher.bind(endpoint).await.unwrap());
    loop {
        for n in 0..topics {
            let _ = publisher.send(topic(n)).await;
            if n % 100 == 99 {
                sleep(Duration::from_millis(1)).await; // the pace, so that no queue is full
            }
        }
    }
}

async fn our_sub(endpoint: &str, topics: usize) {
    let subscriber = Sub::new();
    (0..topics).for_each(|n| subscriber.subscribe(topic(n)));
    subscriber.connect(endpoint).unwrap();
    for _ in std::io::stdin().lines() {
        let mut seen = HashSet::new();
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            let received = timeout(Duration::from_millis(50), subscriber.recv()).await;
            seen.extend(received.into_iter().flatten().map(|message| message.frame(0).unwrap().to_vec()));
        }
        println!("{}", seen.len());
    }
}

async fn their_router() {
    let mut router = zeromq::RouterSocket::new();
    println!("{}", router.bind("tcp://127.0.0.1:0").await.unwrap());
    while let Ok(message) = router.recv().await {
        let _ = router.send(message).await;
    }
}

async fn their_pub(endpoint: &str, topics: usize) {
    let mut publisher = zeromq::PubSocket::new();
    println!("{}", publisher.bind(endpoint).await.unwrap());
    loop {
        for n in 0..topics {
            let _ = publisher.send(topic(n).into()).await;
            if n % 100 == 99 {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

async fn their_sub(endpoint: &str, topics: usize) {
    let mut subscriber = zeromq::SubSocket::new();
    subscriber.connect(endpoint).await.unwrap();
    for n in 0..topics {
        subscriber.subscribe(&topic(n)).await.unwrap();
    }
    for _ in std::io::stdin().lines() {
        let mut seen = HashSet::new();
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            match timeout(Duration::from_millis(50), subscriber.recv()).await {
                Ok(Ok(message)) => drop(seen.insert(message.get(0).unwrap().to_vec())),
                Ok(Err(_)) => sleep(Duration::from_millis(10)).await,
                Err(_) => {}
            }
        }
        println!("{}", seen.len());
    }
}
