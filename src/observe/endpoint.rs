//! The observe endpoint: `GET /metrics` for Prometheus, `/healthz` and `/readyz` for orchestrators.
//!
//! Plain HTTP without a password, for loopback or a network that only the collector reaches. It says names and numbers, never a body.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use super::NodeHealth;

/// Connections at once; more wait to be accepted.
const AT_ONCE: usize = 16;
/// A request and its answer take no longer.
const LIMIT: Duration = Duration::from_secs(10);
/// The pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// In seconds: from what a call on one machine takes to the default deadline and beyond.
const BUCKETS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// What the endpoint tells of.
pub(crate) trait Watched: Send + Sync + 'static {
    /// How it is; `None`: it is gone.
    fn health(&self) -> Option<NodeHealth>;
    /// Brings gauges up to date that nobody sets in between.
    fn sample(&self);
}

/// Our recorder, if it is the program's.
static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Installs the recorder, unless the program has its own. To be called before the first metric is looked up.
pub(crate) fn install() {
    RECORDER.get_or_init(|| {
        let suffix = Matcher::Suffix("_seconds".into());
        let recorder = match PrometheusBuilder::new().set_buckets_for_metric(suffix, &BUCKETS) {
            Ok(builder) => builder.build_recorder(),
            Err(error) => {
                tracing::error!(%error, "no recorder for metrics");
                return None;
            }
        };
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).ok()?;
        Some(handle)
    });
}

/// Has the recorder put away what was recorded; else it would grow until somebody asks.
pub(crate) fn upkeep() {
    if let Some(Some(handle)) = RECORDER.get() {
        handle.run_upkeep();
    }
}

/// Opens the port.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers until `end`.
pub(crate) async fn serve(listener: TcpListener, watched: impl Watched, end: impl Future<Output = ()>) {
    let (watched, places) = (Arc::new(watched), Arc::new(Semaphore::new(AT_ONCE)));
    let mut end = std::pin::pin!(end);
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "the observe endpoint cannot accept");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let watched = watched.clone();
        tokio::spawn(async move {
            let _place = place;
            let answer = service_fn(|request| {
                let answer = answer(&request, &*watched);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(LIMIT)
                .keep_alive(false)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), answer);
            // Whoever asked and went is no loss.
            let _ = timeout(LIMIT, connection).await;
        });
    }
}

fn answer(request: &Request<Incoming>, watched: &impl Watched) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/metrics" => match RECORDER.get() {
            Some(Some(handle)) => {
                watched.sample();
                text(StatusCode::OK, handle.render())
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "this program has a recorder of its own for its metrics: ask that\n",
            ),
        },
        "/healthz" => match watched.health() {
            Some(_) => text(StatusCode::OK, "alive\n"),
            None => text(StatusCode::SERVICE_UNAVAILABLE, "the node is gone\n"),
        },
        "/readyz" => match watched.health() {
            Some(health) if health.ready => text(StatusCode::OK, "ready\n"),
            health => {
                let reasons =
                    health.map_or_else(|| "the node is gone".to_owned(), |health| health.reasons.join("; "));
                text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reasons}\n"))
            }
        },
        "/" => text(StatusCode::OK, "/metrics\n/healthz\n/readyz\n"),
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
