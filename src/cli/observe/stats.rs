//! `ripstop stats`: what services do, all instances together.

use std::{collections::BTreeMap, time::Duration};

use ripstop::observe::{CallStats, NodeStats};
use serde_json::json;

use super::{Asked, args::StatsArgs, ask_all, instances, look, nobody, took};
use crate::{
    args::Common,
    exit::Failure,
    join::{self, Joined},
    output::{Output, remark},
    stop::stop,
};

/// Between two looks.
const AGAIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(common: &Common, args: StatsArgs, mut out: Output) -> Result<(), Failure> {
    let joined = look(common).await?;
    let done = looks(&joined, common, &args, &mut out).await;
    joined.leave().await;
    done
}

async fn looks(joined: &Joined, common: &Common, args: &StatsArgs, out: &mut Output) -> Result<(), Failure> {
    let (stop, end) = (stop(), join::deadline(common.timeout));
    tokio::pin!(stop, end);
    let mut ticks = tokio::time::interval(AGAIN);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut stop => return Ok(()),
            () = &mut end, if args.watch => return Ok(()),
        }
        let there = instances(&joined.node, args.target.as_deref()).await;
        if there.is_empty() && !args.watch {
            return Err(nobody(joined, args.target.as_deref()));
        }
        let answers = ask_all(&joined.node, &there, |node| async move { node.stats().await }).await;
        show(&answers, args.watch, out)?;
        out.flush()?;
        if !args.watch {
            return match answers.iter().any(|(_, answer)| answer.is_ok()) {
                true => Ok(()),
                false => Err(Failure::failed("nobody has told its statistics")),
            };
        }
    }
}

fn show(
    answers: &[(Asked, Result<NodeStats, String>)],
    again: bool,
    out: &mut Output,
) -> Result<(), Failure> {
    if out.json {
        for (asked, answer) in answers {
            match answer {
                Ok(stats) => out.value(stats)?,
                Err(error) => out.value(
                    &json!({"node": asked.node.to_string(), "service": asked.service, "error": error}),
                )?,
            }
        }
        return Ok(());
    }
    if again && out.terminal {
        // Home, and clear what is below.
        out.raw(b"\x1b[H\x1b[J")?;
    }
    for (asked, answer) in answers {
        if let Err(error) = answer {
            remark(format!("{}: {error}", asked.name()));
        }
    }
    let rows = rows(answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()));
    if rows.is_empty() {
        return out.line("nothing was counted yet");
    }
    let header =
        ["SERVICE", "WHAT", "NAME", "RATE", "ERRORS", "P50", "P99", "NOW", "WAIT", "TOTAL", "FAILED"];
    out.table(&header, rows)
}

/// Events or work of all instances.
#[derive(Default)]
struct Flow {
    rate: f64,
    waiting: u64,
    total: u64,
    dropped: u64,
}

/// A row for each method, queue and topic of each service.
fn rows<'a>(all: impl Iterator<Item = &'a NodeStats>) -> Vec<Vec<String>> {
    let mut calls: BTreeMap<(&str, &str, &str), CallStats> = BTreeMap::new();
    let mut flows: BTreeMap<(&str, &str, &str), Flow> = BTreeMap::new();
    for stats in all {
        for (what, of) in [("serves", &stats.served), ("calls", &stats.called), ("works on", &stats.worked)] {
            for one in of {
                calls.entry((&stats.service, what, &one.name)).or_default().add(one);
            }
        }
        for (what, of) in [
            ("publishes", &stats.published),
            ("hears", &stats.subscribed),
            ("pushes", &stats.pushed),
            ("pulls", &stats.pulled),
        ] {
            for one in of {
                let sum = flows.entry((&stats.service, what, &one.name)).or_default();
                let dropped = one.dropped.values().fold(0u64, |sum, count| sum.saturating_add(*count));
                sum.rate += one.rate;
                for (of, more) in [
                    (&mut sum.waiting, one.waiting),
                    (&mut sum.total, one.total),
                    (&mut sum.dropped, dropped),
                ] {
                    *of = of.saturating_add(more);
                }
            }
        }
    }
    let calls = calls.into_iter().map(|((service, what, name), stats)| {
        let row = vec![
            service.to_owned(),
            what.to_owned(),
            name.to_owned(),
            per_second(stats.rate),
            per_second(stats.error_rate),
            took(stats.p50()),
            took(stats.p99()),
            stats.in_flight.to_string(),
            stats.waiting.to_string(),
            stats.total.to_string(),
            stats.failed().to_string(),
        ];
        ((service.to_owned(), what.to_owned()), row)
    });
    let flows = flows.into_iter().map(|((service, what, name), flow)| {
        let Flow { rate, waiting, total, dropped } = flow;
        let mut row = vec![service.to_owned(), what.to_owned(), name.to_owned(), per_second(rate)];
        row.extend(["-", "-", "-", "-"].map(str::to_owned));
        row.extend([waiting, total, dropped].map(|count| count.to_string()));
        ((service.to_owned(), what.to_owned()), row)
    });
    let mut rows: Vec<_> = calls.chain(flows).collect();
    rows.sort_by(|(a, _), (b, _)| a.0.cmp(&b.0));
    rows.into_iter().map(|(_, row)| row).collect()
}

/// `12.5/s`, or `0`.
pub(crate) fn per_second(rate: f64) -> String {
    match rate {
        rate if rate <= 0.0 => "0".to_owned(),
        rate if rate < 100.0 => format!("{rate:.1}/s"),
        rate if rate < 1e5 => format!("{rate:.0}/s"),
        rate => format!("{:.1}k/s", rate / 1e3),
    }
}
