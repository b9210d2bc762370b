//! `ripstop pub` and `ripstop sub`.

use std::time::Duration;

use ripstop::fabric::{Delivery, Event, Fate, PublishError};
use serde_json::json;

use crate::{
    args::{Common, PubArgs, SubArgs},
    body::Body,
    exit::{Exit, Failure},
    input::Input,
    join::{self, Joined},
    output::{Output, remark},
    push_pull::print_items,
    stop::stop,
};

/// How long `pub` waits for the first subscriber when nothing else is said: as long as a first call waits.
const FIRST_SUBSCRIBER: Duration = Duration::from_secs(2);
const READY: Duration = Duration::from_secs(10);

pub(crate) async fn publish(common: &Common, args: PubArgs, mut out: Output) -> Result<(), Failure> {
    let mut input = Input::new(&args.words, &format!("ripstop pub {}", args.subject))?;
    let joined = join::join(common, None, &args.subject).await?;
    let done = events(&joined, common, &args, &mut input, &mut out).await;
    joined.leave().await;
    done.map_err(|failure| joined.explain(failure))
}

async fn events(
    joined: &Joined,
    common: &Common,
    args: &PubArgs,
    input: &mut Input,
    out: &mut Output,
) -> Result<(), Failure> {
    let publisher = joined.node.publisher::<Body>(&args.subject).await?;
    let (wanted, within) = match args.wait_subscribers {
        None => (1, common.timeout.unwrap_or(FIRST_SUBSCRIBER)),
        Some(wanted) => (wanted, common.timeout.unwrap_or(READY)),
    };
    if wanted > 0 {
        publisher.ready(wanted).timeout(within).await.map_err(|error| {
            let alone = matches!(&error, PublishError::NotReady { present: 0, .. });
            let failure = Failure::from(error);
            if alone && args.wait_subscribers.is_none() {
                failure.with("\n  nothing was published; --wait-subscribers 0 publishes to nobody")
            } else {
                failure
            }
        })?;
    }
    let (mut published, mut dropped, mut subscribers) = (0u64, Vec::new(), 0);
    while let Some(event) = input.next().await {
        // Before it is sent: who has what it came for may leave at once.
        subscribers = subscribers.max(publisher.subscribers());
        match publisher.publish(&event?).await? {
            Fate::Dropped(why) => dropped.push(why.to_string()),
            _ => published += 1,
        }
    }
    if out.json {
        out.value(&json!({"published": published, "dropped": dropped.len(), "subscribers": subscribers}))?;
    } else {
        out.line(format!("published {published} to {subscribers} {}", plural(subscribers, "subscriber")))?;
    }
    out.flush()?;
    match dropped.first() {
        Some(why) => Err(Failure::failed(format!("{} dropped: {why}", dropped.len()))),
        None => Ok(()),
    }
}

pub(crate) async fn subscribe(common: &Common, args: SubArgs, mut out: Output) -> Result<(), Failure> {
    let joined = join::join(common, None, &args.pattern).await?;
    let done = match &args.durable {
        Some(name) => print_kept(&joined, common, &args, name, &mut out).await,
        None => print_events(&joined, common, &args, &mut out).await,
    };
    joined.leave().await;
    done.map_err(|failure| joined.explain(failure))
}

/// Events that publishers keep for this name.
async fn print_kept(
    joined: &Joined,
    common: &Common,
    args: &SubArgs,
    name: &str,
    out: &mut Output,
) -> Result<(), Failure> {
    let mut subscribe = joined.node.subscribe::<Body>(&args.pattern).durable(name);
    if args.count.is_some() {
        subscribe = subscribe.prefetch(1);
    }
    let wildcard = is_wildcard(&args.pattern);
    let print = |event: &Delivery<Body>, out: &mut Output| {
        let subject = event.topic.as_deref().unwrap_or_default();
        if out.json {
            return out.value(&json!({"subject": subject, "body": event.body, "attempt": event.attempt}));
        }
        if wildcard {
            out.raw(format!("{subject}\t").as_bytes())?;
        }
        out.value(&event.body)
    };
    let what = format!("events on {}", args.pattern);
    print_items(joined, common, subscribe.await?, args.count, &what, print, out).await
}

fn is_wildcard(pattern: &str) -> bool {
    pattern.split('.').any(|token| token == "*" || token == ">")
}

async fn print_events(
    joined: &Joined,
    common: &Common,
    args: &SubArgs,
    out: &mut Output,
) -> Result<(), Failure> {
    let mut events = joined.node.subscribe::<Body>(&args.pattern).await?;
    let wildcard = is_wildcard(&args.pattern);
    let mut left = args.count.unwrap_or(u64::MAX);
    let stop = stop();
    tokio::pin!(stop);
    let end = join::deadline(common.timeout);
    tokio::pin!(end);
    let mut unflushed = false;
    while left > 0 {
        let event = tokio::select! {
            biased;
            () = &mut stop => break,
            () = &mut end => match args.count {
                Some(count) => {
                    let seen = count - left;
                    let message = format!("{seen} of {count} events on {} in the time given", args.pattern);
                    return Err(Failure::new(Exit::Deadline, message));
                }
                None => break,
            },
            event = events.recv() => event,
            // Nothing more is there now.
            () = std::future::ready(()), if unflushed => {
                out.flush()?;
                unflushed = false;
                continue;
            }
        };
        match event {
            None => break,
            Some(Err(error)) => remark(format!("warning: {error}")),
            Some(Ok(event)) => {
                print_event(&event, wildcard, out)?;
                unflushed = true;
                left -= 1;
            }
        }
    }
    out.flush()
}

fn print_event(event: &Event<Body>, wildcard: bool, out: &mut Output) -> Result<(), Failure> {
    let Event { body, subject, missed, .. } = event;
    if out.json {
        out.value(&json!({"subject": subject.to_string(), "body": body, "missed": missed}))?;
    } else {
        if *missed > 0 {
            remark(format!("warning: {missed} events on {subject} were missed"));
        }
        if wildcard {
            out.raw(format!("{subject}\t").as_bytes())?;
        }
        out.value(body)?;
    }
    Ok(())
}

/// `1 subscriber`, `2 subscribers`.
pub(crate) fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}
