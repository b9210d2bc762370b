//! `ripstop outbox` and `ripstop groups`: what is owed, and to whom.

use std::time::Duration;

use ripstop::fabric::{KeptItem, PushError};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    args::{GroupsArgs, GroupsCommand, OutboxArgs, OutboxCommand},
    stores::{Asked, Stores, from_now, time},
};
use crate::{
    args::Common,
    body::Body,
    exit::{Exit, Failure},
    output::{Output, remark},
};

/// How long a flush waits for what waits here.
const FLUSH: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(20);
/// Items that are read at once.
const PAGE: usize = 1000;

pub(crate) async fn run(common: &Common, args: OutboxArgs, mut out: Output) -> Result<(), Failure> {
    if let OutboxCommand::Watch(watch) = &args.command {
        return super::watch::run(common, &args.place, watch, out).await;
    }
    let stores = Stores::open(common, &args.place).await?;
    let done = match args.command {
        OutboxCommand::Watch(_) => Ok(()),
        OutboxCommand::List { queue: None, .. } => queues(&stores, &mut out).await,
        OutboxCommand::List { queue: Some(queue), limit } => items(&stores, &queue, limit, &mut out).await,
        OutboxCommand::Show { id } => show(&stores, &id, &mut out).await,
        OutboxCommand::Cancel { ids } => cancel(&stores, &ids, &mut out).await,
        OutboxCommand::Release { ids } => release(&stores, &ids, &mut out).await,
        OutboxCommand::Flush { ids } => flush(&stores, &ids, common, &mut out).await,
    };
    stores.joined.leave().await;
    done?;
    out.flush()
}

async fn queues(stores: &Stores, out: &mut Output) -> Result<(), Failure> {
    let (mut rows, mut any) = (Vec::new(), false);
    for asked in &stores.asked {
        let Some(queues) = Stores::said(asked, stores.kept(asked).queues().await) else { continue };
        any = true;
        for queue in queues {
            if out.json {
                out.value(&json!({
                    "node": asked.name(), "queue": queue.queue, "items": queue.items,
                    "under_way": queue.under_way, "oldest": time(queue.oldest),
                }))?;
            }
            let (items, under_way) = (queue.items.to_string(), queue.under_way.to_string());
            rows.push(vec![asked.name(), queue.queue, items, under_way, from_now(queue.oldest)]);
        }
    }
    if !any {
        return Err(nobody(stores));
    }
    if !out.json {
        if rows.is_empty() {
            return out.line("nothing waits");
        }
        out.table(&["NODE", "QUEUE", "ITEMS", "UNDER WAY", "OLDEST"], rows)?;
    }
    Ok(())
}

fn nobody(stores: &Stores) -> Failure {
    let nobody = Failure::new(Exit::Nobody, "no node with a store is there: durable work takes a data_dir");
    stores.joined.explain(nobody)
}

async fn items(stores: &Stores, queue: &str, limit: usize, out: &mut Output) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for asked in &stores.asked {
        let items = every(stores, asked, queue, limit).await;
        for item in Stores::said(asked, items).unwrap_or_default() {
            if out.json {
                out.value(&described(asked, &item))?;
                continue;
            }
            rows.push(vec![
                asked.id(item.id),
                asked.name(),
                from_now(item.pushed),
                if item.due > item.pushed { from_now(item.due) } else { "-".into() },
                item.attempts.to_string(),
                item.key.unwrap_or_else(|| "-".into()),
                item.error.unwrap_or_else(|| "-".into()),
            ]);
        }
    }
    if !out.json {
        if rows.is_empty() {
            return out.line(format!("nothing waits for {queue}"));
        }
        out.table(&["ID", "NODE", "PUSHED", "DUE", "FAILED", "KEY", "ERROR"], rows)?;
    }
    Ok(())
}

/// The first `limit` items of a queue.
async fn every(
    stores: &Stores,
    asked: &Asked,
    queue: &str,
    limit: usize,
) -> Result<Vec<KeptItem>, PushError> {
    let mut all: Vec<KeptItem> = Vec::new();
    while all.len() < limit {
        let after = all.last().map_or(0, |item| item.id);
        let page = stores.kept(asked).list(queue, after, PAGE.min(limit - all.len())).await?;
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    Ok(all)
}

fn described(asked: &Asked, item: &KeptItem) -> Value {
    json!({
        "id": asked.id(item.id), "node": asked.name(), "queue": item.queue, "topic": item.topic, "key": item.key,
        "pushed": time(item.pushed), "due": time(item.due), "expires": item.expires.map(time),
        "attempts": item.attempts, "error": item.error, "lost": item.lost, "trace_id": item.trace_id,
        "in_doubt": item.in_doubt.map(time), "holder": item.holder, "body": item.body::<Body>().ok(),
    })
}

async fn show(stores: &Stores, id: &str, out: &mut Output) -> Result<(), Failure> {
    let (asked, number) = stores.find(id)?;
    match stores.kept(asked).get(number).await? {
        Some(item) => out.pretty(&described(asked, &item)),
        None => Err(Failure::failed(format!("{id} does not wait (any more)"))),
    }
}

async fn cancel(stores: &Stores, ids: &[String], out: &mut Output) -> Result<(), Failure> {
    let (mut cancelled, mut gone) = (0, Vec::new());
    for id in ids {
        let (asked, number) = stores.find(id)?;
        if stores.kept(asked).cancel(number).await? { cancelled += 1 } else { gone.push(id.as_str()) }
    }
    told(out, "cancelled", cancelled, &gone)
}

async fn release(stores: &Stores, ids: &[String], out: &mut Output) -> Result<(), Failure> {
    let (mut released, mut gone) = (0, Vec::new());
    for id in ids {
        let (asked, number) = stores.find(id)?;
        if stores.kept(asked).release(number).await? { released += 1 } else { gone.push(id.as_str()) }
    }
    told(out, "released", released, &gone)
}

fn told(out: &mut Output, what: &str, count: u32, gone: &[&str]) -> Result<(), Failure> {
    if out.json {
        out.value(&json!({ what: count }))?;
    } else {
        out.line(format!("{what} {count}"))?;
    }
    match gone {
        [] => Ok(()),
        gone => Err(Failure::failed(format!("{} did not wait (any more)", gone.join(", ")))),
    }
}

async fn flush(stores: &Stores, ids: &[String], common: &Common, out: &mut Output) -> Result<(), Failure> {
    let mut flushed = 0u64;
    for id in ids {
        let (asked, number) = stores.find(id)?;
        flushed += u64::from(stores.kept(asked).flush(number).await?);
    }
    if ids.is_empty() {
        for asked in &stores.asked {
            let flushing = flush_all(stores, asked).await;
            flushed += Stores::said(asked, flushing).unwrap_or_default();
        }
    }
    let own = stores.asked.iter().find(|asked| asked.own);
    let left = match own {
        Some(own) => delivered(stores, own, common.timeout.unwrap_or(FLUSH)).await?,
        None => 0,
    };
    if out.json {
        return out.value(&json!({"flushed": flushed, "waiting_here": left}));
    }
    out.line(format!("flushed {flushed}"))?;
    if left > 0 {
        remark(format!(
            "{left} still wait here; they are delivered while a command with this directory runs"
        ));
    }
    Ok(())
}

async fn flush_all(stores: &Stores, asked: &Asked) -> Result<u64, PushError> {
    let kept = stores.kept(asked);
    let mut flushed = 0;
    for queue in kept.queues().await? {
        // Page by page: there may be more than memory has room for.
        let mut after = 0;
        loop {
            let page = kept.list(&queue.queue, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            for item in page {
                flushed += u64::from(kept.flush(item.id).await?);
            }
        }
    }
    Ok(flushed)
}

/// Waits until nothing waits here; gives how much does when the time is over.
pub(super) async fn delivered(stores: &Stores, own: &Asked, within: Duration) -> Result<u64, Failure> {
    let by = Instant::now() + within;
    loop {
        let left = stores.kept(own).queues().await?.iter().map(|queue| queue.items).sum();
        if left == 0 || Instant::now() >= by {
            return Ok(left);
        }
        // What is delivered is told here only to whoever has pushed it.
        tokio::time::sleep(LOOK).await;
    }
}

pub(crate) async fn groups(common: &Common, args: GroupsArgs, mut out: Output) -> Result<(), Failure> {
    let stores = Stores::open(common, &args.place).await?;
    let done = match args.command {
        GroupsCommand::List => list_groups(&stores, &mut out).await,
        GroupsCommand::Remove { name } => remove_group(&stores, &name, &mut out).await,
    };
    stores.joined.leave().await;
    done?;
    out.flush()
}

async fn list_groups(stores: &Stores, out: &mut Output) -> Result<(), Failure> {
    let (mut rows, mut any) = (Vec::new(), false);
    for asked in &stores.asked {
        let kept = stores.kept(asked);
        let Some(groups) = Stores::said(asked, kept.subscriptions().await) else { continue };
        any = true;
        let queues = Stores::said(asked, kept.queues().await).unwrap_or_default();
        for group in groups {
            let waiting =
                queues.iter().find(|queue| queue.queue == group.queue).map_or(0, |queue| queue.items);
            if out.json {
                out.value(&json!({
                    "node": asked.name(), "name": group.name, "pattern": group.pattern, "queue": group.queue,
                    "waiting": waiting, "seen": time(group.seen),
                }))?;
            }
            rows.push(vec![
                group.name,
                group.pattern,
                asked.name(),
                waiting.to_string(),
                from_now(group.seen),
            ]);
        }
    }
    if !any {
        return Err(nobody(stores));
    }
    if !out.json {
        if rows.is_empty() {
            return out.line("no durable subscriptions");
        }
        out.table(&["NAME", "PATTERN", "NODE", "WAITING", "SEEN"], rows)?;
    }
    Ok(())
}

async fn remove_group(stores: &Stores, name: &str, out: &mut Output) -> Result<(), Failure> {
    let (mut removed, mut events) = (0, 0);
    for asked in &stores.asked {
        let kept = stores.kept(asked);
        let groups = Stores::said(asked, kept.subscriptions().await).unwrap_or_default();
        for group in groups.into_iter().filter(|group| group.name == name) {
            events += kept.unsubscribe(&group.queue).await?;
            removed += 1;
        }
    }
    if removed == 0 {
        return Err(Failure::failed(format!(
            "no node that answers keeps events for {name}; see ripstop groups list"
        )));
    }
    if out.json {
        return out.value(&json!({"removed": removed, "events": events}));
    }
    out.line(format!("removed {name} from {removed} nodes; {events} events that waited for it are gone"))
}
