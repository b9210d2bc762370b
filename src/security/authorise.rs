//! A program's own say in who may connect.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::Identity;

/// A boxed future, as [`Authoriser::authorise`] returns it.
///
/// ```
/// let ready: ripstop::security::BoxFuture<'_, u8> = Box::pin(async { 1 });
/// # drop(ready);
/// ```
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Asked of each connection after its cryptographic proof, and before anything of it is let in.
///
/// It runs apart from the tasks that move bytes, several at a time; the connection waits for it within its handshake's
/// time, and is closed (and may come back) when that is over. No lock is held. Dropping the future must do no harm. A
/// panic counts as [`Verdict::TooLate`].
///
/// ```
/// use ripstop::security::{AuthRequest, Authoriser, BoxFuture, Verdict};
///
/// /// Lets nobody in whose metadata has no team.
/// struct Teams;
///
/// impl Authoriser for Teams {
///     fn authorise(&self, request: AuthRequest) -> BoxFuture<'_, Verdict> {
///         Box::pin(async move {
///             match request.metadata("X-Team") {
///                 Some(_) => Verdict::Allow,
///                 None => Verdict::Refuse("say which team you are of".into()),
///             }
///         })
///     }
/// }
/// ```
pub trait Authoriser: Send + Sync + 'static {
    /// Whether this peer may connect. What it may do then is in the permission table.
    fn authorise(&self, request: AuthRequest) -> BoxFuture<'_, Verdict>;
}

/// A function of a request is an authoriser.
impl<F, R> Authoriser for F
where
    F: Fn(AuthRequest) -> R + Send + Sync + 'static,
    R: Future<Output = Verdict> + Send + 'static,
{
    fn authorise(&self, request: AuthRequest) -> BoxFuture<'_, Verdict> {
        Box::pin(self(request))
    }
}

/// Who asks to be let in.
///
/// ```
/// use ripstop::security::{AuthRequest, Identity};
/// let request = AuthRequest::new(Identity::curve("reports")?, "tcp://10.0.0.7:40312");
/// assert_eq!(request.metadata("X-Team"), None);
/// # Ok::<(), ripstop::security::IdentityError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct AuthRequest {
    /// Proven.
    pub identity: Identity,
    /// Where it comes from, or where we dialled it.
    pub address: String,
    /// The properties of its handshake, in order: its own words, bounded by the handshake's limits.
    pub metadata: Vec<(String, Vec<u8>)>,
}

impl AuthRequest {
    /// A request without metadata.
    ///
    /// ```
    /// # use ripstop::security::{AuthRequest, Identity};
    /// let request = AuthRequest::new(Identity::curve("reports")?, "ipc:///run/shop");
    /// assert_eq!(request.address, "ipc:///run/shop");
    /// # Ok::<(), ripstop::security::IdentityError>(())
    /// ```
    pub fn new(identity: Identity, address: impl Into<String>) -> Self {
        Self { identity, address: address.into(), metadata: Vec::new() }
    }

    /// The property of this name, in whatever case.
    ///
    /// ```
    /// # use ripstop::security::{AuthRequest, Identity};
    /// let mut request = AuthRequest::new(Identity::curve("reports")?, "ipc:///run/shop");
    /// request.metadata.push(("X-Team".into(), b"payments".to_vec()));
    /// assert_eq!(request.metadata("x-team"), Some(&b"payments"[..]));
    /// # Ok::<(), ripstop::security::IdentityError>(())
    /// ```
    pub fn metadata(&self, name: &str) -> Option<&[u8]> {
        self.metadata.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }
}

/// What an [`Authoriser`] answers.
///
/// ```
/// use ripstop::security::Verdict;
/// assert_eq!(Verdict::Refuse("not on Sundays".into()).to_string(), "refused: not on Sundays");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may connect.
    Allow,
    /// Never: it is told the reason, and does not come back by itself.
    Refuse(String),
    /// Not now: the connection is just closed, so that the peer tries again.
    TooLate,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allowed"),
            Self::Refuse(reason) => write!(f, "refused: {reason}"),
            Self::TooLate => f.write_str("too late"),
        }
    }
}
