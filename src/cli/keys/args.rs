//! The flags of `ripstop keys`.

use std::path::PathBuf;

use clap::{Args, Subcommand, value_parser};

#[derive(Debug, Args)]
#[command(after_help = "\
Two commands make a node's keys:
  ripstop keys init --fabric shop
  ripstop keys issue billing        # then, in ripstop.toml: [security] dir = \"keys/billing\"")]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a CA for a fabric
    Init(InitArgs),
    /// Issue a key and a certificate for a service
    Issue(IssueArgs),
    /// Show what is in a key file or directory; never a private key
    Show(ShowArgs),
    /// Check the directory of a node: whether the others will let it in
    Verify(VerifyArgs),
    /// Revoke certificates: their holders are shut out
    Revoke(RevokeArgs),
    /// Replace the key of the CA, without an interruption
    Rotate(RotateArgs),
    /// List the certificates that the CA has issued
    List(ListArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CaDir {
    /// Directory of the CA
    #[arg(long, value_name = "DIR", default_value = "keys")]
    pub(crate) dir: PathBuf,
}

const DAYS: std::ops::RangeInclusive<i64> = 1..=36_500;

#[derive(Debug, Args)]
#[command(after_help = "\
Example:  ripstop keys init --fabric shop
Whoever can read ca.key can be any service: keep it where no node runs.")]
pub(crate) struct InitArgs {
    #[command(flatten)]
    pub(crate) ca: CaDir,
    /// Days that the CA is valid
    #[arg(long, value_name = "N", default_value_t = 3650, value_parser = value_parser!(u32).range(DAYS))]
    pub(crate) days: u32,
}

const ISSUE: &str = if cfg!(feature = "curve") {
    "ripstop keys issue [OPTIONS] <SERVICE>\n       ripstop keys issue [OPTIONS] --curve <NAME>"
} else {
    "ripstop keys issue [OPTIONS] <SERVICE>"
};

#[derive(Debug, Args)]
#[command(override_usage = ISSUE, after_help = "\
Examples:
  ripstop keys issue billing
  ripstop keys issue billing --renew --days 30
  ripstop keys issue --curve reports --to keys/billing")]
pub(crate) struct IssueArgs {
    /// Service that it is for; each node of a service may have its own
    #[arg(value_name = "SERVICE")]
    #[cfg_attr(feature = "curve", arg(required_unless_present = "curve"))]
    #[cfg_attr(not(feature = "curve"), arg(required = true))]
    pub(crate) name: Option<String>,
    /// Make a CURVE key instead, for a client that speaks ZeroMQ and no TLS, and enrol it under this name
    #[cfg(feature = "curve")]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["name", "days"])]
    pub(crate) curve: Option<String>,
    /// Directory of a node to enrol the CURVE key at (repeatable)
    #[cfg(feature = "curve")]
    #[arg(long, value_name = "DIR", conflicts_with = "name")]
    pub(crate) to: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) ca: CaDir,
    /// Directory to write: security.dir of the node [default: SERVICE, or curve/NAME, in the directory of the CA]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Days that the certificate is valid
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = value_parser!(u32).range(DAYS))]
    pub(crate) days: u32,
    /// Replace the key, and the certificate, that are in the directory
    #[arg(long)]
    pub(crate) renew: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:  ripstop keys show keys/billing")]
pub(crate) struct ShowArgs {
    /// A PEM file, or a directory of them
    pub(crate) path: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:  ripstop keys verify keys/billing
Checks that the private key is private and belongs to the certificate, that the certificate leads to a CA in ca.pem, \
names a service, is valid now and not in crl.pem. Exit code 1 if not; a certificate that expires within 7 days is \
a warning.")]
pub(crate) struct VerifyArgs {
    /// Directory of a node: its security.dir
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ripstop keys revoke billing --to keys/pricing --to keys/orders
  ripstop keys revoke 4f0c0a5d9be24c31a7b2d6e8f1029384
Nodes refuse the holder as soon as crl.pem in their directory is replaced: --to does it for those on this machine, \
copy it to the others.")]
pub(crate) struct RevokeArgs {
    /// Service (all its certificates), serial number, certificate file, or curve:NAME
    #[arg(value_name = "WHAT")]
    pub(crate) what: String,
    #[command(flatten)]
    pub(crate) ca: CaDir,
    /// Directory of a node to bring up to date (repeatable)
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
In this order, each step on all nodes before the next:
  1. ripstop keys rotate --to keys/billing …     nodes trust the old CA and the new one
  2. ripstop keys issue billing --renew          for each node: a certificate of the new CA
  3. ripstop keys rotate --finish --to keys/billing …")]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    pub(crate) ca: CaDir,
    /// Days that the new CA is valid
    #[arg(long, value_name = "N", default_value_t = 3650, value_parser = value_parser!(u32).range(DAYS))]
    pub(crate) days: u32,
    /// End the rotation: drop the old CA
    #[arg(long, conflicts_with = "days")]
    pub(crate) finish: bool,
    /// End it although services are left with certificates of the old CA: they are shut out
    #[arg(long, requires = "finish")]
    pub(crate) force: bool,
    /// Directory of a node to bring ca.pem and crl.pem up to date in (repeatable)
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) ca: CaDir,
}
