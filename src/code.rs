//! What every error says beside its text: whose fault it was, and a stable code.

mod explained;

use std::fmt;

pub use explained::{Again, Explained, explain, explained};

/// Whose fault an error was: where to look first.
///
/// ```
/// assert_eq!(ripstop::Fault::Peer.to_string(), "peer");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The arguments of the failed call.
    Caller,
    /// What the other side did or did not do.
    Peer,
    /// The way between the two, or nobody there.
    Network,
    /// `ripstop.toml`, the environment or a builder's options.
    Config,
    /// This machine: disk, descriptors, ports.
    Local,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caller => "caller",
            Self::Peer => "peer",
            Self::Network => "network",
            Self::Config => "config",
            Self::Local => "local",
        })
    }
}

/// A stable error code such as `RS0012`. A code never changes its meaning.
///
/// ```
/// let code = ripstop::Code::new(12);
/// assert_eq!(code.to_string(), "RS0012");
/// assert_eq!("RS0012".parse(), Ok(code));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Code(u16);

impl Code {
    /// The code with this number.
    ///
    /// ```
    /// assert_eq!(ripstop::Code::new(1).number(), 1);
    /// ```
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Its number.
    ///
    /// ```
    /// assert_eq!(ripstop::Code::new(7).number(), 7);
    /// ```
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RS{:04}", self.0)
    }
}

/// The text is not `RS` and four digits.
///
/// ```
/// assert!("12".parse::<ripstop::Code>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an error code: write RS and four digits, such as RS0012")]
pub struct ParseCodeError;

impl std::str::FromStr for Code {
    type Err = ParseCodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("RS").filter(|d| d.len() == 4).ok_or(ParseCodeError)?;
        digits.parse().map(Self).map_err(|_| ParseCodeError)
    }
}
