//! The systems, each as its own users would write it.

mod floor;
pub mod kept;
#[cfg(feature = "libzmq")]
mod libzmq;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "omq")]
mod omq;
mod ripstop;
#[cfg(feature = "tonic")]
pub mod tonic;
mod typed;
#[cfg(feature = "zenoh")]
mod zenoh;
#[cfg(feature = "zeromq")]
mod zeromq;

use crate::Result;
use crate::run::Reaped;
use crate::work::{Clock, Kind, Row, Work};

/// One system: what its two processes do.
pub struct System {
    pub name: &'static str,
    kinds: &'static [Kind],
    /// It does them with bodies of this many bytes only.
    size: Option<usize>,
    /// What has to run between the two.
    pub helper: Option<fn(pinned: bool) -> Result<Helper>>,
    /// Says where it is, and receives or answers.
    pub stay: fn(&Work) -> Result<()>,
    /// Goes there, and sends or asks.
    pub come: fn(&Work, &str) -> Result<()>,
}

impl System {
    pub fn does(&self, row: &Row) -> bool {
        self.kinds.contains(&row.kind) && self.size.is_none_or(|size| size == row.size)
    }
}

/// A server that the two need, ended with the run.
pub struct Helper {
    pub process: Reaped,
    pub endpoint: String,
    /// Its files.
    _dir: tempfile::TempDir,
}

/// Tells the two processes where the helper is.
pub const HELPER: &str = "RIPSTOP_COMPARE_HELPER";

const PLAIN: &[Kind] = &[Kind::OneWay, Kind::Ask, Kind::Many];
const WITH_EVENTS: &[Kind] = &[Kind::OneWay, Kind::Ask, Kind::Many, Kind::FanOut];

const DURABLE: &[Kind] = &[Kind::Durable(1), Kind::Durable(32), Kind::Durable(256)];

/// What is built in.
pub fn all() -> Vec<System> {
    vec![
        ripstop::SYSTEM,
        typed::PUSH,
        typed::PUBLISH,
        typed::CALL,
        floor::SYSTEM,
        kept::OURS,
        kept::LOG,
        kept::SQLITE,
        #[cfg(feature = "libzmq")]
        libzmq::SYSTEM,
        #[cfg(feature = "libzmq")]
        libzmq::CURVE,
        #[cfg(feature = "omq")]
        omq::SYSTEM,
        #[cfg(feature = "omq")]
        omq::EXCLUSIVE,
        #[cfg(feature = "zeromq")]
        zeromq::SYSTEM,
        #[cfg(feature = "zenoh")]
        zenoh::SYSTEM,
        #[cfg(feature = "zenoh")]
        zenoh::TUNED,
        #[cfg(feature = "nats")]
        nats::SYSTEM,
        #[cfg(feature = "nats")]
        nats::JETSTREAM,
        #[cfg(feature = "tonic")]
        tonic::SYSTEM,
    ]
}

pub fn named(name: &str) -> Result<System> {
    all()
        .into_iter()
        .find(|system| system.name == name)
        .ok_or_else(|| format!("no such system: {name}").into())
}

/// A runtime for throughput, or one thread where waking another would be most of the time.
fn runtime(work: &Work) -> Result<tokio::runtime::Runtime> {
    let mut builder = match work.kind {
        Kind::OneWay | Kind::Tls | Kind::Curve | Kind::FanOut | Kind::Durable(_) => {
            tokio::runtime::Builder::new_multi_thread()
        }
        Kind::Ask | Kind::Many => tokio::runtime::Builder::new_current_thread(),
    };
    Ok(builder.enable_all().build()?)
}

/// Runs one side on a thread of its runtime, as a server's code does.
fn block_on<F>(work: &Work, side: impl FnOnce(Work) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let side = side(*work);
    runtime(work)?.block_on(async move { tokio::spawn(side).await? })
}

/// The same for the side that goes somewhere.
fn block_on_with<F>(work: &Work, endpoint: &str, side: impl FnOnce(Work, String) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let side = side(*work, endpoint.to_owned());
    runtime(work)?.block_on(async move { tokio::spawn(side).await? })
}

#[cfg(feature = "nats")]
fn helper() -> Result<String> {
    Ok(std::env::var(HELPER)?)
}

/// So many tasks, each of which asks again when it is answered.
async fn many<F>(work: Work, ask: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send,
{
    use futures_util::stream::{FuturesUnordered, StreamExt};
    let mut clock = Clock::new(&work);
    let mut open: FuturesUnordered<_> = (0..work.window()).map(|_| ask()).collect();
    for _ in 0..work.count {
        open.next().await.ok_or("nothing is asked")??;
        clock.answered();
        open.push(ask());
    }
    clock.end(&work)
}
