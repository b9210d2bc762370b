//! `ripstop ping`: each instance of a service, again and again.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;

use super::{Asked, args::PingArgs, ask_all, instances, look, nobody};
use crate::{
    args::Common,
    exit::{Exit, Failure},
    join::{self, Joined},
    output::Output,
    stop::stop,
};

/// What came of one instance.
#[derive(Default)]
struct Times {
    sent: u64,
    took: Vec<Duration>,
}

pub(crate) async fn run(common: &Common, args: PingArgs, mut out: Output) -> Result<(), Failure> {
    let joined = look(common).await?;
    let done = rounds(&joined, common, &args, &mut out).await;
    joined.leave().await;
    done
}

async fn rounds(joined: &Joined, common: &Common, args: &PingArgs, out: &mut Output) -> Result<(), Failure> {
    let mut all: BTreeMap<String, Times> = BTreeMap::new();
    let (stop, end) = (stop(), join::deadline(common.timeout));
    tokio::pin!(stop, end);
    let mut ticks = tokio::time::interval(args.interval.max(Duration::from_millis(1)));
    for round in 1..=args.count.unwrap_or(u64::MAX) {
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut stop => break,
            () = &mut end => break,
        }
        // Each round anew: one that has come since is asked, too. Those that no longer answer are, until discovery forgets them.
        let there = instances(&joined.node, Some(&args.target)).await;
        if there.is_empty() && all.is_empty() {
            return Err(nobody(joined, Some(&args.target)));
        }
        for (asked, answer) in ask_all(&joined.node, &there, |node| async move { node.ping().await }).await {
            let times = all.entry(asked.name()).or_default();
            times.sent += 1;
            times.took.extend(answer.as_ref().ok());
            tell(&asked, round, &answer, out)?;
        }
        out.flush()?;
    }
    if !out.json {
        out.line("")?;
        for (name, times) in &all {
            out.line(summary(name, times))?;
        }
        out.flush()?;
    }
    match all.values().any(|times| !times.took.is_empty()) {
        true => Ok(()),
        false => Err(Failure::new(Exit::Nobody, format!("no instance of {} answers", args.target))),
    }
}

fn tell(
    asked: &Asked,
    round: u64,
    answer: &Result<Duration, String>,
    out: &mut Output,
) -> Result<(), Failure> {
    let ms = |took: &Duration| took.as_secs_f64() * 1e3;
    if out.json {
        return out.value(&json!({
            "service": asked.service, "node": asked.node.to_string(), "address": asked.address, "seq": round,
            "rtt_ms": answer.as_ref().ok().map(ms), "error": answer.as_ref().err(),
        }));
    }
    match answer {
        Ok(took) => {
            out.line(format!("{} at {}: seq={round} time={:.3} ms", asked.name(), asked.address, ms(took)))
        }
        Err(error) => out.line(format!("{} at {}: seq={round} {error}", asked.name(), asked.address)),
    }
}

fn summary(name: &str, times: &Times) -> String {
    let (sent, answered) = (times.sent, times.took.len() as u64);
    let lost = (sent - answered) * 100 / sent.max(1);
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    let least = times.took.iter().min().copied().map(ms);
    let most = times.took.iter().max().copied().map(ms);
    let mean =
        times.took.iter().sum::<Duration>().checked_div(u32::try_from(answered).unwrap_or(u32::MAX)).map(ms);
    match (least, mean, most) {
        (Some(least), Some(mean), Some(most)) => {
            format!(
                "{name}: {sent} asked, {answered} answered, {lost}% lost, min/avg/max {least:.3}/{mean:.3}/{most:.3} ms"
            )
        }
        _ => format!("{name}: {sent} asked, 0 answered, {lost}% lost"),
    }
}
