//! What goes wrong with a store.

use std::path::PathBuf;

use crate::code::{Code, Fault};

/// Something durable could not be kept, or not be found again.
///
/// ```
/// use ripstop::{Fault, durable::StoreError};
///
/// let error = StoreError::Full { what: "1000 messages", limit: "durable.messages" };
/// assert_eq!((error.code().to_string().as_str(), error.fault()), ("RS0602", Fault::Local));
/// assert!(error.is_retryable());
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file cannot be opened or is no store of ours.
    #[error("the store {}: {reason}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// As much is waiting as may.
    #[error("the store is full: {what} wait ({limit}); nothing was accepted")]
    Full {
        /// How much that is.
        what: &'static str,
        /// The setting.
        limit: &'static str,
    },
    /// The disk is full, or it failed. Nothing was accepted; the store is opened again with the next request.
    #[error("the store could not write: {reason}; nothing was accepted")]
    Disk {
        /// What the system says.
        reason: String,
    },
    /// What was kept is not what was written.
    #[error("the store is damaged: {reason}")]
    Damaged {
        /// Where, and what became of it.
        reason: String,
    },
    /// The node is gone.
    #[error("the store was closed")]
    Closed,
}

impl StoreError {
    /// The stable code of this error.
    ///
    /// ```
    /// assert_eq!(ripstop::durable::StoreError::Closed.code().to_string(), "RS0605");
    /// ```
    pub fn code(&self) -> Code {
        Code::new(match self {
            Self::Open { .. } => 601,
            Self::Full { .. } => 602,
            Self::Disk { .. } => 603,
            Self::Damaged { .. } => 604,
            Self::Closed => 605,
        })
    }

    /// Whose fault it was.
    ///
    /// ```
    /// assert_eq!(ripstop::durable::StoreError::Closed.fault(), ripstop::Fault::Caller);
    /// ```
    pub fn fault(&self) -> Fault {
        match self {
            Self::Closed => Fault::Caller,
            _ => Fault::Local,
        }
    }

    /// Whether trying again is safe and may help.
    ///
    /// ```
    /// assert!(!ripstop::durable::StoreError::Closed.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Disk { .. })
    }
}
