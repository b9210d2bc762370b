//! Attacks on three engines, one after the other: libzmq (where a C compiler and its headers are: `apt-get install
//! libzmq3-dev`), the `zeromq` crate, and ours, each in a process of its own, at its defaults, on loopback.
//!
//! `cargo bench --bench hostile` prints one table (`docs/security.md` has it). The victim is a ROUTER that sends back
//! what comes, or a publisher. What an attack did shows in the victim's memory (the most that was resident, beyond what
//! it had when it served its first client) and processor time, in how long a good client that was there before waits
//! for each answer meanwhile, and a new one afterwards. `--smoke` makes small attacks, to see that it runs; a number
//! makes only that attack.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a measurement that can't be made ends with the reason

#[path = "../tests/common/raw.rs"]
mod raw;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ripstop::socket::{Pub, Router, Sub};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use zeromq::{Socket, SocketRecv, SocketSend};

/// Longer than this nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// A good client gives up after this.
const ANSWER: Duration = Duration::from_secs(2);
/// No attack takes longer, whatever the victim does.
const LIMIT: Duration = Duration::from_secs(60);

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
    // A client whose victim is gone panics: that is a result. Only here it is a failure.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() == Some("main") {
            hook(info);
        }
    }));
    let mut engines = Vec::new();
    match build_libzmq() {
        Ok((program, version)) => engines.push((format!("libzmq {version}"), Engine::Libzmq(program))),
        Err(reason) => println!("libzmq not found: {reason}\n"),
    }
    engines.push(("`zeromq` crate 0.7.0".into(), Engine::Zeromq));
    engines.push((format!("Ripstop {}", env!("CARGO_PKG_VERSION")), Engine::Ripstop));

    let names: Vec<_> = engines.iter().map(|(name, _)| name.clone()).collect();
    println!("| | attack | {} |\n| --- | --- |{}", names.join(" | "), " --- |".repeat(names.len()));
    let count = if smoke { 5 } else { 100 };
    let attacks = [
        Attack::Claims { count, mib: 2048 },
        Attack::Claims { count, mib: 16 },
        Attack::OneFrame,
        Attack::EmptyFrames(if smoke { 10_000 } else { 2 << 20 }),
        Attack::Silence {
            count: if smoke { 100 } else { 1000 },
            watched: Duration::from_secs(if smoke { 2 } else { 8 }),
            patience: if smoke { Duration::from_secs(3) } else { PATIENCE },
        },
        Attack::NameBefore,
        Attack::NameAfter,
        Attack::NameDialled,
        Attack::Restart {
            topics: if smoke { 300 } else { 3000 },
            window: Duration::from_millis(if smoke { 500 } else { 2000 }),
        },
    ];
    for (n, attack) in (1..).zip(attacks) {
        if only.is_some_and(|only| only != n) {
            continue;
        }
        let mut cells = Vec::new();
        for (_, engine) in &engines {
            let cell = timeout(LIMIT, attack.on(engine)).await;
            cells.push(cell.unwrap_or_else(|_| format!("not measured: not over after {LIMIT:?}")));
        }
        println!("| {n} | {attack} | {} |", cells.join(" | "));
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

/// A process of one engine; killed when dropped. It ends as well when its standard input does, so that none is left
/// when this process is killed.
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

    /// One that has served somebody already.
    async fn router(engine: &Engine, descriptors: Option<u32>) -> (Self, SocketAddr) {
        let victim = Self::start(engine, &["router"], descriptors);
        let address = victim.address();
        newcomer(address, 900).await.expect("the victim serves nobody, before any attack");
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

    /// How it ended, if it did: the signal first of all.
    async fn ended(&mut self, wait: Duration) -> Option<String> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(match status.signal() {
                    Some(6) => "**the process aborts (SIGABRT)**".into(),
                    Some(9) => "**the process is killed (SIGKILL)**".into(),
                    Some(11) => "**the process crashes (SIGSEGV)**".into(),
                    Some(signal) => format!("**the process dies of signal {signal}**"),
                    None => format!("**the process ends: {status}**"),
                });
            }
            if began.elapsed() >= wait {
                return None;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has used; `None` when it is gone.
#[derive(Clone, Copy)]
struct Usage {
    /// The most that was resident, and the most address space, in KiB.
    resident: u64,
    reserved: u64,
    cpu: Duration,
}

impl Usage {
    fn of(victim: &Victim) -> Option<Self> {
        let of = |file| std::fs::read_to_string(format!("/proc/{}/{file}", victim.child.id())).ok();
        let (status, stat) = (of("status")?, of("stat")?);
        let kib = |what: &str| {
            let line = status.lines().find(|line| line.starts_with(what))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        let fields = stat.rsplit(')').next()?.split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        // A zombie has no memory any more. USER_HZ is 100 wherever Linux runs.
        Some(Self {
            resident: kib("VmHWM:")?,
            reserved: kib("VmPeak:")?,
            cpu: Duration::from_millis(ticks * 10),
        })
    }
}

/// What an attack cost so far.
fn cost(before: Option<Usage>, victim: &Victim) -> String {
    let (Some(before), Some(after)) = (before, Usage::of(victim)) else { return String::new() };
    let mib = |kib: u64| kib as f64 / 1024.0;
    let resident = mib(after.resident - before.resident);
    let reserved = mib(after.reserved - before.reserved);
    let cpu = (after.cpu - before.cpu).as_secs_f64();
    // Address space that has nothing in it costs little; but for some attacks it is all that shows.
    let reserved = match reserved {
        1024.0.. => format!(" (address space +{:.0} GiB)", reserved / 1024.0),
        _ => String::new(),
    };
    format!("memory +{resident:.1} MiB{reserved}, {cpu:.2} s of processor time; ")
}

fn waited(wait: Duration) -> String {
    match wait.as_secs_f64() {
        seconds @ 0.1.. => format!("{seconds:.1} s"),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}

/// Connects as a DEALER and asks for an echo; how long that took, if it did not take too long.
async fn newcomer(to: SocketAddr, from: usize) -> Option<Duration> {
    let began = Instant::now();
    let asked = tokio::spawn(async move { echo(&mut raw::shaken(to, from, "DEALER").await, b"hi").await });
    timeout(PATIENCE, asked).await.ok()?.ok()?.then(|| began.elapsed())
}

async fn echo(peer: &mut TcpStream, word: &[u8]) -> bool {
    peer.write_all(&raw::frame(0, word)).await.is_ok() && hears(peer, word).await
}

async fn hears(peer: &mut TcpStream, word: &[u8]) -> bool {
    matches!(timeout(ANSWER, raw::read_message(peer)).await, Ok(Some(answer)) if answer == [word])
}

/// A client from before the attack that goes on asking.
struct Good {
    stop: Arc<AtomicBool>,
    asking: tokio::task::JoinHandle<(Vec<Duration>, bool)>,
}

impl Good {
    async fn start(to: SocketAddr) -> Self {
        let mut peer = raw::shaken(to, 901, "DEALER").await;
        assert!(echo(&mut peer, b"hi").await);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let asking = tokio::spawn(async move {
            let mut waits = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                if !echo(&mut peer, b"hi").await {
                    return (waits, false);
                }
                waits.push(asked.elapsed());
                sleep(Duration::from_millis(2)).await; // the pace
            }
            (waits, true)
        });
        Self { stop, asking }
    }

    async fn end(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        let (mut waits, served) = self.asking.await.unwrap();
        waits.sort();
        match waits.get(waits.len() * 99 / 100) {
            Some(p99) if served => format!("good client waits {} (p99)", waited(*p99)),
            _ => "**good client gets no answer**".into(),
        }
    }
}

/// What became of the victim and its clients. `new`: how long a new one waited, or else waited for nothing.
async fn outcome(victim: &mut Victim, good: Option<Good>, new: Result<Duration, Duration>) -> String {
    // Its connections end before it does.
    let wait = if new.is_err() { Duration::from_secs(2) } else { Duration::ZERO };
    if let Some(ended) = victim.ended(wait).await {
        return ended;
    }
    let mut outcome = match good {
        Some(good) => good.end().await + ", ",
        None => String::new(),
    };
    outcome += &match new {
        Ok(wait) => format!("new client served after {}", waited(wait)),
        Err(patience) => format!("**new client not served within {} s**", patience.as_secs()),
    };
    outcome
}

/// A DEALER that says it has this name.
async fn named(to: SocketAddr, from: usize, name: &[u8]) -> TcpStream {
    let mut peer = raw::dial(to, from).await;
    let hello = [raw::greeting("NULL"), raw::ready("DEALER", &[("Identity", name)])].concat();
    peer.write_all(&hello).await.unwrap();
    raw::shake(&mut peer).await;
    peer
}

enum Attack {
    Claims { count: usize, mib: u64 },
    OneFrame,
    EmptyFrames(usize),
    Silence { count: usize, watched: Duration, patience: Duration },
    NameBefore,
    NameAfter,
    NameDialled,
    Restart { topics: usize, window: Duration },
}

impl std::fmt::Display for Attack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Claims { count, mib } => {
                write!(
                    f,
                    "{count} connections, each announces a frame of {mib} MiB and sends 100 bytes of it"
                )
            }
            Self::OneFrame => write!(f, "73 bytes: a greeting, and the header of a frame of 2^62 bytes"),
            Self::EmptyFrames(count) => {
                write!(f, "a message of {count} empty frames that does not end ({} KiB)", count * 2 / 1024)
            }
            Self::Silence { count, watched, .. } => {
                write!(
                    f,
                    "{count} connections that say nothing to a process with 64 descriptors, for {watched:?}"
                )
            }
            Self::NameBefore => write!(f, "the attacker claims a client's routing id before that connects"),
            Self::NameAfter => write!(f, "the attacker claims a client's routing id while that is connected"),
            Self::NameDialled => {
                write!(
                    f,
                    "the attacker claims the routing id by which the ROUTER knows somebody it will dial"
                )
            }
            Self::Restart { topics, .. } => {
                write!(f, "no attacker: a publisher is killed and restarted; {topics} subscriptions")
            }
        }
    }
}

impl Attack {
    async fn on(&self, engine: &Engine) -> String {
        match self {
            Self::Claims { count, mib } => claims(engine, *count, *mib).await,
            Self::OneFrame => one_frame(engine).await,
            Self::EmptyFrames(count) => empty_frames(engine, *count).await,
            Self::Silence { count, watched, patience } => silence(engine, *count, *watched, *patience).await,
            Self::NameBefore => name_before(engine).await,
            Self::NameAfter => name_after(engine).await,
            Self::NameDialled => name_dialled(engine).await,
            Self::Restart { topics, window } => restart(engine, *topics, *window).await,
        }
    }
}

async fn claims(engine: &Engine, count: usize, mib: u64) -> String {
    let (mut victim, to) = Victim::router(engine, None).await;
    let good = Good::start(to).await;
    let before = Usage::of(&victim);
    let mut peers = Vec::new();
    for n in 0..count {
        let peer = tokio::spawn(async move {
            let mut peer = raw::shaken(to, n, "DEALER").await;
            let claim = [&raw::header(0, mib << 20)[..], &[0; 100]].concat();
            peer.write_all(&claim).await.unwrap();
            peer
        });
        if let Ok(Ok(peer)) = timeout(ANSWER, peer).await {
            peers.push(peer);
        }
    }
    let reached = peers.len();
    let mut closing = JoinSet::new();
    peers.into_iter().for_each(|mut peer| {
        closing.spawn(async move { (raw::closed(&mut peer, Duration::from_secs(2)).await, peer) });
    });
    let peers = closing.join_all().await;
    let closed = peers.iter().filter(|(closed, _)| *closed).count();
    let cost = cost(before, &victim);
    let new = newcomer(to, 902).await;
    let outcome = outcome(&mut victim, Some(good), new.ok_or(PATIENCE)).await;
    let missed = if reached < count { format!("only {reached} get that far; ") } else { String::new() };
    format!("{cost}{missed}{closed} of {reached} closed; {outcome}")
}

async fn one_frame(engine: &Engine) -> String {
    let (mut victim, to) = Victim::router(engine, None).await;
    let good = Good::start(to).await;
    let before = Usage::of(&victim);
    let mut peer = raw::dial(to, 1).await;
    let (hello, header) = (raw::greeting("NULL"), raw::header(0, 1 << 62));
    assert_eq!(hello.len() + header.len(), 73);
    peer.write_all(&hello).await.unwrap();
    // That it greets shows that somebody is at the other end; one that dies of the header may never have said so behind it.
    let mut greeting = [0; 10];
    let greeted = timeout(ANSWER, peer.read_exact(&mut greeting)).await;
    assert!(matches!(greeted, Ok(Ok(_))), "the victim does not greet");
    peer.write_all(&header).await.unwrap();
    let closed = raw::closed(&mut peer, Duration::from_secs(2)).await;
    let cost = cost(before, &victim);
    let new = newcomer(to, 902).await;
    let outcome = outcome(&mut victim, Some(good), new.ok_or(PATIENCE)).await;
    format!("{cost}{}; {outcome}", if closed { "closed" } else { "stays open" })
}

async fn empty_frames(engine: &Engine, count: usize) -> String {
    let (mut victim, to) = Victim::router(engine, None).await;
    let good = Good::start(to).await;
    let before = Usage::of(&victim);
    let mut peer = raw::shaken(to, 1, "DEALER").await;
    let sent = timeout(PATIENCE, peer.write_all(&[1, 0].repeat(count))).await;
    // Time to read it all; or it was closed.
    let closed = raw::closed(&mut peer, Duration::from_secs(2)).await;
    let cost = cost(before, &victim);
    let new = newcomer(to, 902).await;
    let outcome = outcome(&mut victim, Some(good), new.ok_or(PATIENCE)).await;
    let taken = match (closed, sent) {
        (true, _) => "closed",
        (false, Ok(Ok(()))) => "all of it is taken and kept",
        (false, _) => "no longer read",
    };
    format!("{cost}{taken}; {outcome}")
}

async fn silence(engine: &Engine, count: usize, watched: Duration, patience: Duration) -> String {
    let (mut victim, to) = Victim::router(engine, Some(64)).await;
    let good = Good::start(to).await;
    let (began, before) = (Instant::now(), Usage::of(&victim));
    // All at once: when the system's queue is full some are not through in the time that there is. They are from 20
    // addresses, because what counts connections may count them by address.
    let mut dialling = JoinSet::new();
    (0..count).for_each(|n| drop(dialling.spawn(async move { raw::dial(to, n % 20).await })));
    let mut silent = Vec::new();
    let until = tokio::time::Instant::now() + watched / 4;
    while let Ok(Some(one)) = tokio::time::timeout_at(until, dialling.join_next()).await {
        silent.extend(one);
    }
    assert!(silent.len() > 64, "{} connections take no descriptors", silent.len());
    let knocking = tokio::spawn(async move { timeout(patience, newcomer(to, 902)).await.ok().flatten() });
    sleep(watched.saturating_sub(began.elapsed())).await;
    let elapsed = began.elapsed();
    let busy = match (before, Usage::of(&victim)) {
        (Some(before), Some(after)) => (after.cpu - before.cpu).as_secs_f64() / elapsed.as_secs_f64(),
        _ => 0.0,
    };
    let good = good.end().await;
    let new = knocking.await.unwrap();
    let outcome = outcome(&mut victim, None, new.ok_or(patience)).await;
    format!("{:.0} % of a processor; {good}, {outcome}", busy * 100.0)
}

async fn name_before(engine: &Engine) -> String {
    let (mut victim, to) = Victim::router(engine, None).await;
    let mut attacker = named(to, 0, b"good").await;
    assert!(echo(&mut attacker, b"attacker").await, "the claim does not count");
    let honest = tokio::spawn(async move {
        let mut honest = named(to, 1, b"good").await;
        let served = echo(&mut honest, b"honest").await;
        (honest, served)
    });
    // Kept, so that it does not leave before the attacker's turn.
    let honest = timeout(PATIENCE, honest).await;
    let served = matches!(honest, Ok(Ok((_, true))));
    let both = echo(&mut attacker, b"attacker").await;
    if let Some(ended) = victim.ended(Duration::ZERO).await {
        return ended;
    }
    match (served, both) {
        (true, true) => "the client is served, and the attacker, too: each gets its own answers",
        (true, false) => "the client is served, the attacker no longer",
        (false, _) => "**the client never gets an answer**",
    }
    .into()
}

async fn name_after(engine: &Engine) -> String {
    let (mut victim, to) = Victim::router(engine, None).await;
    let mut honest = named(to, 1, b"good").await;
    assert!(echo(&mut honest, b"honest").await);
    let attacker = timeout(PATIENCE, tokio::spawn(named(to, 0, b"good"))).await;
    let _ = honest.write_all(&raw::frame(0, b"secret")).await;
    let stolen = match attacker {
        Ok(Ok(mut attacker)) => hears(&mut attacker, b"secret").await,
        _ => false, // turned away
    };
    let served = hears(&mut honest, b"secret").await;
    if let Some(ended) = victim.ended(Duration::ZERO).await {
        return ended;
    }
    match (served, stolen) {
        (true, false) => "the client is served on",
        (_, true) => "**the client's answers go to the attacker**",
        (false, false) => "**the client gets no more answers**",
    }
    .into()
}

async fn name_dialled(engine: &Engine) -> String {
    let Engine::Libzmq(_) = engine else { return "not possible: it can't be told whom it dials".into() };
    let (mut victim, to) = Victim::router(engine, None).await;
    let good = Good::start(to).await;
    let mut attacker = named(to, 0, b"good").await;
    assert!(echo(&mut attacker, b"hi").await, "the claim does not count");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    victim.tell(&format!("good tcp://{}", listener.local_addr().unwrap()));
    let accepted = timeout(Duration::from_secs(2), listener.accept()).await;
    if let Ok(Ok((mut peer, _))) = accepted {
        let _ = peer.write_all(&raw::hello("DEALER")).await;
        let _ = raw::closed(&mut peer, Duration::from_secs(2)).await;
    }
    let new = newcomer(to, 902).await;
    outcome(&mut victim, Some(good), new.ok_or(PATIENCE)).await
}

async fn restart(engine: &Engine, topics: usize, window: Duration) -> String {
    let count = topics.to_string();
    let publisher = Victim::start(engine, &["pub", "tcp://127.0.0.1:0", &count], None);
    let at = format!("tcp://{}", publisher.address());
    let mut subscriber = Victim::start(engine, &["sub", &at, &count], None);
    // Not all may be in force at once: the best of some windows.
    let mut heard = |windows: usize| {
        let mut best = 0;
        for _ in 0..windows {
            subscriber.tell(&window.as_millis().to_string());
            let line = subscriber.line().expect("the subscriber is gone");
            best = best.max(line.parse().unwrap());
            if best == topics {
                break;
            }
        }
        best
    };
    let before = heard(4);
    drop(publisher);
    // What is still queued is the dead one's, and does not count.
    heard(1);
    let _again = Victim::start(engine, &["pub", &at, &count], None);
    let after = heard(4);
    let lost = if after < topics { "**" } else { "" };
    format!("{before} of {topics} in force before, {lost}{after} afterwards{lost}")
}

// ---- the victims of the two crates ----

/// Ends this process when the one that started it has ended.
fn end_with_parent() {
    std::thread::spawn(|| {
        std::io::stdin().lines().for_each(drop);
        std::process::exit(0);
    });
}

/// How long the next line on standard input says to count; `None` when there is none.
fn next_window() -> Option<Duration> {
    let line = std::io::stdin().lines().next()?.ok()?;
    Some(Duration::from_millis(line.parse().ok()?))
}

async fn our_router() {
    end_with_parent();
    let router = Router::new();
    println!("{}", router.bind("tcp://127.0.0.1:0").await.unwrap());
    while let Ok(message) = router.recv().await {
        let _ = router.send(&message).await;
    }
}

fn topic(n: usize) -> String {
    format!("topic.{n:05}")
}

async fn our_pub(endpoint: &str, topics: usize) {
    end_with_parent();
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
    while let Some(window) = next_window() {
        let mut seen = HashSet::new();
        let until = Instant::now() + window;
        while Instant::now() < until {
            let received = timeout(Duration::from_millis(50), subscriber.recv()).await;
            seen.extend(received.into_iter().flatten().map(|message| message.frame(0).unwrap().to_vec()));
        }
        println!("{}", seen.len());
    }
}

async fn their_router() {
    end_with_parent();
    let mut router = zeromq::RouterSocket::new();
    println!("{}", router.bind("tcp://127.0.0.1:0").await.unwrap());
    while let Ok(message) = router.recv().await {
        let _ = router.send(message).await;
    }
}

async fn their_pub(endpoint: &str, topics: usize) {
    end_with_parent();
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
    while let Some(window) = next_window() {
        let mut seen = HashSet::new();
        let until = Instant::now() + window;
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
