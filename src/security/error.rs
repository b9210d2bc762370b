//! What can be wrong with keys, rules and peers.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use super::IdentityError;
use crate::code::{Code, Fault};
use crate::date::date;

/// Why keys or rules can't be used, or a peer is not let in.
///
/// ```
/// use ripstop::security::{Refusal, SecurityError};
/// let error = SecurityError::from(Refusal::NoCertificate);
/// assert_eq!(error.code().to_string(), "RS0510");
/// assert!(!error.is_retryable());
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecurityError {
    /// A file can't be read, written or watched.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        error: io::Error,
    },
    /// Others can read a private key, so it is none.
    #[error("{} can be read by others (mode {mode:04o}), so it is no secret: chmod 600 {}", path.display(), path.display())]
    NotPrivate {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Material {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// `[security]` can't be meant like this.
    #[error("security: {reason}")]
    Setup {
        /// What is wrong with it and what to write.
        reason: String,
    },
    /// A rule of `[[allow]]` is wrong.
    #[error("{place}: {reason}")]
    Rule {
        /// The key, such as `allow.0.call.1`.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name can't be in a certificate or in `curve.toml`.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A peer is not let in.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl SecurityError {
    /// Its stable code.
    ///
    /// ```
    /// # use ripstop::security::SecurityError;
    /// assert_eq!(SecurityError::Setup { reason: "none".into() }.code().number(), 503);
    /// ```
    pub fn code(&self) -> Code {
        match self {
            Self::Io { .. } => Code::new(500),
            Self::NotPrivate { .. } => Code::new(501),
            Self::Material { .. } => Code::new(502),
            Self::Setup { .. } => Code::new(503),
            Self::Rule { .. } => Code::new(504),
            Self::Identity(_) => Code::new(505),
            Self::Refused(refusal) => refusal.code(),
        }
    }

    /// Whose fault it was.
    ///
    /// ```
    /// # use ripstop::{Fault, security::{Refusal, SecurityError}};
    /// assert_eq!(SecurityError::from(Refusal::Revoked).fault(), Fault::Peer);
    /// ```
    pub fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } | Self::NotPrivate { .. } => Fault::Local,
            Self::Material { .. } | Self::Setup { .. } | Self::Rule { .. } => Fault::Config,
            Self::Identity(_) => Fault::Caller,
            Self::Refused(_) => Fault::Peer,
        }
    }

    /// Whether trying again may help without anybody changing anything: only where the operating system failed.
    ///
    /// ```
    /// # use ripstop::security::{Refusal, SecurityError};
    /// assert!(!SecurityError::from(Refusal::Revoked).is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Io { .. })
    }
}

/// Why a peer is not let in, in words that its owner understands too.
///
/// ```
/// use ripstop::security::Refusal;
/// let refusal = Refusal::WrongService { theirs: "billing".into(), wanted: "pricing".into() };
/// assert_eq!(refusal.to_string(), "its certificate is for service billing, and pricing was dialled");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It showed none.
    #[error("it has no certificate")]
    NoCertificate,
    /// Its time is over.
    #[error("its certificate expired on {}", date(*on))]
    Expired {
        /// When.
        on: SystemTime,
    },
    /// Its time has not begun; or a clock is wrong.
    #[error("its certificate is not valid before {}", date(*before))]
    NotYetValid {
        /// When it begins.
        before: SystemTime,
    },
    /// It leads to none of our trust anchors.
    #[error("its certificate was issued by another CA")]
    UnknownIssuer,
    /// The list of its issuer has it, or has one in its chain.
    #[error("its certificate was revoked")]
    Revoked,
    /// It belongs to another fabric.
    #[error("its certificate is for fabric {theirs}, and this is fabric {ours}")]
    WrongFabric {
        /// The one in the certificate.
        theirs: String,
        /// The one in ours.
        ours: String,
    },
    /// It is not the service that was dialled.
    #[error("its certificate is for service {theirs}, and {wanted} was dialled")]
    WrongService {
        /// The one in the certificate.
        theirs: String,
        /// The one that was dialled.
        wanted: String,
    },
    /// It is valid, but does not say who its holder is.
    #[error("its certificate names no service: {reason}")]
    NoIdentity {
        /// What is missing or wrong.
        reason: String,
    },
    /// It is meant for something else.
    #[error("its certificate is not meant for this: {reason}")]
    Usage {
        /// Key usage or extended key usage.
        reason: String,
    },
    /// It can't be read, or a signature in it is wrong.
    #[error("its certificate is broken: {reason}")]
    Broken {
        /// What exactly.
        reason: String,
    },
    /// Its CURVE public key is not enrolled here.
    #[error("its CURVE key is not enrolled here")]
    UnknownKey,
}

impl Refusal {
    /// Its stable code.
    ///
    /// ```
    /// assert_eq!(ripstop::security::Refusal::UnknownKey.code().number(), 520);
    /// ```
    pub fn code(&self) -> Code {
        Code::new(match self {
            Self::NoCertificate => 510,
            Self::Expired { .. } => 511,
            Self::NotYetValid { .. } => 512,
            Self::UnknownIssuer => 513,
            Self::Revoked => 514,
            Self::WrongFabric { .. } => 515,
            Self::WrongService { .. } => 516,
            Self::NoIdentity { .. } => 517,
            Self::Usage { .. } => 518,
            Self::Broken { .. } => 519,
            Self::UnknownKey => 520,
        })
    }

    /// One word for a counter's label.
    ///
    /// ```
    /// assert_eq!(ripstop::security::Refusal::Revoked.label(), "revoked");
    /// ```
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Revoked => "revoked",
            Self::WrongFabric { .. } => "wrong_fabric",
            Self::WrongService { .. } => "wrong_service",
            Self::NoIdentity { .. } => "no_identity",
            Self::Usage { .. } => "usage",
            Self::Broken { .. } => "broken",
            Self::UnknownKey => "unknown_key",
        }
    }
}
