//! `tower` at the edges: a service that is called as a `tower::Service`, and one that serves a subject.

use std::{
    error::Error,
    future::{Future, IntoFuture, poll_fn},
    marker::PhantomData,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context as Poller, Poll},
};

use serde::{Serialize, de::DeserializeOwned};
use tower_service::Service;

use super::server::Serve;
use crate::fabric::{
    Node,
    error::{CallError, HandlerError},
};

/// A service that this node calls: made by [`Node::client`].
#[derive(Clone, Debug)]
pub struct Client {
    node: Node,
    service: String,
}

/// One request to a [`CallService`]: the method, without the service in front, and its argument.
///
/// ```
/// let ask = ripstop::fabric::ClientRequest::new("quote", 3u64);
/// assert_eq!(ask.method, "quote");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientRequest<Q> {
    /// Such as `quote`, of `pricing.quote`.
    pub method: String,
    /// What is asked.
    pub body: Q,
}

impl<Q> ClientRequest<Q> {
    /// A request.
    ///
    /// ```
    /// assert_eq!(ripstop::fabric::ClientRequest::new("quote", 3u64).body, 3);
    /// ```
    pub fn new(method: impl Into<String>, body: Q) -> Self {
        Self { method: method.into(), body }
    }
}

/// A `tower::Service` that calls: made by [`Client::into_service`]. It is always ready: the bulkhead holds calls back, or
/// refuses them, when they are made.
pub struct CallService<Q, R> {
    client: Client,
    types: PhantomData<fn(Q) -> R>,
}

impl Node {
    /// A service as something to call, such as a [`tower::Service`](Client::into_service). Feature `tower`.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) {
    /// let pricing = node.client("pricing").into_service::<u64, u64>();
    /// # }
    /// ```
    pub fn client(&self, service: &str) -> Client {
        Client { node: self.clone(), service: service.to_owned() }
    }

    /// Offers a method that a `tower::Service` answers, with whatever layers are around it. It is cloned for each request. Feature
    /// `tower`.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> ripstop::Result<()> {
    /// let quote = tower::service_fn(|qty: u64| async move { Ok::<_, std::io::Error>(250 * qty) });
    /// node.serve_service("pricing.quote", quote).await?;
    /// # Ok(()) }
    /// ```
    pub fn serve_service<Q, S>(&self, subject: &str, service: S) -> Serve
    where
        Q: DeserializeOwned + Send + 'static,
        S: Service<Q> + Clone + Send + 'static,
        S::Response: Serialize,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        S::Future: Send + 'static,
    {
        // Services are often `Send` and not `Sync`; the lock is held only to clone it.
        let service = Mutex::new(service);
        self.serve(subject, move |request: Q, _| {
            let mut service = service.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move {
                let failed = |error: S::Error| HandlerError::of(&*error.into());
                poll_fn(|cx| service.poll_ready(cx)).await.map_err(failed)?;
                service.call(request).await.map_err(failed)
            }
        })
    }
}

impl Client {
    /// As a `tower::Service`, for methods that take `Q` and reply `R`.
    ///
    /// ```no_run
    /// # async fn f(node: ripstop::Node) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// use ripstop::fabric::ClientRequest;
    /// use tower::ServiceExt;
    ///
    /// let pricing = node.client("pricing").into_service::<u64, u64>();
    /// let cents = pricing.oneshot(ClientRequest::new("quote", 3)).await?;
    /// # Ok(()) }
    /// ```
    pub fn into_service<Q, R>(self) -> CallService<Q, R>
    where
        Q: Serialize,
        R: DeserializeOwned + 'static,
    {
        CallService { client: self, types: PhantomData }
    }
}

impl<Q: Serialize, R: DeserializeOwned + 'static> Service<ClientRequest<Q>> for CallService<Q, R> {
    type Response = R;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<R, CallError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Poller<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: ClientRequest<Q>) -> Self::Future {
        let subject = format!("{}.{}", self.client.service, request.method);
        self.client.node.call(&subject, &request.body).into_future()
    }
}

impl<Q, R> Clone for CallService<Q, R> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), types: PhantomData }
    }
}

impl<Q, R> std::fmt::Debug for CallService<Q, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallService").field("service", &self.client.service).finish_non_exhaustive()
    }
}
