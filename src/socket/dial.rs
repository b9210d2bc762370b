//! Dialling, and dialling again.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::endpoint::Endpoint;
use crate::socket::core::{Core, DialId, DialOptions, Origin};
use crate::socket::error::ConnectError;
use crate::socket::link::{self, End, Owner, Setup};
use crate::socket::monitor::{Event, Reporter};
use crate::socket::pipe::{Closing, Pipe};
use crate::sync::{Flag, lock};
use crate::transport::tls::{Proof, explain};
use crate::transport::{self, Stream};

/// A connection that lasted this long was a success: the next wait is short again.
const LASTED: Duration = Duration::from_secs(1);

/// One endpoint that is being dialled. Dropping it does not end it.
pub(crate) struct Dial(Arc<Shared>);

struct Shared {
    id: DialId,
    endpoint: Endpoint,
    options: DialOptions,
    monitor: Reporter,
    kept: Option<Arc<Pipe>>,
    /// Without `keep_queue`: the pipe of the connection that is up.
    current: Mutex<Option<Arc<Pipe>>>,
    closing: Flag,
    ended: Flag,
}

impl Dial {
    pub(crate) fn id(&self) -> DialId {
        self.0.id
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// The queue that outlives connections; `None` without `keep_queue`.
    pub(crate) fn pipe(&self) -> Option<&Arc<Pipe>> {
        self.0.kept.as_ref()
    }

    /// Dials no more; what is queued is still written within `linger` (`None`: however long it takes), which may need
    /// another connection; then closes.
    pub(crate) fn close(&self, linger: Option<Duration>) {
        self.0.closing.set();
        let pipe = self.0.kept.clone().or_else(|| lock(&self.0.current).clone());
        if let Some(pipe) = pipe {
            pipe.close("disconnected by this side", linger);
        }
    }

    /// Waits until nothing of this dial is left. Cancel safe.
    pub(crate) async fn ended(&self) {
        self.0.ended.wait().await;
    }
}

/// Keeps a connection to `endpoint`, from a task of its own. Needs a tokio runtime.
pub(crate) fn dial(endpoint: Endpoint, options: DialOptions, core: Arc<dyn Core>, monitor: Reporter) -> Dial {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = DialId(NEXT.fetch_add(1, Ordering::Relaxed));
    let origin = Origin::Dialled { endpoint: endpoint.clone(), dial: id, remote: String::new() };
    let kept = options.keep_queue.then(|| Pipe::new(Arc::new(origin), &options.link));
    let shared = Arc::new(Shared {
        id,
        endpoint,
        options,
        monitor,
        kept,
        current: Mutex::new(None),
        closing: Flag::default(),
        ended: Flag::default(),
    });
    tokio::spawn(keep(shared.clone(), core));
    Dial(shared)
}

/// Connects again and again, until told otherwise.
async fn keep(shared: Arc<Shared>, core: Arc<dyn Core>) {
    let mut failures = 0;
    let reason = loop {
        let began = Instant::now();
        let attempt = async {
            let origin = shared.origin(String::new());
            match timeout(shared.options.link.limits.handshake, transport::connect(&shared.endpoint)).await {
                Ok(Ok((stream, remote))) => {
                    let origin = shared.origin(remote.text);
                    let began = Instant::now();
                    match shared.secure(stream).await {
                        // TLS and ZMTP shake hands within the same time.
                        Ok((stream, proof)) => Ok((stream, proof, origin, began.elapsed())),
                        Err(reason) => Err((origin, shared.handshake_error(reason))),
                    }
                }
                Ok(Err(source)) => Err((origin, shared.io_error(source))),
                Err(_) => Err((origin, shared.io_error(std::io::ErrorKind::TimedOut.into()))),
            }
        };
        let attempt = tokio::select! {
            biased;
            reason = shared.over() => break reason,
            attempt = attempt => attempt,
        };
        // Why there is no connection (any more), and whether the core has to be told.
        let (origin, error, tell) = match attempt {
            Ok((stream, proof, origin, spent)) => {
                let origin = Arc::new(origin);
                let mut options = shared.options.link.clone();
                options.limits.handshake = options.limits.handshake.saturating_sub(spent);
                let setup = Setup {
                    origin: origin.clone(),
                    proof,
                    core: core.clone(),
                    options,
                    local: Some(shared.options.local.clone()),
                    kept: shared.kept.clone(),
                    monitor: shared.monitor.clone(),
                    owner: shared.clone(),
                };
                let Some(end) = shared.unless_closed(link::run(stream, setup)).await else {
                    break "disconnected by this side".into();
                };
                lock(&shared.current).take();
                if end.was_up && began.elapsed() >= LASTED {
                    failures = 0;
                }
                let (endpoint, reason) = (shared.endpoint.clone(), end.reason);
                if !end.was_up {
                    shared.report_failed(&origin, &reason);
                }
                match end.last {
                    true => (origin, ConnectError::Refused { endpoint, reason }, true),
                    false => (origin, ConnectError::Handshake { endpoint, reason }, !end.was_up),
                }
            }
            Err((origin, error)) => {
                if let ConnectError::Handshake { reason, .. } = &error {
                    shared.report_failed(&origin, reason);
                }
                (Arc::new(origin), error, true)
            }
        };
        let reason = match &error {
            ConnectError::Handshake { reason, .. } => reason.clone(),
            error => error.to_string(),
        };
        let reconnect = shared.options.reconnect.filter(|_| error.is_retryable() && shared.goes_on());
        let wait = reconnect.map(|reconnect| reconnect.wait(failures));
        if tell {
            core.failed(&origin, &error, wait);
        }
        let Some(wait) = wait else { break reason };
        failures = failures.saturating_add(1);
        metrics::counter!("ripstop_socket_reconnects_total").increment(1);
        tracing::debug!(endpoint = %shared.endpoint, ?wait, reason, "dialling again");
        shared.monitor.report(|| Event::Retrying { endpoint: shared.endpoint.clone(), wait, reason });
        tokio::select! {
            biased;
            reason = shared.over() => break reason,
            () = tokio::time::sleep(wait) => {}
        }
    };
    if let Some(pipe) = &shared.kept {
        let dropped = pipe.finish();
        if dropped > 0 {
            tracing::warn!(endpoint = %shared.endpoint, dropped, "messages were never sent");
            metrics::counter!("ripstop_socket_messages_dropped_total", "reason" => "disconnected")
                .increment(dropped as u64);
        }
    }
    shared.monitor.report(|| Event::GaveUp { endpoint: shared.endpoint.clone(), reason });
    shared.ended.set();
}

impl Shared {
    fn origin(&self, remote: String) -> Origin {
        Origin::Dialled { endpoint: self.endpoint.clone(), dial: self.id, remote }
    }

    /// TLS, if this dial has it.
    async fn secure(&self, stream: Stream) -> Result<(Stream, Proof), String> {
        let Some(connector) = &self.options.tls else { return Ok((stream, Proof::None)) };
        match timeout(self.options.link.limits.handshake, connector.connect(stream)).await {
            Ok(Ok(secured)) => Ok(secured),
            Ok(Err(error)) => Err(format!("TLS: {}", explain(&error))),
            Err(_) => Err(format!("TLS: {}", link::too_late())),
        }
    }

    fn handshake_error(&self, reason: String) -> ConnectError {
        ConnectError::Handshake { endpoint: self.endpoint.clone(), reason }
    }

    fn report_failed(&self, origin: &Origin, reason: &str) {
        tracing::debug!(endpoint = %self.endpoint, remote = origin.remote(), reason, "handshake failed");
        self.monitor.report(|| Event::HandshakeFailed {
            endpoint: self.endpoint.clone(),
            remote: origin.remote().to_owned(),
            reason: reason.to_owned(),
        });
    }

    fn io_error(&self, source: std::io::Error) -> ConnectError {
        ConnectError::Io { endpoint: self.endpoint.clone(), source }
    }

    /// Drives a link to its end, or (`None`) drops it if it is still shaking hands when the dial is closed. One that
    /// is up is closed through its pipe.
    async fn unless_closed(&self, link: impl Future<Output = End>) -> Option<End> {
        let mut link = pin!(link);
        if self.kept.is_some() {
            return Some(link.await); // its pipe is known to the link from the beginning
        }
        tokio::select! {
            biased;
            end = &mut link => return Some(end),
            () = self.closing.wait() => {}
        }
        // From here on `ready` refuses, so that a link which is not up will never be.
        let up = lock(&self.current).is_some();
        if up { Some(link.await) } else { None }
    }

    /// Waits, while there is no connection, until there is no reason left for one.
    async fn over(&self) -> String {
        let Some(pipe) = &self.kept else {
            self.closing.wait().await;
            return "disconnected by this side".into();
        };
        loop {
            let ending = pipe.ending();
            match pipe.closing() {
                None | Some(Closing::Flushing(None)) => ending.await,
                Some(Closing::Flushing(Some(until))) => tokio::select! {
                    () = ending => {}
                    () = sleep_until(until) => return "closed before everything was flushed (linger)".into(),
                },
                Some(Closing::Over(reason)) => return reason.to_string(),
            }
        }
    }
}

impl Owner for Shared {
    fn ready(&self, pipe: &Arc<Pipe>) -> bool {
        if self.kept.is_some() {
            return true;
        }
        let mut current = lock(&self.current);
        *current = Some(pipe.clone());
        // `close` sets the flag first and looks for the pipe then.
        !self.closing.is_set()
    }

    fn goes_on(&self) -> bool {
        self.options.reconnect.is_some()
            && match &self.kept {
                Some(pipe) => match pipe.closing() {
                    None | Some(Closing::Flushing(None)) => true,
                    Some(Closing::Flushing(Some(until))) => Instant::now() < until,
                    Some(Closing::Over(_)) => false,
                },
                None => !self.closing.is_set(),
            }
    }
}
