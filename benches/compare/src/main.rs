//! Ripstop beside what else there is: the same work, two processes over TCP loopback, one run.
//!
//! `cargo run --release --manifest-path benches/compare/Cargo.toml -- [--quick] [--only SYSTEM,…] [--work TEXT] [--durable]`
//!
//! In each round every system does its work once, so that a busy machine is unfair to nobody; what is printed is the
//! median of the rounds with the least and the most, and ratios are medians of the rounds' own ratios. Latency is taken
//! with both processes on one core: an idle virtual processor takes tens of microseconds to wake, which hides the
//! software; the figure without that stands beside it.
//!
//! A whole run (all systems, all work) writes its tables into README.md and docs/performance.md, its figures into
//! docs/compare.json and its plots beside them; any other writes figures and plots into target/compare. With `--durable` that is
//! one table in docs/performance.md, and docs/durable.json.

mod bars;
mod markdown;
mod plots;
mod run;
mod systems;
mod table;
mod work;

use std::path::{Path, PathBuf};

use clap::Parser;

use run::{calibrate, run};
use table::Report;
use work::Work;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures Ripstop beside other systems.
#[derive(Parser)]
struct Args {
    /// Fewer rounds of shorter runs
    #[arg(long)]
    quick: bool,
    /// Only these systems
    #[arg(long, value_delimiter = ',', value_name = "SYSTEM")]
    only: Vec<String>,
    /// Only work whose name contains this
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    work: String,
    /// Instead of messages, what is kept on disk: a table of its own
    #[arg(long)]
    durable: bool,
    /// Where to write figures and plots [default: docs/ for a whole run, else target/compare/]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
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
    let names = || all.iter().map(|system| system.name).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = args.only.iter().find(|name| all.iter().all(|system| system.name != name.as_str()))
    {
        return Err(
            format!("no {unknown:?} is built in; there are: {} (more with --features all)", names()).into()
        );
    }
    let chosen: Vec<_> = all
        .iter()
        .filter(|system| args.only.is_empty() || args.only.iter().any(|name| name == system.name))
        .collect();
    let all_rows: &[_] = if args.durable { &work::DURABLE } else { &work::ROWS };
    let rows: Vec<_> = all_rows.iter().filter(|row| row.name().contains(&args.work)).collect();
    if rows.is_empty() {
        let names: Vec<_> = all_rows.iter().map(|row| row.name()).collect();
        return Err(format!("no work is called like {:?}; there are: {}", args.work, names.join("; ")).into());
    }
    let (rounds, seconds) = if args.quick { (3, 0.2) } else { (5, 1.0) };
    let mut report = Report::new(rounds, seconds);
    report.disk = args.durable.then(systems::kept::disk).transpose()?;
    println!("{}", report.conditions());
    for row in &rows {
        let mut taking = Vec::new();
        for system in chosen.iter().filter(|system| system.does(row)) {
            match calibrate(system, row, seconds) {
                Ok(count) => taking.push((system, count, Vec::new())),
                Err(error) => eprintln!("{}: {}: {error}", system.name, row.name()),
            }
        }
        for _ in 0..rounds {
            for (system, count, measured) in &mut taking {
                match run(system, row, *count) {
                    Ok(result) => measured.push(result),
                    Err(error) => eprintln!("{}: {}: {error}", system.name, row.name()),
                }
            }
        }
        let results = taking.into_iter().map(|(system, _, measured)| (system.name.to_owned(), measured));
        print!("{}", report.add(row, results.filter(|(_, measured)| !measured.is_empty()).collect()));
    }
    let everybody = if args.durable {
        cfg!(feature = "nats")
    } else {
        print!("{}", report.verdicts());
        cfg!(all(feature = "nats", feature = "tonic", feature = "zenoh"))
    };
    let whole = everybody && args.only.is_empty() && args.work.is_empty();
    write(&report, args.out, whole)
}

fn write(report: &Report, out: Option<PathBuf>, whole: bool) -> Result<()> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if whole && out.is_none() {
        for file in ["README.md", "docs/performance.md"] {
            markdown::fill(&project.join(file), report)?;
        }
    }
    let out = out.unwrap_or_else(|| project.join(if whole { "docs" } else { "target/compare" }));
    std::fs::create_dir_all(&out)?;
    let file = if report.disk.is_some() { "durable.json" } else { "compare.json" };
    std::fs::write(out.join(file), serde_json::to_vec_pretty(report)?)?;
    plots::draw(&out, report)?;
    println!("\nfigures and plots are in {}", out.canonicalize()?.display());
    Ok(())
}
