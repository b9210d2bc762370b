//! `ripstop push` and `ripstop pull`.

use std::sync::Arc;

use ripstop::fabric::{Delivery, Fate, Pull};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    args::{Common, PullArgs, PushArgs},
    body::Body,
    exit::{Exit, Failure},
    input::Input,
    join::{self, Joined},
    output::{Output, remark},
    serve,
    stop::stop,
};

/// Outputs of commands that may wait to be printed.
const SAID: usize = 64;

pub(crate) async fn push(common: &Common, args: PushArgs, mut out: Output) -> Result<(), Failure> {
    let mut input = Input::new(&args.words, &format!("ripstop push {}", args.queue))?;
    let joined = join::join(common, None, &args.queue).await?;
    let mut pushed = 0;
    let done = items(&joined, common, &args.queue, &mut input, &mut pushed).await;
    joined.leave().await;
    if out.json {
        out.value(&json!({"pushed": pushed}))?;
    } else if pushed > 0 || done.is_ok() {
        out.line(format!("pushed {pushed}"))?;
    }
    out.flush()?;
    done.map_err(|failure| joined.explain(failure))
}

async fn items(
    joined: &Joined,
    common: &Common,
    queue: &str,
    input: &mut Input,
    pushed: &mut u64,
) -> Result<(), Failure> {
    while let Some(item) = input.next().await {
        let item = item?;
        let mut push = joined.node.push::<Body>(queue, &item);
        if let Some(timeout) = common.timeout {
            push = push.timeout(timeout);
        }
        if let Fate::Dropped(why) = push.await? {
            return Err(Failure::failed(format!("an item for {queue} was dropped: {why}")));
        }
        *pushed += 1;
    }
    Ok(())
}

pub(crate) async fn pull(common: &Common, args: PullArgs, mut out: Output) -> Result<(), Failure> {
    let joined = join::join(common, None, &args.queue).await?;
    let done = match &args.command {
        Some(command) => work(&joined, common, &args, command, &mut out).await,
        None => print_queue(&joined, common, &args, &mut out).await,
    };
    joined.leave().await;
    done.map_err(|failure| joined.explain(failure))
}

/// Runs a command for each item, and prints what it prints.
async fn work(
    joined: &Joined,
    common: &Common,
    args: &PullArgs,
    command: &str,
    out: &mut Output,
) -> Result<(), Failure> {
    let command: Arc<str> = command.into();
    let (said, mut heard) = mpsc::channel(SAID);
    let handler = move |item: Body, _context| {
        let (command, said) = (command.clone(), said.clone());
        async move {
            let printed = serve::answer(&command, &item.0).await?;
            if printed.as_str() != Some("") {
                // Nobody prints any more at the end.
                let _ = said.send(printed).await;
            }
            Ok(())
        }
    };
    joined.node.work(&args.queue, handler).concurrency(usize::from(args.concurrency)).await?;
    let stop = stop();
    tokio::pin!(stop);
    let end = join::deadline(common.timeout);
    tokio::pin!(end);
    let mut ending = None;
    loop {
        tokio::select! {
            () = &mut stop, if ending.is_none() => ending = Some(leave(joined)),
            () = &mut end, if ending.is_none() => ending = Some(leave(joined)),
            // The worker ends with the node, and its handlers before it.
            printed = heard.recv() => match printed {
                Some(printed) => {
                    out.value(&printed)?;
                    out.flush()?;
                }
                None => return Ok(()),
            },
        }
    }
}

async fn print_queue(
    joined: &Joined,
    common: &Common,
    args: &PullArgs,
    out: &mut Output,
) -> Result<(), Failure> {
    let mut pull = joined.node.pull::<Body>(&args.queue);
    if args.count.is_some() {
        // What is fetched ahead and not printed would be lost to the other pullers.
        pull = pull.prefetch(1);
    }
    let print = |item: &Delivery<Body>, out: &mut Output| match out.json {
        true => out.value(&json!({"queue": &*item.queue, "from": item.from.as_deref(), "body": item.body})),
        false => out.value(&item.body),
    };
    let what = format!("items from {}", args.queue);
    print_items(joined, common, pull.await?, args.count, &what, print, out).await
}

/// Prints what comes, and says of what is kept for that that it is done.
pub(crate) async fn print_items(
    joined: &Joined,
    common: &Common,
    mut items: Pull<Body>,
    count: Option<u64>,
    what: &str,
    print: impl Fn(&Delivery<Body>, &mut Output) -> Result<(), Failure>,
    out: &mut Output,
) -> Result<(), Failure> {
    let mut left = count.unwrap_or(u64::MAX);
    let stop = stop();
    tokio::pin!(stop);
    let end = join::deadline(common.timeout);
    tokio::pin!(end);
    let mut unflushed = false;
    let mut in_time = true;
    let mut ending = None;
    while left > 0 {
        let item = tokio::select! {
            biased;
            () = &mut stop, if ending.is_none() => {
                ending = Some(leave(joined));
                continue;
            }
            () = &mut end, if ending.is_none() => {
                in_time = false;
                ending = Some(leave(joined));
                continue;
            }
            item = items.recv() => item,
            // Nothing more is there now.
            () = std::future::ready(()), if unflushed => {
                out.flush()?;
                unflushed = false;
                continue;
            }
        };
        match item {
            None => break,
            Some(Err(error)) => remark(format!("warning: {error}")),
            Some(Ok(item)) => {
                print(&item, out)?;
                unflushed = !item.is_durable();
                if item.is_durable() {
                    // Not owed any more once it is out of our hands.
                    out.flush()?;
                    item.ack();
                }
                left -= 1;
            }
        }
    }
    out.flush()?;
    match count {
        Some(count) if !in_time && left > 0 => {
            let seen = count - left;
            let message = format!("{seen} of {count} {what} in the time given");
            Err(Failure::new(Exit::Deadline, message))
        }
        _ => Ok(()),
    }
}

/// Takes nothing new; what was fetched ahead is still printed, and then the items end.
fn leave(joined: &Joined) -> tokio::task::JoinHandle<()> {
    let node = joined.node.clone();
    tokio::spawn(async move { node.drain().await })
}
