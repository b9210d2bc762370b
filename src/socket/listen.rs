//! Listening, with a budget for handshakes: silent connections never crowd out good ones.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::endpoint::Endpoint;
use crate::socket::core::{Core, ListenOptions, Origin};
use crate::socket::error::ConnectError;
use crate::socket::gate::{Gate, Pass, network};
use crate::socket::limit::Limit;
use crate::socket::link::{self, Owner, Setup};
use crate::socket::mechanism::{CurveKeys, Mechanism};
use crate::socket::monitor::{Event, Reporter};
use crate::socket::pipe::Pipe;
use crate::sync::{Flag, lock};
use crate::transport::tls::{First, Proof, explain};
use crate::transport::{self, PeerAddr, Stream};
use crate::zmtp;

/// How long to wait when the system has no descriptors left and no handshake can be given up for one.
const BACK_OFF: Duration = Duration::from_millis(50);
/// And when accepting fails otherwise: most often the peer has gone again.
const BACK_OFF_SHORT: Duration = Duration::from_millis(1);

/// A listener. Dropping it does not end it.
pub(crate) struct Listening(Arc<Shared>);

struct Shared {
    endpoint: Endpoint,
    options: ListenOptions,
    gate: Arc<Gate>,
    core: Arc<dyn Core>,
    monitor: Reporter,
    handshakes: Mutex<Handshakes>,
    closing: Flag,
    ended: Flag,
}

#[derive(Default)]
struct Handshakes {
    next: u64,
    /// Oldest first.
    running: VecDeque<Handshake>,
}

struct Handshake {
    id: u64,
    ip: Option<IpAddr>,
    remote: String,
    task: AbortHandle,
}

impl Listening {
    /// The actual endpoint: the port is never 0.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// Accepts no more; connections that are up stay.
    pub(crate) fn close(&self) {
        self.0.closing.set();
    }

    /// Waits until the listener is gone (its port is free). Cancel safe.
    pub(crate) async fn ended(&self) {
        self.0.ended.wait().await;
    }
}

/// Accepts connections at `endpoint` that `gate` lets in, from a task of its own.
pub(crate) async fn listen(
    endpoint: Endpoint,
    options: ListenOptions,
    gate: Arc<Gate>,
    core: Arc<dyn Core>,
    monitor: Reporter,
) -> io::Result<Listening> {
    let listener = transport::Listener::bind(&endpoint).await?;
    let bound = listener.endpoint();
    let shared = Arc::new(Shared {
        // The transport below knows nothing of TLS.
        endpoint: if options.tls.is_some() { bound.with_tls() } else { bound },
        options,
        gate,
        core,
        monitor,
        handshakes: Mutex::default(),
        closing: Flag::default(),
        ended: Flag::default(),
    });
    shared.monitor.report(|| Event::Listening { endpoint: shared.endpoint.clone() });
    tokio::spawn(accept(listener, shared.clone()));
    Ok(Listening(shared))
}

async fn accept(mut listener: transport::Listener, shared: Arc<Shared>) {
    let mut warned = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.closing.wait() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => shared.begin(stream, remote),
            Err(error) => {
                tracing::debug!(endpoint = %shared.endpoint, %error, "accepting failed");
                metrics::counter!("ripstop_socket_accept_errors_total").increment(1);
                // Too many open files: a handshake that hangs is the cheapest thing to give up.
                let exhausted = matches!(error.raw_os_error(), Some(EMFILE | ENFILE));
                let freed = exhausted && shared.evict_oldest();
                if exhausted && !std::mem::replace(&mut warned, true) {
                    tracing::warn!(endpoint = %shared.endpoint, %error, "no file descriptors left");
                }
                tokio::select! {
                    () = shared.closing.wait() => break,
                    () = tokio::time::sleep(if exhausted && !freed { BACK_OFF } else { BACK_OFF_SHORT }) => {}
                }
            }
        }
    }
    drop(listener);
    for handshake in lock(&shared.handshakes).running.drain(..) {
        handshake.task.abort();
    }
    shared.monitor.report(|| Event::Unbound { endpoint: shared.endpoint.clone() });
    shared.ended.set();
}

/// Of errno.h; the same on every Unix.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

impl Shared {
    fn begin(self: &Arc<Self>, stream: Stream, remote: PeerAddr) {
        let pass = match self.gate.enter(remote.ip, Instant::now()) {
            Ok(pass) => pass,
            Err(limit) => return self.limited(limit, &remote.text),
        };
        let caps = self.gate.caps;
        let ip = remote.ip.map(network);
        // Held until the task is on the list, so that it can't be off it before.
        let mut handshakes = lock(&self.handshakes);
        let of_address = handshakes.running.iter().filter(|h| h.ip == ip && ip.is_some()).count();
        let evicted = if of_address >= caps.handshakes_per_address && caps.handshakes_per_address > 0 {
            let oldest = handshakes.running.iter().position(|h| h.ip == ip);
            oldest.map(|oldest| (oldest, Limit::HandshakesPerAddress))
        } else {
            let full = caps.handshakes > 0 && handshakes.running.len() >= caps.handshakes;
            full.then_some((0, Limit::Handshakes))
        };
        let evicted = evicted.and_then(|(index, limit)| Some((handshakes.running.remove(index)?, limit)));
        let id = handshakes.next;
        handshakes.next += 1;
        let task = tokio::spawn(self.clone().serve(id, stream, remote.text.clone(), pass)).abort_handle();
        handshakes.running.push_back(Handshake { id, ip, remote: remote.text, task });
        drop(handshakes);
        if let Some((handshake, limit)) = evicted {
            self.evict(handshake, limit);
        }
    }

    /// `_pass` counts the connection in until its end.
    async fn serve(self: Arc<Self>, id: u64, stream: Stream, remote: String, _pass: Pass) {
        let origin = Arc::new(Origin::Accepted { endpoint: self.endpoint.clone(), remote });
        let began = Instant::now();
        let mut options = self.options.link.clone();
        // What only the handshake needs goes with it.
        let (stream, proof) = match Box::pin(self.secure(stream)).await {
            Ok((stream, proof, mechanism)) => {
                options.mechanism = mechanism;
                (stream, proof)
            }
            Err(reason) => return self.failed(id, &origin, reason, false),
        };
        // One time limit for the whole handshake.
        options.limits.handshake = options.limits.handshake.saturating_sub(began.elapsed());
        let setup = Setup {
            origin: origin.clone(),
            proof,
            core: self.core.clone(),
            options,
            local: None,
            kept: None,
            monitor: self.monitor.clone(),
            owner: Arc::new(Accepted { listener: self.clone(), id }),
        };
        let end = link::run(stream, setup).await;
        if !end.was_up {
            self.failed(id, &origin, end.reason, end.last);
        }
    }

    /// TLS or CURVE, if this listener has either: then nobody comes in without. What CURVE proves is seen later.
    async fn secure(&self, stream: Stream) -> Result<(Stream, Proof, Mechanism), String> {
        let Some(acceptor) = &self.options.tls else { return self.unsecured(stream).await };
        match timeout(self.options.link.limits.handshake, acceptor.accept(stream)).await {
            Ok(Ok(First::Tls(stream, proof))) => Ok((stream, proof, Mechanism::Null)),
            Ok(Ok(First::Plain(stream))) => self.unsecured(stream).await,
            Ok(Err(error)) => Err(format!("TLS: {}", explain(&error))),
            Err(_) => Err(link::too_late()),
        }
    }

    /// Without TLS.
    async fn unsecured(&self, mut stream: Stream) -> Result<(Stream, Proof, Mechanism), String> {
        let (tls, curve) = (&self.options.tls, &self.options.curve);
        if tls.is_none() && curve.is_none() {
            return Ok((stream, Proof::None, Mechanism::Null));
        }
        if let Some(mechanism) = curve.as_ref().and_then(CurveKeys::mechanism) {
            return Ok((stream, Proof::None, mechanism));
        }
        // A ZMTP peer learns from this that encryption is wanted; whether it comes does not matter here.
        let _ = stream.write_all(&zmtp::secured_greeting()).await;
        let _ = stream.shutdown().await;
        Err("the peer does not encrypt, and this side has keys".into())
    }

    fn failed(&self, id: u64, origin: &Origin, reason: String, last: bool) {
        self.done(id);
        self.report_failed(origin.remote(), &reason);
        let endpoint = self.endpoint.clone();
        let error = match last {
            true => ConnectError::Refused { endpoint, reason },
            false => ConnectError::Handshake { endpoint, reason },
        };
        self.core.failed(origin, &error, None);
    }

    /// Takes a handshake off the list; `false`: it was evicted.
    fn done(&self, id: u64) -> bool {
        let mut handshakes = lock(&self.handshakes);
        let index = handshakes.running.iter().position(|h| h.id == id);
        index.and_then(|index| handshakes.running.remove(index)).is_some()
    }

    /// `false`: there is none.
    fn evict_oldest(&self) -> bool {
        let Some(oldest) = lock(&self.handshakes).running.pop_front() else { return false };
        self.evict(oldest, Limit::Descriptors);
        true
    }

    fn evict(&self, handshake: Handshake, limit: Limit) {
        handshake.task.abort();
        self.limited(limit, &handshake.remote);
        self.report_failed(&handshake.remote, &limit.to_string());
    }

    fn limited(&self, limit: Limit, remote: &str) {
        self.gate.limited(limit, remote, Instant::now());
        self.monitor.report(|| Event::Limited {
            endpoint: self.endpoint.clone(),
            remote: remote.to_owned(),
            limit,
        });
    }

    fn report_failed(&self, remote: &str, reason: &str) {
        tracing::debug!(endpoint = %self.endpoint, remote, reason, "handshake failed");
        metrics::counter!("ripstop_socket_handshakes_failed_total").increment(1);
        self.monitor.report(|| Event::HandshakeFailed {
            endpoint: self.endpoint.clone(),
            remote: remote.to_owned(),
            reason: reason.to_owned(),
        });
    }
}

/// One accepted connection's claim on the handshake budget.
struct Accepted {
    listener: Arc<Shared>,
    id: u64,
}

impl Owner for Accepted {
    fn ready(&self, _pipe: &Arc<Pipe>) -> bool {
        self.listener.done(self.id)
    }

    fn goes_on(&self) -> bool {
        false
    }
}
