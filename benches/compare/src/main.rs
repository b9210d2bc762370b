//! Ripstop beside what else there is: the same work, two processes over TCP loopback, one run.
//!
//! `cargo run --release --manifest-path benches/compare/Cargo.toml -- [--quick] [--only SYSTEM,…] [--json FILE]`
//!
//! In each round every system does its work once, so that a busy machine is unfair to nobody; what is printed is the
//! median of the rounds with the least and the most, and ratios are medians of the rounds' own ratios. Latency is taken
//! with both processes on one core: an idle virtual processor takes tens of microseconds to wake, which hides the
//! software; the figure without that stands beside it.

mod systems;
mod table;
mod work;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use clap::Parser;

use systems::System;
use table::Report;
use work::{Measured, Work};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures Ripstop beside other systems.
#[derive(Parser)]
struct Args {
    /// Fewer rounds of shorter runs
    #[arg(long)]
    quick: bool,
    /// Only these systems
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only work whose name contains this
    #[arg(long, default_value = "")]
    work: String,
    /// Where to write all figures
    #[arg(long)]
    json: Option<PathBuf>,
    /// One of the two processes: `SYSTEM SIDE KIND SIZE COUNT ENDPOINT`
    #[arg(long, hide = true, num_args = 6)]
    role: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let [system, side, kind, size, count, endpoint] = &args.role[..] {
        let system = systems::named(system)?;
        let work = Work { kind: kind.parse()?, size: size.parse()?, count: count.parse()? };
        return match side.as_str() {
            "stay" => (system.stay)(&work),
            _ => (system.come)(&work, endpoint),
        };
    }
    let all = systems::all();
    let chosen: Vec<_> = all
        .iter()
        .filter(|system| args.only.is_empty() || args.only.iter().any(|name| name == system.name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<_> = all.iter().map(|system| system.name).collect();
        return Err(format!("none of these is built in; there are {}", names.join(", ")).into());
    }
    let (rounds, seconds) = if args.quick { (3, 0.3) } else { (5, 1.0) };
    let mut report = Report::new(rounds, seconds);
    println!("{}", report.conditions());
    for row in work::ROWS.iter().filter(|row| row.name().contains(&args.work)) {
        let taking: Vec<_> = chosen.iter().filter(|system| system.does(row)).collect();
        let mut measured = vec![Vec::new(); taking.len()];
        for _ in 0..rounds {
            for (system, measured) in taking.iter().zip(&mut measured) {
                match run(system, row, seconds) {
                    Ok(result) => measured.push(result),
                    Err(error) => eprintln!("{}: {}: {error}", system.name, row.name()),
                }
            }
        }
        let results = taking.iter().map(|system| system.name).zip(measured);
        print!("{}", report.add(row, results.filter(|(_, results)| !results.is_empty()).collect()));
    }
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

/// One run of one system: the process that stays says where it is, then the other one comes.
fn run(system: &System, row: &work::Row, seconds: f64) -> Result<Measured> {
    let rate = system.guess(row.kind);
    let count = (seconds / (1.0 / rate + row.size as f64 / 1.5e9)).max(100.0) as u64;
    let start = |side: &str, endpoint: &str| -> Result<Child> {
        let mut command = match row.pinned {
            true => {
                let mut command = Command::new("taskset");
                command.args(["-c", "0"]).arg(std::env::current_exe()?);
                command
            }
            false => Command::new(std::env::current_exe()?),
        };
        let (size, count) = (row.size.to_string(), count.to_string());
        command.args(["--role", system.name, side, row.kind.name(), &size, &count, endpoint]);
        Ok(command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?)
    };
    let (said, hear) = mpsc::channel();
    let mut stays = Reaped(start("stay", "-")?);
    listen(&mut stays, said.clone())?;
    let endpoint = hear.recv_timeout(PATIENCE).map_err(|_| "it does not say where it is")?;
    let mut comes = Reaped(start("come", &endpoint)?);
    listen(&mut comes, said)?;
    // Whoever knows the result says it.
    let line =
        hear.recv_timeout(PATIENCE).map_err(|_| "it ended, or went on for too long, without a result")?;
    Ok(serde_json::from_str(&line)?)
}

/// A run that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Passes on what a process says, until it ends.
fn listen(process: &mut Reaped, said: mpsc::Sender<String>) -> Result<()> {
    let output: ChildStdout = process.0.stdout.take().ok_or("no output")?;
    std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(std::io::Result::ok).try_for_each(|line| said.send(line))
    });
    Ok(())
}

/// Ended with the run.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
