//! Every flag and argument, and nothing else.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::{exit::Failure, output::Output};

const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 the operation failed, 2 bad usage or configuration, 3 nobody there, 4 deadline passed.
Settings come from flags, then RIPSTOP_… variables, then ripstop.toml, then defaults.";

/// Services talk directly to each other: no broker, no sidecar, no server.
#[derive(Debug, Parser)]
#[command(name = "ripstop", version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The flags that every command has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// Configuration file [default: ./ripstop.toml, if there]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Fabric to join: nodes meet within one fabric only
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) fabric: Option<String>,
    /// Service name of this node
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Address to listen on (repeatable), such as tcp://127.0.0.1:0
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) listen: Vec<String>,
    /// Address of a node to join besides those discovered (repeatable)
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) peer: Vec<String>,
    /// Never speak mDNS
    #[arg(long, global = true)]
    pub(crate) no_mdns: bool,
    /// Give up after this long: 500ms, 10s, 2m
    #[arg(long, global = true, value_name = "DUR", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Print JSON, one value a line; errors too (on standard error)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say more on standard error: -v info, -vv debug
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a small shop as separate processes, kill one of them, and report
    Demo(DemoArgs),
    /// Turn any program into a method that other nodes can call
    Serve(ServeArgs),
    /// Call a method and print its reply
    Call(CallArgs),
    /// Publish events
    Pub(PubArgs),
    /// Print the events whose subject matches a pattern
    Sub(SubArgs),
    /// Push work items: each goes to one puller
    Push(PushArgs),
    /// Pull work items and print them
    Pull(PullArgs),
    /// Show what waits on disk until it is processed, here and on every node
    Outbox(crate::store::args::OutboxArgs),
    /// Show what could not be done, and try it again
    Dlq(crate::store::args::DlqArgs),
    /// Show the durable subscriptions that events are kept for
    Groups(crate::store::args::GroupsArgs),
    /// Check, count and compact the store in a directory
    Store(crate::store::args::StoreArgs),
    /// Show who is in the fabric
    Peers(PeersArgs),
    /// Show what holds for calls to a subject, and where each value was set
    Explain(ExplainArgs),
    /// Ask each instance of a service whether it is there, and how fast
    Ping(crate::observe::args::PingArgs),
    /// Show rates, times, errors and what waits, by service
    Stats(crate::observe::args::StatsArgs),
    /// Watch services live: rates, times, errors, what waits
    Top,
    /// Say whether services are ready, with an exit code
    Health(crate::observe::args::HealthArgs),
    /// Explain an error code
    Errors(crate::observe::args::ErrorsArgs),
    /// Find out why nodes do not find each other, or do not talk
    Doctor(DoctorArgs),
    /// Make keys and certificates for secure nodes
    #[cfg(feature = "tls")]
    Keys(crate::keys::args::KeysArgs),
    /// Speak to any ZeroMQ program through a raw socket
    Socket(SocketArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Orders to work through [default: the 5,000 orders built into this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,

    /// With keys of a throw-away CA: everything is encrypted and proven [default]
    #[cfg(feature = "tls")]
    #[arg(long, overrides_with = "plain")]
    pub(crate) secure: bool,

    /// Without keys
    #[cfg(feature = "tls")]
    #[arg(long, overrides_with = "secure")]
    pub(crate) plain: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Run it where the service runs, with its ripstop.toml. Exit code 1: there is a problem.
Examples:
  ripstop doctor                                  look at this node, and at all others
  ripstop doctor pricing.quote                    and whether this node may call that
  ripstop doctor --peer tcp://10.0.0.7:5555       and at whoever is there")]
pub(crate) struct DoctorArgs {
    /// Method that this node should be able to call; it is not run
    #[arg(value_name = "SUBJECT")]
    pub(crate) subject: Option<String>,
}

/// `ripstop demo-role`: one process of the demo, started by `ripstop demo` only. It is no subcommand, because those
/// appear in shell completions even when they are hidden.
#[derive(Debug, Parser)]
pub(crate) struct RoleArgs {
    pub(crate) role: Role,
    #[arg(long)]
    pub(crate) name: String,
    #[arg(long)]
    pub(crate) fabric: String,
    #[arg(short, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    #[arg(long)]
    pub(crate) input: Option<PathBuf>,
    /// The directory of its keys.
    #[arg(long)]
    pub(crate) keys: Option<PathBuf>,
    /// What outlives a process.
    #[arg(long)]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    Pricing,
    Orders,
    Mailer,
    Ledger,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ripstop serve hello.up --command \"jq '{hello: .name}'\"
  ripstop serve clock.now --command date
The request is JSON on the command's standard input. What it prints is the reply: as JSON if it is JSON, \
else as a string. A command that ends with another status than 0 fails the call with what it wrote to standard error.")]
#[command(group = clap::ArgGroup::new("handler").required(true))]
pub(crate) struct ServeArgs {
    /// Method to serve, such as hello.up; its first token is the service
    pub(crate) subject: String,
    /// Shell command to run for each request
    #[arg(long, value_name = "CMD", group = "handler")]
    pub(crate) command: Option<String>,
    /// Reply with the request
    #[arg(long, group = "handler")]
    pub(crate) echo: bool,
    /// Requests handled at the same time; more than these wait
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) concurrency: u16,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:  ripstop explain pricing.quote")]
pub(crate) struct ExplainArgs {
    /// Method, such as pricing.quote; what holds is its service's, the first token
    pub(crate) subject: String,
}

const JSON_HELP: &str = "JSON value [default: null]; '-' reads one value a line from standard input";

#[derive(Debug, Args)]
#[command(after_help = "Example:  ripstop call hello.up '{\"name\": \"Ada\"}'")]
pub(crate) struct CallArgs {
    /// Method to call, such as hello.up
    pub(crate) subject: String,
    #[arg(value_name = "JSON|-", help = JSON_HELP, allow_negative_numbers = true)]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:  ripstop pub orders.created '{\"id\": 7}' --wait-subscribers 1")]
pub(crate) struct PubArgs {
    /// Topic, such as orders.created
    pub(crate) subject: String,
    #[arg(value_name = "JSON|-", help = JSON_HELP, allow_negative_numbers = true)]
    pub(crate) words: Vec<String>,
    /// Wait for this many subscribers before the first event [default: 1, for 2 s at most]; 0: do not wait
    #[arg(long, value_name = "N")]
    pub(crate) wait_subscribers: Option<usize>,
    #[command(flatten)]
    pub(crate) keep: crate::store::args::Keep,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:  ripstop sub 'orders.*'      ('*' is one token, '>' the rest; quote them for the shell)
Prints the body of each event as one line of JSON; with a wildcard, the subject and a tab before it.")]
pub(crate) struct SubArgs {
    /// Topic or pattern, such as orders.created, 'orders.*' or 'orders.>'
    pub(crate) pattern: String,
    /// End after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Subscribe under this name: publishers keep for it what it has not had, and all who use it share the events
    #[arg(long, value_name = "NAME")]
    pub(crate) durable: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:  jq -c '.[]' mails.json | ripstop push emails -")]
pub(crate) struct PushArgs {
    /// Queue, such as emails
    pub(crate) queue: String,
    #[arg(value_name = "JSON|-", help = JSON_HELP, allow_negative_numbers = true)]
    pub(crate) words: Vec<String>,
    #[command(flatten)]
    pub(crate) keep: crate::store::args::Keep,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ripstop pull emails --count 10
  ripstop pull emails --command ./send-mail --concurrency 2")]
pub(crate) struct PullArgs {
    /// Queue, such as emails
    pub(crate) queue: String,
    /// End after this many items
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Shell command to run for each item, which is JSON on its standard input. It is done when the command ends with status 0;
    /// else, if it was pushed durably, it comes again
    #[arg(long, value_name = "CMD", conflicts_with = "count")]
    pub(crate) command: Option<String>,
    /// Commands that run at the same time
    #[arg(long, value_name = "N", default_value_t = 8, requires = "command", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) concurrency: u16,
}

#[derive(Debug, Args)]
pub(crate) struct PeersArgs {
    /// Stay, and print joins and leaves as they happen
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ripstop socket pull --bind tcp://127.0.0.1:5555 --count 1000
  seq 1000 | ripstop socket push --connect tcp://127.0.0.1:5555
  ripstop socket rep --bind ipc:///tmp/echo --echo
Each line of standard input is sent as one message, each received message is printed as one line; a tab \
separates frames. A received frame that cannot be part of a line (not UTF-8, or with control characters) is printed \
as 0x and hex digits; a first frame written like that addresses a router's peer.

It ends after --count received messages, or, for a sender, when standard input has ended and all is flushed.")]
pub(crate) struct SocketArgs {
    /// Kind of socket
    #[arg(value_name = "TYPE", ignore_case = true)]
    pub(crate) kind: Kind,
    /// Address to bind (repeatable); port 0 takes a free one and prints it with -v
    #[arg(long, value_name = "URL")]
    pub(crate) bind: Vec<String>,
    /// Address to connect to (repeatable)
    #[arg(long, value_name = "URL")]
    pub(crate) connect: Vec<String>,
    /// Prefix to subscribe to (repeatable; sub and xsub) [default: everything]
    #[arg(long, value_name = "PREFIX")]
    pub(crate) subscribe: Vec<String>,
    /// End after this many received messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Identity that a router peer knows this socket by
    #[arg(long, value_name = "ID")]
    pub(crate) identity: Option<String>,
    /// High-water mark, in messages per peer; 0: no limit [default: 65536]
    #[arg(long, value_name = "N")]
    pub(crate) hwm: Option<usize>,
    /// Subscribers a pub or xpub waits for before it sends its first line
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) wait_subscribers: usize,
    /// Send each received message back to where it came from (rep, router, dealer, pair)
    #[arg(long)]
    pub(crate) echo: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Req,
    Rep,
    Dealer,
    Router,
    Pub,
    Sub,
    Xpub,
    Xsub,
    Push,
    Pull,
    Pair,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:  ripstop completions bash > ~/.local/share/bash-completion/completions/ripstop"
)]
pub(crate) struct CompletionsArgs {
    pub(crate) shell: Shell,
}

/// `ripstop completions`.
pub(crate) fn completions(args: CompletionsArgs, mut out: Output) -> Result<(), Failure> {
    // Into memory first: clap_complete panics when a pipe is closed early.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ripstop", &mut script);
    out.raw(&script)?;
    out.flush()
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text);
    parsed.map_err(|error| format!("{error}; write a number and a unit, such as 500ms, 10s or 2m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_dashes_and_common_flags_anywhere() {
        let cli = Cli::try_parse_from(["ripstop", "call", "a.b", "-5", "--timeout", "2s", "--json"]).unwrap();
        assert_eq!(cli.common.timeout, Some(Duration::from_secs(2)));
        assert!(matches!(cli.command, Command::Call(CallArgs { words, .. }) if words == ["-5"]));
        let cli = Cli::try_parse_from(["ripstop", "--fabric", "f", "push", "q", "-"]).unwrap();
        assert!(matches!(cli.command, Command::Push(PushArgs { words, .. }) if words == ["-"]));
    }

    #[test]
    fn a_handler_is_needed_and_one_only() {
        assert!(Cli::try_parse_from(["ripstop", "serve", "a.b"]).is_err());
        assert!(Cli::try_parse_from(["ripstop", "serve", "a.b", "--echo", "--command", "cat"]).is_err());
        assert!(Cli::try_parse_from(["ripstop", "call", "a.b", "--timeout", "2"]).is_err());
    }
}
