//! What is printed and written.

use serde::Serialize;

use crate::work::{Kind, Measured, Row};

/// All figures, as they go into the JSON file.
#[derive(Serialize)]
pub struct Report {
    rounds: usize,
    seconds: f64,
    cores: usize,
    kernel: String,
    processor: String,
    rows: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    work: Row,
    systems: Vec<(String, Vec<Measured>)>,
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
            rows: Vec::new(),
        }
    }

    pub fn conditions(&self) -> String {
        let Self { rounds, seconds, cores, kernel, processor, .. } = self;
        format!(
            "{cores} cores of {processor}, Linux {kernel}; two processes, TCP loopback; {rounds} rounds of about {seconds} s; \
             median (least to most); ratios are ours to theirs"
        )
    }

    /// Adds a row, and gives it as it is printed.
    pub fn add(&mut self, row: &Row, systems: Vec<(&str, Vec<Measured>)>) -> String {
        let latency = row.kind == Kind::Ask;
        let value =
            |measured: &Measured| if latency { measured.p50.unwrap_or(f64::NAN) } else { measured.rate };
        let ours = systems.iter().find(|(name, _)| *name == "ripstop").map(|(_, measured)| measured);
        let mut text =
            format!("\n{}, {}\n", row.name(), if latency { "µs (p50; p99)" } else { "messages a second" });
        for (name, measured) in &systems {
            let values: Vec<_> = measured.iter().map(value).collect();
            let (least, most) =
                (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(0.0, f64::max));
            let tail = match latency {
                true => format!("; p99 {:.1}", median(measured.iter().filter_map(|one| one.p99))),
                false => String::new(),
            };
            let ratio = match ours {
                Some(ours) if *name != "ripstop" => {
                    let ratios = ours.iter().zip(measured).map(|(ours, theirs)| value(ours) / value(theirs));
                    format!("  {:.2}", median(ratios))
                }
                _ => String::new(),
            };
            let shown = median(values.iter().copied());
            text += &format!(
                "  {name:<16} {:>12} ({} to {}{tail}){ratio}\n",
                show(shown),
                show(least),
                show(most)
            );
        }
        let systems = systems.into_iter().map(|(name, measured)| (name.to_owned(), measured)).collect();
        self.rows.push(Line { work: row.clone(), systems });
        text
    }
}

fn show(value: f64) -> String {
    match value {
        1e6.. => format!("{:.2} M", value / 1e6),
        1e3.. => format!("{:.1} k", value / 1e3),
        _ => format!("{value:.1}"),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
