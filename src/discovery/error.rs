//! What can go wrong with finding others.

use std::io;
use std::path::PathBuf;

use crate::code::{Code, Fault};

/// Why a discovery source could not announce or watch.
///
/// ```
/// use ripstop::discovery::DiscoveryError;
/// let error = DiscoveryError::Source { source_name: "mdns", reason: "no interface".into() };
/// assert_eq!(error.code().to_string(), "RS0104");
/// assert!(error.is_retryable());
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// A file or directory could not be read, written or watched.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was tried, such as `write`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        error: io::Error,
    },
    /// The runtime directory could be changed by somebody else, so nothing in it can be trusted.
    #[error("{} is not private: {reason}; {hint}", path.display())]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// The file of peers can't be understood.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The source itself failed.
    #[error("discovery by {source_name} failed: {reason}")]
    Source {
        /// Its name.
        source_name: &'static str,
        /// What it said.
        reason: String,
    },
}

impl DiscoveryError {
    /// Its stable code.
    ///
    /// ```
    /// # use ripstop::discovery::DiscoveryError;
    /// let error = DiscoveryError::Source { source_name: "mdns", reason: String::new() };
    /// assert_eq!(error.code().number(), 104);
    /// ```
    pub fn code(&self) -> Code {
        match self {
            Self::Io { .. } => Code::new(101),
            Self::NotPrivate { .. } => Code::new(102),
            Self::Config(error) => error.code(),
            Self::Source { .. } => Code::new(104),
        }
    }

    /// Whose fault it was.
    ///
    /// ```
    /// # use ripstop::{Fault, discovery::DiscoveryError};
    /// let error = DiscoveryError::Source { source_name: "mdns", reason: String::new() };
    /// assert_eq!(error.fault(), Fault::Network);
    /// ```
    pub fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } | Self::NotPrivate { .. } => Fault::Local,
            Self::Config(error) => error.fault(),
            Self::Source { .. } => Fault::Network,
        }
    }

    /// Whether trying again may help.
    ///
    /// ```
    /// # use ripstop::discovery::DiscoveryError;
    /// assert!(DiscoveryError::Source { source_name: "mdns", reason: String::new() }.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Source { .. })
    }
}
