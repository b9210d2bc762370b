//! Flags of the commands that look.

use std::time::Duration;

use clap::Args;

use crate::args::duration;

#[derive(Debug, Args)]
#[command(after_help = "Example:  ripstop ping pricing --count 3")]
pub(crate) struct PingArgs {
    /// Service whose instances are asked
    #[arg(value_name = "NAME")]
    pub(crate) target: String,
    /// End after so many rounds [default: at Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Pause between rounds
    #[arg(long, value_name = "DUR", value_parser = duration, default_value = "1s")]
    pub(crate) interval: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ripstop stats
  ripstop stats pricing --watch
Rates and times are those of the last 5 to 10 seconds; all instances of a service are taken together.")]
pub(crate) struct StatsArgs {
    /// Service to look at [default: all]
    #[arg(value_name = "NAME")]
    pub(crate) target: Option<String>,
    /// Stay, and print again every 2 s
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ripstop health pricing
  ripstop health --endpoint http://127.0.0.1:9464
It ends with 0 if all that was asked is ready, with 1 if something is not, with 3 if nobody answers.")]
pub(crate) struct HealthArgs {
    /// Service to ask [default: all]
    #[arg(value_name = "NAME", conflicts_with = "endpoint")]
    pub(crate) target: Option<String>,
    /// Ask this observe endpoint instead, without joining a fabric [default path: /readyz]
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:  ripstop errors RS0415")]
pub(crate) struct ErrorsArgs {
    /// Code to explain, such as RS0415 or 415 [default: list all]
    pub(crate) code: Option<String>,
}
