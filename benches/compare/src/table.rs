//! All figures of a run, and how they are printed and written.

use std::fmt::Write;

use serde::Serialize;

use crate::bars;
use crate::work::{Kind, Measured, Row};

/// All figures, as they go into the JSON file.
#[derive(Serialize)]
pub struct Report {
    rounds: usize,
    seconds: f64,
    cores: usize,
    kernel: String,
    processor: String,
    /// Where what is kept is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    pub rows: Vec<Line>,
}

#[derive(Serialize)]
pub struct Line {
    pub work: Row,
    pub systems: Vec<(String, Vec<Measured>)>,
}

/// What one system did in one row.
pub struct Figures<'a> {
    pub work: String,
    latency: bool,
    measured: &'a [Measured],
}

impl Line {
    pub fn of(&self, system: &str) -> Option<Figures<'_>> {
        let (_, measured) = self.systems.iter().find(|(name, _)| name == system)?;
        Some(Figures { work: self.work.name(), latency: self.work.kind == Kind::Ask, measured })
    }
}

impl Figures<'_> {
    /// Messages a second; of one request in flight, microseconds.
    fn value(&self, measured: &Measured) -> f64 {
        if self.latency { measured.p50.unwrap_or(f64::NAN) } else { measured.rate }
    }

    pub fn median(&self) -> f64 {
        median(self.measured.iter().map(|one| self.value(one)))
    }

    pub fn spread(&self) -> (f64, f64) {
        let values = || self.measured.iter().map(|one| self.value(one));
        (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max))
    }

    /// Ours to theirs: the median of the rounds' ratios.
    pub fn ratio(&self, theirs: &Figures<'_>) -> f64 {
        let rounds = self.measured.iter().zip(theirs.measured);
        median(rounds.map(|(ours, other)| self.value(ours) / theirs.value(other)))
    }

    /// Processor seconds for a million messages.
    pub fn cpu(&self) -> f64 {
        median(self.measured.iter().filter_map(|one| one.cpu))
    }

    /// MiB of the process that says the result, at its most.
    pub fn memory(&self) -> f64 {
        median(self.measured.iter().filter_map(|one| Some(one.memory? as f64 / 1024.0)))
    }

    pub fn shown(&self) -> String {
        let shown = show(self.median());
        if self.latency { format!("{shown} µs") } else { format!("{shown}/s") }
    }
}

impl Report {
    pub fn new(rounds: usize, seconds: f64) -> Self {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            rounds,
            seconds,
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: model.map_or("?", |(_, model)| model).to_owned(),
            disk: None,
            rows: Vec::new(),
        }
    }

    pub fn conditions(&self) -> String {
        let Self { rounds, seconds, cores, kernel, processor, disk, .. } = self;
        let between = disk.as_deref().unwrap_or("two processes, TCP loopback");
        format!(
            "{cores} cores of {processor}, Linux {kernel}; {between}; {rounds} rounds of about {seconds} s, \
             the systems in turn; median (least to most); ratios are ours to theirs"
        )
    }

    /// Of a row that is there pinned and free, the pinned one: it is the first.
    pub fn of(&self, kind: Kind, size: usize, system: &str) -> Option<Figures<'_>> {
        self.rows.iter().find(|line| line.work.kind == kind && line.work.size == size)?.of(system)
    }

    /// Adds a row, and gives it as it is printed.
    pub fn add(&mut self, work: &Row, systems: Vec<(String, Vec<Measured>)>) -> String {
        let line = Line { work: work.clone(), systems };
        let unit = if work.kind == Kind::Ask { "µs, p50" } else { "messages a second" };
        let mut text = format!(
            "\n{}: {unit} (least to most), ratio, processor time for a million, memory\n",
            work.name()
        );
        let ours = line.of(work.kind.ours());
        for (name, measured) in &line.systems {
            let Some(figures) = line.of(name) else { continue };
            let (least, most) = figures.spread();
            let spread = format!("({} to {})", show(least), show(most));
            let ratio = match &ours {
                Some(ours) if name != work.kind.ours() => format!("{:.2}", ours.ratio(&figures)),
                _ => String::new(),
            };
            let tail = match work.kind {
                Kind::Ask => format!("p99 {:.1} µs", median(measured.iter().filter_map(|one| one.p99))),
                _ => String::new(),
            };
            let _ = writeln!(
                text,
                "  {name:<16} {:>8} {spread:<22} {ratio:>6}  {:>7.2} s/M {:>6.1} MiB  {tail}",
                show(figures.median()),
                figures.cpu(),
                figures.memory(),
            );
        }
        self.rows.push(line);
        text
    }

    /// The bars, as they are printed.
    pub fn verdicts(&self) -> String {
        let mut text = String::from("\nbars\n");
        for bars::Verdict { work, theirs, ratio, need, met } in bars::judge(self) {
            let met = if met { "met" } else { "NOT MET" };
            let _ = writeln!(text, "  {work:<40} to {theirs:<14} {ratio:>6.2}, needs {need:<5.2} {met}");
        }
        text
    }
}

pub fn show(value: f64) -> String {
    match value {
        1e7.. => format!("{:.1} M", value / 1e6),
        1e6.. => format!("{:.2} M", value / 1e6),
        1e4.. => format!("{:.0} k", value / 1e3),
        1e3.. => format!("{:.1} k", value / 1e3),
        _ => format!("{value:.1}"),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
