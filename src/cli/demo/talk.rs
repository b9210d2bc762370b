//! What the demo's processes and their parent say to each other: a line of JSON each, on the child's standard input and
//! output. The shop itself talks through the fabric only.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{exit::Failure, input::Lines};

/// From a process to its parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Say {
    /// It has joined the fabric and does its work.
    Ready { node: String },
    /// How many it has done so far.
    Progress { done: u64 },
    /// Orders: half of them are on their way.
    Half,
    /// Orders: this node is no longer in the directory.
    Left { node: String },
    /// Its own final count.
    Report(Report),
}

/// From the parent. The end of its standard input is a process's end.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// To orders: a pricing instance was started in place of the dead one.
    Replaced { node: String },
    /// Say your final count.
    Report,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    Pricing {
        answered: u64,
    },
    /// Mails that it was brought again.
    Mailer {
        again: u64,
    },
    Ledger(Ledger),
    Orders(Orders),
}

/// What the ledger has seen.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// Different orders.
    pub(super) seen: u64,
    pub(super) repeated: u64,
    /// Turnover in cents by currency.
    pub(super) turnover: BTreeMap<String, u64>,
}

/// What orders has done.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) orders: u64,
    pub(super) priced: u64,
    /// Quotes by the node that gave them.
    pub(super) by: BTreeMap<String, u64>,
    pub(super) asked_again: u64,
    pub(super) failures: u64,
    /// The first few failures' texts.
    pub(super) reasons: Vec<String>,
    pub(super) turnover: BTreeMap<String, u64>,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
}

/// Says one thing. A parent that has gone is an error, and the end.
pub(super) fn say(what: &Say) -> Result<(), Failure> {
    let mut line = encode(what)?;
    line.push('\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    Ok(stdout.flush()?)
}

/// The next thing heard; `None` when the other side has ended.
pub(super) async fn hear<T: DeserializeOwned>(lines: &mut Lines) -> Result<Option<T>, Failure> {
    match lines.next().await {
        None => Ok(None),
        Some(line) => decode(&line?).map(Some),
    }
}

pub(super) fn encode(what: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(what).map_err(Failure::failed)
}

pub(super) fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(line).map_err(|error| {
        Failure::failed(format!(
            "not understood between the demo's processes: {}: {error}",
            line.escape_ascii()
        ))
    })
}
