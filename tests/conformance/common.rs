//! Waiting for events, and options for tests.

use std::time::Duration;

use ripstop::socket::{Event, Monitor, Options};

/// The first event that `pick` makes something of.
pub(crate) async fn event<T>(monitor: &mut Monitor, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
    loop {
        let event = monitor.next().await.expect("the socket is gone");
        if let Some(picked) = pick(&event) {
            return picked;
        }
    }
}

/// Waits for an event of this kind.
macro_rules! awaits {
    ($monitor:expr, $pattern:pat $(if $guard:expr)?) => {
        crate::common::event(&mut $monitor, |event| matches!(event, $pattern $(if $guard)?).then_some(())).await
    };
}
pub(crate) use awaits;

/// Reconnects fast, so that tests are.
pub(crate) fn quick() -> Options {
    Options::new().reconnect(Some((Duration::from_millis(5), Duration::from_millis(50))))
}
