//! What is done, and what is measured of it.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Result;

/// What two processes do together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Kind {
    /// Messages go one way, PUSH to PULL.
    OneWay,
    /// The same, encrypted by TLS 1.3.
    Tls,
    /// The same, encrypted by CURVE (RFC 26).
    Curve,
    /// One asks and waits for the answer, DEALER to ROUTER.
    Ask,
    /// The same with 64 requests in flight.
    Many,
    /// One publishes to eight subscribers of the other process, and nothing is dropped.
    FanOut,
    /// So many senders, each of which waits until what it has sent is on disk.
    Durable(u16),
}

/// Subscribers of [`Kind::FanOut`].
pub const FAN: u64 = 8;

/// Requests in flight of [`Kind::Many`].
pub const WINDOW: u64 = 64;

impl Kind {
    /// How many get each message.
    pub fn receivers(self) -> u64 {
        if self == Self::FanOut { FAN } else { 1 }
    }

    /// Ours, that the others are held against.
    pub fn ours(self) -> &'static str {
        if matches!(self, Self::Durable(_)) { "ripstop durable" } else { "ripstop" }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::OneWay => "one-way",
            Self::Tls => "one-way-tls",
            Self::Curve => "one-way-curve",
            Self::Ask => "ask",
            Self::Many => "ask-64",
            Self::FanOut => "fan-out-8",
            Self::Durable(1) => "durable-1",
            Self::Durable(32) => "durable-32",
            Self::Durable(_) => "durable-256",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut all = ROWS.iter().chain(&DURABLE).map(|row| row.kind);
        all.find(|kind| kind.name() == text).ok_or_else(|| format!("no such work: {text}"))
    }
}

/// One row of the comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub kind: Kind,
    /// Bytes of a message's body.
    pub size: usize,
    /// Both processes on one core.
    pub pinned: bool,
}

impl Row {
    pub fn name(&self) -> String {
        format!("{} {} B{}", self.kind.name(), self.size, if self.pinned { ", one core" } else { "" })
    }
}

const fn row(kind: Kind, size: usize, pinned: bool) -> Row {
    Row { kind, size, pinned }
}

pub const ROWS: [Row; 15] = [
    row(Kind::OneWay, 16, false),
    row(Kind::OneWay, 128, false),
    row(Kind::OneWay, 1024, false),
    row(Kind::OneWay, 16 << 10, false),
    row(Kind::OneWay, 256 << 10, false),
    row(Kind::Tls, 16, false),
    row(Kind::Tls, 128, false),
    row(Kind::Tls, 1024, false),
    row(Kind::Curve, 1024, false),
    row(Kind::Ask, 64, true),
    row(Kind::Ask, 64, false),
    row(Kind::Many, 64, true),
    row(Kind::Many, 64, false),
    row(Kind::Many, 1024, false),
    row(Kind::FanOut, 128, false),
];

/// A table of their own.
pub const DURABLE: [Row; 3] = [
    row(Kind::Durable(1), 256, false),
    row(Kind::Durable(32), 256, false),
    row(Kind::Durable(256), 256, false),
];

/// What one process has to do of it.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub kind: Kind,
    pub size: usize,
    pub count: u64,
}

impl Work {
    pub fn message(&self) -> Vec<u8> {
        vec![7; self.size]
    }

    /// How many are asked before the first answer is waited for.
    pub fn window(&self) -> u64 {
        match self.kind {
            Kind::Many => WINDOW.min(self.count),
            Kind::Durable(senders) => senders.into(),
            _ => 1,
        }
    }
}

/// The result of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Messages, or answers, a second.
    pub rate: f64,
    /// Of one request in flight, in microseconds.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    /// The most memory that the process which says this has had, in KiB.
    pub memory: Option<u64>,
    /// Processor time of all processes, in seconds for a million messages; the driver adds it.
    pub cpu: Option<f64>,
}

impl Measured {
    pub fn new(rate: f64) -> Self {
        let status = procfs::process::Process::myself().and_then(|this| this.status());
        Self { rate, p50: None, p99: None, memory: status.ok().and_then(|status| status.vmhwm), cpu: None }
    }
}

/// A server's keys, public and secret: those of libzmq's documentation, zmq_curve(7).
pub const CURVE_SERVER: (&str, &str) =
    ("rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7", "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6");

/// Says where it is, so that the other process comes.
pub fn here(endpoint: impl fmt::Display) {
    println!("{endpoint}");
}

/// Counts what comes, from the first on, and says how fast it was.
pub struct Counter {
    count: u64,
    seen: u64,
    began: Option<Instant>,
}

impl Counter {
    pub fn new(work: &Work) -> Self {
        Self { count: work.count * work.kind.receivers(), seen: 0, began: None }
    }

    /// So many more have come; whether that is all.
    pub fn add(&mut self, more: u64) -> Result<bool> {
        let began = *self.began.get_or_insert_with(Instant::now);
        self.seen += more;
        if self.seen < self.count {
            return Ok(false);
        }
        say(&Measured::new(self.seen as f64 / began.elapsed().as_secs_f64()))?;
        Ok(true)
    }
}

/// The counter of eight subscribers in one process.
pub type Shared = std::sync::Arc<std::sync::Mutex<Counter>>;

/// Counts for one of them; whether all have everything.
pub fn add(counter: &Shared, more: u64) -> Result<bool> {
    counter.lock().map_err(|_| "a subscriber panicked")?.add(more)
}

/// Takes the time of each answer, and says it at the end.
pub struct Clock {
    began: Instant,
    asked: Instant,
    waits: Vec<Duration>,
    warm: u64,
}

impl Clock {
    /// The first tenth is not counted.
    pub fn new(work: &Work) -> Self {
        let now = Instant::now();
        Self { began: now, asked: now, waits: Vec::new(), warm: work.count / 10 }
    }

    pub fn asks(&mut self) {
        self.asked = Instant::now();
    }

    pub fn answered(&mut self) {
        match self.warm {
            0 => self.waits.push(self.asked.elapsed()),
            1 => (self.warm, self.began) = (0, Instant::now()),
            _ => self.warm -= 1,
        }
    }

    pub fn end(mut self, work: &Work) -> Result<()> {
        let elapsed = self.began.elapsed();
        let rate = self.waits.len() as f64 / elapsed.as_secs_f64();
        self.waits.sort_unstable();
        let at = |share: usize| {
            let wait = self.waits.get(self.waits.len() * share / 100)?;
            (work.kind == Kind::Ask).then(|| wait.as_secs_f64() * 1e6)
        };
        say(&Measured { p50: at(50), p99: at(99), ..Measured::new(rate) })
    }
}

/// The result, for the driver.
pub fn say(measured: &Measured) -> Result<()> {
    println!("{}", serde_json::to_string(measured)?);
    Ok(())
}
