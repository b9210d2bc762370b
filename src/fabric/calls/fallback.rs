//! What is done instead when a call fails.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use serde::de::DeserializeOwned;

use super::client::Call;
use crate::fabric::error::CallError;

/// A call with a fallback: see [`Call::or_else`]. Await it to make the call.
///
/// Dropping the future gives the call, or the fallback, up.
#[must_use = "a call does nothing until it is awaited"]
pub struct OrElse<R, F> {
    call: Call<R>,
    fallback: F,
}

impl<R: DeserializeOwned> Call<R> {
    /// What is done instead when the call has failed, retries and all: a value of last resort, or another way to get one. The
    /// error is counted as one all the same. The fallback has as much time as it takes: what it calls has deadlines of its own.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let cents: u64 = node.call("pricing.quote", &3u64).or_else(|error| async move {
    ///     if error.is_retryable() { Ok(750) } else { Err(error) }
    /// }).await?;
    /// # Ok(()) }
    /// ```
    pub fn or_else<F, Fut>(self, fallback: F) -> OrElse<R, F>
    where
        F: FnOnce(CallError) -> Fut,
        Fut: Future<Output = Result<R, CallError>>,
    {
        OrElse { call: self, fallback }
    }
}

impl<R, F, Fut> IntoFuture for OrElse<R, F>
where
    R: DeserializeOwned + 'static,
    F: FnOnce(CallError) -> Fut + Send + 'static,
    Fut: Future<Output = Result<R, CallError>> + Send + 'static,
{
    type Output = Result<R, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let call = self.call.into_future();
        let fallback = self.fallback;
        Box::pin(async move {
            let error = match call.await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            metrics::counter!("ripstop_fallbacks_total").increment(1);
            fallback(error).await
        })
    }
}

impl<R, F> std::fmt::Debug for OrElse<R, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OrElse").field("call", &self.call).finish_non_exhaustive()
    }
}
