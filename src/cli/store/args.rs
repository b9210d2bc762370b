//! Flags of what is kept on disk: `outbox`, `dlq`, `groups`, `store`, and `push` and `pub` with `--durable`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use crate::args::duration;

/// How `push` and `pub` keep what they send.
#[derive(Debug, Args)]
#[command(next_help_heading = "Durable options")]
pub(crate) struct Keep {
    /// Keep it on disk here until somebody has processed it, however often either side restarts
    #[arg(long)]
    pub(crate) durable: bool,
    /// What has the same key is worked on one after the other, in order
    #[arg(long, value_name = "KEY", requires = "durable")]
    pub(crate) key: Option<String>,
    /// Deliver it no sooner than this from now: 10m, 2h
    #[arg(long, value_name = "DUR", value_parser = duration, requires = "durable")]
    pub(crate) after: Option<Duration>,
    /// Give it up after this long: it becomes a dead letter
    #[arg(long, value_name = "DUR", value_parser = duration, requires = "durable")]
    pub(crate) expires: Option<Duration>,
    /// Do not wait until it is processed
    #[arg(long, requires = "durable")]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Where this node keeps things.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Directory to keep it in [default: ripstop/FABRIC in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ripstop outbox list                  what every node owes, and what waits here
  ripstop outbox list emails --json    each item of one queue
  ripstop outbox flush                 deliver what waits, without waiting for its time
Nodes with keys answer only those who have admin = true in [[allow]].")]
pub(crate) struct OutboxArgs {
    #[command(subcommand)]
    pub(crate) command: OutboxCommand,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OutboxCommand {
    /// Show the queues, or the items of one
    List {
        /// Queue, such as emails
        queue: Option<String>,
        /// Items of each node at most
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Show one item, with its body
    Show {
        /// As listed, such as 1a2b3c4d-17
        id: String,
    },
    /// Take items away: they are not delivered any more
    Cancel {
        /// As listed, such as 1a2b3c4d-17
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Let another have items whose worker will not say what became of them
    Release {
        /// As listed, such as 1a2b3c4d-17
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Say when too much waits, or for too long, and run a command then
    Watch(WatchArgs),
    /// Deliver items now, although they are scheduled for later or wait after a failure
    Flush {
        /// As listed [default: everything]
        ids: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("threshold").required(true).multiple(true).args(["items", "age", "letters"]))]
#[command(after_help = "\
Examples:
  ripstop outbox watch --items 10000 --age 10m --run 'mail -s ripstop ops@example.com'
  ripstop outbox watch --letters 0 --once || echo 'look at ripstop dlq list'
The command is told on its standard input, as one line of JSON, when a threshold is passed and when it is not any more.")]
pub(crate) struct WatchArgs {
    /// More items in a queue than this
    #[arg(long, value_name = "N")]
    pub(crate) items: Option<u64>,
    /// An item that has waited for longer than this
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) age: Option<Duration>,
    /// More dead letters at a node than this
    #[arg(long, value_name = "N")]
    pub(crate) letters: Option<u64>,
    /// How often to look
    #[arg(long, value_name = "DUR", value_parser = duration, default_value = "10s")]
    pub(crate) every: Duration,
    /// Shell command to run
    #[arg(long, value_name = "COMMAND")]
    pub(crate) run: Option<String>,
    /// Look once, and fail if a threshold is passed
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ripstop dlq list --filter queue=emails
  ripstop dlq replay --filter queue=emails --filter 'error~timed out' --dry-run
  ripstop dlq purge 1a2b3c4d-3
A filter is FIELD=VALUE (is) or FIELD~TEXT (contains), of queue, topic, key, reason, error, service, at; all have to hold.
Nodes with keys answer only those who have admin = true in [[allow]].")]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    pub(crate) command: DlqCommand,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// Show dead letters: what could not be done
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Show one letter, with its body and all that is known of its failure
    Show {
        /// As listed, such as 1a2b3c4d-3
        id: String,
    },
    /// Try letters again; each stays until that has succeeded
    Replay {
        #[command(flatten)]
        which: Chosen,
    },
    /// Throw letters away
    Purge {
        #[command(flatten)]
        which: Chosen,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Only those for which this holds (repeatable), such as queue=emails or error~timeout
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,
    /// So many at most
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// As listed, such as 1a2b3c4d-3
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// All there are
    #[arg(long)]
    pub(crate) all: bool,
    /// Only say which
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Nodes with keys answer only those who have admin = true in [[allow]].")]
pub(crate) struct GroupsArgs {
    #[command(subcommand)]
    pub(crate) command: GroupsCommand,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupsCommand {
    /// Show the durable subscriptions that each node keeps events for
    List,
    /// Stop keeping events for one, on every node
    Remove {
        /// Its name, such as billing
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    pub(crate) command: StoreCommand,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read everything, and say what is damaged
    Check,
    /// Count what is there
    Stats,
    /// Give free room back to the file system; no node may use the store meanwhile
    Compact,
}
