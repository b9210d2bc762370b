//! The end that the user asks for.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};

/// Completes on SIGINT (Ctrl-C) or SIGTERM. From this call on, not only from the first poll, these no longer end the
/// process by themselves. Call it within the runtime.
pub(crate) fn stop() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        match signals {
            (Ok(mut interrupt), Ok(mut terminate)) => {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            }
            // Without handlers the default action ends the process, which is as good.
            _ => std::future::pending().await,
        }
    }
}
