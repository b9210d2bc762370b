//! A process that is attacked: what it says, what it takes of memory and processor, and a good client that it has to
//! serve meanwhile.

#![allow(dead_code, clippy::unwrap_used)] // shared by several test programs

use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ripstop::Node;
use tokio::sync::oneshot;

/// Nothing that is waited for takes longer, unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Calls of which the quiet p99 is taken, and the time from one to the next.
const CALLS: usize = 300;
const PACE: Duration = Duration::from_millis(2);
/// See [`Host::attacked`].
const ROUNDS: usize = 6;
/// A virtual machine's processors go away for milliseconds at a time, and the attacker, other tests and other programs
/// run on the same two: below this a p99 says nothing about us.
pub(crate) const FLOOR: Duration = Duration::from_millis(50);

/// Tests that measure take turns.
pub(crate) async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}

/// Lines that a process has said.
#[derive(Default)]
struct Said {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Said {
    fn listen(self: &Arc<Self>, stream: impl std::io::Read + Send + 'static) {
        let this = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                this.lines.lock().unwrap().push(line);
                this.more.notify_all();
            }
        });
    }

    fn count(&self, what: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line.contains(what)).count()
    }

    /// Waits until `times` lines have said so; returns the last.
    fn wait(&self, what: &str, times: usize) -> String {
        self.wait_for(what, times, |line| line.contains(what))
    }

    fn wait_for(&self, what: &str, times: usize, says: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        let mut lines = self.lines.lock().unwrap();
        loop {
            let mut found = lines.iter().filter(|line| says(line));
            if let Some(line) = found.nth(times.saturating_sub(1)) {
                return line.clone();
            }
            let left = PATIENCE.saturating_sub(began.elapsed());
            let said = lines.iter().filter(|line| says(line)).count();
            let tail: Vec<_> = lines.iter().rev().take(20).rev().collect();
            assert!(!left.is_zero(), "`{what}` was said {said} times, not {times}; last: {tail:#?}");
            lines = self.more.wait_timeout(lines, left).unwrap().0;
        }
    }
}

/// The process; killed when dropped.
pub(crate) struct Victim {
    child: Child,
    pub(crate) stdin: Arc<Mutex<ChildStdin>>,
    out: Arc<Said>,
    log: Arc<Said>,
    /// Its directory, where it looks for `ripstop.toml`; it stays while somebody has it.
    pub(crate) place: Arc<tempfile::TempDir>,
}

impl Victim {
    /// Starts `ripstop` with these arguments, `environment` beside, and this many descriptors at most.
    pub(crate) fn start(args: &[&str], environment: &[(&str, &str)], descriptors: Option<u32>) -> Self {
        let place = Arc::new(tempfile::tempdir().unwrap());
        Self::run(place, env!("CARGO_BIN_EXE_ripstop"), args, environment, descriptors)
    }

    /// The same in a directory with this `ripstop.toml`, and whatever else (keys) was put there before.
    pub(crate) fn configured(place: &Arc<tempfile::TempDir>, toml: &str, args: &[&str]) -> Self {
        std::fs::write(place.path().join("ripstop.toml"), toml).unwrap();
        Self::run(place.clone(), env!("CARGO_BIN_EXE_ripstop"), args, &[], None)
    }

    /// The same with this test program itself, playing the role that the test `name` describes.
    pub(crate) fn role(name: &str, environment: &[(&str, &str)]) -> Self {
        let this = std::env::current_exe().unwrap();
        let environment = [environment, &[("RIPSTOP_TEST_ROLE", name)]].concat();
        let args = ["--exact", name, "--nocapture", "--test-threads", "1"];
        let place = Arc::new(tempfile::tempdir().unwrap());
        Self::run(place, this.to_str().unwrap(), &args, &environment, None)
    }

    /// Whether this process is to play the role `name`.
    pub(crate) fn is_role(name: &str) -> bool {
        std::env::var("RIPSTOP_TEST_ROLE").is_ok_and(|role| role == name)
    }

    fn run(
        place: Arc<tempfile::TempDir>,
        program: &str,
        args: &[&str],
        environment: &[(&str, &str)],
        descriptors: Option<u32>,
    ) -> Self {
        let mut command = Command::new("sh");
        let limit = descriptors.map_or(String::new(), |limit| format!("ulimit -n {limit}; "));
        command.args(["-c", &format!("{limit}exec \"$0\" \"$@\""), program]).args(args);
        command.current_dir(place.path()).env("RIPSTOP_RUNTIME_DIR", place.path());
        command.env("RUST_LOG", "warn,ripstop::socket=debug").env("NO_COLOR", "1");
        command.envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, log) = (Arc::new(Said::default()), Arc::new(Said::default()));
        out.listen(child.stdout.take().unwrap());
        log.listen(child.stderr.take().unwrap());
        let stdin = Arc::new(Mutex::new(child.stdin.take().unwrap()));
        Self { stdin, child, out, log, place }
    }

    /// Waits for a line of standard output that contains `what`.
    pub(crate) fn hear(&self, what: &str) -> String {
        self.out.wait(what, 1)
    }

    pub(crate) fn hear_times(&self, what: &str, times: usize) -> String {
        self.out.wait(what, times)
    }

    /// The first `tcp://` address that it says, on either stream.
    pub(crate) fn address(&self) -> SocketAddr {
        let began = Instant::now();
        loop {
            for said in [&self.out, &self.log] {
                let lines = said.lines.lock().unwrap();
                let found = lines.iter().find_map(|line| Some(line.split_once("tcp://")?.1.to_owned()));
                if let Some(rest) = found {
                    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
                    return rest[..end.unwrap_or(rest.len())].parse().unwrap();
                }
            }
            assert!(began.elapsed() < PATIENCE, "no address: {:?}", self.log.lines.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until its log has said this so often.
    pub(crate) fn logged(&self, what: &str, times: usize) {
        self.log.wait(what, times);
    }

    /// Waits until one line of its log has said of this peer what happened to it.
    pub(crate) fn logged_of(&self, peer: SocketAddr, what: &str) {
        let peer = format!("\"{peer}\"");
        self.log
            .wait_for(&format!("{what} of {peer}"), 1, |line| line.contains(&peer) && line.contains(what));
    }

    fn last_words(&self) -> Vec<String> {
        let lines = self.log.lines.lock().unwrap();
        lines.iter().rev().take(20).rev().cloned().collect()
    }

    pub(crate) fn log_lines(&self, what: &str) -> Vec<String> {
        let lines = self.log.lines.lock().unwrap();
        lines.iter().filter(|line| line.contains(what)).cloned().collect()
    }

    pub(crate) fn log_count(&self, what: &str) -> usize {
        self.log.count(what)
    }

    pub(crate) fn tell(&self, line: &str) {
        tell(&self.stdin, line);
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Resident memory in KiB.
    pub(crate) fn memory(&self) -> u64 {
        memory(self.id(), "VmRSS")
    }

    /// The most that it has ever been, in KiB.
    pub(crate) fn peak(&self) -> u64 {
        memory(self.id(), "VmHWM")
    }

    /// Processor time since its start.
    pub(crate) fn cpu(&self) -> Duration {
        cpu(self.id())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes to a process's standard input.
pub(crate) fn tell(stdin: &Mutex<ChildStdin>, line: &str) {
    let mut stdin = stdin.lock().unwrap();
    stdin.write_all(line.as_bytes()).unwrap();
    stdin.flush().unwrap();
}

pub(crate) fn memory(process: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub(crate) fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10) // USER_HZ is 100 wherever Linux runs
}

/// A node of the command line that echoes, a good client that is linked to it, and the same once more, left alone.
///
/// The attacker runs on the same processors as everything else, and so do other tests and programs. How much of a
/// latency is theirs shows at the pair that nobody attacks, which is measured at the same time.
pub(crate) struct Host {
    pub(crate) victim: Victim,
    pub(crate) address: SocketAddr,
    client: Client,
    good: Caller,
    /// The pair that nobody attacks.
    _control: Victim,
    control: Caller,
    /// p99 of the good client's calls before anything happened.
    pub(crate) quiet: Duration,
}

pub(crate) const METHOD: &str = "hello.echo";
pub(crate) const SERVE: [&str; 5] = ["serve", METHOD, "--echo", "--concurrency", "64"];

impl Host {
    pub(crate) async fn start(environment: &[(&str, &str)]) -> Self {
        Self::with(environment, None).await
    }

    pub(crate) async fn with(environment: &[(&str, &str)], descriptors: Option<u32>) -> Self {
        Self::of(Victim::start(&SERVE, environment, descriptors)).await
    }

    /// Any process that says where it listens and serves the method.
    pub(crate) async fn of(victim: Victim) -> Self {
        Self::served(victim, Victim::start(&SERVE, &[], None), plain()).await
    }

    /// The victim, one that is left alone, and how both are called.
    pub(crate) async fn served(victim: Victim, unattacked: Victim, client: Client) -> Self {
        let address = victim.address();
        let good = Caller::start(address, client.clone());
        let control = Caller::start(unattacked.address(), client.clone());
        let quiet = good.calls(CALLS).await.p99();
        Self { victim, address, client, good, _control: unattacked, control, quiet }
    }

    /// Makes the attack. All the while the good client calls: each call has to succeed, and the p99 of those during the
    /// attack (of a short one the slowest) has to stay under twice the quiet one, or twice that of the pair that nobody
    /// attacks, or [`FLOOR`], whichever is most. An attack that slows us down does so each time it is made, and a
    /// processor that was away was not: so it may be made [`ROUNDS`] times until that holds.
    pub(crate) async fn attacked<T, F>(&self, attack: impl Fn() -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        for round in 1.. {
            let (good, control) = (self.good.begin(), self.control.begin());
            let done = tokio::spawn(attack()).await;
            let (good, control) = (good.end().await, control.end().await);
            let done = done.unwrap_or_else(|failed| {
                println!("the victim's last words: {:#?}", self.victim.last_words());
                std::panic::resume_unwind(failed.into_panic())
            });
            let (calls, p99, control) = (good.0.len(), good.p99(), control.p99());
            println!(
                "{calls} calls; p99 {:?} quiet, {p99:?} in the attack, {control:?} beside it",
                self.quiet
            );
            if p99 < (2 * self.quiet.max(control)).max(FLOOR) {
                // And it goes on.
                self.good.calls(10).await;
                return done;
            }
            assert!(
                round < ROUNDS,
                "p99 {p99:?} in the attack, {:?} quiet, {control:?} beside it",
                self.quiet
            );
            // Nothing of this round is left when the next begins.
            drop(done);
            self.good.calls(CALLS).await;
        }
        unreachable!()
    }

    /// And somebody new is served too. Returns how long it took from the connection to the reply.
    pub(crate) async fn takes_newcomers(&self) -> Duration {
        let began = Instant::now();
        let mut call = (self.client)(self.address).await;
        call(7).await;
        began.elapsed()
    }
}

/// Makes one call and panics unless it succeeds; the number is another one each time.
pub(crate) type Call = Box<dyn FnMut(u64) -> LocalFuture<()>>;
/// Connects to an address; what it gives makes calls there.
pub(crate) type Client = Arc<dyn Fn(SocketAddr) -> LocalFuture<Call> + Send + Sync>;
type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// A client of any kind: `connect` gives what `call` then calls with.
///
/// ```ignore
/// let tls = client(|address| secured(address), |node: Node, n| async move { /* one call, asserted */ });
/// let host = Host::served(victim, unattacked, tls).await;
/// ```
pub(crate) fn client<C, Connect, Connecting, One, Calling>(connect: Connect, call: One) -> Client
where
    C: Clone + 'static,
    Connect: Fn(SocketAddr) -> Connecting + Send + Sync + 'static,
    Connecting: Future<Output = C> + 'static,
    One: Fn(C, u64) -> Calling + Clone + Send + Sync + 'static,
    Calling: Future<Output = ()> + 'static,
{
    Arc::new(move |address| {
        let (connecting, call) = (connect(address), call.clone());
        Box::pin(async move {
            let connected = connecting.await;
            Box::new(move |n| Box::pin(call(connected.clone(), n)) as LocalFuture<()>) as Call
        })
    })
}

/// A node that calls the method without keys.
fn plain() -> Client {
    client(good, |node: Node, n| async move {
        let echo: Result<u64, _> = node.call(METHOD, &n).await;
        assert_eq!(echo.expect("a good client's call failed"), n);
    })
}

/// A node that knows one address, linked to it.
pub(crate) async fn good(address: SocketAddr) -> Node {
    let endpoint = format!("tcp://{address}").parse().unwrap();
    let node = Node::builder("good").local(false).mdns(false).peer("hello", endpoint, &["hello"]);
    let node = node.start().await.unwrap();
    let echo: u64 = node.call(METHOD, &7u64).await.unwrap();
    assert_eq!(echo, 7);
    node
}

/// A good client on a thread and a runtime of its own, so that it does not wait for an attacker's tasks.
struct Caller(tokio::sync::mpsc::UnboundedSender<Job>);

struct Job {
    least: usize,
    until: oneshot::Receiver<()>,
    done: oneshot::Sender<Latencies>,
}

/// Calls that are going on.
struct Calling {
    stop: oneshot::Sender<()>,
    done: oneshot::Receiver<Latencies>,
}

impl Calling {
    async fn end(self) -> Latencies {
        drop(self.stop);
        self.done.await.expect("a good client's call failed")
    }
}

impl Caller {
    fn start(address: SocketAddr, client: Client) -> Self {
        let (jobs, mut todo) = tokio::sync::mpsc::unbounded_channel::<Job>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut call = client(address).await;
                while let Some(mut job) = todo.recv().await {
                    let mut latencies = Latencies::default();
                    let mut pace = tokio::time::interval(PACE);
                    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                    while latencies.0.len() < job.least
                        || job.until.try_recv() == Err(oneshot::error::TryRecvError::Empty)
                    {
                        pace.tick().await;
                        latencies.add(&mut call).await;
                    }
                    let _ = job.done.send(latencies);
                }
            });
        });
        Self(jobs)
    }

    /// Calls until it is told to end.
    fn begin(&self) -> Calling {
        let (stop, until) = oneshot::channel();
        let (done, latencies) = oneshot::channel();
        let _ = self.0.send(Job { least: 1, until, done });
        Calling { stop, done: latencies }
    }

    async fn calls(&self, least: usize) -> Latencies {
        let (done, latencies) = oneshot::channel();
        let _ = self.0.send(Job { least, until: oneshot::channel().1, done });
        latencies.await.expect("a good client's call failed")
    }
}

#[derive(Default, Debug)]
pub(crate) struct Latencies(pub(crate) Vec<Duration>);

impl Latencies {
    async fn add(&mut self, call: &mut Call) {
        let (n, began) = (self.0.len() as u64, Instant::now());
        call(n).await;
        self.0.push(began.elapsed());
    }

    pub(crate) fn p99(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted[sorted.len() * 99 / 100]
    }
}
