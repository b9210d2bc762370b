//! What is kept on disk: looking at it, trying it again, and sending so that it is kept.

pub(crate) mod args;
pub(crate) mod dlq;
pub(crate) mod outbox;
pub(crate) mod send;
mod stores;
mod watch;

use ripstop::durable::StoreFile;
use serde_json::json;

use crate::{
    args::Common,
    exit::{Exit, Failure},
    output::Output,
};
use args::{StoreArgs, StoreCommand};

/// `ripstop store`: the file itself, without a node.
pub(crate) fn run(common: &Common, args: &StoreArgs, mut out: Output) -> Result<(), Failure> {
    let store = StoreFile::open(&args.place.dir(common)?)?;
    match args.command {
        StoreCommand::Check => {
            let check = store.check()?;
            if out.json {
                out.value(&json!({
                    "items": check.items, "letters": check.letters, "put_aside": check.put_aside, "problems": check.problems,
                }))?;
            } else {
                let (items, letters, aside) = (check.items, check.letters, check.put_aside);
                let whole = if check.is_whole() { "whole" } else { "damaged" };
                out.line(format!(
                    "{whole}: {items} items and {letters} dead letters looked at, {aside} put aside earlier"
                ))?;
                check.problems.iter().try_for_each(|problem| out.line(format!("  {problem}")))?;
            }
            out.flush()?;
            let damaged =
                || Failure::failed("the store is damaged: what is damaged is put aside when it is read");
            return if check.is_whole() { Ok(()) } else { Err(damaged()) };
        }
        StoreCommand::Stats => {
            let stats = store.stats()?;
            let all = [
                ("items", stats.items),
                ("bytes", stats.bytes),
                ("letters", stats.letters),
                ("seen", stats.seen),
                ("replies", stats.replies),
                ("subscriptions", stats.subscriptions),
                ("put_aside", stats.put_aside),
                ("file_bytes", stats.file_bytes),
                ("free_bytes", stats.free_bytes),
            ];
            if out.json {
                out.value(&all.into_iter().collect::<std::collections::BTreeMap<_, _>>())?;
            } else {
                out.table(&[], all.map(|(name, value)| vec![name.into(), value.to_string()]).into())?;
            }
        }
        StoreCommand::Compact => {
            let (before, after) = store.compact()?;
            if out.json {
                out.value(&json!({"before": before, "after": after}))?;
            } else {
                out.line(format!("{before} bytes before, {after} after"))?;
            }
        }
    }
    out.flush()
}

impl From<ripstop::durable::StoreError> for Failure {
    fn from(error: ripstop::durable::StoreError) -> Self {
        let exit = match &error {
            ripstop::durable::StoreError::Open { .. } => Exit::Usage,
            _ => Exit::Failed,
        };
        Self::coded(exit, error.code(), error)
    }
}
