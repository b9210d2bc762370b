//! `ripstop outbox watch`: says when too much waits, or for too long, and runs a command then.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use ripstop::fabric::PushError;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    args::{Place, WatchArgs},
    stores::{Asked, Stores},
};
use crate::{
    args::Common,
    exit::Failure,
    output::{Output, remark},
    serve::answer,
    stop::stop,
};

/// A command that is told of an alert has so long.
const COMMAND: Duration = Duration::from_secs(60);
/// Letters that are read at once, to count them.
const PAGE: usize = 1000;

/// What is measured: of a node, a queue of it (empty: all), and what.
type Gauge = (String, String, &'static str);

/// A threshold that was passed, in one direction or the other.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Alert {
    gauge: Gauge,
    over: bool,
    value: u64,
    limit: u64,
}

impl Alert {
    fn json(&self) -> Value {
        let Self { gauge: (node, queue, what), over, value, limit } = self;
        let queue = Some(queue).filter(|queue| !queue.is_empty());
        json!({"alert": if *over { "over" } else { "back" }, "node": node, "queue": queue, "what": what, "value": value, "limit": limit})
    }

    fn text(&self) -> String {
        let Self { gauge: (node, queue, what), over, value, limit } = self;
        let said = |value: u64| match *what {
            "age" => humantime::format_duration(Duration::from_secs(value)).to_string(),
            _ => value.to_string(),
        };
        let of = if queue.is_empty() { String::new() } else { format!(" {queue}") };
        let sign = if *over { "over" } else { "back at or below" };
        format!("{node}{of}: {what} {}, {sign} {}", said(*value), said(*limit))
    }
}

/// Which gauges are over their limits.
#[derive(Default)]
struct Watch(BTreeMap<Gauge, u64>);

impl Watch {
    /// What has changed now that these were measured, with their limits. What was over and is not measured any more, although its node
    /// answers, is back at nothing.
    fn look(&mut self, answering: &[String], measured: Vec<(Gauge, u64, u64)>) -> Vec<Alert> {
        let mut alerts = Vec::new();
        let mut still: BTreeMap<Gauge, u64> =
            self.0.extract_if(.., |(node, ..), _| answering.contains(node)).collect();
        for (gauge, value, limit) in measured {
            let was = still.remove(&gauge).is_some();
            let over = value > limit;
            if over {
                self.0.insert(gauge.clone(), limit);
            }
            if over != was {
                alerts.push(Alert { gauge, over, value, limit });
            }
        }
        let gone = still.into_iter().map(|(gauge, limit)| Alert { gauge, over: false, value: 0, limit });
        alerts.extend(gone);
        alerts
    }
}

pub(super) async fn run(
    common: &Common,
    place: &Place,
    args: &WatchArgs,
    mut out: Output,
) -> Result<(), Failure> {
    // What waits in a directory waits there for others, too, who could not use it meanwhile: only one that is named is watched.
    let mut stores = match &place.data_dir {
        Some(_) => Stores::open(common, place).await?,
        None => Stores::with(common, None, false).await?,
    };
    let done = watch(&mut stores, args, &mut out).await;
    stores.joined.leave().await;
    done?;
    out.flush()
}

async fn watch(stores: &mut Stores, args: &WatchArgs, out: &mut Output) -> Result<(), Failure> {
    let mut watch = Watch::default();
    let mut stop = std::pin::pin!(stop());
    loop {
        let (mut answering, mut measured) = (Vec::new(), Vec::new());
        for asked in &stores.asked {
            if let Some(of_node) = Stores::said(asked, measure(stores, asked, args).await) {
                answering.push(asked.name());
                measured.extend(of_node);
            }
        }
        for alert in watch.look(&answering, measured) {
            if out.json {
                out.value(&alert.json())?
            } else {
                out.line(alert.text())?
            }
            out.flush()?;
            if let Some(command) = &args.run {
                match timeout(COMMAND, answer(command, &alert.json())).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => remark(format!("warning: --run: {}", error.message())),
                    Err(_) => remark("warning: --run: the command took more than a minute and was ended"),
                }
            }
        }
        if args.once {
            return match watch.0.len() {
                0 => Ok(()),
                over => Err(Failure::failed(format!("{over} over their thresholds"))),
            };
        }
        tokio::select! {
            _ = &mut stop => return Ok(()),
            () = tokio::time::sleep(args.every) => {}
        }
        stores.look_again().await;
    }
}

async fn measure(
    stores: &Stores,
    asked: &Asked,
    args: &WatchArgs,
) -> Result<Vec<(Gauge, u64, u64)>, PushError> {
    let mut measured = Vec::new();
    let node = asked.name();
    for queue in stores.kept(asked).queues().await? {
        let age = SystemTime::now().duration_since(queue.oldest).unwrap_or_default().as_secs();
        let limits = [("items", queue.items, args.items), ("age", age, args.age.map(|age| age.as_secs()))];
        measured.extend(limits.into_iter().filter_map(|(what, value, limit)| {
            Some(((node.clone(), queue.queue.clone(), what), value, limit?))
        }));
    }
    if let Some(limit) = args.letters {
        let letters = stores.letters(asked);
        let (mut count, mut after) = (0, 0);
        while count <= limit
            && let page = letters.list(after, PAGE).await?
            && let Some(last) = page.last()
        {
            after = last.id;
            count += page.len() as u64;
        }
        measured.push(((node, String::new(), "letters"), count, limit));
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_once() {
        let gauge = |queue: &str| ("shop/1a".to_owned(), queue.to_owned(), "items");
        let mut watch = Watch::default();
        let shop = ["shop/1a".to_owned()];
        let mut look = |answering: &[String], measured: &[(&str, u64)]| {
            let measured = measured.iter().map(|(queue, value)| (gauge(queue), *value, 10)).collect();
            let alerts = watch.look(answering, measured);
            alerts.into_iter().map(|alert| (alert.gauge.1, alert.over, alert.value)).collect::<Vec<_>>()
        };
        assert_eq!(look(&shop, &[("a", 10), ("b", 11)]), [("b".into(), true, 11)]);
        assert_eq!(look(&shop, &[("a", 10), ("b", 12)]), []);
        assert_eq!(look(&[], &[]), [], "a node that does not answer says nothing of its queues");
        assert_eq!(look(&shop, &[("a", 99), ("b", 3)]), [("a".into(), true, 99), ("b".into(), false, 3)]);
        assert_eq!(look(&shop, &[]), [("a".into(), false, 0)], "an empty queue is not listed");
    }

    #[test]
    fn alerts_as_people_read_them() {
        let gauge = ("shop/1a".to_owned(), "emails".to_owned(), "age");
        let alert = Alert { gauge, over: true, value: 660, limit: 600 };
        assert_eq!(alert.text(), "shop/1a emails: age 11m, over 10m");
        assert_eq!(alert.json()["queue"], "emails");
    }
}
