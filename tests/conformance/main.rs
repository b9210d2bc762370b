//! One body, run on every transport: each socket pair, either side binding, with reconnect, high-water marks and linger.

#![allow(clippy::unwrap_used, clippy::expect_used)] // the helpers too are tests

mod any;
mod common;
mod connections;
#[cfg(feature = "curve")]
mod curve;
mod hostile;
mod pairs;
mod patterns;
mod publishing;
mod queues;
mod requests;
mod routing;
#[cfg(feature = "tls")]
mod tls;

use std::{
    future::Future,
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use ripstop::Endpoint;

/// What a test binds to. Each call gives an endpoint of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    Tcp,
    Tcp6,
    Ipc,
    Inproc,
}

impl Transport {
    pub(crate) fn endpoint(self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        match self {
            Self::Tcp => "tcp://127.0.0.1:0".into(),
            Self::Tcp6 => "tcp://[::1]:0".into(),
            Self::Ipc => format!("ipc://{}/ripstop-conformance-{unique}", std::env::temp_dir().display()),
            Self::Inproc => format!("inproc://conformance-{unique}"),
        }
    }

    /// An actual endpoint that nobody listens at yet.
    pub(crate) fn free(self) -> Endpoint {
        let mut endpoint = self.endpoint().parse().unwrap();
        if let Endpoint::Tcp { host, port } = &mut endpoint {
            *port = TcpListener::bind((&host[..], 0)).unwrap().local_addr().unwrap().port();
        }
        endpoint
    }
}

/// Fails the test instead of hanging it.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it hangs")
}

/// Makes one test per transport of an `async fn(Transport)`.
macro_rules! on_every_transport {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            use crate::Transport;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn tcp() {
                crate::soon(super::$name(Transport::Tcp)).await;
            }

            #[tokio::test]
            async fn tcp6() {
                crate::soon(super::$name(Transport::Tcp6)).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn ipc() {
                crate::soon(super::$name(Transport::Ipc)).await;
            }

            #[tokio::test]
            async fn inproc() {
                crate::soon(super::$name(Transport::Inproc)).await;
            }
        }
    )*};
}
pub(crate) use on_every_transport;
