//! `ripstop push --durable` and `ripstop pub --durable`.

use std::{collections::VecDeque, path::Path, time::Duration};

use ripstop::fabric::{KeptEvent, PublishError, Publisher, PushError, Receipt};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::args::Keep;
use crate::{
    args::{Common, PubArgs, PushArgs},
    body::Body,
    exit::Failure,
    input::Input,
    join::{self, Joined},
    output::{Output, remark},
    stop::stop,
};

/// How long it waits until what was kept is processed.
const WAIT: Duration = Duration::from_secs(10);
/// What waits for its outcome; of more only what is on disk is known.
const WAITING: usize = 65_536;
/// How long `pub` waits for a durable subscription to be known: as long as for a first subscriber.
const FIRST_GROUP: Duration = Duration::from_secs(2);
/// How often it tries.
const AGAIN: Duration = Duration::from_millis(20);

enum Outcome {
    Item(Receipt),
    Event(KeptEvent),
}

impl Outcome {
    async fn processed(self) -> Result<(), PushError> {
        match self {
            Self::Item(receipt) => receipt.processed().await.map(drop),
            Self::Event(event) => event.processed().await,
        }
    }
}

/// What was kept, and what became of it.
#[derive(Default)]
struct Tally {
    kept: u64,
    processed: u64,
    dead: Vec<String>,
    waiting: VecDeque<Outcome>,
    /// Kept, and not waited for.
    unknown: u64,
}

impl Tally {
    fn keep(&mut self, outcome: Outcome) {
        self.kept += 1;
        if self.waiting.len() < WAITING { self.waiting.push_back(outcome) } else { self.unknown += 1 }
    }

    async fn wait(&mut self, within: Duration) {
        let by = Instant::now() + within;
        let stop = stop();
        tokio::pin!(stop);
        while let Some(outcome) = self.waiting.pop_front() {
            let outcome = tokio::select! {
                outcome = timeout_at(by, outcome.processed()) => outcome,
                () = &mut stop => return self.unknown += 1 + self.waiting.len() as u64,
            };
            match outcome {
                Ok(Ok(())) => self.processed += 1,
                Ok(Err(error)) => self.dead.push(error.to_string()),
                Err(_) => return self.unknown += 1 + self.waiting.len() as u64,
            }
        }
    }

    fn report(&self, dir: &Path, waited: bool, out: &mut Output) -> Result<(), Failure> {
        let dead = self.dead.len() as u64;
        let left = self.kept - self.processed - dead;
        if out.json {
            out.value(&json!({"kept": self.kept, "processed": self.processed, "dead": dead}))?;
        } else if waited {
            out.line(format!("kept {}, processed {}", self.kept, self.processed))?;
        } else {
            out.line(format!("kept {}", self.kept))?;
        }
        out.flush()?;
        if left > 0 {
            remark(format!(
                "{left} wait in {}, and are delivered while a command with this directory runs: ripstop outbox flush",
                dir.display()
            ));
        }
        match self.dead.first() {
            Some(first) => {
                Err(Failure::failed(format!("{dead} could not be done: {first}\n  see ripstop dlq list")))
            }
            None => Ok(()),
        }
    }
}

pub(crate) async fn push(common: &Common, args: PushArgs, mut out: Output) -> Result<(), Failure> {
    let mut input = Input::new(&args.words, &format!("ripstop push {}", args.queue))?;
    let dir = args.keep.place.dir(common)?;
    let joined = join::start(common, None, &args.queue, Some(dir.clone())).await?;
    let mut tally = Tally::default();
    let mut done = items(&joined, &args, &mut input, &mut tally).await;
    if done.is_ok() && !args.keep.no_wait {
        tally.wait(common.timeout.unwrap_or(WAIT)).await;
    }
    joined.leave().await;
    if tally.kept > 0 || done.is_ok() {
        done = done.and(tally.report(&dir, !args.keep.no_wait, &mut out));
    }
    done
}

async fn items(
    joined: &Joined,
    args: &PushArgs,
    input: &mut Input,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let Keep { key, after, expires, .. } = &args.keep;
    while let Some(item) = input.next().await {
        let item = item?;
        let mut push = joined.node.push::<Body>(&args.queue, &item).durable();
        if let Some(key) = key {
            push = push.key(key);
        }
        if let Some(after) = after {
            push = push.after(*after);
        }
        if let Some(expires) = expires {
            push = push.expires(*expires);
        }
        tally.keep(Outcome::Item(push.await?));
    }
    Ok(())
}

pub(crate) async fn publish(common: &Common, args: PubArgs, mut out: Output) -> Result<(), Failure> {
    let mut input = Input::new(&args.words, &format!("ripstop pub {}", args.subject))?;
    let dir = args.keep.place.dir(common)?;
    let joined = join::start(common, None, &args.subject, Some(dir.clone())).await?;
    let mut tally = Tally::default();
    let mut done = events(&joined, common, &args, &mut input, &mut tally).await;
    if done.is_ok() && !args.keep.no_wait {
        tally.wait(common.timeout.unwrap_or(WAIT)).await;
    }
    joined.leave().await;
    if tally.kept > 0 || done.is_ok() {
        done = done.and(tally.report(&dir, !args.keep.no_wait, &mut out));
    }
    done.map_err(|failure| joined.explain(failure))
}

async fn events(
    joined: &Joined,
    common: &Common,
    args: &PubArgs,
    input: &mut Input,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let publisher = joined.node.publisher::<Body>(&args.subject).await?;
    // A durable subscription that is there is known a moment after it was met.
    let by = Instant::now() + common.timeout.unwrap_or(FIRST_GROUP).min(FIRST_GROUP);
    while let Some(event) = input.next().await {
        let event = event?;
        let kept = loop {
            match keep(&publisher, &event, &args.keep).await {
                Err(PublishError::NoDurableGroup { .. }) if tally.kept == 0 && Instant::now() < by => {
                    tokio::time::sleep(AGAIN).await;
                }
                kept => break kept?,
            }
        };
        tally.keep(Outcome::Event(kept));
    }
    Ok(())
}

async fn keep(publisher: &Publisher<Body>, event: &Body, how: &Keep) -> Result<KeptEvent, PublishError> {
    let mut keep = publisher.keep(event);
    if let Some(key) = &how.key {
        keep = keep.key(key);
    }
    if let Some(after) = how.after {
        keep = keep.after(after);
    }
    if let Some(expires) = how.expires {
        keep = keep.expires(expires);
    }
    keep.await
}
