//! The `ripstop` command: flags, config, library call, print.

mod args;
mod body;
mod call;
mod demo;
mod doctor;
mod exit;
mod explain;
mod input;
mod join;
#[cfg(feature = "tls")]
mod keys;
mod observe;
mod output;
mod peers;
mod pub_sub;
mod push_pull;
mod serve;
mod socket;
mod stop;
mod store;

use std::process::ExitCode;

use args::{Cli, Command, RoleArgs};
use clap::Parser;
use exit::Failure;
use output::Output;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "demo-role") {
        let args = RoleArgs::parse_from(std::env::args_os().skip(1));
        output::logs(args.verbose);
        return end(false, demo::role(args));
    }
    let cli = Cli::parse();
    output::logs(cli.common.verbose);
    end(cli.common.json, run(cli))
}

/// Runs to the end, and says what went wrong.
fn end(json: bool, command: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("cannot start the runtime: {error}")).report(json),
    };
    let done = runtime.block_on(command);
    // A read of standard input that nobody waits for any more must not hold the process.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { common, command } = cli;
    let out = Output::new(common.json);
    match command {
        Command::Demo(args) => demo::run(&common, args, out).await,
        Command::Serve(args) => serve::run(&common, args, out).await,
        Command::Call(args) => call::run(&common, args, out).await,
        Command::Pub(args) if args.keep.durable => store::send::publish(&common, args, out).await,
        Command::Push(args) if args.keep.durable => store::send::push(&common, args, out).await,
        Command::Pub(args) => pub_sub::publish(&common, args, out).await,
        Command::Sub(args) => pub_sub::subscribe(&common, args, out).await,
        Command::Push(args) => push_pull::push(&common, args, out).await,
        Command::Pull(args) => push_pull::pull(&common, args, out).await,
        Command::Outbox(args) => store::outbox::run(&common, args, out).await,
        Command::Dlq(args) => store::dlq::run(&common, args, out).await,
        Command::Groups(args) => store::outbox::groups(&common, args, out).await,
        Command::Store(args) => store::run(&common, &args, out),
        Command::Doctor(args) => doctor::run(&common, args, out).await,
        Command::Peers(args) => peers::run(&common, args, out).await,
        Command::Explain(args) => explain::run(&common, &args, out),
        Command::Ping(args) => observe::ping::run(&common, args, out).await,
        Command::Stats(args) => observe::stats::run(&common, args, out).await,
        Command::Top => observe::top::run(&common).await,
        Command::Health(args) => observe::health::run(&common, args, out).await,
        Command::Errors(args) => observe::errors::run(&args, out),
        #[cfg(feature = "tls")]
        Command::Keys(args) => keys::run(&common, args, out),
        Command::Socket(args) => socket::run(&common, args, out).await,
        Command::Completions(args) => args::completions(args, out),
    }
}
