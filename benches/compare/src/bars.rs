//! What has to be reached, in ratios: ours to the best of theirs, or to the machine's floor.

use crate::table::Report;
use crate::work::Kind;

/// A system, doing one row of work.
type At = (&'static str, Kind, usize);

/// One bar.
struct Bar {
    ours: At,
    /// The best of them counts.
    theirs: &'static [&'static str],
    /// In another row than ours, if what we do there nobody else can.
    at: (Kind, usize),
    need: f64,
}

const PEERS: &[&str] = &["libzmq", "omq", "omq exclusive", "zeromq", "zenoh", "zenoh tuned", "nats"];
const SOCKETS: &[&str] = &["libzmq", "omq", "omq exclusive", "zeromq"];
const FLOOR: &[&str] = &["floor"];
const CURVE: &[&str] = &["libzmq CURVE", "omq"];
const ZENOH: &[&str] = &["zenoh", "zenoh tuned"];
const NATS: &[&str] = &["nats"];
const TONIC: &[&str] = &["tonic"];

const fn bar(
    system: &'static str,
    kind: Kind,
    size: usize,
    theirs: &'static [&'static str],
    need: f64,
) -> Bar {
    Bar { ours: (system, kind, size), theirs, at: (kind, size), need }
}

const fn beside(
    system: &'static str,
    kind: Kind,
    size: usize,
    theirs: &'static [&'static str],
    at: Kind,
    need: f64,
) -> Bar {
    Bar { ours: (system, kind, size), theirs, at: (at, size), need }
}

const BARS: [Bar; 22] = [
    bar("ripstop", Kind::OneWay, 16, PEERS, 2.5),
    bar("ripstop", Kind::OneWay, 128, PEERS, 1.6),
    bar("ripstop", Kind::OneWay, 128, FLOOR, 0.65),
    bar("ripstop", Kind::OneWay, 1024, PEERS, 1.1),
    bar("ripstop", Kind::OneWay, 1024, FLOOR, 0.8),
    bar("ripstop", Kind::OneWay, 16 << 10, PEERS, 1.0),
    bar("ripstop", Kind::OneWay, 256 << 10, PEERS, 1.0),
    bar("ripstop push", Kind::OneWay, 128, ZENOH, 1.5),
    bar("ripstop push", Kind::OneWay, 128, NATS, 3.0),
    bar("ripstop publish", Kind::OneWay, 128, ZENOH, 1.5),
    bar("ripstop publish", Kind::OneWay, 128, NATS, 3.0),
    bar("ripstop", Kind::Ask, 64, PEERS, 1.0),
    bar("ripstop", Kind::Ask, 64, FLOOR, 1.1),
    bar("ripstop call", Kind::Ask, 64, FLOOR, 1.5),
    bar("ripstop call", Kind::Ask, 64, TONIC, 1.0 / 3.0),
    bar("ripstop", Kind::Many, 64, SOCKETS, 1.5),
    bar("ripstop call", Kind::Many, 64, TONIC, 6.0),
    bar("ripstop", Kind::FanOut, 128, PEERS, 2.0),
    beside("ripstop", Kind::Tls, 16, PEERS, Kind::OneWay, 1.0),
    beside("ripstop", Kind::Tls, 128, PEERS, Kind::OneWay, 1.0),
    beside("ripstop", Kind::Tls, 1024, CURVE, Kind::Curve, 3.0),
    bar("ripstop", Kind::Curve, 1024, CURVE, 1.3),
];

/// How it came out: the work, whom it is held against, the ratio, what was needed, and whether that was reached.
pub struct Verdict {
    pub work: String,
    pub theirs: String,
    pub ratio: f64,
    pub need: f64,
    pub met: bool,
}

/// What can be judged by these figures. Of two pinned and unpinned rows the pinned one counts.
pub fn judge(report: &Report) -> Vec<Verdict> {
    BARS.iter().filter_map(|bar| judged(report, bar)).collect()
}

fn judged(report: &Report, bar: &Bar) -> Option<Verdict> {
    let (system, kind, size) = bar.ours;
    let ours = report.of(kind, size, system)?;
    let latency = kind == Kind::Ask;
    let rivals = bar.theirs.iter().filter_map(|name| Some((*name, report.of(bar.at.0, bar.at.1, name)?)));
    // The least ratio is that to the best of them; of latencies, the greatest.
    let ratios = rivals.map(|(name, theirs)| (name, ours.ratio(&theirs)));
    let (name, ratio) = ratios.reduce(|a, b| if (a.1 < b.1) != latency { a } else { b })?;
    let work = format!("{}, {system}", ours.work);
    let met = if latency { ratio <= bar.need } else { ratio >= bar.need };
    Some(Verdict { work, theirs: name.to_owned(), ratio, need: bar.need, met })
}
