//! The table in the documents: what stands between two marks is made by the run.

use std::fmt::Write;
use std::path::Path;

use crate::Result;
use crate::bars;
use crate::table::{Line, Report, show};
use crate::work::Kind;

/// Puts the tables between the marks of `file`: all of it for `compare`, the first columns for `compare short`; `durable` is a
/// run of its own.
pub fn fill(file: &Path, report: &Report) -> Result<()> {
    let mut text = std::fs::read_to_string(file)?;
    let all = if report.disk.is_some() {
        vec![("durable", durable(report))]
    } else {
        vec![("compare", tables(report)), ("compare short", short(report))]
    };
    for (mark, tables) in all {
        let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
        if let Some((before, rest)) = text.split_once(&begin) {
            let (_, after) =
                rest.split_once(&end).ok_or_else(|| format!("{end} is missing in {}", file.display()))?;
            text = format!("{before}{begin}{tables}{end}{after}");
        }
    }
    Ok(std::fs::write(file, text)?)
}

const OURS: [&str; 4] = ["ripstop", "ripstop push", "ripstop publish", "ripstop call"];

fn short(report: &Report) -> String {
    let mut text = "| work | Ripstop | best other | ratio |\n| --- | --- | --- | --- |\n".to_owned();
    for line in &report.rows {
        for [work, ours, _, best, ratio, _] in OURS.into_iter().filter_map(|ours| row(report, line, ours)) {
            let _ = writeln!(text, "| {work} | {ours} | {best} | {ratio} |");
        }
    }
    text
}

fn tables(report: &Report) -> String {
    let mut text = format!("{}.\n\n", report.conditions());
    text +=
        "| work | Ripstop | floor | best other | ratio | others |\n| --- | --- | --- | --- | --- | --- |\n";
    for line in &report.rows {
        for cells in OURS.into_iter().filter_map(|ours| row(report, line, ours)) {
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
    }
    text += "\n| bar | held against | ratio | needed | |\n| --- | --- | --- | --- | --- |\n";
    for verdict in bars::judge(report) {
        let bars::Verdict { work, theirs, ratio, need, met } = verdict;
        let met = if met { "met" } else { "**not met**" };
        let _ = writeln!(text, "| {work} | {theirs} | {ratio:.2} | {need:.2} | {met} |");
    }
    text
}

/// Each system with its spread, and ours to it.
fn durable(report: &Report) -> String {
    let mut text = format!("{}.\n\n| senders that wait ", report.conditions());
    let Some(first) = report.rows.first() else { return text };
    let systems: Vec<_> = first.systems.iter().map(|(name, _)| name.as_str()).collect();
    for name in &systems {
        let ratio = if *name == first.work.kind.ours() { "" } else { " | ratio" };
        let _ = write!(text, "| {name}, a second{ratio} ");
    }
    let columns = systems.len() * 2;
    let _ = writeln!(text, "|\n{}|", "| --- ".repeat(columns));
    for line in &report.rows {
        let Kind::Durable(senders) = line.work.kind else { continue };
        let _ = write!(text, "| {senders} ");
        let ours = line.of(line.work.kind.ours());
        for name in &systems {
            let Some(figures) = line.of(name) else {
                text += "| – | – ";
                continue;
            };
            let (least, most) = figures.spread();
            let _ = write!(text, "| {} ({} to {}) ", show(figures.median()), show(least), show(most));
            if *name != line.work.kind.ours() {
                let ratio = ours.as_ref().map_or(f64::NAN, |ours| ours.ratio(&figures));
                let _ = write!(text, "| {ratio:.2} ");
            }
        }
        text += "|\n";
    }
    text
}

/// What one of ours did, the floor, the best other, the ratio to that, and the rest.
fn row(report: &Report, line: &Line, name: &str) -> Option<[String; 6]> {
    let ours = line.of(name)?;
    let latency = line.work.kind == Kind::Ask;
    // Nobody else has TLS: plain text is what it is held against.
    let plain =
        report.rows.iter().find(|other| other.work.kind == Kind::OneWay && other.work.size == line.work.size);
    let beside = if line.work.kind == Kind::Tls { plain.unwrap_or(line) } else { line };
    let mut others: Vec<_> = beside
        .systems
        .iter()
        .filter(|(name, _)| !name.starts_with("ripstop") && name != "floor")
        .filter_map(|(name, _)| Some((name.as_str(), beside.of(name)?)))
        .collect();
    others.sort_by(|(_, a), (_, b)| b.median().total_cmp(&a.median()));
    if latency {
        others.reverse();
    }
    let floor = beside.of("floor").map_or_else(|| "–".to_owned(), |floor| floor.shown());
    let (best, ratio) = match others.first() {
        Some((name, best)) => (format!("{name} {}", best.shown()), format!("{:.2}", ours.ratio(best))),
        None => ("–".to_owned(), "–".to_owned()),
    };
    let rest: Vec<_> =
        others.iter().skip(1).map(|(name, of)| format!("{name} {}", show(of.median()))).collect();
    let what =
        if name == "ripstop" { String::new() } else { format!(", {}", name.trim_start_matches("ripstop ")) };
    Some([format!("{}{what}", line.work.name()), ours.shown(), floor, best, ratio, rest.join(", ")])
}
