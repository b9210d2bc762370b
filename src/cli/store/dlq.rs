//! `ripstop dlq`: what could not be done, and trying it again.

use std::time::Duration;

use ripstop::fabric::{DeadLetter, PushError};
use serde_json::{Value, json};

use super::{
    args::{Chosen, DlqArgs, DlqCommand, Which},
    outbox::delivered,
    stores::{Asked, Stores, from_now, time},
};
use crate::{
    args::Common,
    body::Body,
    exit::{Exit, Failure},
    output::{Output, remark},
};

/// Letters that are read at once.
const PAGE: usize = 1000;
/// How long a replay waits for what is tried again here.
const REPLAY: Duration = Duration::from_secs(10);

pub(crate) async fn run(common: &Common, args: DlqArgs, mut out: Output) -> Result<(), Failure> {
    // Before anybody is asked.
    let filters = filters(&args.command)?;
    let stores = Stores::open(common, &args.place).await?;
    let done = match args.command {
        DlqCommand::List { which } => list(&stores, &filters, which.limit, &mut out).await,
        DlqCommand::Show { id } => show(&stores, &id, &mut out).await,
        DlqCommand::Replay { which } => {
            let done = change(&stores, &filters, &which, Change::Replay, &mut out).await;
            // What is tried again from here is tried only while this runs.
            match (&done, stores.asked.iter().find(|asked| asked.own)) {
                (Ok(()), Some(own)) if !which.dry_run => finish(&stores, own, common).await,
                _ => done,
            }
        }
        DlqCommand::Purge { which } => change(&stores, &filters, &which, Change::Purge, &mut out).await,
    };
    stores.joined.leave().await;
    done?;
    out.flush()
}

async fn finish(stores: &Stores, own: &Asked, common: &Common) -> Result<(), Failure> {
    match delivered(stores, own, common.timeout.unwrap_or(REPLAY)).await? {
        0 => Ok(()),
        left => {
            remark(format!("{left} still wait here: `ripstop outbox flush` goes on"));
            Ok(())
        }
    }
}

/// What a filter looks at.
type Field = fn(&Asked, &DeadLetter) -> Option<String>;

/// One condition.
struct Filter {
    field: Field,
    contains: bool,
    value: String,
}

const FIELDS: [(&str, Field); 7] = [
    ("queue", |_, letter| Some(letter.queue.clone())),
    ("topic", |_, letter| letter.topic.clone()),
    ("key", |_, letter| letter.key.clone()),
    ("reason", |_, letter| Some(letter.death.to_string())),
    ("error", |_, letter| Some([std::slice::from_ref(&letter.error), &letter.chain].concat().join("\n"))),
    ("service", |asked, _| Some(asked.service.clone())),
    ("at", |_, letter| letter.at.clone()),
];

impl Filter {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            let fields = FIELDS.map(|(name, _)| name).join(", ");
            Failure::usage(format!(
                "--filter {text}: write FIELD=VALUE or FIELD~TEXT; the fields are {fields}"
            ))
        };
        let at = text.find(['=', '~']).ok_or_else(wrong)?;
        let (name, value) = text.split_at(at);
        let (_, field) = FIELDS.into_iter().find(|(known, _)| *known == name).ok_or_else(wrong)?;
        let contains = value.starts_with('~');
        Ok(Self { field, contains, value: value.split_at(1).1.to_owned() })
    }

    fn holds(&self, asked: &Asked, letter: &DeadLetter) -> bool {
        let text = (self.field)(asked, letter).unwrap_or_default();
        if self.contains { text.contains(&self.value) } else { text == self.value }
    }
}

fn filters(command: &DlqCommand) -> Result<Vec<Filter>, Failure> {
    let given = match command {
        DlqCommand::List { which } => &which.filter,
        DlqCommand::Show { .. } => return Ok(Vec::new()),
        DlqCommand::Replay { which } | DlqCommand::Purge { which } => {
            let Chosen { ids, which: Which { filter, .. }, all, .. } = which;
            if ids.is_empty() && filter.is_empty() && !all {
                return Err(Failure::usage("say which: ids as listed, --filter, or --all"));
            }
            if !ids.is_empty() && (*all || !filter.is_empty()) {
                return Err(Failure::usage("ids, or --filter and --all: not both"));
            }
            filter
        }
    };
    given.iter().map(|text| Filter::parse(text)).collect()
}

/// The letters of all nodes for which this holds, so many at most.
async fn matching<'a>(
    stores: &'a Stores,
    filters: &[Filter],
    limit: usize,
) -> Result<Vec<(&'a Asked, DeadLetter)>, Failure> {
    let (mut found, mut any) = (Vec::new(), false);
    for asked in &stores.asked {
        let mut after = 0;
        while found.len() < limit {
            let page: Result<_, PushError> = stores.letters(asked).list(after, PAGE).await;
            let Some(page) = Stores::said(asked, page) else { break };
            any = true;
            let Some(last) = page.last() else { break };
            after = last.id;
            let holds = |letter: &DeadLetter| filters.iter().all(|filter| filter.holds(asked, letter));
            found.extend(page.into_iter().filter(holds).map(|letter| (asked, letter)));
        }
    }
    found.truncate(limit);
    if !any {
        let nobody =
            Failure::new(Exit::Nobody, "no node with a store is there: durable work takes a data_dir");
        return Err(stores.joined.explain(nobody));
    }
    Ok(found)
}

fn described(asked: &Asked, letter: &DeadLetter) -> Value {
    json!({
        "id": asked.id(letter.id), "node": asked.name(), "queue": letter.queue, "topic": letter.topic, "key": letter.key,
        "reason": letter.death.to_string(), "error": letter.error, "chain": letter.chain, "attempts": letter.attempts,
        "at": letter.at, "trace_id": letter.trace_id, "pushed": time(letter.pushed), "died": time(letter.died), "replayed": letter.replayed,
        "body": letter.body::<Body>().ok(),
    })
}

async fn list(stores: &Stores, filters: &[Filter], limit: usize, out: &mut Output) -> Result<(), Failure> {
    let letters = matching(stores, filters, limit).await?;
    if out.json {
        return letters.iter().try_for_each(|(asked, letter)| out.value(&described(asked, letter)));
    }
    if letters.is_empty() {
        return out.line("no dead letters");
    }
    let rows = letters.into_iter().map(|(asked, letter)| {
        vec![
            asked.id(letter.id),
            asked.name(),
            letter.topic.unwrap_or(letter.queue),
            if letter.replayed { "being tried again".into() } else { letter.death.to_string() },
            letter.attempts.to_string(),
            from_now(letter.died),
            letter.error,
        ]
    });
    out.table(&["ID", "NODE", "QUEUE", "REASON", "ATTEMPTS", "DIED", "ERROR"], rows.collect())
}

async fn show(stores: &Stores, id: &str, out: &mut Output) -> Result<(), Failure> {
    let (asked, number) = stores.find(id)?;
    match letter(stores, asked, number).await? {
        Some(letter) => out.pretty(&described(asked, &letter)),
        None => Err(Failure::failed(format!("there is no dead letter {id}"))),
    }
}

async fn letter(stores: &Stores, asked: &Asked, number: u64) -> Result<Option<DeadLetter>, Failure> {
    let next = stores.letters(asked).list(number.saturating_sub(1), 1).await?;
    Ok(next.into_iter().find(|letter| letter.id == number))
}

#[derive(Clone, Copy, PartialEq)]
enum Change {
    Replay,
    Purge,
}

async fn change(
    stores: &Stores,
    filters: &[Filter],
    which: &Chosen,
    change: Change,
    out: &mut Output,
) -> Result<(), Failure> {
    let mut chosen = Vec::new();
    if which.ids.is_empty() {
        chosen = matching(stores, filters, which.which.limit).await?;
    }
    for id in &which.ids {
        let (asked, number) = stores.find(id)?;
        let letter = letter(stores, asked, number).await?;
        chosen.push((asked, letter.ok_or_else(|| Failure::failed(format!("there is no dead letter {id}")))?));
    }
    let (mut done, mut not) = (0, 0);
    for (asked, letter) in &chosen {
        let changed = match change {
            _ if which.dry_run => true,
            Change::Replay => stores.letters(asked).replay(letter.id).await?.is_some(),
            Change::Purge => stores.letters(asked).purge(letter.id).await?,
        };
        *(if changed { &mut done } else { &mut not }) += 1;
        if which.dry_run && !out.json {
            let queue = letter.topic.as_ref().unwrap_or(&letter.queue);
            out.line(format!("{}  {queue}  {}", asked.id(letter.id), letter.error))?;
        }
    }
    let word = if change == Change::Replay { "replayed" } else { "purged" };
    if out.json {
        let ids: Vec<_> = chosen.iter().map(|(asked, letter)| asked.id(letter.id)).collect();
        return out.value(&json!({word: done, "not": not, "dry_run": which.dry_run, "ids": ids}));
    }
    match which.dry_run {
        true => out.line(format!("{done} would be {word}"))?,
        false => out.line(format!("{word} {done}"))?,
    }
    if not > 0 {
        let why = if change == Change::Replay { "is being tried again already" } else { "was gone already" };
        remark(format!("{not} of them {why}"));
    }
    Ok(())
}
