//! What is wrong with the configuration, where, and what to write instead.

use crate::code::{Code, Fault};

/// Why the configuration can't be used.
///
/// ```
/// use ripstop::config::ConfigError;
/// let error = ConfigError::Value { place: "ripstop.toml:3:8".into(), reason: "write a number".into() };
/// assert_eq!(error.to_string(), "ripstop.toml:3:8: write a number");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read {place}: {reason}")]
    Read {
        /// The file.
        place: String,
        /// What the operating system said.
        reason: String,
    },
    /// A value, a key or the syntax is wrong.
    #[error("{place}: {reason}")]
    Value {
        /// `file:line:column`, or the environment variable.
        place: String,
        /// What is wrong and what to write.
        reason: String,
    },
}

impl ConfigError {
    /// Its stable code.
    ///
    /// ```
    /// # use ripstop::config::ConfigError;
    /// assert_eq!(ConfigError::Read { place: "a".into(), reason: "b".into() }.code().number(), 201);
    /// ```
    pub fn code(&self) -> Code {
        match self {
            Self::Read { .. } => Code::new(201),
            Self::Value { .. } => Code::new(202),
        }
    }

    /// Always the configuration's.
    ///
    /// ```
    /// # use ripstop::config::ConfigError;
    /// let error = ConfigError::Read { place: "a".into(), reason: "b".into() };
    /// assert_eq!(error.fault(), ripstop::Fault::Config);
    /// ```
    pub fn fault(&self) -> Fault {
        Fault::Config
    }

    /// Never: it stays wrong until somebody changes it.
    ///
    /// ```
    /// # use ripstop::config::ConfigError;
    /// assert!(!ConfigError::Read { place: "a".into(), reason: "b".into() }.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        false
    }
}
