//! Exit codes, and which failure has which.

use std::{fmt, io, process::ExitCode};

use ripstop::{
    Code,
    config::ConfigError,
    fabric::{CallError, PublishError, PushError, ServeError, StartError, SubscribeError},
    security::SecurityError,
};

/// The exit codes other than 0. They never change their meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// The operation failed.
    Failed = 1,
    /// Bad usage or configuration.
    Usage = 2,
    /// Nobody there.
    Nobody = 3,
    /// The deadline passed.
    Deadline = 4,
}

/// Why the command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Whoever read standard output has gone (`… | head`): end quietly.
    PipeClosed,
    /// Everything else is said on standard error.
    Told { exit: Exit, code: Option<Code>, message: String },
}

impl Failure {
    /// Exit code 1.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Exit code 2.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self::Told { exit, code: None, message: message.to_string() }
    }

    pub(crate) fn coded(exit: Exit, code: Code, message: impl fmt::Display) -> Self {
        Self::Told { exit, code: Some(code), message: message.to_string() }
    }

    /// Whether it is the error with this code.
    pub(crate) fn has_code(&self, wanted: &str) -> bool {
        matches!(self, Self::Told { code: Some(code), .. } if code.to_string() == wanted)
    }

    /// The same with more text after it.
    #[must_use]
    pub(crate) fn with(mut self, more: impl fmt::Display) -> Self {
        if let Self::Told { message, .. } = &mut self {
            message.push_str(&more.to_string());
        }
        self
    }

    /// Says it on standard error, and gives the exit code.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        use io::Write;
        let Self::Told { exit, code, message } = self else {
            return ExitCode::SUCCESS;
        };
        let code = code.map(|code| code.to_string());
        let mut stderr = io::stderr().lock();
        // Nothing can be done about a standard error that is closed.
        let _ = if json {
            let error = serde_json::json!({"error": {"message": message, "code": code, "exit": *exit as u8}});
            writeln!(stderr, "{error}")
        } else {
            let code = code.map(|code| format!("[{code}]")).unwrap_or_default();
            writeln!(stderr, "error{code}: {message}")
        };
        ExitCode::from(*exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PipeClosed => f.write_str("the reader of the output has gone"),
            Self::Told { message, .. } => f.write_str(message),
        }
    }
}

/// Writing to standard output is the only I/O that converts by itself.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::PipeClosed,
            _ => Self::failed(format!("cannot write the output: {error}")),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::coded(Exit::Usage, error.code(), error)
    }
}

impl From<SecurityError> for Failure {
    fn from(error: SecurityError) -> Self {
        let exit = match &error {
            SecurityError::Io { .. } | SecurityError::Refused(_) => Exit::Failed,
            _ => Exit::Usage,
        };
        Self::coded(exit, error.code(), error)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let exit = match &error {
            StartError::Config(_) | StartError::Name { .. } => Exit::Usage,
            _ => Exit::Failed,
        };
        Self::coded(exit, error.code(), error)
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let exit = if matches!(error, ServeError::Subject(_)) { Exit::Usage } else { Exit::Failed };
        Self::coded(exit, error.code(), error)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let exit = match &error {
            CallError::Subject(_) => Exit::Usage,
            CallError::NoSuchService { .. } | CallError::NoInstance { .. } => Exit::Nobody,
            CallError::Deadline { .. } => Exit::Deadline,
            _ => Exit::Failed,
        };
        Self::coded(exit, error.code(), error)
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        let exit = match &error {
            PublishError::Subject(_) => Exit::Usage,
            PublishError::NotReady { present: 0, .. } => Exit::Nobody,
            PublishError::NotReady { .. } => Exit::Deadline,
            _ => Exit::Failed,
        };
        Self::coded(exit, error.code(), error)
    }
}

impl From<SubscribeError> for Failure {
    fn from(error: SubscribeError) -> Self {
        let exit = if matches!(error, SubscribeError::Subject(_)) { Exit::Usage } else { Exit::Failed };
        Self::coded(exit, error.code(), error)
    }
}

impl From<PushError> for Failure {
    fn from(error: PushError) -> Self {
        let exit = match &error {
            PushError::Subject(_) => Exit::Usage,
            PushError::NoPuller { .. } => Exit::Nobody,
            PushError::Full { .. } => Exit::Deadline,
            _ => Exit::Failed,
        };
        Self::coded(exit, error.code(), error)
    }
}
